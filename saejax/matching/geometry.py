"""The cost 1 - cosine for ott-jax, stored or made anew in tiles. N, M: latents, D: width.

T: rows in a tile, C: columns in a chunk.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Float32
from ott.geometry.geometry import Geometry

# A tile of at most 1,024 x 8,192 float32: 32 MiB.
_TILE_ROWS, _TILE_COLUMNS = 1024, 8192
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
            h = g[None] if axis == 1 else f[:, None]
            logits = (self.stored.astype(jnp.float32) + h) / eps
            total = eps * jax.nn.logsumexp(logits, axis=axis)
        return total - 1, jnp.ones(1)

    def with_epsilon(self, epsilon: float) -> "CosineGeometry":
        """The same with another regularisation."""
        return CosineGeometry(self.x, self.y, self.stored, jnp.float32(epsilon), mesh=self.mesh)

    def _streamed(self, outer: jax.Array, inner: jax.Array, h: jax.Array, eps: Any) -> jax.Array:
        """Eps log sum_j exp((h_j + outer_i . inner_j) / eps), for every row of `outer`."""
        num = outer.shape[0]
        tile = min(_TILE_ROWS, -(-num // self.mesh.size))
        outer = _pad(outer, tile * self.mesh.size, 0)
        inner, h = _chunks(inner, h)

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

    def tree_flatten(self):
        """Arrays and what is fixed, for JAX."""
        return (self.x, self.y, self.stored, self._epsilon_init), {"mesh": self.mesh}

    @classmethod
    def tree_unflatten(cls, aux_data: dict[str, Any], children: tuple[Any, ...]):
        """The inverse of `tree_flatten`."""
        return cls(*children, **aux_data)


class RowSummaries(NamedTuple):
    """Of each row of a plan, w_ij = P_ij / sum_j P_ij.

    Attributes:
      mass: [N] float32, sum_j P_ij.
      entropy: [N] float32, - sum_j w_ij log w_ij, in nats.
      expected_cosine: [N] float32, sum_j w_ij S_ij.
      likeliest: [N] int32, the j with the largest w_ij.
      weight: [N] float32, that w_ij.
    """

    mass: np.ndarray
    entropy: np.ndarray
    expected_cosine: np.ndarray
    likeliest: np.ndarray
    weight: np.ndarray


def row_summaries(
    geometry: CosineGeometry, f_N: np.ndarray, g_M: np.ndarray, epsilon: float
) -> RowSummaries:
    """What the plan says of each latent of a. One streamed pass, whatever the geometry."""
    found = _row_summaries(geometry, g_M, jnp.float32(epsilon))
    log_sum_N, *rest = (np.asarray(part)[: geometry.shape[0]] for part in found)
    # In float64: at a small epsilon both terms are in the hundreds.
    log_mass_N = (f_N.astype(np.float64) - 1) / epsilon + log_sum_N
    return RowSummaries(np.exp(log_mass_N).astype(np.float32), *rest)


@jax.jit
def _row_summaries(
    geometry: CosineGeometry, g_M: jax.Array, epsilon: jax.Array
) -> tuple[jax.Array, ...]:
    tile = min(_TILE_ROWS, -(-geometry.shape[0] // geometry.mesh.size))
    x = _pad(geometry.x, tile * geometry.mesh.size, 0)

    def of_tile(
        x_TD: jax.Array, parts: tuple[jax.Array, jax.Array], epsilon: jax.Array
    ) -> tuple[jax.Array, ...]:
        def chunk(carry: tuple[jax.Array, ...], part: tuple[jax.Array, jax.Array]):
            most_T, sum_T, logit_T, cosine_T, before_T, first = carry
            y_CD, g_C = part
            similarity_TC = jnp.matmul(x_TD, y_CD.T, precision=jax.lax.Precision.HIGHEST)
            logits_TC = (similarity_TC + g_C[None]) / epsilon
            new_T = jnp.maximum(most_T, logits_TC.max(axis=1))
            weight_TC = jnp.exp(logits_TC - new_T[:, None])
            finite_TC = jnp.where(weight_TC > 0, logits_TC - new_T[:, None], 0)
            shrink_T = jnp.exp(most_T - new_T)
            best_T = first + logits_TC.argmax(axis=1).astype(jnp.int32)
            # Logits count from the new maximum, so the old sum moves with it.
            moved_T = jnp.where(sum_T > 0, most_T - new_T, 0) * sum_T
            return (
                new_T,
                sum_T * shrink_T + weight_TC.sum(axis=1),
                (logit_T + moved_T) * shrink_T + (weight_TC * finite_TC).sum(axis=1),
                cosine_T * shrink_T + (weight_TC * similarity_TC).sum(axis=1),
                jnp.where(new_T > most_T, best_T, before_T),
                first + len(y_CD),
            ), None

        zeros_T = 0 * x_TD[:, 0]  # Not `jnp.zeros`: on the mesh it varies as the rows do.
        lowest_T, none_T = zeros_T + jnp.finfo(jnp.float32).min, zeros_T.astype(jnp.int32)
        start = lowest_T, zeros_T, zeros_T, zeros_T, none_T, jnp.int32(0)
        (most_T, sum_T, logit_T, cosine_T, best_T, _), _ = jax.lax.scan(chunk, start, parts)
        log_T = jnp.log(sum_T)
        # The largest entry is exp(0) before it is divided by the sum.
        return (
            most_T + log_T,
            log_T - logit_T / sum_T,
            cosine_T / sum_T,
            best_T,
            1 / sum_T,
        )

    def rows_of_device(x: jax.Array, parts: tuple[jax.Array, jax.Array], epsilon: jax.Array):
        tiles = x.reshape(-1, tile, x.shape[1])
        found = jax.lax.map(lambda x_TD: of_tile(x_TD, parts, epsilon), tiles)
        return tuple(part.reshape(-1) for part in found)

    by_rows, whole = PartitionSpec(geometry.mesh.axis_names), PartitionSpec()
    sharded = jax.shard_map(
        rows_of_device, mesh=geometry.mesh, in_specs=(by_rows, whole, whole), out_specs=by_rows
    )
    found = sharded(x, _chunks(geometry.y, g_M), epsilon)
    return jax.lax.with_sharding_constraint(found, NamedSharding(geometry.mesh, whole))


def _chunks(y: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Columns and their potentials in chunks, padded with potentials of minus infinity."""
    chunk = min(_TILE_COLUMNS, y.shape[0])
    y, h = _pad(y, chunk, 0), _pad(h, chunk, -jnp.inf)
    return y.reshape(-1, chunk, y.shape[1]), h.reshape(-1, chunk)


def _pad(x: jax.Array, multiple: int, value: float) -> jax.Array:
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
    divides = len(a_ND) % mesh.size == 0
    pairs = len(a_ND) * len(b_MD) // (mesh.size if divides else 1)
    if 4 * pairs <= memory_bytes:
        name, dtype = "stored float32", jnp.float32
    elif 2 * pairs <= memory_bytes and epsilon >= _BFLOAT16_EPSILON:
        name, dtype = "stored bfloat16", jnp.bfloat16
    else:
        return CosineGeometry(x, y, None, epsilon, mesh=mesh), "streamed"
    rows = PartitionSpec(mesh.axis_names) if divides else PartitionSpec()
    stored = _similarities(x, y, dtype, NamedSharding(mesh, rows))
    return CosineGeometry(x, y, stored, epsilon, mesh=mesh), name


def _similarities(
    x_ND: Float[jax.Array, "N D"], y_MD: Float[jax.Array, "M D"], dtype: Any, sharding: Any
) -> jax.Array:
    def product(x_ND: jax.Array, y_MD: jax.Array) -> jax.Array:
        return jnp.matmul(x_ND, y_MD.T, precision=jax.lax.Precision.HIGHEST).astype(dtype)

    return jax.jit(product, out_shardings=sharding)(x_ND, y_MD)
