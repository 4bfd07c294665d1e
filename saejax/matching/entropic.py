"""Entropic plans between two autoencoders, and matchings from them. N, M: latents, D: width.

A matching made from a plan comes with a proven distance from the best one.
"""

import dataclasses
import time
import warnings
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from saejax.config import MatchConfig, MeshConfig
from saejax.errors import InputError
from saejax.matching.candidates import pair_products
from saejax.matching.certify import certify, transpose
from saejax.matching.matching import Matching, Soft
from saejax.matching.operands import Side
from saejax.matching.rounding import round_plan
from saejax.matching.similarity import Source, check_widths, directions
from saejax.matching.transport import Transport, sinkhorn
from saejax.mesh import make_mesh
from saejax.progress import Progress

# Iterations on all pairs; fewer than 10 are usual.
_MAX_ITERATIONS = 500
# Similarities of 32,768 latents just fit in float32.
_MEMORY_BYTES = 4 * 2**30


def transport(
    a: Source,
    b: Source,
    *,
    side: str = "decoder",
    epsilon: float | None = None,
    tolerance: float | None = None,
    max_iterations: int = _MAX_ITERATIONS,
    marginals: tuple[np.ndarray, np.ndarray] | None = None,
    tau: tuple[float, float] = (1.0, 1.0),
    start: Matching | None = None,
    memory_bytes: int = _MEMORY_BYTES,
    mesh: Mesh | None = None,
) -> Transport:
    """The entropic plan between two autoencoders, for what a one-to-one matching cannot say.

    See `saejax.matching.transport` for the problem and the method; `match` with
    method="sinkhorn" makes a matching of it.

    Example:
      >>> plan = transport(np.eye(3), np.eye(3)[[2, 0, 1]], epsilon=0.1)
      >>> plan.summaries.likeliest
      array([1, 2, 0], dtype=int32)

    Args:
      a: An autoencoder, or rows [N, D]; rows are normalised.
      b: Another, or rows [M, D].
      side: "decoder" compares the rows of w_dec, "encoder" the columns of w_enc.
      epsilon: Regularisation, in units of cosine; by default 0.01.
      tolerance: Error at which to stop, see `Transport`; by default 0.001.
      max_iterations: On all pairs, when to stop at the latest.
      marginals: Masses p [N] and q [M], positive and of equal sums; uniform by default.
      tau: Below 1 a marginal need not be met, and latents may keep less than their mass
        (`summaries.mass`), or none: tau = rho / (rho + epsilon), where deviations cost rho times
        their Kullback-Leibler divergence (Sejourne et al., arXiv 1910.12958).
      start: A matching of the same two whose duals to start from.
      memory_bytes: Similarities are stored if they fit in this on each device.
      mesh: Devices that share the rows; by default all.

    Returns:
      The potentials, and what the plan says of each latent of a; `converged` says whether the
      error fell below the tolerance.

    Raises:
      InputError: For weights that are not finite matrices of the same width, for options outside
        their ranges, and if `start` has no duals or is of other sizes.
    """
    a_ND, b_MD = directions(a, side, "a"), directions(b, side, "b")
    check_widths(a_ND, b_MD)
    mesh = make_mesh(MeshConfig()) if mesh is None else mesh
    sides = [Side(rows, dtype=jnp.dtype(jnp.float32), mesh=mesh) for rows in (a_ND, b_MD)]
    with Progress(f"transport {side}s", total=len(a_ND), unit="latents") as progress:
        found = sinkhorn(
            *sides,
            epsilon=MatchConfig().epsilon if epsilon is None else epsilon,
            tolerance=MatchConfig().tolerance if tolerance is None else tolerance,
            max_iterations=max_iterations,
            memory_bytes=memory_bytes,
            start=_potentials(start, len(a_ND), len(b_MD)),
            marginals=marginals,
            tau=tau,
            report=partial(progress.advance, 0),
        )
        progress.advance(len(a_ND))
    return found


def solve(
    a_ND: Float32[np.ndarray, "N D"],
    b_MD: Float32[np.ndarray, "M D"],
    *,
    side: str,
    method: str,
    epsilon: float,
    tolerance: float,
    start: Matching | None,
    mesh: Mesh,
    progress: Progress,
    max_iterations: int = _MAX_ITERATIONS,
    memory_bytes: int = _MEMORY_BYTES,
) -> Matching:
    """A one-to-one matching from the entropic plan, with a bound on how much better one can be.

    Pairs of which the plan is sure are taken; the other latents are matched exactly. v_j = -g_j,
    with u_i = max_j S_ij - v_j, bound every matching from above, so that the certificate's gap
    is a proven distance from the best, though nobody has computed it.

    Args:
      a_ND: Unit rows.
      b_MD: Unit rows of the same width.
      side: Recorded in the result.
      method: Recorded in the result.
      epsilon: As for `transport`.
      tolerance: As for `transport`.
      start: A matching of the same two with duals to start from.
      mesh: Devices that share the rows.
      progress: Advances by len(a_ND) in the end, and shows iterations and error before.
      max_iterations: As for `transport`.
      memory_bytes: As for `transport`.

    Raises:
      InputError: As `transport`; and if `start` has no duals or is of other sizes.

    Warns:
      UserWarning: If the iteration did not converge; the matching and its gap stand even so.
    """
    began = time.monotonic()
    sides = [Side(rows, dtype=jnp.dtype(jnp.float32), mesh=mesh) for rows in (a_ND, b_MD)]
    report = partial(progress.advance, 0)
    found = sinkhorn(
        *sides,
        epsilon=epsilon,
        tolerance=tolerance,
        max_iterations=max_iterations,
        memory_bytes=memory_bytes,
        start=_potentials(start, len(a_ND), len(b_MD)),
        report=report,
    )
    report(stage="rounding")
    # Rounding covers the rows of the smaller side, so it may have to see the problem from b.
    swapped = len(a_ND) > len(b_MD)
    rows, columns = sides[::-1] if swapped else sides
    row_potential, potential = (found.g, found.f) if swapped else (found.f, found.g)
    rounded = round_plan(
        rows, columns, row_potential, potential, epsilon=epsilon, mesh=mesh, progress=progress
    )
    matching = certify(
        rounded.target,
        pair_products(rows, columns, np.arange(len(rows)), rounded.target),
        (rounded.u, rounded.v),
        None,
        side=side,
        method=method,
        solver=f"ott sinkhorn, {found.geometry}",
        passes=found.passes + 1,
        seconds=time.monotonic() - began,
        peak_bytes=found.num_bytes + sum(x.num_bytes for x in sides),
    )
    if swapped:
        progress.advance(len(a_ND) - len(b_MD))
        matching = transpose(matching, len(a_ND))
    soft = Soft(
        entropy=found.summaries.entropy,
        expected_cosine=found.summaries.expected_cosine,
        likeliest=found.summaries.likeliest,
        weight=found.summaries.weight,
        num_sure=rounded.num_sure,
        epsilon=epsilon,
        tolerance=tolerance,
        error=found.error,
        converged=found.converged,
        iterations=found.iterations,
        candidate_iterations=found.candidate_iterations,
        geometry=found.geometry,
    )
    if not found.converged:
        warnings.warn(
            f"sinkhorn stopped after {found.iterations} iterations at an error of "
            f"{found.error:.3g}, above the tolerance {tolerance:g}: the plan is not converged; "
            "take a larger epsilon, or start from an exact matching",
            stacklevel=2,
        )
    return dataclasses.replace(matching, soft=soft)


def _potentials(
    start: Matching | None, num_a: int, num_b: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Potentials f [N] and g [M] of a matching's duals."""
    if start is None:
        return None
    if start.u is None or start.v is None:
        raise InputError(f"start: a matching of method {start.method!r} has no duals")
    if (len(start.u), len(start.v)) != (num_a, num_b):
        raise InputError(
            f"start: has {len(start.u)} and {len(start.v)} duals for {num_a} and {num_b} latents"
        )
    # u_i + v_j >= S_ij is f_i + g_j <= C_ij.
    return 1 - start.u, -start.v
