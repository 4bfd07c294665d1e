"""What every architecture's loss is given and gives back, inside `jax.shard_map`.

A loss sees this device's share: some of the tokens of a chunk, and its latents. It returns the
chunk's part of the loss of the whole batch, the same on every device; the parts add up over
chunks. Sums over tokens run over the mesh axis "data", sums over latents over "latent".

Dimension letters: B tokens, D activation width, N latents on this device.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from saejax.config import SaeConfig
from saejax.sae.init import Params


class Batch(NamedTuple):
    """A chunk of tokens, and what is known of the whole batch.

    Attributes:
      x: [B, D] activations of this device's tokens.
      total_variance: sum_b ||x_b - mean(x)||^2 over the whole batch, see `total_variance`.
      num_tokens: Tokens of the whole batch.
      dead: [N] whether a latent counts as dead.
      sparsity_scale: Factor on the penalty, which rises from 0 to 1 in its warm-up.
    """

    x: Float[Array, "B D"]
    total_variance: Float[Array, ""]
    num_tokens: Int[Array, ""]
    dead: Bool[Array, " N"]
    sparsity_scale: Float[Array, ""]


class Axes(NamedTuple):
    """Names of the mesh axes."""

    data: str
    latent: str


class Outcome(NamedTuple):
    """What a forward pass tells besides the loss; parts of the whole batch, as the loss.

    Attributes:
      fvu: Fraction of variance unexplained.
      active: Mean number of active latents per token.
      fired: [N] whether a latent was active on this device's tokens.
      threshold: Least active value of the chunk; 0 for architectures that select by themselves.
    """

    fvu: Float[Array, ""]
    active: Float[Array, ""]
    fired: Bool[Array, " N"]
    threshold: Float[Array, ""]


Loss = Callable[[Params, Batch, SaeConfig, Axes], tuple[Float[Array, ""], Outcome]]


class Architecture(NamedTuple):
    """One kind of autoencoder, as far as training is concerned.

    Attributes:
      loss: Part of the loss of a chunk.
      init: Adds the parameters that only this one has.
    """

    loss: Loss
    init: Callable[[Params], Params] = lambda params: params


def total_variance(x_BD: Float[Array, "B D"], data_axis: str) -> Float[Array, ""]:
    """sum_b ||x_b - mean(x)||^2 over the whole batch."""
    tokens = x_BD.shape[0] * lax.axis_size(data_axis)
    mean_D = lax.psum(x_BD.sum(axis=0), data_axis) / tokens
    return lax.psum(jnp.square(x_BD - mean_D[None]).sum(), data_axis)


def squared_error(
    target_BD: Float[Array, "B D"], found_BD: Float[Array, "B D"], axes: Axes
) -> Float[Array, ""]:
    """sum_b ||target_b - found_b||^2 over all devices."""
    return lax.psum(jnp.square(target_BD - found_BD).sum(), axes.data)


def local_encoder(params: Params, batch: Batch, axes: Axes) -> tuple[Array, Array, Array, Array]:
    """x, W_enc transposed, b_enc and b_dec as this device's latents use them.

    Every device encodes all of its tokens for its own latents: the transpose of these casts sums
    the encoder's share of the bias gradient over the latents.
    """
    x_BD = lax.pcast(batch.x, axes.latent, to="varying")
    b_dec_D = lax.pcast(params.b_dec, axes.latent, to="varying")
    return x_BD, params.enc_rows, params.b_enc, b_dec_D


def dense_outcome(
    params: Params, batch: Batch, codes_BN: Float[Array, "B N"], axes: Axes
) -> tuple[Float[Array, ""], Outcome]:
    """Mean squared error ||x - x_hat||^2 of codes that are not held sparsely, and the outcome."""
    x_hat_BD = lax.psum(codes_BN @ params.w_dec, axes.latent) + params.b_dec[None]
    error = squared_error(batch.x, x_hat_BD, axes)
    active_BN = codes_BN > 0
    return error / batch.num_tokens, Outcome(
        fvu=error / batch.total_variance,
        active=lax.psum(active_BN.sum(), (axes.data, axes.latent)) / batch.num_tokens,
        fired=active_BN.any(axis=0),
        threshold=jnp.zeros(()),
    )


def weighted_l1(
    params: Params, codes_BN: Float[Array, "B N"], batch: Batch, axes: Axes
) -> Float[Array, ""]:
    """mean_b sum_i f_i ||w_dec,i||, which for a decoder of unit norm is the plain L1 norm.

    References:
      Conerly et al., Update on how we train SAEs (Transformer Circuits, April 2024).
    """
    norm_N = jnp.sqrt(jnp.square(params.w_dec).sum(axis=1))
    total = lax.psum((codes_BN * norm_N[None]).sum(), (axes.data, axes.latent))
    return total / batch.num_tokens
