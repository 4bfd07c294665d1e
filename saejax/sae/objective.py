"""What every architecture's loss is given and gives back, inside `jax.shard_map`.

A loss sees this device's share: some of the tokens of a chunk, and its latents. It returns the
chunk's part of the loss of the whole batch, the same on every device; the parts add up over
chunks. Sums over tokens run over the mesh axis "data", sums over latents over "latent".

Dimension letters: B tokens, D activation width, E width of what is reconstructed (D in an
autoencoder), N latents on this device.
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
      total_variance: sum_b ||y_b - mean(y)||^2 over the whole batch, see `total_variance`.
      num_tokens: Tokens of the whole batch.
      dead: [N] whether a latent counts as dead.
      sparsity_scale: Factor on the penalty, which rises from 0 to 1 in its warm-up.
      target: [B, E] what a transcoder reconstructs from x; None for an autoencoder.
    """

    x: Float[Array, "B D"]
    total_variance: Float[Array, ""]
    num_tokens: Int[Array, ""]
    dead: Bool[Array, " N"]
    sparsity_scale: Float[Array, ""]
    target: Float[Array, "B E"] | None = None

    @property
    def y(self) -> Float[Array, "B E"]:
        """What is to be reconstructed: the target, or x itself."""
        return self.x if self.target is None else self.target


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


def total_variance(y_BE: Float[Array, "B E"], data_axis: str) -> Float[Array, ""]:
    """sum_b ||y_b - mean(y)||^2 over the whole batch."""
    tokens = y_BE.shape[0] * lax.axis_size(data_axis)
    mean_E = lax.psum(y_BE.sum(axis=0), data_axis) / tokens
    return lax.psum(jnp.square(y_BE - mean_E[None]).sum(), data_axis)


def squared_error(
    y_BE: Float[Array, "B E"], found_BE: Float[Array, "B E"], axes: Axes
) -> Float[Array, ""]:
    """sum_b ||y_b - found_b||^2 over all devices."""
    return lax.psum(jnp.square(y_BE - found_BE).sum(), axes.data)


def local_encoder(
    params: Params, batch: Batch, axes: Axes
) -> tuple[Array, Array, Array, Array | None]:
    """x, W_enc transposed, b_enc, and the b_dec to subtract, as this device's latents use them.

    Every device encodes all of its tokens for its own latents: the transpose of these casts sums
    the encoder's share of the bias gradient over the latents. A transcoder subtracts nothing.
    """
    x_BD = lax.pcast(batch.x, axes.latent, to="varying")
    b_dec_D = None
    if batch.target is None:
        b_dec_D = lax.pcast(params.b_dec, axes.latent, to="varying")
    return x_BD, params.enc_rows, params.b_enc, b_dec_D


def besides_codes(params: Params, batch: Batch) -> Float[Array, "#B E"]:
    """What a reconstruction has besides the codes: b_dec, and x W_skip^T in a skip transcoder.

    It is the same on every device of "latent", and so counts once in gradients.
    """
    if params.w_skip is None:
        return params.b_dec[None]
    return batch.x @ params.w_skip.T + params.b_dec[None]


def dense_outcome(
    params: Params, batch: Batch, codes_BN: Float[Array, "B N"], axes: Axes
) -> tuple[Float[Array, ""], Outcome]:
    """Mean squared error ||y - y_hat||^2 of codes that are not held sparsely, and the outcome."""
    y_hat_BE = lax.psum(codes_BN @ params.w_dec, axes.latent) + besides_codes(params, batch)
    error = squared_error(batch.y, y_hat_BE, axes)
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
    square_N = jnp.square(params.w_dec).sum(axis=1)
    # A transcoder's rows start at 0, where the norm has no gradient: 0 is taken, not NaN.
    norm_N = jnp.where(square_N > 0, jnp.sqrt(jnp.where(square_N > 0, square_N, 1.0)), 0.0)
    total = lax.psum((codes_BN * norm_N[None]).sum(), (axes.data, axes.latent))
    return total / batch.num_tokens
