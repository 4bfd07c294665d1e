"""A matching problem between its rounds: candidates, assignment, pricing. N <= M: rows, D: width.

E: edges of the graph that stands for all pairs; T, C: rows and columns of a float64 tile.
"""

import dataclasses
import math
import time

import jax
import numpy as np

from saejax.matching import sparse_lap
from saejax.matching.bounds import Bounds, unproven
from saejax.matching.candidates import Edges, pair_products, popularity
from saejax.matching.certify import certify
from saejax.matching.matching import Matching
from saejax.matching.operands import Side, on_one_device
from saejax.matching.pricing import Kept, top_k
from saejax.matching.sparse_graph import BITS, make_graph
from saejax.progress import Progress

# Candidates of a row in the first pass, of a column that hardly any row has, and of a row or
# column that is priced again. With these, autoencoders need 25 to 27 edges a row in the end.
FIRST_K, _COLUMN_K, _AGAIN_K = 24, 12, 16
# Columns that fewer rows have among their candidates get candidates of their own.
_FEW_ROWS = 8
# Pairs this close to violating the duals enter the graph as well, since duals still move; in
# units of the largest similarity.
_MARGIN = 0.05
# Violations of u_i + v_j >= S_ij below this are rounding of float64 products, in the same units.
_ROUNDING = 2.0**-46
# A float64 tile of the exact check: 32 MiB.
_CHECK_ROWS, _CHECK_COLUMNS = 512, 8192
# Pairs in a tile, as the progress counts them: 1,024 x 16,384.
_TILE_PAIRS = 2**24
# Edges that rows without a path to a free column get to each other's.
_STUCK_K = 8
_UNIT = 2**BITS


@dataclasses.dataclass
class State:
    """Prices of the columns, values of the rows (both in units of scale / 2^48), and partners."""

    price: np.ndarray  # v [M] int64
    value: np.ndarray  # u [N] int64
    target: np.ndarray  # [N] int64, -1 while free


class Problem:
    """The state of one problem between its rounds."""

    def __init__(self, a: Side, b: Side, progress: Progress):
        self.a, self.b, self.progress = a, b, progress
        self.num_rows, self.num_columns = len(a), len(b)
        self.edges = Edges(a, b)
        # A power of two with |S| <= scale, so that scaling is exact; 1 for unit rows.
        largest = float(a.norms.max() * b.norms.max())
        self.scale = 2.0 ** math.ceil(math.log2(largest / 1.0001)) if largest else 1.0
        self.excess = np.zeros(self.num_rows)  # By how much exact checks let u be too small.
        self.rows_priced = 0.0
        self.graph_bytes = 0
        self.state = State(
            np.zeros(self.num_columns, np.int64),
            np.zeros(self.num_rows, np.int64),
            np.full(self.num_rows, -1),
        )

    def to_int(self, x: np.ndarray) -> np.ndarray:
        """Fixed point, in which 2^48 is the scale."""
        return np.rint(x * (_UNIT / self.scale)).astype(np.int64)

    def to_float(self, x: np.ndarray) -> np.ndarray:
        """The inverse of `to_int`, exactly."""
        return x * (self.scale / _UNIT)

    def first_pass(self) -> None:
        """Candidates of every row, and of columns that are hardly anyone's."""
        self.progress.advance(0, stage="first prices")
        prices_M = popularity(self.a, self.b)
        all_rows = np.arange(self.num_rows)
        self.progress.advance(0, stage="pass")
        kept = self._top_k(self.a, self.b, all_rows, prices_M, FIRST_K, first=True)
        self.edges.add(np.repeat(all_rows, kept.columns.shape[1]), kept.columns.ravel())
        last_N = kept.values[:, -1].astype(np.float64)
        everything = kept.columns.shape[1] == self.num_columns
        bound_N = np.full(self.num_rows, -np.inf) if everything else last_N + kept.errors
        self.row_bounds = Bounds([prices_M], np.zeros(self.num_rows, np.int64), bound_N)
        # Nothing is known of the columns yet; the prices of the rows do not matter then.
        self.column_bounds = Bounds(
            [last_N], np.zeros(self.num_columns, np.int64), np.full(self.num_columns, np.inf)
        )
        few = np.bincount(kept.columns.ravel(), minlength=self.num_columns) < _FEW_ROWS
        if self.num_rows < self.num_columns:
            few &= prices_M > 0  # The least popular may stay free.
        if few.any() and not everything:
            columns = np.flatnonzero(few)
            # Rows for which a column comes closest to being among their candidates.
            kept = self._top_k(self.b, self.a, columns, last_N, _COLUMN_K)
            self.edges.add(kept.columns.ravel(), np.repeat(columns, kept.columns.shape[1]))
            self.column_bounds.bound[columns] = kept.values[:, -1] + kept.errors
        if self.num_rows == self.num_columns:
            self.state.price = self.to_int(prices_M)

    def _top_k(
        self, x: Side, y: Side, rows: np.ndarray, prices: np.ndarray, k: int, first: bool = False
    ) -> Kept:
        began, done = time.monotonic(), 0

        def on_rows(count: int) -> None:
            nonlocal done
            done += count
            self.rows_priced += count / len(x)
            seconds = max(time.monotonic() - began, 1e-9)
            self.progress.advance(
                count if first else 0,
                passes=self.rows_priced,
                **{"tiles/s": done * len(y) / _TILE_PAIRS / seconds},
            )

        return top_k(x, y, rows, prices, k, on_rows)

    def solve_graph(self) -> None:
        """The best matching on the graph, with centred prices; the graph grows if it has none."""
        pinned = self.num_rows < self.num_columns
        self.progress.advance(0, stage="assignment")
        while True:
            rows, columns = self.edges.rows, self.edges.columns
            weights = self.to_int(self.edges.weights)
            with jax.enable_x64(True), on_one_device():
                graph = make_graph(rows, columns, weights, self.num_rows, self.num_columns)
                self.graph_bytes = max(self.graph_bytes, sum(x.nbytes for x in graph))
                self.state.price, self.state.target = sparse_lap.solve(
                    graph,
                    self.state.price,
                    self.state.target,
                    pinned=pinned,
                    on_phases=lambda: self.progress.advance(0),
                )
            free = np.flatnonzero(self.state.target < 0)
            if not len(free):
                break
            self._join_stuck(free)
        reduced = weights - self.state.price[columns]
        self.state.value = np.maximum.reduceat(
            reduced, np.searchsorted(rows, np.arange(self.num_rows))
        )

    def _join_stuck(self, free_rows: np.ndarray) -> None:
        """Edges between free rows and free columns: the best few, and a matching of them."""
        is_free = np.ones(self.num_columns, bool)
        is_free[self.state.target[self.state.target >= 0]] = False
        free_columns = np.flatnonzero(is_free)
        self.edges.add(free_rows, free_columns[: len(free_rows)])
        price = self.to_float(self.state.price[free_columns])
        k = min(_STUCK_K, len(free_columns))
        for start in range(0, len(free_rows), _CHECK_ROWS):
            rows = free_rows[start : start + _CHECK_ROWS]
            reduced = self.a.rows[rows] @ self.b.rows[free_columns].T - price[None]
            best = np.argpartition(-reduced, k - 1, axis=1)[:, :k]
            self.edges.add(np.repeat(rows, k), free_columns[best].ravel())

    def price_again(self) -> bool:
        """Prices what stored bounds leave open; whether a pair was found to violate the duals."""
        u_N, v_M = self.to_float(self.state.value), self.to_float(self.state.price)
        rows, columns = unproven(self.row_bounds, self.column_bounds, u_N, v_M)
        self.progress.advance(0, stage="pricing")
        open_rows = self._price(self.a, self.b, rows, u_N, v_M, self.row_bounds)
        open_columns = self._price(self.b, self.a, columns, v_M, u_N, self.column_bounds)
        violations = self._violations()
        if not violations:
            self.progress.advance(0, stage="exact check")
            self.excess[:] = 0
            self._check_exactly(self.a, self.b, open_rows, u_N, v_M)
            self._check_exactly(self.b, self.a, open_columns, v_M, u_N)
            violations = self._violations()
        gap = float(u_N.sum() + v_M.sum()) - math.fsum(self._matched_products())
        self.progress.advance(0, violations=violations, gap=max(gap, 0.0))
        return violations > 0

    def _violations(self) -> int:
        """Edges that are better than the duals say, of which a solved graph has none."""
        reduced = self.to_int(self.edges.weights) - self.state.price[self.edges.columns]
        return int((reduced > self.state.value[self.edges.rows]).sum())

    def _matched_products(self) -> np.ndarray:
        return pair_products(self.a, self.b, np.arange(self.num_rows), self.state.target)

    def _add(self, x: Side, x_rows: np.ndarray, y_rows: np.ndarray) -> None:
        self.edges.add(*((x_rows, y_rows) if x is self.a else (y_rows, x_rows)))

    def _price(
        self,
        x: Side,
        y: Side,
        rows: np.ndarray,
        value: np.ndarray,
        price: np.ndarray,
        bounds: Bounds,
    ) -> np.ndarray:
        """Prices rows of x; near violations become edges. Returns rows that stay unproven."""
        if not len(rows):
            return rows
        kept = self._top_k(x, y, rows, price, _AGAIN_K)
        upper = kept.values + kept.errors[:, None]
        near = upper > value[rows, None] - _MARGIN * self.scale
        self._add(x, np.repeat(rows, near.sum(axis=1)), kept.columns[near])
        # Values descend, so the first that was not kept bounds all that were not.
        k = upper.shape[1]
        num_near = near.sum(axis=1)
        bound = upper[np.arange(len(rows)), np.minimum(num_near, k - 1)]
        if k == len(y):
            bound[num_near == k] = -np.inf
        bounds.learn(rows, price, bound)
        return rows[bound > value[rows]]

    def _check_exactly(
        self, x: Side, y: Side, rows: np.ndarray, value: np.ndarray, price: np.ndarray
    ) -> None:
        """Adds violations of rows with more near ties than a pass keeps, from float64 products."""
        for start in range(0, len(rows), _CHECK_ROWS):
            some = rows[start : start + _CHECK_ROWS]
            x_TD = x.rows[some].astype(np.float64)
            for first in range(0, len(y), _CHECK_COLUMNS):
                part = slice(first, first + _CHECK_COLUMNS)
                excess = x_TD @ y.rows[part].astype(np.float64).T
                excess -= price[None, part] + value[some, None]
                if x is self.a:
                    self.excess[some] = np.maximum(self.excess[some], excess.max(axis=1))
                else:
                    self.excess[part] = np.maximum(self.excess[part], excess.max(axis=0))
                k = min(_AGAIN_K, excess.shape[1])
                best = np.argpartition(-excess, k - 1, axis=1)[:, :k]
                worst = np.take_along_axis(excess, best, axis=1)
                row, slot = np.nonzero(worst > _ROUNDING * self.scale)
                self._add(x, some[row], first + best[row, slot])
            self.progress.advance(0)

    def result(self, side: str, method: str, normalized: bool, start: float) -> Matching:
        """The matching, its duals in float64 and their certificate."""
        v_M = self.to_float(self.state.price)
        reduced = self.edges.weights - v_M[self.edges.columns]
        first = np.searchsorted(self.edges.rows, np.arange(self.num_rows))
        u_N = np.maximum.reduceat(reduced, first)
        excess_N = self.to_float(self.state.value) + self.excess
        u_N = np.where(self.excess > 0, np.maximum(u_N, excess_N), u_N)
        # Rounded up, so that u_i + v_j >= S_ij and the dual is a true bound.
        u_N = np.nextafter(u_N, np.inf)
        return certify(
            self.state.target,
            self._matched_products(),
            (u_N, v_M),
            None if normalized else (self.a.norms, self.b.norms),
            side=side,
            method=method,
            solver="saejax",
            passes=self.rows_priced,
            seconds=time.monotonic() - start,
            peak_bytes=self._peak_bytes(),
        )

    def _peak_bytes(self) -> int:
        """Copies of both sides on a device, and the larger of a tile and the sparse stage."""
        sparse = 2 * self.graph_bytes + 6 * self.edges.num_bytes
        return self.a.num_bytes + self.b.num_bytes + max(2 * 4 * _TILE_PAIRS, sparse)
