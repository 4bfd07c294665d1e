"""Best one-to-one matching by SciPy on the dense matrix, with duals. N <= M: latents, T: a block.

The linear assignment problem and its dual (Burkard, Dell'Amico & Martello, "Assignment
Problems", 2009, sections 4.1 and 4.2):

    max  sum_i S_i,x(i)        over one-to-one x covering the smaller side
    min  sum_i u_i + sum_j v_j   with u_i + v_j >= S_ij, and v_j >= 0 if N < M.
"""

import time
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Float64, Int

from saejax.errors import InputError
from saejax.matching.certify import certify
from saejax.matching.matching import Matching
from saejax.matching.operands import row_norms
from saejax.matching.similarity import row_products
from saejax.progress import Progress

# Largest dense matrix of similarities: two sets of 46,340 latents, half an hour of SciPy.
DENSE_BYTES_LIMIT = 16 * 2**30
# Entries of the similarities handled at a time: temporaries of 32 MiB.
_BLOCK_ENTRIES = 2**22
# Rises of a dual below this, relative to the largest product, are rounding. Left over, they
# cost at most N * 1e-14 of gap, 5e-10 at the largest N that fits.
_RISE = 1e-14


def solve(
    a_ND: Float32[np.ndarray, "N D"],
    b_MD: Float32[np.ndarray, "M D"],
    *,
    side: str,
    method: str,
    normalized: bool,
    progress: Progress,
) -> Matching:
    """Best one-to-one matching of rows, covering the smaller side.

    Time: SciPy's shortest augmenting paths (Crouse 2016), O(N^2 M) at worst, about N^2.5 on
    trained autoencoders. Memory: 8 N M bytes. Of equally good matchings one is returned.

    Args:
      a_ND: Rows, as from `directions`.
      b_MD: Rows of the same width.
      side: Recorded in the result.
      method: Recorded in the result.
      normalized: Recorded in the result: whether rows are unit vectors (or zero).
      progress: Advances by N rows in all, at the end of the solve.

    Returns:
      The matching, with duals and a certificate about the products of these float32 rows
      computed in float64, whose own rounding is at most D * 2^-53 |a_i| |b_j| for each.

    Raises:
      InputError: If the similarities need more than 16 GiB.
    """
    start = time.monotonic()
    num_a, num_b = len(a_ND), len(b_MD)
    if num_a <= num_b:
        x_N, u_N, v_M, peak_bytes = _assign(a_ND, b_MD, progress)
        target_N = x_N.astype(np.int32)
    else:
        # The transposed problem, whose rows are the smaller side.
        x_M, v_M, u_N, peak_bytes = _assign(b_MD, a_ND, progress)
        target_N = np.full(num_a, -1, np.int32)
        target_N[x_M] = np.arange(num_b, dtype=np.int32)
    matched_N = np.flatnonzero(target_N >= 0)
    product_N = np.zeros(num_a)
    product_N[matched_N] = row_products(a_ND[matched_N], b_MD[target_N[matched_N]])
    progress.advance(num_a)
    return certify(
        target_N,
        product_N,
        (u_N, v_M),
        None if normalized else (row_norms(a_ND), row_norms(b_MD)),
        side=side,
        method=method,
        solver="scipy",
        passes=1.0,
        seconds=time.monotonic() - start,
        peak_bytes=peak_bytes,
    )


def _assign(
    a_ND: np.ndarray, b_MD: np.ndarray, progress: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """For N <= M: partner of each row, duals u [N] and v [M] >= 0, and peak bytes."""
    # Half a second of imports that nothing else in the package needs.
    import scipy.optimize

    cost_NM = _costs(a_ND, b_MD, progress)
    progress.advance(0, stage="assignment")
    # Rows are the smaller side and the costs are minimised, so SciPy makes no copy.
    _, x_N = scipy.optimize.linear_sum_assignment(cost_NM)
    progress.advance(0, stage="duals")
    v_M = _potentials(cost_NM, x_N)
    u_N = np.empty(len(cost_NM))
    for rows_T in _blocks(np.arange(len(cost_NM)), cost_NM.shape[1]):
        u_N[rows_T] = (-cost_NM[rows_T] - v_M[None]).max(axis=1)
    # Rounded up, so that u_i + v_j >= S_ij holds exactly and the dual is a true bound.
    u_N = np.nextafter(u_N, np.inf)
    # The matrix, b in float64 while it is filled, and two temporaries of a block.
    width = max(cost_NM.shape[1], a_ND.shape[1])
    block_entries = min(max(_BLOCK_ENTRIES, width), len(a_ND) * width)
    peak_bytes = cost_NM.nbytes + 8 * b_MD.size + 2 * 8 * block_entries
    return x_N, u_N, v_M, peak_bytes


def _costs(a_ND: np.ndarray, b_MD: np.ndarray, progress: Progress) -> np.ndarray:
    """Negated similarities, [N, M] float64."""
    shape = len(a_ND), len(b_MD)
    num_bytes = 8 * shape[0] * shape[1]
    progress.advance(0, stage="similarities")
    advice = "match fewer latents, or use method='max_cosine'"
    if num_bytes > DENSE_BYTES_LIMIT:
        raise InputError(
            f"{shape[0]} x {shape[1]} similarities need {num_bytes:,} bytes, above the limit of "
            f"{DENSE_BYTES_LIMIT:,} for the dense solver; {advice}"
        )
    try:
        cost_NM = np.empty(shape)
    except MemoryError:
        raise InputError(
            f"this machine has no {num_bytes:,} bytes for {shape[0]} x {shape[1]} similarities; "
            f"{advice}"
        ) from None
    b_transposed_DM = b_MD.astype(np.float64).T
    for rows_T in _blocks(np.arange(shape[0]), max(shape[1], a_ND.shape[1])):
        rows = slice(rows_T[0], rows_T[-1] + 1)
        np.matmul(-a_ND[rows].astype(np.float64), b_transposed_DM, out=cost_NM[rows])
    return cost_NM


def _blocks(rows_N: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Cuts row indices into runs whose [T, width] arrays stay small."""
    step = max(1, _BLOCK_ENTRIES // width)
    for start in range(0, len(rows_N), step):
        yield rows_N[start : start + step]


def _potentials(
    cost_NM: Float64[np.ndarray, "N M"], x_N: Int[np.ndarray, " N"]
) -> Float64[np.ndarray, " M"]:
    """Duals of the columns: v_j = max(0, max_i v_x(i) + S_ij - S_i,x(i)) over matched j.

    This is the length of the longest path into j in the residual graph, whose edges
    x(i) -> j weigh S_ij - S_i,x(i). An optimal matching leaves no cycle of positive weight, and
    no path of positive weight to an unmatched column, whose dual therefore stays 0. Bellman and
    Ford's iteration, over the rows whose own column rose in the last round.
    """
    num_rows, num_columns = cost_NM.shape
    own_cost_N = cost_NM[np.arange(num_rows), x_N]
    v_M = np.zeros(num_columns)
    rise = _RISE * max(-own_cost_N.min(), own_cost_N.max())
    frontier_T = np.arange(num_rows)
    # Longest paths have at most N edges; rounding aside, the loop ends by itself before.
    for _ in range(num_rows):
        longest_M = np.zeros(num_columns)
        for rows_T in _blocks(frontier_T, num_columns):
            through_T = v_M[x_N[rows_T]] + own_cost_N[rows_T]
            np.maximum(longest_M, (through_T[:, None] - cost_NM[rows_T]).max(0), out=longest_M)
        frontier_T = np.flatnonzero(longest_M[x_N] > v_M[x_N] + rise)
        if frontier_T.size == 0:
            break
        v_M[x_N[frontier_T]] = longest_M[x_N[frontier_T]]
    return v_M
