"""What an entropic plan says of each latent of a. N, M: latents, D: width.

T: rows in a tile, C: columns in a chunk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from saejax.matching.geometry import TILE_ROWS, CosineGeometry, chunks, pad
from saejax.processes import fetch


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
    log_sum_N, *rest = (fetch(part)[: geometry.shape[0]] for part in found)
    # In float64: at a small epsilon both terms are in the hundreds.
    log_mass_N = (f_N.astype(np.float64) - 1) / epsilon + log_sum_N
    return RowSummaries(np.exp(log_mass_N).astype(np.float32), *rest)


@jax.jit
def _row_summaries(
    geometry: CosineGeometry, g_M: jax.Array, epsilon: jax.Array
) -> tuple[jax.Array, ...]:
    tile = min(TILE_ROWS, -(-geometry.shape[0] // geometry.mesh.size))
    x = pad(geometry.x, tile * geometry.mesh.size, 0)

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
    found = sharded(x, chunks(geometry.y, g_M), epsilon)
    return jax.lax.with_sharding_constraint(found, NamedSharding(geometry.mesh, whole))
