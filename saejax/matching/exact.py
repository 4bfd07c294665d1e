"""The best one-to-one matching, exactly, from a sparse graph and a proof about the rest.

N <= M: latents, D: width, R, C: rows and columns to be priced, E: edges.

The linear assignment problem and its dual (Burkard, Dell'Amico & Martello, "Assignment
Problems", 2009, sections 4.1 and 4.2):

    max  sum_i S_i,x(i)        over one-to-one x covering the smaller side
    min  sum_i u_i + sum_j v_j   with u_i + v_j >= S_ij, and v_j >= 0 if N < M.

One streamed pass over S finds each row's best columns under first prices. The problem on this
sparse graph is solved exactly; its duals then prove most pairs useless by bounds stored in the
pass. Rows and columns that the bounds leave open are priced again, under the new duals, and
what violates them enters the graph, until nothing does (column generation; Lee & Orlin, MIT
working paper 3572-93, solve dense assignment problems of a million nodes in this way).
"""

import dataclasses
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from saejax.matching import sparse_lap
from saejax.matching.candidates import Edges, pair_products, popularity
from saejax.matching.matching import CERTIFIED_GAP, Certificate, Matching
from saejax.matching.pricing import Kept, Side, host_or_gpu, top_k
from saejax.progress import Progress

# Candidates of a row in the first pass, of a column that hardly any row has, and of a row or
# column that is priced again (MATCHING notes, section 5).
_FIRST_K, _COLUMN_K, _AGAIN_K = 24, 12, 16
# Columns that fewer rows have among their candidates get candidates of their own.
_FEW_ROWS = 8
# Pairs this close to violating the duals enter the graph as well, since duals still move; in
# units of the largest similarity.
_MARGIN = 0.05
# Violations of u_i + v_j >= S_ij below this are rounding of float64 products, in the same units.
_ROUNDING = 2.0**-46
# A float64 tile of the exact check: 32 MiB.
_CHECK_ROWS, _CHECK_COLUMNS = 512, 8192
# Phases of augmenting paths between two signs of life.
_PHASES = 16
# Edges that rows without a path to a free column get to each other's.
_STUCK_K = 8
_UNIT = 2**sparse_lap.BITS


@dataclasses.dataclass
class _Bounds:
    """What passes have shown of one side: S_ij - prices[version_i]_j <= bound_i, no edge (i, j)."""

    prices: list[np.ndarray]  # [M] each
    version: np.ndarray  # [N]
    bound: np.ndarray  # [N]

    def learn(self, rows: np.ndarray, prices_M: np.ndarray, bound: np.ndarray) -> None:
        self.version[rows] = len(self.prices)
        self.prices.append(prices_M)
        self.bound[rows] = bound


@dataclasses.dataclass
class _State:
    """Prices of the columns, values of the rows (both in units of scale / 2^48), and partners."""

    price: np.ndarray  # v [M] int64
    value: np.ndarray  # u [N] int64
    target: np.ndarray  # [N] int64, -1 while free


def solve(
    a_ND: Float32[np.ndarray, "N D"],
    b_MD: Float32[np.ndarray, "M D"],
    *,
    side: str,
    method: str,
    normalized: bool,
    dtype: jnp.dtype,
    mesh: Mesh,
    progress: Progress,
) -> Matching:
    """Best one-to-one matching of rows, covering the smaller side, with duals.

    S_ij is the real inner product of the given float32 rows. Weights of edges are float64
    products, within D 2^-53 |a_i||b_j| of it; of all other pairs it is proven that
    S_ij <= u_i + v_j, with the rounding of the pass accounted for (`pricing.error_bounds`).
    Of equally good matchings one is returned.

    Time: 1.1 to 1.2 passes over S on trained autoencoders, each N M D multiplications spread
    over all devices of the mesh. Memory: a and b once more on each device, 64 MiB for a tile,
    and about 700 bytes a row for the sparse graph: O((N + M) D).

    Args:
      a_ND: Finite rows.
      b_MD: Finite rows of the same width.
      side: Recorded in the result.
      method: Recorded in the result.
      normalized: Recorded in the result: whether rows are unit vectors (or zero).
      dtype: Of the streamed products, float32 or bfloat16. The result is exact with either.
      mesh: Devices to spread the passes over. Every process has to call with the same rows.
      progress: Advances by len(a_ND) rows in all, and shows passes, violations and gap.
    """
    if len(a_ND) > len(b_MD):
        flipped = solve(
            b_MD,
            a_ND,
            side=side,
            method=method,
            normalized=normalized,
            dtype=dtype,
            mesh=mesh,
            progress=progress,
        )
        progress.advance(len(a_ND) - len(b_MD))
        return _transpose(flipped, len(a_ND))
    start = time.monotonic()
    a, b = Side(a_ND, dtype=dtype, mesh=mesh), Side(b_MD, dtype=dtype, mesh=mesh)
    problem = _Problem(a, b, progress)
    problem.first_pass()
    while True:
        problem.solve_graph()
        if not problem.price_again():
            break
    return problem.result(side, method, normalized, start)


class _Problem:
    """The state of one problem between its rounds."""

    def __init__(self, a: Side, b: Side, progress: Progress):
        self.a, self.b, self.progress = a, b, progress
        self.num_rows, self.num_columns = len(a), len(b)
        self.edges = Edges(a, b)
        # A power of two with |S| <= scale, so that scaling is exact; 1 for unit rows.
        largest = float(a.norms.max() * b.norms.max())
        self.scale = 2.0 ** math.ceil(math.log2(largest / 1.0001)) if largest else 1.0
        self.rows_priced = 0.0
        self.peak_lines = 0
        self.state = _State(
            np.zeros(self.num_columns, np.int64),
            np.zeros(self.num_rows, np.int64),
            np.full(self.num_rows, -1),
        )

    def to_int(self, x: np.ndarray) -> np.ndarray:
        return np.rint(x * (_UNIT / self.scale)).astype(np.int64)

    def to_float(self, x: np.ndarray) -> np.ndarray:
        return x * (self.scale / _UNIT)

    def first_pass(self) -> None:
        """Candidates of every row, and of columns that are hardly anyone's."""
        self.progress.advance(0, stage="first prices")
        prices_M = popularity(self.a, self.b)
        all_rows = np.arange(self.num_rows)
        self.progress.advance(0, stage="pass")
        kept = self._top_k(self.a, self.b, all_rows, prices_M, _FIRST_K, first=True)
        self.edges.add(np.repeat(all_rows, kept.columns.shape[1]), kept.columns.ravel())
        last_N = kept.values[:, -1].astype(np.float64)
        everything = kept.columns.shape[1] == self.num_columns
        bound_N = np.full(self.num_rows, -np.inf) if everything else last_N + kept.errors
        self.row_bounds = _Bounds([prices_M], np.zeros(self.num_rows, np.int64), bound_N)
        # Nothing is known of the columns yet; the prices of the rows do not matter then.
        self.column_bounds = _Bounds(
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
    ):
        began, done = time.monotonic(), 0

        def on_rows(count: int) -> None:
            nonlocal done
            done += count
            self.rows_priced += count / len(x)
            seconds = max(time.monotonic() - began, 1e-9)
            self.progress.advance(
                count if first else 0,
                passes=self.rows_priced,
                **{"tiles/s": done * len(y) / (1024 * 16384) / seconds},
            )

        return top_k(x, y, rows, prices, k, on_rows)

    def solve_graph(self) -> None:
        """The best matching on the graph, with centred prices; the graph grows if it has none."""
        pinned = self.num_rows < self.num_columns
        self.progress.advance(0, stage="assignment")
        while True:
            rows, columns = self.edges.rows, self.edges.columns
            weights = self.to_int(self.edges.weights)
            with jax.enable_x64(True), jax.default_device(host_or_gpu()):
                graph = sparse_lap.make_graph(
                    rows, columns, weights, self.num_rows, self.num_columns
                )
                self.peak_lines = max(self.peak_lines, len(graph.row))
                solved = sparse_lap.start(self.state.price, self.state.target)
                solved = sparse_lap.release(graph, solved, pinned=pinned)
                solved = sparse_lap.auction(graph, solved)
                go_on = True
                while go_on:
                    solved, go_on = sparse_lap.augment(
                        graph, solved, pinned=pinned, max_phases=_PHASES
                    )
                    go_on = bool(go_on)
                    self.progress.advance(0)
                self.state.price, self.state.target = sparse_lap.finish(
                    solved, self.num_rows, self.num_columns
                )
                free = np.flatnonzero(self.state.target < 0)
                if not len(free):
                    price = sparse_lap.centre(graph, solved, jnp.asarray(pinned))
                    self.state.price = np.asarray(price)[: self.num_columns]
                    break
            self._join_stuck(free)
        reduced = weights - self.state.price[columns]
        self.state.value = np.maximum.reduceat(reduced, np.searchsorted(rows, np.arange(self.num_rows)))

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
        rows, columns = _unproven(self.row_bounds, self.column_bounds, u_N, v_M)
        self.progress.advance(0, stage="pricing")
        open_rows = self._price(self.a, self.b, rows, u_N, v_M, self.row_bounds)
        open_columns = self._price(self.b, self.a, columns, v_M, u_N, self.column_bounds)
        violations = self._violations()
        if not violations:
            self.progress.advance(0, stage="exact check")
            self._check_exactly(self.a, self.b, open_rows, u_N, v_M)
            self._check_exactly(self.b, self.a, open_columns, v_M, u_N)
            violations = self._violations()
        gap = float(u_N.sum() + v_M.sum()) - self._primal()
        self.progress.advance(0, violations=violations, gap=max(gap, 0.0))
        return violations > 0

    def _violations(self) -> int:
        """Edges that are better than the duals say, of which a solved graph has none."""
        reduced = self.to_int(self.edges.weights) - self.state.price[self.edges.columns]
        return int((reduced > self.state.value[self.edges.rows]).sum())

    def _primal(self) -> float:
        products = pair_products(self.a, self.b, np.arange(self.num_rows), self.state.target)
        return math.fsum(products)

    def _add(self, x: Side, x_rows: np.ndarray, y_rows: np.ndarray) -> None:
        self.edges.add(*((x_rows, y_rows) if x is self.a else (y_rows, x_rows)))

    def _price(
        self,
        x: Side,
        y: Side,
        rows: np.ndarray,
        value: np.ndarray,
        price: np.ndarray,
        bounds: _Bounds,
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
                k = min(_AGAIN_K, excess.shape[1])
                best = np.argpartition(-excess, k - 1, axis=1)[:, :k]
                worst = np.take_along_axis(excess, best, axis=1)
                row, slot = np.nonzero(worst > _ROUNDING * self.scale)
                self._add(x, some[row], first + best[row, slot])
            self.progress.advance(0)

    def result(self, side: str, method: str, normalized: bool, start: float) -> Matching:
        """The matching, its duals in float64 and their certificate."""
        target_N = self.state.target
        v_M = self.to_float(self.state.price)
        reduced = self.edges.weights - v_M[self.edges.columns]
        first = np.searchsorted(self.edges.rows, np.arange(self.num_rows))
        # Rounded up, so that u_i + v_j >= S_ij and the dual is a true bound.
        u_N = np.nextafter(np.maximum.reduceat(reduced, first), np.inf)
        product_N = pair_products(self.a, self.b, np.arange(self.num_rows), target_N)
        norm_N = self.a.norms * self.b.norms[target_N]
        cosine_N = product_N / np.where(norm_N > 0, norm_N, 1)
        primal, dual = math.fsum(product_N), math.fsum(np.concatenate([u_N, v_M]))
        gap = max(dual - primal, 0.0)
        relative_gap = gap / max(1.0, abs(primal))
        return Matching(
            target=target_N.astype(np.int32),
            cosine=np.clip(cosine_N, -1, 1).astype(np.float32),
            u=u_N,
            v=v_M,
            side=side,
            method=method,
            normalized=normalized,
            certificate=Certificate(
                primal=primal,
                dual=dual,
                gap=gap,
                relative_gap=relative_gap,
                certified=relative_gap <= CERTIFIED_GAP,
                passes=self.rows_priced,
                seconds=time.monotonic() - start,
                peak_bytes=self._peak_bytes(),
                solver="saejax",
            ),
        )

    def _peak_bytes(self) -> int:
        return 0


def _unproven(
    rows: _Bounds, columns: _Bounds, u_N: np.ndarray, v_M: np.ndarray
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
    row_ids, column_ids = np.unique(np.concatenate(open_rows)), np.unique(np.concatenate(open_columns))
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


def _transpose(m: Matching, num_rows: int) -> Matching:
    """The matching seen from b, which has more rows."""
    target = np.full(num_rows, -1, np.int32)
    cosine = np.zeros(num_rows, np.float32)
    target[m.target], cosine[m.target] = np.arange(m.num_latents), m.cosine
    return dataclasses.replace(m, target=target, cosine=cosine, u=m.v, v=m.u)
