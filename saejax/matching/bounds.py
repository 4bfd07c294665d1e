"""What a pass proves about later prices, so that few pairs are computed again. N <= M: rows."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Bounds:
    """What passes have shown of one side, about all pairs that are no edges of the graph.

    S_ij - prices[version_i]_j <= bound_i. Kept edges are not covered, since their similarities
    are known.

    Attributes:
      prices: The prices of each pass, [M].
      version: [N] which of them a row was last priced under.
      bound: [N] with rounding included; infinite where nothing is known.
    """

    prices: list[np.ndarray]
    version: np.ndarray
    bound: np.ndarray

    def learn(self, rows: np.ndarray, prices_M: np.ndarray, bound: np.ndarray) -> None:
        """Notes the outcome of pricing some rows."""
        self.version[rows] = len(self.prices)
        self.prices.append(prices_M)
        self.bound[rows] = bound


def unproven(
    rows: Bounds, columns: Bounds, u_N: np.ndarray, v_M: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rows and columns that have to be priced so that all pairs are, at the least cost.

    Under new prices v a row needs no pricing if bound_i - u_i <= min_j (v_j - prices_j). The
    columns whose price fell furthest set the minimum: pricing the q first of them instead
    leaves fewer rows.
    """
    num_rows, num_columns = len(u_N), len(v_M)
    open_rows, open_columns = [], []
    for version, prices_M in enumerate(rows.prices):
        members = np.flatnonzero(rows.version == version)
        if not len(members):
            continue
        need = rows.bound[members] - u_N[members]
        change_M = v_M - prices_M
        order = np.argsort(change_M, kind="stable")
        sorted_M = change_M[order]
        q = np.unique(np.geomspace(1, max(num_columns - 1, 1), 200).astype(np.int64))
        q = np.concatenate([[0], q[q < num_columns]])
        left = len(members) - np.searchsorted(np.sort(need), sorted_M[q], side="right")
        best = q[np.argmin(q * num_rows + left * num_columns)]
        open_columns.append(order[:best])
        open_rows.append(members[need > sorted_M[best]])
    row_ids, column_ids = (
        np.unique(np.concatenate(open_rows)),
        np.unique(np.concatenate(open_columns)),
    )
    # Columns that their own bounds prove against all rows that are not priced.
    kept_N = np.ones(num_rows, bool)
    kept_N[row_ids] = False
    proven = np.zeros(len(column_ids), bool)
    for version, prices_N in enumerate(columns.prices):
        members = columns.version[column_ids] == version
        if members.any():
            least = (u_N - prices_N)[kept_N].min(initial=np.inf)
            proven[members] = columns.bound[column_ids[members]] - v_M[column_ids[members]] <= least
    return row_ids, column_ids[~proven]
