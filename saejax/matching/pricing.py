"""Streamed tiles of S = A Bᵀ less prices, and the largest of each row. N, M: rows, D: width.

T: rows in a tile, C: columns in one, K: kept of a row. Nothing of size [N, M] is ever held, on
the host or a device.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32, Float64, Int, Int32

from saejax.matching.operands import TIE, Side, bucket, error_bounds

# Rows and columns of a tile. On two CPU cores 1,024 rows come within 5 % of the speed of the
# product alone, and 16,384 columns of them are 64 MiB; accelerators take time to start a kernel.
_TILE_ROWS = {"cpu": 1024}
_TILE_ROWS_ACCELERATOR = 8192
_TILE_COLUMNS = 16384
# Columns in a block of the two-level top-k. On a CPU 16 to 64 are equally fast, and three times
# faster than one level.
_BLOCK = 32
# Odd multipliers with well-mixed bits (golden ratio; Steele & Vigna, 2021), which make
# the order in which a row ranks equal columns differ from row to row.
_TIE_ROW, _TIE_COLUMN = np.uint32(0x9E3779B1), np.uint32(0x93D765DD)


class Kept(NamedTuple):
    """The largest reduced similarities of some rows.

    Attributes:
      columns: [n, K] int32.
      values: [n, K] float32, descending; each within `errors` of S_ij - p_j.
      errors: [n] bounds on |values_ij - (S_ij - p_j)|, whatever the column, kept or not.
    """

    columns: Int32[np.ndarray, "n K"]
    values: Float32[np.ndarray, "n K"]
    errors: Float64[np.ndarray, " n"]


def top_k(
    x: Side,
    y: Side,
    rows_n: Int[np.ndarray, " n"],
    prices_M: Float64[np.ndarray, " M"],
    k: int,
    on_rows: Callable[[int], None],
) -> Kept:
    """For each of some rows i of x, the k rows j of y with the largest S_ij - p_j.

    Rows are split over all devices of the mesh, a tile for each at a time, and the next tile is
    under way while the results of the last are fetched. Cost: n M D multiplications. Memory on
    each device: y, and a tile of at most 1,024 x 16,384 float32, 64 MiB (8,192 rows, 512 MiB,
    on accelerators).

    Args:
      x: The side of the rows.
      y: The other side, of M rows.
      rows_n: Which rows of x.
      prices_M: Finite.
      k: How many; at most M are returned.
      on_rows: Called with the number of rows done, after each tile.
    """
    k = min(k, len(y))
    y_on_devices = y.on_devices
    num_columns = y_on_devices.shape[0]
    prices = np.full(num_columns, np.inf, np.float32)
    prices[: len(y)] = prices_M
    replicated = NamedSharding(x.mesh, PartitionSpec())
    on_rows_sharding = NamedSharding(x.mesh, PartitionSpec(x.mesh.axis_names))
    prices_on_devices = jax.device_put(prices, replicated)
    tile = tile_rows(len(rows_n), x.mesh.size, backend=jax.default_backend())
    amplitude = np.float32(TIE * x.norms.max() * y.norms.max())
    columns_nK = np.empty((len(rows_n), k), np.int32)
    values_nK = np.empty((len(rows_n), k), np.float32)

    def fetch(start: int, found: tuple[jax.Array, jax.Array]) -> None:
        stop = min(start + tile, len(rows_n))
        values_nK[start:stop] = np.asarray(found[0])[: stop - start]
        columns_nK[start:stop] = np.asarray(found[1])[: stop - start]
        on_rows(stop - start)

    under_way = None
    with jax.set_mesh(x.mesh):
        for start in range(0, len(rows_n), tile):
            ids_T = np.zeros(tile, np.int32)
            ids_T[: len(rows_n) - start] = rows_n[start : start + tile]
            x_TD, ids_T = jax.device_put((x.rows[ids_T].astype(x.dtype), ids_T), on_rows_sharding)
            found = tiles(x_TD, ids_T, y_on_devices, prices_on_devices, amplitude, mesh=x.mesh, k=k)
            if under_way is not None:
                fetch(*under_way)
            under_way = start, found
        if under_way is not None:
            fetch(*under_way)
    return Kept(columns_nK, values_nK, error_bounds(x, y, prices_M)[rows_n])


def tile_rows(num_rows: int, num_devices: int, *, backend: str) -> int:
    """Rows of one call of `tiles`, over all devices: so many that few shapes compile.

    Args:
      num_rows: Rows of a pass.
      num_devices: Devices that share them.
      backend: JAX's name of their kind, "cpu", "gpu" or "tpu".
    """
    largest = _TILE_ROWS.get(backend, _TILE_ROWS_ACCELERATOR)
    return num_devices * min(largest, bucket(-(-num_rows // num_devices), 1))


@partial(jax.jit, static_argnames=("mesh", "k"))
def tiles(
    x_TD: jax.Array,
    ids_T: jax.Array,
    y_MD: jax.Array,
    prices_M: jax.Array,
    amplitude: jax.Array,
    *,
    mesh: Mesh,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """Values [T, k] and columns [T, k] of some rows, the largest S_ij - p_j of each.

    Args:
      x_TD: Rows, split over all axes of the mesh.
      ids_T: Their numbers, split alike, which decide ties.
      y_MD: The other side, on every device.
      prices_M: p, infinite for padding, on every device.
      amplitude: Of the term that breaks ties.
      mesh: Devices.
      k: How many.
    """
    by_rows, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    sharded = jax.shard_map(
        partial(_tile_top_k, k=k),
        mesh=mesh,
        in_specs=(by_rows, by_rows, whole, whole, whole),
        out_specs=by_rows,
    )
    found = sharded(x_TD, ids_T, y_MD, prices_M, amplitude)
    # To every device, so that every host reads all of it.
    return jax.lax.with_sharding_constraint(found, NamedSharding(mesh, whole))


def _tile_top_k(
    x_TD: jax.Array,
    ids_T: jax.Array,
    y_MD: jax.Array,
    prices_M: jax.Array,
    amplitude: jax.Array,
    *,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """Values [T, K] and columns [T, K] of one device's rows, a chunk of columns at a time."""
    num_columns, width = y_MD.shape
    num_chunks = 1
    while num_columns // num_chunks > _TILE_COLUMNS:
        num_chunks *= 2  # Divides every bucket.
    chunk = num_columns // num_chunks
    columns_M = jnp.arange(num_columns, dtype=jnp.int32)

    def one_chunk(
        carry: None, part: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[None, tuple[jax.Array, jax.Array]]:
        y_CD, prices_C, columns_C = part
        similarity_TC = jax.lax.dot_general(
            x_TD,
            y_CD,
            (((1,), (1,)), ((), ())),
            # Accelerators otherwise round the factors of float32 products to 8 or 11 bits.
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        hash_TC = (ids_T.astype(jnp.uint32) * _TIE_ROW)[:, None] + (
            columns_C.astype(jnp.uint32) * _TIE_COLUMN
        )[None]
        tie_TC = (hash_TC >> 9).astype(jnp.int32).astype(jnp.float32) * (amplitude * 2.0**-23)
        values_TK, found_TK = two_level_top_k(similarity_TC - prices_C[None] + tie_TC, k)
        return carry, (values_TK, columns_C[found_TK])

    parts = (y_MD.reshape(-1, chunk, width), prices_M.reshape(-1, chunk))
    _, (values, columns) = jax.lax.scan(
        one_chunk, None, (*parts, columns_M.reshape(-1, chunk)), length=num_chunks
    )
    values, columns = (
        jnp.moveaxis(found, 0, 1).reshape(len(x_TD), -1) for found in (values, columns)
    )
    values_TK, best_TK = jax.lax.top_k(values, k)
    return values_TK, jnp.take_along_axis(columns, best_TK, axis=1)


def two_level_top_k(x_TC: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`lax.top_k`, faster: the k largest lie in the k blocks with the largest maxima."""
    blocks = x_TC.reshape(len(x_TC), -1, _BLOCK)
    _, block_TK = jax.lax.top_k(blocks.max(axis=2), min(k, blocks.shape[1]))
    within = jnp.take_along_axis(blocks, block_TK[:, :, None], axis=1)
    values_TK, flat_TK = jax.lax.top_k(within.reshape(len(x_TC), -1), k)
    block_of_TK = jnp.take_along_axis(block_TK, flat_TK // _BLOCK, axis=1)
    return values_TK, block_of_TK * _BLOCK + flat_TK % _BLOCK
