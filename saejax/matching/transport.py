"""Entropic optimal transport between latents, by ott-jax. N, M: latents, D: width.

With cost C_ij = 1 - S_ij and marginals p, q

    min_P  sum_ij P_ij C_ij - epsilon H(P)    over plans P with marginals p and q,

whose solution is P_ij = exp((f_i + g_j - C_ij) / epsilon) (Cuturi, "Sinkhorn Distances",
arXiv 1306.0895; Peyre & Cuturi, "Computational Optimal Transport", arXiv 1803.00567, section 4).
As epsilon falls, the plan tends to the best one-to-one matching.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from ott.geometry.geometry import Geometry
from ott.problems.linear.linear_problem import LinearProblem
from ott.solvers.linear.sinkhorn import Sinkhorn

from saejax.errors import InputError
from saejax.matching.candidate_geometry import candidate_geometry
from saejax.matching.geometry import make_geometry
from saejax.matching.operands import Side, on_one_device
from saejax.matching.row_summaries import RowSummaries, row_summaries
from saejax.processes import fetch

# Epsilon falls by this from one stage to the next, from this on, if it is to be small. Potentials
# of the larger one start the smaller.
_STAGE_RATIO, _FIRST_EPSILON = 10**-0.5, 0.1
# Error at which a stage before the last hands over, and its most iterations.
_STAGE_ERROR, _STAGE_ITERATIONS = 0.1, 50
# Of the last stage on the candidates, whose error is a part of that on all pairs.
_CANDIDATE_ERROR, _CANDIDATE_ITERATIONS = 0.25, 1000
# The candidates may have no plan with the marginals; the error then falls by less than this from
# one look to the next.
_STALLED = 0.99
# On all pairs, where the error falls by less than half from one look to the next, other candidates
# are sought from where it stands, up to this number of times in all.
_SLOW, _ROUNDS = 0.5, 4
# Iterations between two looks at the error, which cost half of one: on the candidates, where they
# are cheap, and on all pairs, where few are needed.
_CANDIDATE_LOOK, _LOOK = 10, 2


@dataclasses.dataclass(frozen=True, eq=False)
class Transport:
    """Potentials of the entropic problem.

    Attributes:
      f: [N] float32.
      g: [M] float32.
      epsilon: Regularisation.
      error: Sum of the absolute differences between the plan's marginal and q; for unbalanced
        problems the 1-norm of the gradient of the dual.
      tolerance: What the error was to fall below.
      iterations: Of both potentials, on all pairs.
      candidate_iterations: On the candidates, in all stages.
      geometry: How it held the similarities: "stored float32", "stored bfloat16" or "streamed".
      summaries: Of each row of the plan.
      passes: How often each similarity was computed.
      num_bytes: Of the stored similarities and of the candidates.
    """

    f: np.ndarray
    g: np.ndarray
    epsilon: float
    error: float
    tolerance: float
    iterations: int
    candidate_iterations: int
    geometry: str
    summaries: RowSummaries
    passes: float
    num_bytes: int

    @property
    def converged(self) -> bool:
        """Whether the error fell below the tolerance."""
        return self.error < self.tolerance


def sinkhorn(
    a: Side,
    b: Side,
    *,
    epsilon: float,
    tolerance: float,
    max_iterations: int,
    memory_bytes: int,
    start: tuple[np.ndarray, np.ndarray] | None = None,
    marginals: tuple[np.ndarray, np.ndarray] | None = None,
    tau: tuple[float, float] = (1.0, 1.0),
    report: Callable[..., None] = lambda **notes: None,
) -> Transport:
    """Solves the entropic problem by Sinkhorn's iteration in the log domain.

    Nearly all mass of the plan lies on a few candidates of each latent. The iteration runs on
    these first, in stages of falling epsilon, and then from there on all pairs, where it is near
    its end at once and where alone the error is measured. Where it is not, the potentials found
    point out better candidates.

    Cost: two passes over the similarities for candidates, once to four times; each iteration on
    all pairs is two more, or two readings of the stored similarities; see `make_geometry`. Memory:
    `memory_bytes` a device or a tile of 32 MiB, the sides, and 20 bytes for each of some
    100 (N + M) candidates.

    Args:
      a: Unit rows.
      b: Unit rows of the same width.
      epsilon: Regularisation, above 0. Cosines are in [-1, 1]; 0.1 blurs most of what is not
        shared, 0.001 is close to a permutation.
      tolerance: Error at which to stop, between 0 and 2; see `Transport`.
      max_iterations: On all pairs, when to stop at the latest.
      memory_bytes: Most bytes of stored similarities on a device.
      start: Potentials f [N] and g [M] to start from, without stages of larger epsilon.
      marginals: p [N] and q [M], positive and of equal sums; uniform by default.
      tau: Below 1 a marginal need not be met: tau = rho / (rho + epsilon), where deviations
        cost rho times their Kullback-Leibler divergence.
      report: Called now and then with the stage, and what there is to say of it.

    Raises:
      InputError: For an epsilon, tolerance, tau or marginals outside these ranges.
    """
    problem = _check(a, b, epsilon, tolerance, marginals, tau)
    geometry, name = make_geometry(
        a.rows, b.rows, epsilon=epsilon, memory_bytes=memory_bytes, mesh=a.mesh
    )
    stages, potentials = _stages(epsilon, start is None), start
    candidate_iterations = iterations = rounds = 0
    advance = partial(_iterate, problem=problem, tau=tau)
    while True:
        rounds += 1
        few, potentials = candidate_geometry(
            a, b, potentials, epsilon, lambda count: report(stage="candidates")
        )
        point = _Point(potentials[0].astype(np.float32), potentials[1].astype(np.float32))
        with on_one_device():
            for stage in stages:
                last = stage == epsilon
                point = advance(
                    few.with_epsilon(stage),
                    point,
                    goal=_CANDIDATE_ERROR * tolerance if last else _STAGE_ERROR,
                    most=_CANDIDATE_ITERATIONS if last else _STAGE_ITERATIONS,
                    look=_CANDIDATE_LOOK,
                    stalled=_STALLED,
                    report=partial(report, stage="candidates"),
                )
        candidate_iterations += point.iterations
        with jax.set_mesh(a.mesh):
            point = advance(
                geometry,
                point._replace(iterations=iterations),
                goal=tolerance,
                most=max_iterations,
                look=_LOOK,
                stalled=_SLOW if rounds < _ROUNDS else math.inf,
                report=partial(report, stage="all pairs"),
            )
        iterations, potentials, stages = point.iterations, (point.f, point.g), [epsilon]
        if point.error < tolerance or rounds == _ROUNDS or iterations >= max_iterations:
            break
    with jax.set_mesh(a.mesh):
        summaries = row_summaries(geometry, point.f, point.g, epsilon)
    stored = geometry.stored
    return Transport(
        f=point.f,
        g=point.g,
        epsilon=epsilon,
        error=point.error,
        tolerance=tolerance,
        iterations=iterations,
        candidate_iterations=candidate_iterations,
        geometry=name,
        summaries=summaries,
        # Two for the candidates, two an iteration and one a look, one for the summaries.
        passes=2 * rounds + (2 * iterations + iterations / _LOOK if stored is None else 1) + 1,
        num_bytes=(0 if stored is None else stored.nbytes)
        + sum(x.nbytes for x in jax.tree.leaves(few)),
    )


def _stages(epsilon: float, cold: bool) -> list[float]:
    """Falling to epsilon, from nothing; epsilon alone from given potentials."""
    stages = [epsilon]
    while cold and stages[0] < _FIRST_EPSILON * 0.99:
        stages.insert(0, min(stages[0] / _STAGE_RATIO, _FIRST_EPSILON))
    return stages


class _Point(NamedTuple):
    """Where the iteration stands; on the host, since its two parts run on different devices."""

    f: np.ndarray
    g: np.ndarray
    error: float = math.inf
    iterations: int = 0


def _iterate(
    geometry: Geometry,
    point: _Point,
    *,
    problem: tuple[np.ndarray, np.ndarray],
    tau: tuple[float, float],
    goal: float,
    most: int,
    look: int,
    stalled: float = math.inf,
    report: Callable[..., None],
) -> _Point:
    """Iterates until the error is below the goal or has stalled, or `most` times."""
    f, g, error, done = point.f, point.g, math.inf, point.iterations
    while done < most and not error < goal:
        # ott relies on ranks being promoted, which a caller may have forbidden.
        with jax.numpy_rank_promotion("allow"):
            f, g, found = _advance(geometry, *problem, f, g, tau=tau, iterations=look)
        before, error = error, float(found)
        if not math.isfinite(error):
            raise InputError(
                f"epsilon={geometry.epsilon:g}: the iteration diverges; take a larger epsilon"
            )
        done += look
        report(iterations=str(done), error=error)
        if error > stalled * before:
            break
    return _Point(fetch(f), fetch(g), error, done)


@partial(jax.jit, static_argnames=("tau", "iterations"))
def _advance(
    geometry: Geometry,
    p_N: jax.Array,
    q_M: jax.Array,
    f_N: jax.Array,
    g_M: jax.Array,
    *,
    tau: tuple[float, float],
    iterations: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Some iterations from given potentials, and the error after them."""
    solver = Sinkhorn(
        threshold=0.0,
        inner_iterations=iterations,
        min_iterations=iterations,
        max_iterations=iterations,
    )
    problem = LinearProblem(geometry, p_N, q_M, tau_a=tau[0], tau_b=tau[1])
    found = solver(problem, init=(f_N, g_M))
    assert found.errors is not None  # One for every look, and there was one.
    return found.f, found.g, found.errors[-1]


def _check(
    a: Side,
    b: Side,
    epsilon: float,
    tolerance: float,
    marginals: tuple[np.ndarray, np.ndarray] | None,
    tau: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """The marginals, or an `InputError`."""
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise InputError(f"epsilon={epsilon}: must be above 0, as 0.01; for 0 use method='exact'")
    if not 0 < tolerance < 2:
        raise InputError(f"tolerance={tolerance}: the error is in [0, 2]; take 0.001, say")
    if not all(0 < t <= 1 for t in tau):
        raise InputError(f"tau={tau}: each must be above 0 and at most 1, which means met exactly")
    if marginals is None:
        return _uniform(len(a)), _uniform(len(b))
    for name, marginal, rows in zip("pq", marginals, (a, b), strict=True):
        if marginal.shape != (len(rows),) or not (marginal > 0).all():
            raise InputError(
                f"marginal {name}: needs {len(rows)} positive weights, has shape {marginal.shape}"
            )
        if not np.isfinite(marginal).all():
            raise InputError(f"marginal {name}: a weight is infinite")
    sums = [math.fsum(marginal) for marginal in marginals]
    if tau == (1.0, 1.0) and abs(sums[0] - sums[1]) > 1e-6 * sums[0]:
        raise InputError(
            f"the marginals have different masses, {sums[0]:.9g} and {sums[1]:.9g}; scale them "
            "to the same, or let tau be below 1"
        )
    return marginals[0].astype(np.float32), marginals[1].astype(np.float32)


def _uniform(num: int) -> np.ndarray:
    return np.full(num, 1 / num, np.float32)
