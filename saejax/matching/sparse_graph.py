"""A sparse bipartite graph of fixed shape, and a state of assignment on it. N <= M: rows, columns.

L: lines, each `LINE` edges of one row; a row has as many as it needs. Weights and prices are
fixed-point numbers of `BITS` fractional bits, so that which edges are tight is exact. Sizes are
rounded up to buckets, so that few shapes compile; padding rows have no lines, padding columns
no edges.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from saejax.matching.operands import bucket

# Edges in a line. Rows start with 24 edges and have 25 to 27 in the end.
LINE = 16
# Fixed point: 48 bits behind the point leave 2^15 for sums of weights of at most 1.
BITS = 48
# Stands for infinity: above all sums, and sums of seven of it do not overflow.
BIG = 1 << 60
# Lines handled at once: the smallest of these (and of all) that holds the rows at work. Each
# costs a second of compilation; with these two, 32,768 rows take half the time of one alone.
_SIZES = (512, 4096)
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
    size = max(1024, bucket(total + 1, 2))
    first_edge = np.cumsum(degree) - degree
    position = np.arange(len(rows_E)) - first_edge[rows_E]
    line, slot = first_line[rows_E] + position // LINE, position % LINE
    column = np.full((size, LINE), padded_columns, np.int32)
    weight = np.full((size, LINE), -BIG, np.int64)
    column[line, slot], weight[line, slot] = columns_E, weights_E
    row = np.full(size, padded_rows, np.int32)
    row[:total] = np.repeat(np.arange(num_rows), num_lines[:num_rows])
    arrays = (column, weight, row, first_line, num_lines)
    return Graph(*(jnp.asarray(array) for array in arrays))


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
    return Assignment(*(jnp.asarray(array) for array in (price, column_of, row_of)))


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
    block = jnp.searchsorted(ends, wanted, method="scan").astype(jnp.int32)
    valid = block < len(ends)
    block = jnp.minimum(block, len(ends) - 1)
    rest = wanted - (ends[block] - count[block])
    triangle = jnp.triu(jnp.ones((_BLOCK, _BLOCK), jnp.float32))
    inner = jnp.matmul(
        blocks[block].astype(jnp.float32), triangle, precision=jax.lax.Precision.HIGHEST
    )
    offset = (inner < rest[:, None].astype(jnp.float32)).sum(axis=1, dtype=jnp.int32)
    return jnp.where(valid, block * _BLOCK + offset, 0), valid


def lines_of(graph: Graph, mask_N: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Lines of the rows in a mask, at most `size`: indices [size], and which are valid."""
    if size == len(graph.row):
        return jnp.arange(size, dtype=jnp.int32), mask_N[graph.row]
    rows, valid = _compact(mask_N, size)
    count = jnp.where(valid, graph.num_lines[rows], 0)
    ends = _running_sum(count)
    slot = jnp.arange(size, dtype=jnp.int32)
    nth = jnp.searchsorted(ends, slot, side="right", method="scan").astype(jnp.int32)
    inside = nth < size
    nth = jnp.minimum(nth, size - 1)
    line = graph.first_line[rows[nth]] + slot - (ends[nth] - count[nth])
    return jnp.where(inside, line, len(graph.row) - 1), inside


def sizes_of(graph: Graph) -> tuple[int, ...]:
    """Numbers of lines that steps are compiled for, ascending; the last is all."""
    return (*(size for size in _SIZES if size < len(graph.row)), len(graph.row))


def free_rows(graph: Graph, a: Assignment) -> jax.Array:
    """[N + 1] bool: rows without a partner, but for padding."""
    return (a.column_of == len(a.row_of) - 1) & (graph.num_lines > 0)


def values(graph: Graph, price: jax.Array) -> jax.Array:
    """Values u of the rows, [N + 1], -BIG for padding."""
    best_L = (graph.weight - price[graph.column]).max(axis=1)
    pad = len(graph.first_line) - 1
    u = jnp.full(pad + 1, -BIG, jnp.int64)
    return u.at[graph.row].max(best_L, indices_are_sorted=True).at[pad].set(-BIG)


def matched_weight(graph: Graph, column_of: jax.Array) -> jax.Array:
    """[N + 1] weight of each row's matched edge, -BIG without."""
    own = graph.column == column_of[graph.row][:, None]  # Padding weighs -BIG.
    best_L = jnp.where(own, graph.weight, -BIG).max(axis=1)
    return (
        jnp.full(column_of.shape, -BIG, jnp.int64)
        .at[graph.row]
        .max(best_L, indices_are_sorted=True)
    )
