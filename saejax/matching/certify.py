"""From partners and duals to a matching with its certificate. N, M: latents."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float64

from saejax.matching.matching import Certificate, Matching

# Largest relative gap that counts as optimal. Far above the rounding of float64 sums (about
# 1e-13) and far below the effect of any one wrong pair that could be told from a tie.
CERTIFIED_GAP = 1e-9


def certify(
    target_N: np.ndarray,
    product_N: Float64[np.ndarray, " N"],
    duals: tuple[np.ndarray, np.ndarray],
    lengths: tuple[np.ndarray, np.ndarray] | None,
    *,
    side: str,
    method: str,
    solver: str,
    passes: float,
    seconds: float,
    peak_bytes: int,
) -> Matching:
    """The record of a matching and of what its duals prove.

    Args:
      target_N: Partners, -1 for none.
      product_N: S_i,x(i) in float64, 0 for none.
      duals: u [N] and v [M].
      lengths: Norms [N] and [M] of rows that are not normalised; None for unit rows.
      side: As in `Matching`.
      method: As in `Matching`.
      solver: This and the rest as in `Certificate`.
      passes: As in `Certificate`.
      seconds: As in `Certificate`.
      peak_bytes: As in `Certificate`.
    """
    primal, dual = math.fsum(product_N), math.fsum(np.concatenate(duals))
    gap = max(dual - primal, 0.0)
    cosine_N, scale = product_N, 1.0
    if lengths is not None:
        of_pair_N = lengths[0] * lengths[1][target_N]
        cosine_N = product_N / np.where(of_pair_N > 0, of_pair_N, 1)
        scale = float(lengths[0].max() * lengths[1].max())
    relative_gap = gap / (max(scale, abs(primal)) or 1.0)
    return Matching(
        target=target_N.astype(np.int32),
        cosine=np.clip(cosine_N, -1, 1).astype(np.float32),
        u=duals[0],
        v=duals[1],
        side=side,
        method=method,
        normalized=lengths is None,
        certificate=Certificate(
            primal=primal,
            dual=dual,
            gap=gap,
            relative_gap=relative_gap,
            certified=relative_gap <= CERTIFIED_GAP,
            passes=passes,
            seconds=seconds,
            peak_bytes=peak_bytes,
            solver=solver,
        ),
    )


def transpose(m: Matching, num_rows: int) -> Matching:
    """A matching seen from the other side, which has `num_rows`, more than this one."""
    target = np.full(num_rows, -1, np.int32)
    cosine = np.zeros(num_rows, np.float32)
    target[m.target], cosine[m.target] = np.arange(m.num_latents), m.cosine
    return dataclasses.replace(m, target=target, cosine=cosine, u=m.v, v=m.u)
