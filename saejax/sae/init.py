"""Initial weights, and the initial decoder bias from data.

Dimension letters: B tokens, D activation width, E width of a transcoder's target (D in an
autoencoder), N latents, S seeds.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from saejax.sae.rows import paired_dots

# Weiszfeld's iteration as sparsify ran it until 2024-12-18: at most 100 steps, stopped when
# the median moves by less than 1e-5.
_MEDIAN_STEPS = 100
_MEDIAN_TOLERANCE = 1e-5


class Params(NamedTuple):
    """What is trained. Stacked seeds have a leading axis [S].

    The encoder is held latent by latent, `enc_rows` = W_enc transposed, because its gradient
    is a sum of rows; `Sae` has the usual W_enc [D, N]. The last four belong to gated (its
    magnitudes), to JumpReLU, and to skip connections, and are None in all others.
    """

    enc_rows: Float[Array, "*S N D"]
    b_enc: Float[Array, "*S N"]
    w_dec: Float[Array, "*S N E"]
    b_dec: Float[Array, "*S E"]
    r_mag: Float[Array, "*S N"] | None = None
    b_mag: Float[Array, "*S N"] | None = None
    threshold: Float[Array, "*S N"] | None = None
    w_skip: Float[Array, "*S E D"] | None = None


def unit_rows(w_ND: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Rows divided by their norm; machine epsilon keeps a zero row zero (as in sparsify)."""
    norm_N = jnp.sqrt(paired_dots(w_ND, w_ND))
    return w_ND * (1.0 / (norm_N + jnp.finfo(w_ND.dtype).eps))[:, None]


def init_params(seed: Array, b_dec_D: Float[Array, " D"], *, num_latents: int) -> Params:
    """Initial parameters of one autoencoder, a function of its seed and nothing else.

    Encoder entries are uniform in +-1/sqrt(D), the default of a linear layer in torch; the
    decoder starts as its transpose with rows of unit norm; the encoder bias is 0.

    Args:
      seed: Integer scalar.
      b_dec_D: Initial decoder bias.
      num_latents: N.

    References:
      Paulo & Belrose (2025), arXiv 2501.16615, section 2: encoder and decoder start tied.
    """
    enc_rows_ND = _encoder_rows(seed, num_latents, len(b_dec_D))
    return Params(
        enc_rows=enc_rows_ND,
        b_enc=jnp.zeros((num_latents,)),
        w_dec=unit_rows(enc_rows_ND),
        b_dec=b_dec_D,
    )


def init_transcoder_params(
    seed: Array,
    b_dec_E: Float[Array, " E"],
    mean_D: Float[Array, " D"],
    *,
    num_latents: int,
    skip: bool,
) -> Params:
    """Initial parameters of one transcoder, whose output is b_dec until it has learned.

    The encoder is that of an autoencoder with the same seed, b_enc = -mean W_enc centres its
    input; decoder and skip connection are 0 (sparsify).

    Args:
      seed: Integer scalar.
      b_dec_E: Initial decoder bias, from the targets.
      mean_D: Mean of the inputs.
      num_latents: N.
      skip: Whether there is a skip connection.

    References:
      Paulo, Shabalin & Belrose, Transcoders Beat Sparse Autoencoders for Interpretability (2025),
      arXiv 2501.18823.
    """
    D, E = len(mean_D), len(b_dec_E)
    enc_rows_ND = _encoder_rows(seed, num_latents, D)
    return Params(
        enc_rows=enc_rows_ND,
        b_enc=-(enc_rows_ND @ mean_D),
        w_dec=jnp.zeros((num_latents, E)),
        b_dec=b_dec_E,
        w_skip=jnp.zeros((E, D)) if skip else None,
    )


def _encoder_rows(seed: Array, num_latents: int, width: int) -> Float[Array, "N D"]:
    bound = 1.0 / jnp.sqrt(width)
    return jax.random.uniform(
        jax.random.key(seed), (num_latents, width), minval=-bound, maxval=bound
    )


def geometric_median(x_BD: Float[Array, "B D"]) -> Float[Array, " D"]:
    """The point with the least sum of distances to the rows, by Weiszfeld's iteration.

    Starts at the mean; at most 100 steps, ended when the point moves by less than 1e-5.

    References:
      Bricken et al., Towards Monosemanticity (2023): decoder bias starts at this median.
      Weiszfeld (1937), in English: Ann. Oper. Res. 167 (2009), 7-41.
    """

    def moves(carry: tuple[Array, Array, Array]) -> Array:
        steps, _, moved = carry
        return (steps < _MEDIAN_STEPS) & (moved > _MEDIAN_TOLERANCE)

    def improve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        steps, median_D, _ = carry
        distance_B = jnp.linalg.norm(x_BD - median_D[None], axis=1)
        # A row that coincides with the median would get infinite weight.
        weight_B = 1.0 / jnp.maximum(distance_B, jnp.finfo(x_BD.dtype).eps)
        new_D = weight_B @ x_BD / weight_B.sum()
        return steps + 1, new_D, jnp.linalg.norm(new_D - median_D)

    start = (jnp.zeros((), jnp.int32), x_BD.mean(axis=0), jnp.full((), jnp.inf, x_BD.dtype))
    return lax.while_loop(moves, improve, start)[1]


def initial_decoder_bias(x_BD: Float[Array, "B D"], rule: str) -> Float[Array, " D"]:
    """The decoder bias before training, from the first batch, by `train.decoder_bias_init`."""
    if rule == "zero":
        return jnp.zeros_like(x_BD[0])
    return geometric_median(x_BD) if rule == "geometric_median" else x_BD.mean(axis=0)
