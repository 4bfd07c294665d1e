"""Shortest augmenting paths from all free rows at once. N <= M: rows, columns, L: lines."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from saejax.matching.sparse_graph import (
    BIG,
    BITS,
    Assignment,
    Graph,
    free_rows,
    lines_of,
    sizes_of,
    values,
)

# A search relaxes the nearest rows of its frontier, about this many lines at once. All of them
# at once would explore the whole graph before the nearest free column is found (4 times slower
# at 16,384 rows); far fewer take more steps than the hardware's overhead allows.
_FEW_LINES, _MANY_LINES = 128, 512
# How far beyond the nearest row the first relaxation reaches: 0.001, a typical slack.
_AHEAD = 1 << (BITS - 10)


class _Search(NamedTuple):
    """Shortest paths from all free rows: labels of columns, and of rows through their columns."""

    distance: jax.Array  # [M + 1] int64
    parent: jax.Array  # [M + 1] int32, the row before
    root: jax.Array  # [M + 1] int32, the free row that the path starts from
    row_distance: jax.Array  # [N + 1] int64
    row_root: jax.Array  # [N + 1] int32
    frontier: jax.Array  # [N + 1] bool, rows whose edges are to be relaxed
    radius: jax.Array  # int64; labels below it are exact in the end
    ahead: jax.Array  # int64; rows this far beyond the nearest of the frontier are relaxed too
    new_sink: jax.Array  # bool, whether the last relaxation improved a free column


def _relax(
    size: int, graph: Graph, a: Assignment, u: jax.Array, s: _Search, active_N: jax.Array
) -> _Search:
    """Relaxes the edges of the active rows, all at once."""
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    lines, valid = lines_of(graph, active_N, size)
    rows = jnp.where(valid, graph.row[lines], no_row)
    columns = graph.column[lines]
    slack = u[rows][:, None] - (graph.weight[lines] - a.price[columns])
    label = jnp.where(
        valid[:, None] & (columns < no_column), s.row_distance[rows][:, None] + slack, BIG
    )
    label = jnp.where(label < s.radius, label, BIG)
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
        ahead=s.ahead,
        new_sink=(chosen & (owner == no_row)).any(),
    )


def _nearest(a: Assignment, s: _Search, within: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each root the least distance of a free column of its own, [N + 1], and that column."""
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    sink = (a.row_of == no_row) & (s.distance < within)
    root = jnp.where(sink, s.root, no_row)
    nearest = jnp.full(no_row + 1, BIG, jnp.int64).at[root].min(jnp.where(sink, s.distance, BIG))
    ids = jnp.arange(no_column + 1, dtype=jnp.int32)
    is_nearest = sink & (s.distance == nearest[s.root])
    column = jnp.full(no_row + 1, no_column, jnp.int32)
    column = column.at[root].min(jnp.where(is_nearest, ids, no_column))
    return nearest.at[no_row].set(BIG), column.at[no_row].set(no_column)


def _phase(graph: Graph, a: Assignment, pinned: bool) -> tuple[Assignment, jax.Array]:
    """One search from all free rows, and all augmentations it allows; False if there is none."""
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    u = values(graph, a.price)
    free_N = free_rows(graph, a)
    num_free = free_N.sum()
    sizes = sizes_of(graph)

    def relax(s: _Search) -> _Search:
        least = jnp.where(s.frontier, s.row_distance, BIG).min()
        active_N = s.frontier & (s.row_distance <= least + s.ahead)
        num_lines = jnp.where(active_N, graph.num_lines, 0).sum()
        which = jnp.searchsorted(jnp.asarray(sizes), num_lines)
        s = jax.lax.switch(
            which, [partial(_relax, size, graph, a, u) for size in sizes], s, active_N
        )
        ahead = jnp.where(num_lines < _FEW_LINES, 2 * s.ahead, s.ahead)
        ahead = jnp.where(num_lines > _MANY_LINES, ahead // 2, ahead)
        # Once half of the roots have a sink, nothing beyond the furthest of these matters. The
        # radius never grows, so that the labels below it are exact.
        radius = jax.lax.cond(s.new_sink, shrink, lambda s: s.radius, s)
        return s._replace(
            radius=radius,
            ahead=jnp.clip(ahead, 1, BIG // 4),
            frontier=s.frontier & (s.row_distance < radius),
        )

    def shrink(s: _Search) -> jax.Array:
        nearest, _ = _nearest(a, s, jnp.int64(BIG))
        found = nearest < BIG
        furthest = jnp.where(found, nearest, -BIG).max()
        return jnp.where(2 * found.sum() >= num_free, jnp.minimum(s.radius, furthest + 1), s.radius)

    start = _Search(
        distance=jnp.full(no_column + 1, BIG, jnp.int64),
        parent=jnp.full(no_column + 1, no_row, jnp.int32),
        root=jnp.full(no_column + 1, no_row, jnp.int32),
        row_distance=jnp.where(free_N, 0, BIG),
        row_root=jnp.where(free_N, jnp.arange(no_row + 1), no_row).astype(jnp.int32),
        frontier=free_N,
        radius=jnp.int64(BIG),
        ahead=jnp.int64(_AHEAD),
        new_sink=jnp.array(False),
    )
    s = jax.lax.while_loop(lambda s: s.frontier.any(), relax, start)
    nearest, sink = _nearest(a, s, s.radius)
    if pinned:
        # A free column keeps its price of 0 only if the search ends there: no root may have
        # a second sink nearer than the furthest one taken.
        is_first = sink[s.root] == jnp.arange(no_column + 1)
        others = (a.row_of == no_row) & ~is_first & (s.root < no_row)
        reach = jnp.where(others, s.distance, BIG).min()
        sink = jnp.where(nearest <= reach, sink, no_column)
    taken = sink < no_column
    reach = jnp.where(taken, nearest, -BIG).max()
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
def augment(
    graph: Graph, a: Assignment, *, pinned: bool, max_phases: int
) -> tuple[Assignment, jax.Array]:
    """Phases of augmenting paths. Returns the assignment and whether it can go on.

    It cannot where all rows are matched, or where no path leads from the free ones to a free
    column, so that the graph has no matching that covers the rows.
    """

    def go_on(carry: tuple[Assignment, jax.Array, jax.Array]) -> jax.Array:
        a, progress, phases = carry
        return progress & (phases < max_phases) & free_rows(graph, a).any()

    def once(carry: tuple[Assignment, jax.Array, jax.Array]):
        a, _, phases = carry
        a, progress = _phase(graph, a, pinned)
        return a, progress, phases + 1

    a, progress, _ = jax.lax.while_loop(go_on, once, (a, jnp.array(True), jnp.int32(0)))
    return a, progress & free_rows(graph, a).any()
