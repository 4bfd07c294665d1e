"""A one-to-one matching from an entropic plan, with its distance from the best. N, M: latents."""

import dataclasses
import time
import warnings

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from saejax.errors import InputError
from saejax.matching.candidates import pair_products
from saejax.matching.certify import certify, transpose
from saejax.matching.matching import Matching, Soft
from saejax.matching.operands import Side
from saejax.matching.rounding import round_plan
from saejax.matching.transport import transport
from saejax.progress import Progress


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
    max_iterations: int = 2000,
    memory_bytes: int = 4 * 2**30,
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
      epsilon: As for `transport`.
      tolerance: As for `transport`.
      start: A matching of the same two with duals to start from.
      mesh: Devices that share the rows.
      progress: Advances by len(a_ND) in the end, and shows iterations and error before.
      max_iterations: As for `transport`; enough for epsilon = 0.001 from nothing.
      memory_bytes: As for `transport`; similarities of 32,768 latents just fit.

    Raises:
      InputError: As `transport`; and if `start` has no duals or is of other sizes.

    Warns:
      UserWarning: If the iteration did not converge; the matching and its gap stand even so.
    """
    began = time.monotonic()
    potentials = None
    if start is not None:
        if start.u is None or start.v is None:
            raise InputError(f"start: a matching of method {start.method!r} has no duals")
        if (len(start.u), len(start.v)) != (len(a_ND), len(b_MD)):
            raise InputError(
                f"start: has {len(start.u)} and {len(start.v)} duals for {len(a_ND)} and "
                f"{len(b_MD)} latents"
            )
        # u_i + v_j >= S_ij is f_i + g_j <= C_ij.
        potentials = 1 - start.u, -start.v
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
        start=potentials,
        on_iterations=on_iterations,
    )
    progress.advance(0, stage="rounding")
    # Rounding covers the rows of the smaller side, so it may have to see the problem from b.
    sides = [Side(rows, dtype=jnp.dtype(jnp.float32), mesh=mesh) for rows in (a_ND, b_MD)]
    swapped = len(a_ND) > len(b_MD)
    rows, columns = sides[::-1] if swapped else sides
    row_potential, potential = (found.g, found.f) if swapped else (found.f, found.g)
    target_N, u_N, v_M = round_plan(
        rows, columns, row_potential, potential, mesh=mesh, progress=progress
    )
    matching = certify(
        target_N,
        pair_products(rows, columns, np.arange(len(rows)), target_N),
        (u_N, v_M),
        None,
        side=side,
        method=method,
        solver=f"ott sinkhorn, {found.geometry}",
        passes=2.0 * found.iterations,
        seconds=time.monotonic() - began,
        peak_bytes=found.stored_bytes + sum(x.num_bytes for x in sides),
    )
    if swapped:
        progress.advance(len(a_ND) - len(b_MD))
        matching = transpose(matching, len(a_ND))
    soft = Soft(
        entropy=found.entropy,
        expected_cosine=found.expected_cosine,
        epsilon=epsilon,
        tolerance=tolerance,
        error=found.error,
        converged=found.converged,
        iterations=found.iterations,
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
