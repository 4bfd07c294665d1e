"""Entropic optimal transport between latents, and a matching made from it. N, M: latents.

D: width, K: candidates of a row. With cost C_ij = 1 - S_ij and marginals p, q

    min_P  sum_ij P_ij C_ij - epsilon H(P)    over plans P with marginals p and q,

whose solution is P_ij = exp((f_i + g_j - C_ij) / epsilon) (Cuturi, "Sinkhorn Distances",
arXiv 1306.0895; Peyre & Cuturi, "Computational Optimal Transport", arXiv 1803.00567, section 4).
As epsilon falls, the plan tends to the best one-to-one matching.
"""

import dataclasses
import math
import time
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
from saejax.matching import exact
from saejax.matching.candidates import pair_products
from saejax.matching.certify import certify
from saejax.matching.geometry import CosineGeometry, make_geometry, row_summaries
from saejax.matching.matching import Matching, Soft
from saejax.matching.operands import Side
from saejax.matching.pricing import top_k
from saejax.progress import Progress

# Iterations between two looks at the error, which cost half of one.
_INNER_ITERATIONS = 10
# Epsilon falls by this from one stage to the next, from this on, if it is to be small. Potentials
# of the larger one start the smaller.
_STAGE_RATIO, _FIRST_EPSILON = 10**-0.5, 0.1
# Error at which a stage before the last hands over, and its most iterations.
_STAGE_ERROR, _STAGE_ITERATIONS = 0.1, 50
# Candidates of a row for rounding and for the bound.
_CANDIDATES = 24


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
      geometry: "stored float32", "stored bfloat16" or "streamed".
    """

    f: np.ndarray
    g: np.ndarray
    epsilon: float
    error: float
    tolerance: float
    iterations: int
    geometry: str

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
            f, g, error = _advance(
                geometry.with_epsilon(stage),
                p_N,
                q_M,
                f,
                g,
                tau=tau,
                momentum=momentum,
            )
            error = float(error)
            if not math.isfinite(error):
                raise InputError(
                    f"epsilon={stage:g}, momentum={momentum:g}: the iteration diverges; take a "
                    "larger epsilon or a smaller momentum"
                )
            done += _INNER_ITERATIONS
            on_iterations(_INNER_ITERATIONS, error)
    return Transport(
        np.asarray(f), np.asarray(g), epsilon, error, tolerance, done, name
    )


def solve(
    a_ND: Float32[np.ndarray, "N D"],
    b_MD: Float32[np.ndarray, "M D"],
    *,
    side: str,
    method: str,
    epsilon: float,
    tolerance: float,
    max_iterations: int,
    memory_bytes: int,
    start: tuple[np.ndarray, np.ndarray] | None,
    mesh: Mesh,
    progress: Progress,
) -> Matching:
    """A one-to-one matching from the entropic plan, with a bound on how much better one can be.

    The plan is rounded by taking its largest entries first; what is left over is matched
    exactly. v_j = -g_j, with u_i = max_j S_ij - v_j, bound every matching from above, so that the
    certificate's gap is a proven distance from the best, though nobody has computed it.

    Args:
      a_ND: Unit rows.
      b_MD: Unit rows of the same width.
      side: Recorded in the result.
      method: Recorded in the result.
      epsilon: As for `transport`, like the next three.
      tolerance: See there.
      max_iterations: See there.
      memory_bytes: See there.
      start: Duals u [N] and v [M] of another matching to start from.
      mesh: Devices that share the rows.
      progress: Advances by len(a_ND) in the end, and shows iterations and error before.

    Warns:
      UserWarning: If the iteration did not converge; the matching and its gap stand even so.
    """
    if len(a_ND) > len(b_MD):
        raise InputError(
            f"method='sinkhorn' needs at least as many rows in b as in a, not {len(a_ND)} and "
            f"{len(b_MD)}; swap them"
        )
    began = time.monotonic()
    iterations = 0

    def on_iterations(count: int, error: float) -> None:
        nonlocal iterations
        iterations += count
        progress.advance(0, stage="sinkhorn", iterations=str(iterations), error=error)

    found = transport(
        a_ND,
        b_MD,
        epsilon=epsilon,
        tolerance=tolerance,
        max_iterations=max_iterations,
        mesh=mesh,
        memory_bytes=memory_bytes,
        start=None if start is None else (1 - start[0], -start[1]),
        on_iterations=on_iterations,
    )
    a, b = (Side(rows, dtype=jnp.dtype(jnp.float32), mesh=mesh) for rows in (a_ND, b_MD))
    progress.advance(0, stage="rounding")
    # Where N < M free columns have the least price, 0, and the others are not below.
    price_M = -found.g.astype(np.float64)
    num_free = len(b_MD) - len(a_ND)
    price_M -= np.partition(price_M, num_free)[num_free]
    if num_free:
        price_M = np.maximum(price_M, 0)
    kept = top_k(a, b, np.arange(len(a)), price_M, _CANDIDATES, lambda count: None)
    # In the order of the plan's entries, exp((f_i + g_j - C_ij) / epsilon).
    target_N = greedy(kept.columns, kept.values + found.f[:, None], len(b))
    progress.advance(int((target_N >= 0).sum()))
    target_N = complete(target_N, a, b, mesh=mesh, progress=progress)
    matching = certify(
        target_N,
        pair_products(a, b, np.arange(len(a)), target_N),
        (upper_duals(a, b, kept, price_M), price_M),
        None,
        side=side,
        method=method,
        solver=f"ott sinkhorn, {found.geometry}",
        passes=passes,
        seconds=time.monotonic() - began,
        peak_bytes=stored + a.num_bytes + b.num_bytes,
    )
    entropy_N, cosine_N = found.row_summaries()
    soft = Soft(
        entropy=entropy_N,
        expected_cosine=cosine_N,
        epsilon=epsilon,
        tolerance=tolerance,
        error=found.error,
        converged=found.converged,
        iterations=found.iterations,
        geometry=found.geometry_name,
    )
    if not found.converged:
        warnings.warn(
            f"sinkhorn stopped after {found.iterations} iterations at an error of {found.error:.3g}, "
            f"above the tolerance {tolerance:g}: take more iterations or a larger epsilon",
            stacklevel=2,
        )
    return dataclasses.replace(matching, soft=soft)


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
        return tuple(jnp.full(len(x), 1 / len(x), jnp.float32) for x in (a_ND, b_MD))
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
    return tuple(jnp.asarray(marginal, jnp.float32) for marginal in marginals)
