"""Exact assignment on a sparse graph, compiled, in 64-bit integers. N <= M: rows, columns.

L: lines (see `sparse_graph`). Nothing here depends on a tolerance.

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

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from saejax.matching.shortest_paths import augment
from saejax.matching.sparse_graph import (
    BIG,
    LINE,
    Assignment,
    Graph,
    finish,
    free_rows,
    lines_of,
    matched_weight,
    sizes_of,
    start,
    values,
)

# Rounds of bidding. More only let rows outbid each other by ever smaller amounts, which
# augmenting paths settle at once.
_AUCTION_ROUNDS = 300
# Jacobi steps, each of which moves every price half of the way to its middle.
_CENTRE_STEPS = 60
# Phases of augmenting paths between two signs of life.
_PHASES = 16


def solve(
    graph: Graph,
    price_M: np.ndarray,
    target_N: np.ndarray,
    *,
    pinned: bool,
    on_phases: Callable[[], None],
) -> tuple[np.ndarray, np.ndarray]:
    """The best matching that covers the rows, from any prices and partners.

    Args:
      graph: Every row needs an edge.
      price_M: [M] int64 prices to start from.
      target_N: [N] partners to start from, -1 for none.
      pinned: Whether free columns have to end with price 0, and others at 0 or above.
      on_phases: Called now and then, as a sign of life.

    Returns:
      Prices [M], centred, and partners [N]. Partners are -1 for rows that are left over where
      no matching covers all rows; prices are then not centred.
    """
    a = release(graph, start(price_M, target_N), pinned=pinned)
    a, go_on = auction(graph, a), True
    while go_on:
        a, more = augment(graph, a, pinned=pinned, max_phases=_PHASES)
        go_on = bool(more)
        on_phases()
    price_M, target_N = finish(a, len(target_N), len(price_M))
    if (target_N >= 0).all():
        price_M = np.array(centre(graph, a, pinned=pinned))[: len(price_M)]
    return price_M, target_N


@partial(jax.jit, static_argnames="pinned")
def release(graph: Graph, a: Assignment, *, pinned: bool) -> Assignment:
    """Unassigns rows whose edge is not tight; `pinned` lowers free columns to price 0.

    The latter can make more edges loose, so it is repeated until nothing changes.
    """
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    weight_N = matched_weight(graph, a.column_of)

    def once(carry: tuple[Assignment, jax.Array]) -> tuple[Assignment, jax.Array]:
        a, _ = carry
        if pinned:
            a = a._replace(price=jnp.where(a.row_of == no_row, 0, a.price))
        slack_N = values(graph, a.price) - (weight_N - a.price[a.column_of])
        loose_N = (a.column_of < no_column) & (slack_N > 0)
        return _unassign(a, loose_N), loose_N.any()

    return jax.lax.while_loop(lambda c: c[1], once, (a, jnp.array(True)))[0]


def _unassign(a: Assignment, which_N: jax.Array) -> Assignment:
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    left = jnp.where(which_N, a.column_of, no_column)
    return a._replace(
        row_of=a.row_of.at[left].set(no_row),
        column_of=jnp.where(which_N, no_column, a.column_of),
    )


def _bid(size: int, graph: Graph, a: Assignment) -> tuple[Assignment, jax.Array]:
    """One round of all free rows (that fit); and whether anything was assigned."""
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    free_N = free_rows(graph, a)
    lines, valid = lines_of(graph, free_N, size)
    rows = jnp.where(valid, graph.row[lines], no_row)
    columns = graph.column[lines]
    value = jnp.where(
        valid[:, None] & (columns < no_column), graph.weight[lines] - a.price[columns], -BIG
    )
    best_slot = jnp.argmax(value, axis=1)
    best = value.max(axis=1)
    rest = jnp.where(jnp.arange(LINE)[None] == best_slot[:, None], -BIG, value).max(axis=1)
    column = jnp.take_along_axis(columns, best_slot[:, None], axis=1)[:, 0]
    # A row of several lines bids from the first of those that hold its best column.
    nothing_N = jnp.full(no_row + 1, -BIG, jnp.int64)
    best_N = nothing_N.at[rows].max(best)
    leads = best == best_N[rows]
    ids = jnp.arange(size, dtype=jnp.int32)
    lead_N = jnp.full(no_row + 1, size, jnp.int32).at[rows].min(jnp.where(leads, ids, size))
    bids = valid & (lead_N[rows] == ids) & (best > -BIG)
    second = nothing_N.at[rows].max(jnp.where(bids, rest, best))[rows]
    # A row with one edge cannot outbid by more than anything: it waits for a path.
    bids &= second > -BIG
    # Bids that raise nothing could go on for ever, so only free columns take them.
    bids &= (best > second) | (a.row_of[column] == no_row)
    raised = jnp.where(bids, best - second, -BIG)
    target = jnp.where(bids, column, no_column)
    highest_M = jnp.full(no_column + 1, -BIG, jnp.int64).at[target].max(raised)
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
    sizes = sizes_of(graph)

    def once(carry: tuple[Assignment, jax.Array, jax.Array]):
        a, _, rounds = carry
        free_lines = jnp.where(free_rows(graph, a), graph.num_lines, 0).sum()
        which = jnp.searchsorted(jnp.asarray(sizes), free_lines)
        a, progress = jax.lax.switch(which, [partial(_bid, size, graph) for size in sizes], a)
        return a, progress, rounds + 1

    return jax.lax.while_loop(
        lambda c: c[1] & (c[2] < _AUCTION_ROUNDS), once, (a, jnp.array(True), jnp.int32(0))
    )[0]


@partial(jax.jit, static_argnames="pinned")
def centre(graph: Graph, a: Assignment, *, pinned: bool) -> jax.Array:
    """Prices [M + 1] in the middle of their intervals, for a complete optimal matching.

    With x the matching and y its inverse, the others' prices confine that of column j to
    [max_i v_x(i) + w_ij - w_i,x(i), min_j' v_j' - w_y(j),j' + w_y(j),j]. All are moved to the
    middle at once: each end moves at most half of the slack, so no edge is violated. `pinned`
    keeps free columns at 0 and others from falling below.
    """
    no_row, no_column = len(a.column_of) - 1, len(a.row_of) - 1
    own_weight_N = matched_weight(graph, a.column_of)
    own_column_L = a.column_of[graph.row]
    is_other = (graph.column < no_column) & (graph.column != own_column_L[:, None])
    is_other &= (own_column_L < no_column)[:, None]
    gain = jnp.where(is_other, graph.weight - own_weight_N[graph.row][:, None], -BIG)

    def once(_: jax.Array, price: jax.Array) -> jax.Array:
        nothing_M = jnp.full(no_column + 1, -BIG, jnp.int64)
        low_M = nothing_M.at[graph.column].max(price[own_column_L][:, None] + gain)
        low_M = jnp.maximum(low_M, 0) if pinned else low_M
        room_L = jnp.where(is_other, price[graph.column] - gain, BIG).min(axis=1)
        high_M = (-nothing_M).at[own_column_L].min(room_L)
        bounded = (low_M > -BIG // 2) & (high_M < BIG // 2)
        middle_M = jnp.where(bounded, (low_M + high_M) // 2, price)
        if pinned:
            middle_M = jnp.where(a.row_of == no_row, 0, middle_M)
        return middle_M.at[no_column].set(0)

    return jax.lax.fori_loop(0, _CENTRE_STEPS, once, a.price)
