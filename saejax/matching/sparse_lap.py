"""Exact assignment on a sparse graph, compiled, in 64-bit integers. N <= M: rows, columns.

L: lines, each `LINE` edges of one row; a row has as many as it needs. Weights and prices are
fixed-point numbers, so that which edges are tight is exact and nothing depends on a tolerance.

Prices v of the columns define values u_i = max_j w_ij - v_j of the rows. An edge is tight where
w_ij - v_j = u_i. A matching of tight edges that covers all rows is optimal (and, where N < M,
all unmatched columns have the least price, which is 0). The stages keep matched edges tight:

1. `release` gives up what is not tight any more, as after new edges.
2. `auction`: free rows bid for their best column what makes it no better than their second
   best (Bertsekas 1981; without a minimal increment it is the row reduction of Jonker &
   Volgenant 1987), all rows at once.
3. `augment`: the rows still free search shortest augmenting paths, all at once (Bellman &
   Ford's iteration from all roots); paths of different roots are disjoint and are all taken.
4. `centre` moves the prices to the middle of what optimality leaves open. Extreme prices price
   out few pairs; from centred ones 2 or 3 rounds suffice instead of 30.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64, Int

from saejax.matching.pricing import bucket

# Edges in a line. Rows start with 24 edges and have 25 to 27 in the end.
LINE = 16
# Fixed point: 48 bits behind the point leave 2^15 for sums of weights of at most 1.
BITS = 48
_BIG = 1 << 60
# Lines handled at once: the smallest of these (and of all) that holds the rows at work.
_SIZES = (256, 2048, 16384)
# Rounds of bidding. More only let rows outbid each other by ever smaller amounts, which
# augmenting paths settle at once.
_AUCTION_ROUNDS = 300
# Jacobi steps. After 60 the prices move by less than 1e-4 in the hardest instances tried.
_CENTRE_STEPS = 60
# Entries of a block of `_running_sum` and of a mask's `_compact`.
_BLOCK = 32


class Graph(NamedTuple):
    """Edges. The last row and column are padding, as is every entry with column M."""

    column: jax.Array  # [L, LINE] int32
    weight: jax.Array  # [L, LINE] int64
    row: jax.Array  # [L] int32, ascending
    first_line: jax.Array  # [N + 1] int32
    num_lines: jax.Array  # [N + 1] int32; 0 for padding


class Assignment(NamedTuple):
    """Prices and partners, with one padding entry each. Free rows have column M, and vice versa."""

    price: jax.Array  # [M + 1] int64
    column_of: jax.Array  # [N + 1] int32
    row_of: jax.Array  # [M + 1] int32


def make_graph(
    rows_E: Int[np.ndarray, " E"],
    columns_E: Int[np.ndarray, " E"],
    weights_E: Int[np.ndarray, " E"],
    num_rows: int,
    num_columns: int,
) -> Graph:
    """Lines of edges, which are sorted by row; sizes are rounded up to buckets.

    Memory: 12 bytes an entry, 1.2 to 1.5 entries an edge.
    """
    padded_rows, padded_columns = bucket(num_rows, 8), bucket(num_columns, 8)
    degree = np.bincount(rows_E, minlength=num_rows)
    num_lines = np.zeros(padded_rows + 1, np.int32)
    num_lines[:num_rows] = -(-degree // LINE)
    first_line = np.zeros(padded_rows + 1, np.int32)
    np.cumsum(num_lines[:-1], out=first_line[1:])
    total = int(num_lines.sum())
    size = max(1024, bucket(total + 1, 8))
    first_edge = np.cumsum(degree) - degree
    position = np.arange(len(rows_E)) - first_edge[rows_E]
    line, slot = first_line[rows_E] + position // LINE, position % LINE
    column = np.full((size, LINE), padded_columns, np.int32)
    weight = np.full((size, LINE), -_BIG, np.int64)
    column[line, slot], weight[line, slot] = columns_E, weights_E
    row = np.full(size, padded_rows, np.int32)
    row[:total] = np.repeat(np.arange(num_rows), num_lines[:num_rows])
    return jax.tree.map(jnp.asarray, Graph(column, weight, row, first_line, num_lines))


def start(price_M: np.ndarray, target_N: np.ndarray) -> Assignment:
    """An assignment with these prices and partners (-1: free), padded as the graph."""
    pad = bucket(len(target_N), 8), bucket(len(price_M), 8)
    price = np.zeros(pad[1] + 1, np.int64)
    column_of = np.full(pad[0] + 1, pad[1], np.int32)
    row_of = np.full(pad[1] + 1, pad[0], np.int32)
    price[: len(price_M)] = price_M
    matched = np.flatnonzero(target_N >= 0)
    column_of[matched] = target_N[matched]
    row_of[target_N[matched]] = matched
    return jax.tree.map(jnp.asarray, Assignment(price, column_of, row_of))


def finish(a: Assignment, num_rows: int, num_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Prices [M] and partners [N] (-1: free) of an assignment."""
    column_of = np.asarray(a.column_of)[:num_rows].astype(np.int64)
    column_of[column_of == len(a.row_of) - 1] = -1
    return np.array(a.price)[:num_columns], column_of


def _running_sum(x_n: jax.Array) -> jax.Array:
    """`cumsum` of counts below 2^24, as products with a triangle: ten times faster on CPUs."""
    blocks = x_n.reshape(-1, _BLOCK).astype(jnp.float32)
    triangle = jnp.triu(jnp.ones((_BLOCK, _BLOCK), jnp.float32))
    inner = jnp.matmul(blocks, triangle, precision=jax.lax.Precision.HIGHEST).astype(jnp.int32)
    before = jnp.cumsum(inner[:, -1]) - inner[:, -1]
    return (inner + before[:, None]).reshape(-1)


def _compact(mask_n: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """The first `size` indices where a mask is true, ascending; and how many are valid [size]."""
    pad = -len(mask_n) % (_BLOCK * _BLOCK)
    blocks = jnp.pad(mask_n, (0, pad)).reshape(-1, _BLOCK)
    count = blocks.sum(axis=1, dtype=jnp.int32)
    ends = _running_sum(count)
    wanted = jnp.arange(1, size + 1, dtype=jnp.int32)
    block = jnp.searchsorted(ends, wanted, method="scan_unrolled").astype(jnp.int32)
    valid = block < len(ends)
    block = jnp.minimum(block, len(ends) - 1)
    rest = wanted - (ends[block] - count[block])
    triangle = jnp.triu(jnp.ones((_BLOCK, _BLOCK), jnp.float32))
    inner = jnp.matmul(
        blocks[block].astype(jnp.float32), triangle, precision=jax.lax.Precision.HIGHEST
    )
    offset = (inner < rest[:, None].astype(jnp.float32)).sum(axis=1, dtype=jnp.int32)
    return jnp.where(valid, block * _BLOCK + offset, 0), valid


def _lines_of(graph: Graph, mask_N: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Lines of the rows in a mask, at most `size`: indices [size], and which are valid."""
    if size == len(graph.row):
        return jnp.arange(size, dtype=jnp.int32), mask_N[graph.row]
    rows, valid = _compact(mask_N, size)
    count = jnp.where(valid, graph.num_lines[rows], 0)
    ends = _running_sum(count)
    slot = jnp.arange(size, dtype=jnp.int32)
    nth = jnp.searchsorted(ends, slot, side="right", method="scan_unrolled").astype(jnp.int32)
    inside = nth < size
    nth = jnp.minimum(nth, size - 1)
    line = graph.first_line[rows[nth]] + slot - (ends[nth] - count[nth])
    return jnp.where(inside, line, len(graph.row) - 1), inside


def _sizes(graph: Graph) -> tuple[int, ...]:
    return (*(size for size in _SIZES if size < len(graph.row)), len(graph.row))


def _values(graph: Graph, price: jax.Array) -> jax.Array:
    """u [N + 1], -BIG for padding."""
    best_L = (graph.weight - price[graph.column]).max(axis=1)
    pad = len(graph.first_line) - 1
    u = jnp.full(pad + 1, -_BIG, jnp.int64)
    return u.at[graph.row].max(best_L, indices_are_sorted=True).at[pad].set(-_BIG)


def _matched_weight(graph: Graph, column_of: jax.Array) -> jax.Array:
    """[N + 1] weight of each row's matched edge, -BIG without."""
    own = graph.column == column_of[graph.row][:, None]  # Padding weighs -BIG.
    best_L = jnp.where(own, graph.weight, -_BIG).max(axis=1)
    return jnp.full(column_of.shape, -_BIG, jnp.int64).at[graph.row].max(
        best_L, indices_are_sorted=True
    )


def _unassign(a: Assignment, which_N: jax.Array) -> Assignment:
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    left = jnp.where(which_N, a.column_of, no_column)
    return a._replace(
        row_of=a.row_of.at[left].set(no_row),
        column_of=jnp.where(which_N, no_column, a.column_of),
    )


@partial(jax.jit, static_argnames="pinned")
def release(graph: Graph, a: Assignment, *, pinned: bool) -> Assignment:
    """Unassigns rows whose edge is not tight; `pinned` lowers free columns to price 0.

    The latter can make more edges loose, so it is repeated until nothing changes.
    """
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    weight_N = _matched_weight(graph, a.column_of)

    def once(carry: tuple[Assignment, jax.Array]) -> tuple[Assignment, jax.Array]:
        a, _ = carry
        if pinned:
            a = a._replace(price=jnp.where(a.row_of == no_row, 0, a.price))
        slack_N = _values(graph, a.price) - (weight_N - a.price[a.column_of])
        loose_N = (a.column_of < no_column) & (slack_N > 0)
        return _unassign(a, loose_N), loose_N.any()

    return jax.lax.while_loop(lambda c: c[1], once, (a, jnp.array(True)))[0]


def _bid(size: int, graph: Graph, a: Assignment) -> tuple[Assignment, jax.Array]:
    """One round of all free rows (that fit); and whether anything was assigned."""
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    free_N = (a.column_of == no_column) & (graph.num_lines > 0)
    lines, valid = _lines_of(graph, free_N, size)
    rows = jnp.where(valid, graph.row[lines], no_row)
    columns = graph.column[lines]
    value = jnp.where(
        valid[:, None] & (columns < no_column), graph.weight[lines] - a.price[columns], -_BIG
    )
    best_slot = jnp.argmax(value, axis=1)
    best = value.max(axis=1)
    rest = jnp.where(jnp.arange(LINE)[None] == best_slot[:, None], -_BIG, value).max(axis=1)
    column = jnp.take_along_axis(columns, best_slot[:, None], axis=1)[:, 0]
    # A row of several lines bids from the first of those that hold its best column.
    nothing_N = jnp.full(no_row + 1, -_BIG, jnp.int64)
    best_N = nothing_N.at[rows].max(best)
    leads = best == best_N[rows]
    ids = jnp.arange(size, dtype=jnp.int32)
    lead_N = jnp.full(no_row + 1, size, jnp.int32).at[rows].min(jnp.where(leads, ids, size))
    bids = valid & (lead_N[rows] == ids) & (best > -_BIG)
    second = nothing_N.at[rows].max(jnp.where(bids, rest, best))[rows]
    # A row with one edge cannot outbid by more than anything: it waits for a path.
    bids &= second > -_BIG
    # Bids that raise nothing could go on for ever, so only free columns take them.
    bids &= (best > second) | (a.row_of[column] == no_row)
    raised = jnp.where(bids, best - second, -_BIG)
    target = jnp.where(bids, column, no_column)
    highest_M = jnp.full(no_column + 1, -_BIG, jnp.int64).at[target].max(raised)
    wins = bids & (raised == highest_M[target])
    winner_M = jnp.full(no_column + 1, -1, jnp.int32).at[target].max(jnp.where(wins, rows, -1))
    wins &= winner_M[target] == rows
    target, winner = jnp.where(wins, target, no_column), jnp.where(wins, rows, no_row)
    loser = jnp.where(wins, a.row_of[target], no_row)
    column_of = a.column_of.at[loser].set(no_column).at[winner].set(target)
    return (
        Assignment(
            price=a.price.at[target].add(jnp.where(wins, raised, 0)),
            column_of=column_of.at[no_row].set(no_column),
            row_of=a.row_of.at[target].set(winner).at[no_column].set(no_row),
        ),
        wins.any(),
    )


@jax.jit
def auction(graph: Graph, a: Assignment) -> Assignment:
    """Rounds of bidding, while they assign anything and at most `_AUCTION_ROUNDS`."""
    no_column = len(a.row_of) - 1
    sizes = _sizes(graph)

    def num_free_lines(a: Assignment) -> jax.Array:
        return jnp.where(a.column_of == no_column, graph.num_lines, 0).sum()

    def once(carry: tuple[Assignment, jax.Array, jax.Array]):
        a, _, rounds = carry
        which = jnp.searchsorted(jnp.asarray(sizes), num_free_lines(a))
        a, progress = jax.lax.switch(which, [partial(_bid, size, graph) for size in sizes], a)
        return a, progress, rounds + 1

    return jax.lax.while_loop(
        lambda c: c[1] & (c[2] < _AUCTION_ROUNDS), once, (a, jnp.array(True), jnp.int32(0))
    )[0]


class _Search(NamedTuple):
    """Shortest paths from all free rows: labels of columns, and of rows through their columns."""

    distance: jax.Array  # [M + 1] int64
    parent: jax.Array  # [M + 1] int32, the row before
    root: jax.Array  # [M + 1] int32, the free row that the path starts from
    row_distance: jax.Array  # [N + 1] int64
    row_root: jax.Array  # [N + 1] int32
    frontier: jax.Array  # [N + 1] bool, rows whose edges are to be relaxed
    radius: jax.Array  # int64; labels below it are exact in the end
    new_sink: jax.Array  # bool, whether the last relaxation improved a free column


def _relax(size: int, graph: Graph, a: Assignment, u: jax.Array, s: _Search) -> _Search:
    """Relaxes the edges of the frontier, all at once."""
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    lines, valid = _lines_of(graph, s.frontier, size)
    rows = jnp.where(valid, graph.row[lines], no_row)
    columns = graph.column[lines]
    slack = u[rows][:, None] - (graph.weight[lines] - a.price[columns])
    label = jnp.where(
        valid[:, None] & (columns < no_column), s.row_distance[rows][:, None] + slack, _BIG
    )
    label = jnp.where(label < s.radius, label, _BIG)
    distance = s.distance.at[columns].min(label)
    better = (label == distance[columns]) & (label < s.distance[columns])
    # Of equally good parents the last, so that nothing depends on the order of updates.
    target = jnp.where(better, columns, no_column)
    rows_2d = jnp.broadcast_to(rows[:, None], columns.shape)
    parent = s.parent.at[target].set(-1).at[target].max(rows_2d)
    chosen = better & (parent[columns] == rows_2d)
    target = jnp.where(chosen, columns, no_column)
    root = s.row_root[rows_2d]
    owner = jnp.where(chosen, a.row_of[columns], no_row)
    frontier = s.frontier.at[rows].set(False).at[owner].set(True).at[no_row].set(False)
    return _Search(
        distance=distance,
        parent=parent.at[no_column].set(no_row),
        root=s.root.at[target].set(root).at[no_column].set(no_row),
        row_distance=s.row_distance.at[owner].set(label),
        row_root=s.row_root.at[owner].set(root).at[no_row].set(no_row),
        frontier=frontier,
        radius=s.radius,
        new_sink=(chosen & (owner == no_row)).any(),
    )


def _nearest(a: Assignment, s: _Search, within: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each root the least distance of a free column of its own, [N + 1], and that column."""
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    sink = (a.row_of == no_row) & (s.distance < within)
    root = jnp.where(sink, s.root, no_row)
    nearest = jnp.full(no_row + 1, _BIG, jnp.int64).at[root].min(jnp.where(sink, s.distance, _BIG))
    ids = jnp.arange(no_column + 1, dtype=jnp.int32)
    is_nearest = sink & (s.distance == nearest[s.root])
    column = jnp.full(no_row + 1, no_column, jnp.int32)
    column = column.at[root].min(jnp.where(is_nearest, ids, no_column))
    return nearest.at[no_row].set(_BIG), column.at[no_row].set(no_column)


def _phase(graph: Graph, a: Assignment, pinned: bool) -> tuple[Assignment, jax.Array]:
    """One search from all free rows, and all augmentations it allows; False if there is none."""
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    u = _values(graph, a.price)
    free_N = (a.column_of == no_column) & (graph.num_lines > 0)
    num_free = free_N.sum()
    sizes = _sizes(graph)

    def relax(s: _Search) -> _Search:
        num_lines = jnp.where(s.frontier, graph.num_lines, 0).sum()
        which = jnp.searchsorted(jnp.asarray(sizes), num_lines)
        s = jax.lax.switch(which, [partial(_relax, size, graph, a, u) for size in sizes], s)
        # Once half of the roots have a sink, nothing beyond the furthest of these matters. The
        # radius never grows, so that the labels below it are exact.
        radius = jax.lax.cond(s.new_sink, shrink, lambda s: s.radius, s)
        return s._replace(radius=radius, frontier=s.frontier & (s.row_distance < radius))

    def shrink(s: _Search) -> jax.Array:
        nearest, _ = _nearest(a, s, jnp.int64(_BIG))
        found = nearest < _BIG
        furthest = jnp.where(found, nearest, -_BIG).max()
        return jnp.where(
            2 * found.sum() >= num_free, jnp.minimum(s.radius, furthest + 1), s.radius
        )

    start = _Search(
        distance=jnp.full(no_column + 1, _BIG, jnp.int64),
        parent=jnp.full(no_column + 1, no_row, jnp.int32),
        root=jnp.full(no_column + 1, no_row, jnp.int32),
        row_distance=jnp.where(free_N, 0, _BIG),
        row_root=jnp.where(free_N, jnp.arange(no_row + 1), no_row).astype(jnp.int32),
        frontier=free_N,
        radius=jnp.int64(_BIG),
        new_sink=jnp.array(False),
    )
    s = jax.lax.while_loop(lambda s: s.frontier.any(), relax, start)
    nearest, sink = _nearest(a, s, s.radius)
    if pinned:
        # A free column keeps its price of 0 only if the search ends there: no root may have
        # a second sink nearer than the furthest one taken.
        is_first = sink[s.root] == jnp.arange(no_column + 1)
        others = (a.row_of == no_row) & ~is_first & (s.root < no_row)
        reach = jnp.where(others, s.distance, _BIG).min()
        sink = jnp.where(nearest <= reach, sink, no_column)
    taken = sink < no_column
    reach = jnp.where(taken, nearest, -_BIG).max()
    price = jnp.where(taken.any(), a.price + jnp.maximum(reach - s.distance, 0), a.price)

    def step_back(carry: tuple[jax.Array, jax.Array, jax.Array]):
        column_of, row_of, column = carry
        row = s.parent[column]
        row_of = row_of.at[column].set(row).at[no_column].set(no_row)
        before = column_of[row]
        column_of = column_of.at[row].set(column).at[no_row].set(no_column)
        return column_of, row_of, before

    column_of, row_of, _ = jax.lax.while_loop(
        lambda c: (c[2] < no_column).any(), step_back, (a.column_of, a.row_of, sink)
    )
    return Assignment(price.at[no_column].set(0), column_of, row_of), taken.any()


@partial(jax.jit, static_argnames=("pinned", "max_phases"))
def augment(graph: Graph, a: Assignment, *, pinned: bool, max_phases: int):
    """Phases of augmenting paths. Returns the assignment and whether it can go on.

    It cannot where all rows are matched, or where no path leads from the free ones to a free
    column, so that the graph has no matching that covers the rows.
    """
    no_column = len(a.row_of) - 1

    def go_on(carry: tuple[Assignment, jax.Array, jax.Array]) -> jax.Array:
        a, progress, phases = carry
        return progress & (phases < max_phases) & num_free(a)

    def num_free(a: Assignment) -> jax.Array:
        return ((a.column_of == no_column) & (graph.num_lines > 0)).any()

    def once(carry: tuple[Assignment, jax.Array, jax.Array]):
        a, _, phases = carry
        a, progress = _phase(graph, a, pinned)
        return a, progress, phases + 1

    a, progress, _ = jax.lax.while_loop(go_on, once, (a, jnp.array(True), jnp.int32(0)))
    return a, progress & num_free(a)


@jax.jit
def centre(graph: Graph, a: Assignment, pinned: jax.Array) -> jax.Array:
    """Prices [M + 1] in the middle of their intervals, for a complete optimal matching.

    With x the matching and y its inverse, the others' prices confine that of column j to
    [max_i v_x(i) + w_ij - w_i,x(i), min_j' v_j' - w_y(j),j' + w_y(j),j]. All are moved to the
    middle at once: each end moves at most half of the slack, so no edge is violated. `pinned`
    keeps free columns at 0 and others from falling below.
    """
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    own_weight_N = _matched_weight(graph, a.column_of)
    own_column_L = a.column_of[graph.row]
    is_other = (graph.column < no_column) & (graph.column != own_column_L[:, None])
    is_other &= (own_column_L < no_column)[:, None]
    gain = jnp.where(is_other, graph.weight - own_weight_N[graph.row][:, None], -_BIG)
    floor = jnp.where(pinned, 0, -_BIG)

    def once(_: jax.Array, price: jax.Array) -> jax.Array:
        nothing_M = jnp.full(no_column + 1, -_BIG, jnp.int64)
        low_M = nothing_M.at[graph.column].max(price[own_column_L][:, None] + gain)
        low_M = jnp.maximum(low_M, floor)
        room_L = jnp.where(is_other, price[graph.column] - gain, _BIG).min(axis=1)
        high_M = (-nothing_M).at[own_column_L].min(room_L)
        bounded = (low_M > -_BIG // 2) & (high_M < _BIG // 2)
        middle_M = jnp.where(bounded, (low_M + high_M) // 2, price)
        free_M = a.row_of == no_row
        return jnp.where(pinned & free_M, 0, middle_M).at[no_column].set(0)

    return jax.lax.fori_loop(0, _CENTRE_STEPS, once, a.price)
