"""The cost 1 - cosine for ott-jax, stored or made anew in tiles. N, M: latents, D: width.

T: rows in a tile, C: columns in a chunk.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Float32
from ott.geometry.geometry import Geometry

# A tile of at most 1,024 x 8,192 float32: 32 MiB.
TILE_ROWS, _TILE_COLUMNS = 1024, 8192
# bfloat16 cosines err by up to 2^-9; below this epsilon that would move exp(S / epsilon) by
# more than a tenth.
_BFLOAT16_EPSILON = 10 * 2.0**-9


@jax.tree_util.register_pytree_node_class
class CosineGeometry(Geometry):
    """Cost C_ij = 1 - x_i . y_j of unit rows, for the log-domain updates of Sinkhorn.

    Either the similarities are stored, [N, M] split by rows over the mesh, or every update makes
    them anew in tiles of 32 MiB, rows split over the mesh. The latter costs N M D
    multiplications an update (two an iteration), the former memory and two readings of it.

    Args:
      x: [N, D] unit rows, on every device.
      y: [M, D] unit rows, on every device.
      stored: [N, M] similarities, or None to make them in tiles.
      epsilon: Regularisation.
      mesh: Devices that share the rows.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        stored: Any,
        epsilon: Any,
        *,
        mesh: Mesh,
    ):
        super().__init__(epsilon=epsilon)
        self.x, self.y, self.stored, self.mesh = x, y, stored, mesh

    @property
    def shape(self) -> tuple[int, int]:
        """N and M."""
        return self.x.shape[0], self.y.shape[0]

    @property
    def dtype(self) -> Any:
        """Of potentials and marginals, whatever the similarities are stored in."""
        return jnp.float32

    def apply_lse_kernel(
        self, f: jax.Array, g: jax.Array, eps: Any, vec: Any = None, axis: int = 0
    ) -> tuple[jax.Array, jax.Array]:
        """For axis 1: eps log sum_j exp((g_j - C_ij) / eps), [N]; for axis 0 with f, [M]."""
        if vec is not None:
            raise NotImplementedError("weights are not needed to solve for potentials")
        if self.stored is None:
            outer, inner, h = (self.x, self.y, g) if axis == 1 else (self.y, self.x, f)
            total = self._streamed(outer, inner, h, eps)
        else:
            total = self._of_stored(g if axis == 1 else f, eps, axis)
        return total - 1, jnp.ones(1)

    def with_epsilon(self, epsilon: float) -> "CosineGeometry":
        """The same with another regularisation."""
        return CosineGeometry(self.x, self.y, self.stored, jnp.float32(epsilon), mesh=self.mesh)

    def _streamed(self, outer: jax.Array, inner: jax.Array, h: jax.Array, eps: Any) -> jax.Array:
        """Eps log sum_j exp((h_j + outer_i . inner_j) / eps), for every row of `outer`."""
        num = outer.shape[0]
        tile = min(TILE_ROWS, -(-num // self.mesh.size))
        outer = pad(outer, tile * self.mesh.size, 0)
        inner, h = chunks(inner, h)

        def rows_of_device(outer: jax.Array, inner: jax.Array, h: jax.Array, eps: jax.Array):
            tiles = outer.reshape(-1, tile, outer.shape[1])
            return jax.lax.map(lambda x: _log_sum_exp(x, inner, h, eps), tiles).reshape(-1)

        by_rows, whole = PartitionSpec(self.mesh.axis_names), PartitionSpec()
        sharded = jax.shard_map(
            rows_of_device,
            mesh=self.mesh,
            in_specs=(by_rows, whole, whole, whole),
            out_specs=by_rows,
        )
        found = sharded(outer, inner, h, jnp.asarray(eps, jnp.float32))
        return jax.lax.with_sharding_constraint(found, NamedSharding(self.mesh, whole))[:num]

    def _of_stored(self, h: jax.Array, eps: Any, axis: int) -> jax.Array:
        """Eps log sum exp((h + S) / eps) over an axis of the stored S."""
        axes = self.mesh.axis_names if self._is_split else ()
        by_rows, whole = PartitionSpec(axes or None), PartitionSpec()
        of_device = partial(_log_sum_exp_of_stored, axis=axis, axes=axes)
        sharded = jax.shard_map(
            of_device,
            mesh=self.mesh,
            in_specs=(by_rows, whole if axis == 1 else by_rows, whole),
            out_specs=by_rows if axis == 1 else whole,
        )
        found = sharded(self.stored, h, jnp.asarray(eps, jnp.float32))
        return jax.lax.with_sharding_constraint(found, NamedSharding(self.mesh, whole))

    @property
    def _is_split(self) -> bool:
        """Whether the devices share the stored rows."""
        return self.shape[0] % self.mesh.size == 0

    def tree_flatten(self):
        """Arrays and what is fixed, for JAX."""
        return (self.x, self.y, self.stored, self._epsilon_init), {"mesh": self.mesh}

    @classmethod
    def tree_unflatten(cls, aux_data: dict[str, Any], children: tuple[Any, ...]):
        """The inverse of `tree_flatten`."""
        return cls(*children, **aux_data)


def chunks(y: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Columns and their potentials in chunks, padded with potentials of minus infinity."""
    chunk = min(_TILE_COLUMNS, y.shape[0])
    y, h = pad(y, chunk, 0), pad(h, chunk, -jnp.inf)
    return y.reshape(-1, chunk, y.shape[1]), h.reshape(-1, chunk)


def pad(x: jax.Array, multiple: int, value: float) -> jax.Array:
    """More rows of one value, up to a multiple of their number."""
    widths = [(0, -x.shape[0] % multiple)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, widths, constant_values=value)


@jax.checkpoint  # The tiles of a gradient are made again, not kept: they would be [N, M].
def _log_sum_exp(x_TD: jax.Array, y: jax.Array, h: jax.Array, eps: jax.Array) -> jax.Array:
    """Of one tile of rows, over chunks of columns, with the running maximum taken out."""

    @jax.checkpoint
    def chunk(carry: tuple[jax.Array, jax.Array], part: tuple[jax.Array, jax.Array]):
        most_T, sum_T = carry
        y_CD, h_C = part
        similarity_TC = jnp.matmul(x_TD, y_CD.T, precision=jax.lax.Precision.HIGHEST)
        logits_TC = (similarity_TC + h_C[None]) / eps
        # The maximum is no function of the rows as far as gradients go: it cancels.
        new_T = jnp.maximum(most_T, jax.lax.stop_gradient(logits_TC.max(axis=1)))
        sum_T = sum_T * jnp.exp(most_T - new_T) + jnp.exp(logits_TC - new_T[:, None]).sum(axis=1)
        return (new_T, sum_T), None

    zeros_T = 0 * x_TD[:, 0]  # Not `jnp.zeros`: on the mesh it varies as the rows do.
    start = zeros_T + jnp.finfo(jnp.float32).min, zeros_T
    (most_T, sum_T), _ = jax.lax.scan(chunk, start, (y, h))
    return eps * (most_T + jnp.log(sum_T))


def _log_sum_exp_of_stored(
    stored_NM: jax.Array, h: jax.Array, eps: jax.Array, *, axis: int, axes: tuple[str, ...]
) -> jax.Array:
    """Of one device's rows, a tile at a time; over axis 0 then of all devices'."""
    num_rows, num_columns = stored_NM.shape
    tile = _stored_tile(num_rows, num_columns)

    def tile_of(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Where the tile starts, and its values; the last one may overlap the one before."""
        first = jnp.minimum(i * tile, num_rows - tile)
        x_TM = jax.lax.dynamic_slice_in_dim(stored_NM, first, tile).astype(jnp.float32)
        return first, x_TM

    def rows(i: jax.Array, found_N: jax.Array) -> jax.Array:
        first, x_TM = tile_of(i)
        value_T = eps * jax.nn.logsumexp((x_TM + h[None]) / eps, axis=1)
        return jax.lax.dynamic_update_slice_in_dim(found_N, value_T, first, axis=0)

    def columns(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        most_M, sum_M = carry
        first, x_TM = tile_of(i)
        logits_TM = (x_TM + jax.lax.dynamic_slice_in_dim(h, first, tile)[:, None]) / eps
        is_new_T = first + jnp.arange(tile) >= i * tile
        logits_TM = jnp.where(is_new_T[:, None], logits_TM, lowest)
        new_M = jnp.maximum(most_M, logits_TM.max(axis=0))
        sum_M = sum_M * jnp.exp(most_M - new_M) + jnp.exp(logits_TM - new_M[None]).sum(axis=0)
        return new_M, sum_M

    lowest, num_tiles = jnp.finfo(jnp.float32).min, -(-num_rows // tile)
    zero = jnp.float32(0) * stored_NM[0, 0]  # On the mesh it varies as the rows do.
    if axis == 1:
        return jax.lax.fori_loop(0, num_tiles, rows, jnp.zeros(num_rows) + zero)
    start = jnp.full(num_columns, lowest) + zero, jnp.zeros(num_columns) + zero
    most_M, sum_M = jax.lax.fori_loop(0, num_tiles, columns, start)
    if axes:
        all_M = jax.lax.pmax(most_M, axes)
        sum_M = jax.lax.psum(sum_M * jnp.exp(most_M - all_M), axes)
        most_M = all_M
    return eps * (most_M + jnp.log(sum_M))


def make_geometry(
    a_ND: Float32[np.ndarray, "N D"],
    b_MD: Float32[np.ndarray, "M D"],
    *,
    epsilon: float,
    memory_bytes: int,
    mesh: Mesh,
) -> tuple[CosineGeometry, str]:
    """The geometry that fits a budget, and its name.

    "stored float32" if 4 N M bytes fit `memory_bytes` on each device, which share them where
    their number divides N; "stored bfloat16" if 2 N M do and epsilon is at least 0.02, so that
    rounding does not matter; else "streamed".
    """
    whole = NamedSharding(mesh, PartitionSpec())
    x, y = jax.device_put((a_ND, b_MD), whole)
    is_split = len(a_ND) % mesh.size == 0
    pairs = len(a_ND) * len(b_MD) // (mesh.size if is_split else 1)
    if 4 * pairs <= memory_bytes:
        name, dtype = "stored float32", jnp.float32
    elif 2 * pairs <= memory_bytes and epsilon >= _BFLOAT16_EPSILON:
        name, dtype = "stored bfloat16", jnp.bfloat16
    else:
        return CosineGeometry(x, y, None, epsilon, mesh=mesh), "streamed"
    axes = PartitionSpec(mesh.axis_names) if is_split else PartitionSpec()
    return CosineGeometry(x, y, _store(x, y, axes, dtype, mesh), epsilon, mesh=mesh), name


@partial(jax.jit, static_argnames=("rows", "dtype", "mesh"))
def _store(
    x_ND: Float[jax.Array, "N D"],
    y_MD: Float[jax.Array, "M D"],
    rows: PartitionSpec,
    dtype: Any,
    mesh: Mesh,
) -> jax.Array:
    """Similarities, made a tile at a time, so that nothing else of their size is held."""

    def of_device(x_ND: jax.Array, y_MD: jax.Array) -> jax.Array:
        num_rows = len(x_ND)
        tile = _stored_tile(num_rows, len(y_MD))

        def body(i: jax.Array, found_NM: jax.Array) -> jax.Array:
            first = jnp.minimum(i * tile, num_rows - tile)
            x_TD = jax.lax.dynamic_slice_in_dim(x_ND, first, tile)
            s_TM = jnp.matmul(x_TD, y_MD.T, precision=jax.lax.Precision.HIGHEST)
            return jax.lax.dynamic_update_slice_in_dim(found_NM, s_TM.astype(dtype), first, 0)

        zeros_NM = jnp.zeros((num_rows, len(y_MD)), dtype) + (0 * x_ND[:, :1]).astype(dtype)
        return jax.lax.fori_loop(0, -(-num_rows // tile), body, zeros_NM)

    return jax.shard_map(of_device, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows)(
        x_ND, y_MD
    )


def _stored_tile(num_rows: int, num_columns: int) -> int:
    """Rows of a tile of stored similarities."""
    return max(1, min(num_rows, TILE_ROWS * _TILE_COLUMNS // num_columns))
