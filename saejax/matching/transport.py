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

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32
from ott.problems.linear.linear_problem import LinearProblem
from ott.solvers.linear.acceleration import Momentum
from ott.solvers.linear.sinkhorn import Sinkhorn

from saejax.errors import InputError
from saejax.matching.geometry import CosineGeometry, make_geometry, row_summaries

# Iterations between two looks at the error, which cost half of one.
_INNER_ITERATIONS = 10
# Epsilon falls by this from one stage to the next, from this on, if it is to be small. Potentials
# of the larger one start the smaller.
_STAGE_RATIO, _FIRST_EPSILON = 10**-0.5, 0.1
# Error at which a stage before the last hands over, and its most iterations.
_STAGE_ERROR, _STAGE_ITERATIONS = 0.1, 50


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
      iterations: Of both potentials, in all stages.
      geometry: How it held the similarities: "stored float32", "stored bfloat16" or "streamed".
      entropy: [N] of each row of the plan divided by its sum, in nats.
      expected_cosine: [N] mean cosine of a row's partners, weighted by the plan.
      stored_bytes: Of the similarities, over all devices; 0 if streamed.
    """

    f: np.ndarray
    g: np.ndarray
    epsilon: float
    error: float
    tolerance: float
    iterations: int
    geometry: str
    entropy: np.ndarray
    expected_cosine: np.ndarray
    stored_bytes: int

    @property
    def converged(self) -> bool:
        """Whether the error fell below the tolerance."""
        return self.error < self.tolerance


def transport(
    a_ND: Float32[np.ndarray, "N D"],
    b_MD: Float32[np.ndarray, "M D"],
    *,
    epsilon: float,
    tolerance: float,
    max_iterations: int,
    mesh: Mesh,
    memory_bytes: int,
    momentum: float = 1.0,
    start: tuple[np.ndarray, np.ndarray] | None = None,
    marginals: tuple[np.ndarray, np.ndarray] | None = None,
    tau: tuple[float, float] = (1.0, 1.0),
    on_iterations: Callable[[int, float], None] = lambda count, error: None,
) -> Transport:
    """Solves the entropic problem by Sinkhorn's iteration in the log domain.

    Cost: an iteration is two readings of the stored similarities, or 2 N M D multiplications;
    see `make_geometry`. Memory: `memory_bytes` a device, or a and b and a tile of 32 MiB.

    Args:
      a_ND: Unit rows.
      b_MD: Unit rows of the same width.
      epsilon: Regularisation, above 0. Cosines are in [-1, 1]; 0.1 blurs most of what is not
        shared, 0.001 is close to a permutation.
      tolerance: Error at which to stop, between 0 and 2; see `Transport`.
      max_iterations: When to stop at the latest, all stages counted.
      mesh: Devices that share the rows.
      memory_bytes: Most bytes of stored similarities on a device.
      momentum: Over-relaxation in [1, 2); 1 is the plain iteration.
      start: Potentials f [N] and g [M] to start from, without stages of larger epsilon.
      marginals: p [N] and q [M], positive and of equal sums; uniform by default.
      tau: Below 1 a marginal need not be met: tau = rho / (rho + epsilon), where deviations
        cost rho times their Kullback-Leibler divergence.
      on_iterations: Called with the number of new iterations, and the error.

    Raises:
      InputError: For an epsilon, tolerance, momentum, tau or marginals outside these ranges.
    """
    p_N, q_M = _check(a_ND, b_MD, epsilon, tolerance, momentum, marginals, tau)
    geometry, name = make_geometry(
        a_ND, b_MD, epsilon=epsilon, memory_bytes=memory_bytes, mesh=mesh
    )
    stages = [epsilon]
    if start is None:
        f, g = jnp.zeros(len(a_ND)), jnp.zeros(len(b_MD))
        while stages[0] < _FIRST_EPSILON * 0.99:
            stages.insert(0, min(stages[0] / _STAGE_RATIO, _FIRST_EPSILON))
    else:
        f, g = (jnp.asarray(x, jnp.float32) for x in start)
    done, error = 0, math.inf
    for stage in stages:
        last = stage == epsilon
        goal = tolerance if last else max(tolerance, _STAGE_ERROR)
        allowed = max_iterations if last else min(max_iterations, done + _STAGE_ITERATIONS)
        error = math.inf
        while done < allowed and not error < goal:
            # ott relies on ranks being promoted, which a caller may have forbidden.
            with jax.set_mesh(mesh), jax.numpy_rank_promotion("allow"):
                f, g, found = _advance(
                    geometry.with_epsilon(stage), p_N, q_M, f, g, tau=tau, momentum=momentum
                )
            error = float(found)
            if not math.isfinite(error):
                raise InputError(
                    f"epsilon={stage:g}, momentum={momentum:g}: the iteration diverges; take a "
                    "larger epsilon or a smaller momentum"
                )
            done += _INNER_ITERATIONS
            on_iterations(_INNER_ITERATIONS, error)
    with jax.set_mesh(mesh):
        entropy_N, expected_N = row_summaries(geometry, g, epsilon)
    return Transport(
        f=np.asarray(f),
        g=np.asarray(g),
        epsilon=epsilon,
        error=error,
        tolerance=tolerance,
        iterations=done,
        geometry=name,
        entropy=entropy_N,
        expected_cosine=expected_N,
        stored_bytes=0 if geometry.stored is None else geometry.stored.nbytes,
    )


@partial(jax.jit, static_argnames=("tau", "momentum"))
def _advance(
    geometry: CosineGeometry,
    p_N: jax.Array,
    q_M: jax.Array,
    f_N: jax.Array,
    g_M: jax.Array,
    *,
    tau: tuple[float, float],
    momentum: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Ten iterations from given potentials, and the error after them."""
    solver = Sinkhorn(
        threshold=0.0,
        inner_iterations=_INNER_ITERATIONS,
        min_iterations=_INNER_ITERATIONS,
        max_iterations=_INNER_ITERATIONS,
        momentum=Momentum(value=momentum),
    )
    problem = LinearProblem(geometry, p_N, q_M, tau_a=tau[0], tau_b=tau[1])
    found = solver(problem, init=(f_N, g_M))
    assert found.errors is not None  # One for every look, and there was one.
    return found.f, found.g, found.errors[-1]


def _check(
    a_ND: np.ndarray,
    b_MD: np.ndarray,
    epsilon: float,
    tolerance: float,
    momentum: float,
    marginals: tuple[np.ndarray, np.ndarray] | None,
    tau: tuple[float, float],
) -> tuple[jax.Array, jax.Array]:
    """The marginals, or an `InputError`."""
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise InputError(f"epsilon={epsilon}: must be above 0, as 0.01; for 0 use method='exact'")
    if not 0 < tolerance < 2:
        raise InputError(f"tolerance={tolerance}: the error is in [0, 2]; take 0.001, say")
    if not 1 <= momentum < 2:
        raise InputError(f"momentum={momentum}: must be in [1, 2); 1 is the plain iteration")
    if not all(0 < t <= 1 for t in tau):
        raise InputError(f"tau={tau}: each must be above 0 and at most 1, which means met exactly")
    if marginals is None:
        return _uniform(len(a_ND)), _uniform(len(b_MD))
    for name, marginal, rows in zip("pq", marginals, (a_ND, b_MD), strict=True):
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
    return jnp.asarray(marginals[0], jnp.float32), jnp.asarray(marginals[1], jnp.float32)


def _uniform(num: int) -> jax.Array:
    return jnp.full(num, 1 / num, jnp.float32)
