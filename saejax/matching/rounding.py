"""From prices to a matching that is one to one, and to a bound on the best. N <= M: rows.

K: candidates of a row, E: all of them.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float64

from saejax.matching import exact
from saejax.matching.candidates import pair_products, with_floor
from saejax.matching.operands import Side
from saejax.matching.pricing import Kept, top_k
from saejax.progress import Progress

# Candidates of a row, as many as the exact solver starts from.
_CANDIDATES = 24
# A pair is sure if it holds this part of all the mass that its row or its column, whichever has
# less, can hold; above a half there is one such row for each column. At 4,096 latents and
# epsilon = 0.001 the best entries, sure or not, make a matching 6e-4 below the best per latent;
# with 0.5, 0.6, 0.7 and 0.8, 4e-4, 6e-5, 3e-6 and 2e-7, with 3, 9, 14 and 19 % of rows unsure.
_SURE = 0.7


class Rounded(NamedTuple):
    """A matching of the rows, and duals with u_i + v_j >= S_ij, v_j >= 0 where N < M.

    Attributes:
      target: [N] columns, no two equal.
      u: [N] float64.
      v: [M] float64.
      num_sure: Rows whose partner the plan itself decided.
    """

    target: np.ndarray
    u: np.ndarray
    v: np.ndarray
    num_sure: int


def round_plan(
    rows: Side,
    columns: Side,
    f_N: np.ndarray,
    g_M: np.ndarray,
    *,
    epsilon: float,
    mesh: Mesh,
    progress: Progress,
) -> Rounded:
    """A one-to-one matching from potentials, and duals that bound the best one.

    The plan has P_ij = exp((f_i + g_j - C_ij) / epsilon). Pairs with P_ij >= 0.7 / M are taken,
    the largest first; all other rows and columns are matched exactly with each other.

    Args:
      rows: The smaller side.
      columns: The larger side.
      f_N: Potentials of the rows, for uniform marginals.
      g_M: Potentials of the columns.
      epsilon: Regularisation of the plan.
      mesh: Devices that share the rows.
      progress: Advances by the number of rows.
    """
    price_M = with_floor(-g_M.astype(np.float64), len(columns) - len(rows))
    kept = top_k(rows, columns, np.arange(len(rows)), price_M, _CANDIDATES, lambda count: None)
    cosines = kept.values + price_M[kept.columns]
    mass = (f_N[:, None] + g_M[kept.columns] - 1 + cosines) / epsilon
    sure_N = greedy(kept.columns, mass, len(columns), at_least=math.log(_SURE / len(columns)))
    num_sure = int((sure_N >= 0).sum())
    progress.advance(num_sure)
    target_N = complete(sure_N, rows, columns, mesh=mesh, progress=progress)
    return Rounded(target_N, upper_duals(rows, columns, kept, price_M), price_M, num_sure)


def upper_duals(
    a: Side, b: Side, kept: Kept, price_M: Float64[np.ndarray, " M"]
) -> Float64[np.ndarray, " N"]:
    """u_i >= max_j S_ij - v_j, so that sum u + sum v bounds every matching from above.

    The maximum is computed in float64 among a row's candidates; where another pair might exceed
    it, for all that rounding of the pass allows, u_i is that bound instead.

    Args:
      a: The rows.
      b: The columns.
      kept: The largest S_ij - v_j of every row, in order.
      price_M: v.
    """
    rows = np.repeat(np.arange(len(a)), kept.columns.shape[1])
    weights = pair_products(a, b, rows, kept.columns.ravel()).reshape(kept.columns.shape)
    u_N = (weights - price_M[kept.columns]).max(axis=1)
    if kept.columns.shape[1] < len(b):
        u_N = np.maximum(u_N, kept.values[:, -1] + kept.errors)
    return np.nextafter(u_N, np.inf)


def greedy(
    columns_NK: np.ndarray, values_NK: np.ndarray, num_columns: int, *, at_least: float
) -> np.ndarray:
    """Takes the largest value whose row and column are free, until none of `at_least` is left.

    All values that are the largest of both their row and their column are taken at once, which
    gives the same matching.

    Returns:
      [N] columns, -1 for rows without.
    """
    num_rows, k = columns_NK.shape
    row_E = np.repeat(np.arange(num_rows), k)
    column_E, value_E = columns_NK.ravel(), values_NK.ravel()
    target_N = np.full(num_rows, -1)
    enough = value_E >= at_least
    row_E, column_E, value_E = row_E[enough], column_E[enough], value_E[enough]
    # Ranks instead of values, so that no two are equal.
    rank_E = np.empty(len(value_E), np.int64)
    rank_E[np.argsort(value_E, kind="stable")] = np.arange(len(value_E))
    while len(row_E):
        best_N, best_M = np.full(num_rows, -1), np.full(num_columns, -1)
        np.maximum.at(best_N, row_E, rank_E)
        np.maximum.at(best_M, column_E, rank_E)
        taken = (rank_E == best_N[row_E]) & (rank_E == best_M[column_E])
        target_N[row_E[taken]] = column_E[taken]
        free_M = np.ones(num_columns, bool)
        free_M[column_E[taken]] = False
        left = (target_N[row_E] < 0) & free_M[column_E]
        row_E, column_E, rank_E = row_E[left], column_E[left], rank_E[left]
    return target_N


def complete(
    target_N: np.ndarray, a: Side, b: Side, *, mesh: Mesh, progress: Progress
) -> np.ndarray:
    """Matches the rows that are left to the columns that are left, exactly."""
    rows = np.flatnonzero(target_N < 0)
    if not len(rows):
        return target_N
    is_free = np.ones(len(b), bool)
    is_free[target_N[target_N >= 0]] = False
    columns = np.flatnonzero(is_free)
    rest = exact.solve(
        a.rows[rows],
        b.rows[columns],
        side="decoder",
        method="exact",
        normalized=False,
        dtype=jnp.dtype(jnp.float32),
        mesh=mesh,
        progress=progress,
    )
    whole_N = target_N.copy()
    whole_N[rows] = columns[rest.target]
    return whole_N
