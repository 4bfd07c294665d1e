"""Training losses, written for one autoencoder inside `jax.shard_map`.

Every function sees this device's share: its tokens B and its latents N. Sums over the batch
run over the mesh axis "data", sums over latents over "latent".
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from saejax.sae import sparse
from saejax.sae.init import Params


class Forward(NamedTuple):
    """What a forward pass gives besides the loss."""

    values: Float[Array, "B K"]
    indices: Int[Array, "B K"]


def total_variance(x_BD: Float[Array, "B D"], data_axis: str) -> Float[Array, ""]:
    """sum_b ||x_b - mean(x)||^2 over the whole batch."""
    tokens = x_BD.shape[0] * lax.axis_size(data_axis)
    mean_D = lax.psum(x_BD.sum(axis=0), data_axis) / tokens
    return lax.psum(jnp.square(x_BD - mean_D[None]).sum(), data_axis)


def topk_fvu(
    params: Params,
    x_BD: Float[Array, "B D"],
    total_var: Float[Array, ""],
    *,
    k: int,
    data_axis: str,
    latent_axis: str,
) -> tuple[Float[Array, ""], Forward]:
    """Fraction of variance unexplained by a TopK autoencoder, on the whole batch.

    FVU = sum_b ||x_b - x_hat_b||^2 / sum_b ||x_b - mean(x)||^2

    Args:
      params: This device's latents.
      x_BD: This device's tokens.
      total_var: Denominator, from `total_variance`.
      k: Active latents per token over all devices.
      data_axis: Mesh axis of the tokens.
      latent_axis: Mesh axis of the latents.

    Returns:
      FVU (the same on every device) and this device's codes.

    References:
      Paulo & Belrose (2025), arXiv 2501.16615, section 2; sparsify 1.0 `SparseCoder.forward`.
    """
    sharded = lax.axis_size(latent_axis) > 1
    # Every device encodes all of its tokens for its own latents: the transpose of this cast
    # sums the encoder's share of the bias gradient over the latents.
    values, indices = sparse.encode_topk(
        lax.pcast(x_BD, latent_axis, to="varying"),
        params.enc_rows,
        params.b_enc,
        lax.pcast(params.b_dec, latent_axis, to="varying"),
        k,
        latent_axis if sharded else None,
    )
    x_hat_BD = sparse.decode_sparse(values, indices, params.w_dec)
    x_hat_BD = lax.psum(x_hat_BD, latent_axis) + params.b_dec[None]
    error = lax.psum(jnp.square(x_BD - x_hat_BD).sum(), data_axis)
    return error / total_var, Forward(values, indices)
