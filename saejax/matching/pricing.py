"""Streamed tiles of S = A Bᵀ less prices, with rigorous rounding bounds. N, M: rows, D: width.

T: rows in a tile, K: kept of a row. Nothing of size [N, M] is ever held, on host or device.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32, Float64, Int, Int32

# Rows and columns of a tile. On two CPU cores 1,024 rows come within 5 % of the speed of the
# product alone, and 16,384 columns of them are 64 MiB; accelerators take time to start a kernel.
_TILE_ROWS = {"cpu": 1024}
_TILE_ROWS_ACCELERATOR = 8192
_TILE_COLUMNS = 16384
# Columns in a block of the two-level top-k. On a CPU 16 to 64 are equally fast, and three times
# faster than one level.
_BLOCK = 32
# Amplitude of the tie-breaking term relative to the largest |S|: above the spacing of float32
# next to 1 (2^-23), so that it orders equal values, and far below the rounding bounds.
_TIE = 2.0**-20
# Odd multipliers with well-mixed bits (golden ratio; Steele & Vigna 2021, table 4), which make
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


class Side:
    """The rows of one side, and what rounding them to the type of the passes can change.

    Attributes:
      rows: [N, D] float32 on the host.
      norms: [N] Euclidean norms.
      residuals: [N] norms of the rows' rounding errors.
    """

    def __init__(self, rows_ND: Float32[np.ndarray, "N D"], *, dtype: jnp.dtype, mesh: Mesh):
        self.rows, self.dtype, self.mesh = rows_ND, jnp.dtype(dtype), mesh
        self.norms, self.residuals = np.empty(len(rows_ND)), np.zeros(len(rows_ND))
        for start in range(0, len(rows_ND), 1024):
            part = slice(start, start + 1024)
            x_TD = rows_ND[part].astype(np.float64)
            self.norms[part] = np.sqrt(np.einsum("nd,nd->n", x_TD, x_TD))
            if self.dtype != jnp.float32:
                x_TD -= rows_ND[part].astype(self.dtype).astype(np.float64)
                self.residuals[part] = np.sqrt(np.einsum("nd,nd->n", x_TD, x_TD))
        self._on_devices: jax.Array | None = None
        self._exact: jax.Array | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def on_devices(self) -> jax.Array:
        """[M', D] in the type of the passes, on every device; padded with zeros to a bucket."""
        if self._on_devices is None:
            rows = self.rows.astype(self.dtype, copy=False)
            if padding := bucket(len(self), 32) - len(self):
                rows = np.concatenate([rows, np.zeros((padding, rows.shape[1]), rows.dtype)])
            self._on_devices = jax.device_put(rows, NamedSharding(self.mesh, PartitionSpec()))
        return self._on_devices


    @property
    def exact(self) -> jax.Array:
        """[at least N, D] float32 on `host_or_gpu`, for products in float64."""
        if self._exact is None:
            shared = self.dtype == jnp.float32 and self.mesh.size == 1
            device = host_or_gpu()
            if shared and device in self.mesh.devices:
                self._exact = self.on_devices
            else:
                self._exact = jax.device_put(self.rows, device)
        return self._exact


def host_or_gpu() -> jax.Device:
    """Where 64-bit arithmetic runs: this process's first device, but a TPU, which lacks it."""
    if jax.default_backend() == "tpu":
        return jax.local_devices(backend="cpu")[0]
    return jax.local_devices()[0]


def bucket(size: int, parts: int) -> int:
    """Rounds up to one of `parts` sizes between powers of two, so that few shapes compile."""
    step = max(256, 2 ** (max(size, 1) - 1).bit_length() // 2 // parts)
    return -(-size // step) * step


def pass_dtype(name: str) -> jnp.dtype:
    """The type of the streamed products: "float32", "bfloat16" or, by the hardware, "auto".

    bfloat16 is the faster one where there are matrix units for it: on GPUs, on TPUs, and on
    CPUs with AMX (8 s against 16 s for 32,768 x 32,768 x 768), but not on others (16 s
    against 11 s). Either gives the same, exact, result.
    """
    if name != "auto":
        return jnp.dtype(name)
    if jax.default_backend() != "cpu":
        return jnp.dtype(jnp.bfloat16)
    cpu = Path("/proc/cpuinfo")
    has_amx = cpu.exists() and "amx_bf16" in cpu.read_text()
    return jnp.dtype(jnp.bfloat16 if has_amx else jnp.float32)


def error_bounds(x: Side, y: Side, prices_M: Float64[np.ndarray, " M"]) -> np.ndarray:
    """[N] bounds on |S~_ij - p~_j - (S_ij - p_j)|, for any column j, S~ being what a pass computes.

    With x~, y~ the rounded rows, x_i.y_j - x~_i.y~_j = (x_i - x~_i).y_j + x~_i.(y_j - y~_j), each
    term at most the product of its norms (Cauchy & Schwarz). Accumulating D products in float32,
    in any order, errs by at most gamma_D |x~_i|.|y~_j| (Higham, "Accuracy and Stability of
    Numerical Algorithms", 2002, section 3.1). Rounding the prices and the difference adds
    2^-23 (|S| + 2 |p|), the tie-breaking term its amplitude.
    """
    # Matrix units may truncate sums instead of rounding them, which doubles the error; TPUs
    # make float32 products from bfloat16 parts.
    exact = x.dtype == jnp.float32 and jax.default_backend() != "tpu"
    unit = 2.0**-24 if exact else 2.0**-22
    terms = x.rows.shape[1] + 4
    gamma = terms * unit / (1 - terms * unit)
    largest_y, residual_y = y.norms.max(), y.residuals.max()
    rounded_N, rounded_y = x.norms + x.residuals, largest_y + residual_y
    product = x.norms.max() * largest_y
    price = np.abs(prices_M).max()
    return (
        x.residuals * largest_y
        + rounded_N * residual_y
        + gamma * rounded_N * rounded_y
        + 2.0**-23 * (product + 2 * price)
        + _TIE * product
        # Of the norms themselves, and of this sum.
        + 1e-12 * (product + price)
    )


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
    largest = _TILE_ROWS.get(jax.default_backend(), _TILE_ROWS_ACCELERATOR)
    tile = x.mesh.size * min(largest, bucket(-(-len(rows_n) // x.mesh.size), 1))
    amplitude = np.float32(_TIE * x.norms.max() * y.norms.max())
    columns_nK = np.empty((len(rows_n), k), np.int32)
    values_nK = np.empty((len(rows_n), k), np.float32)

    def fetch(start: int, found: tuple[jax.Array, jax.Array]) -> None:
        stop = min(start + tile, len(rows_n))
        values_nK[start:stop] = np.asarray(found[0])[: stop - start]
        columns_nK[start:stop] = np.asarray(found[1])[: stop - start]
        on_rows(stop - start)

    under_way = None
    for start in range(0, len(rows_n), tile):
        ids_T = np.zeros(tile, np.int32)
        ids_T[: len(rows_n) - start] = rows_n[start : start + tile]
        x_TD, ids_T = jax.device_put((x.rows[ids_T].astype(x.dtype), ids_T), on_rows_sharding)
        found = _tiles(
            x_TD, ids_T, y_on_devices, prices_on_devices, amplitude, mesh=x.mesh, k=k
        )
        if under_way is not None:
            fetch(*under_way)
        under_way = start, found
    if under_way is not None:
        fetch(*under_way)
    return Kept(columns_nK, values_nK, error_bounds(x, y, prices_M)[rows_n])


@partial(jax.jit, static_argnames=("mesh", "k"))
def _tiles(
    x_TD: jax.Array,
    ids_T: jax.Array,
    y_MD: jax.Array,
    prices_M: jax.Array,
    amplitude: jax.Array,
    *,
    mesh: Mesh,
    k: int,
) -> tuple[jax.Array, jax.Array]:
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
