"""Top-k codes, their decoding, and hand-written sparse gradients.

Codes are kept as values and indices. On CPUs only the encoder's product with the latents is
dense: the gradient of either weight matrix adds K rows per token and touches nothing else (on
accelerators it is a product too, see `saejax.sae.rows`). Decoding accumulates one latent slot at a
time, so [B, K, D] rows are never built.

Inside `jax.shard_map` the latents may be split over a mesh axis. Each device then selects
its own K best, the devices exchange only these candidates, and a device keeps those of its
own that are among the K best of all: full rows of pre-activations never move.

Dimension letters: B tokens, D activation width, N latents on this device, K active latents.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from saejax.sae.rows import row_dots, scattered_rows, weighted_rows

# Latents in a group of the two-stage selection: 16 measured fastest of 8 to 64 on CPU.
_GROUP = 16


def top_k(x_BN: Float[Array, "B N"], k: int) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """The k largest entries of each row, as `jax.lax.top_k`, and equal to it on ties.

    Works in two stages: the k largest of all lie in the k groups with the largest maxima,
    where groups are runs of 16 neighbours. Ties go to the lower index, because groups are
    contiguous and are searched in ascending order.

    Args:
      x_BN: Finite values.
      k: At most N.

    Returns:
      Values in descending order, and their indices.
    """
    B, N = x_BN.shape
    groups = N // _GROUP
    if N % _GROUP or groups <= k:
        values_BK, indices_BK = lax.top_k(x_BN, k)
        return values_BK, indices_BK
    x_BGg = x_BN.reshape(B, groups, _GROUP)
    _, group_BK = lax.top_k(x_BGg.max(axis=-1), k)
    group_BK = jnp.sort(group_BK, axis=-1)
    candidates_BC = jnp.take_along_axis(x_BGg, group_BK[:, :, None], axis=1).reshape(B, k * _GROUP)
    value_BK, slot_BK = lax.top_k(candidates_BC, k)
    index_BK = jnp.take_along_axis(group_BK, slot_BK // _GROUP, axis=1) * _GROUP + slot_BK % _GROUP
    return value_BK, index_BK


def _keep_global_top_k(value_BK: Array, k: int, axis: str) -> Array:
    """Zeroes the local candidates that are not among the k largest over a mesh axis.

    Ties go to the lower global index: candidates are gathered in the order of the devices,
    and `lax.top_k` prefers the earlier of equal values.
    """
    candidates_BC = lax.all_gather(value_BK, axis, axis=1, tiled=True)
    _, chosen_BK = lax.top_k(candidates_BC, k)
    local = chosen_BK - lax.axis_index(axis) * value_BK.shape[1]
    rows_B1 = jnp.arange(value_BK.shape[0])[:, None]
    # Out-of-range slots belong to other devices. Negative ones would wrap: send them past the end.
    local = jnp.where(local < 0, value_BK.shape[1], local)
    keep_BK = jnp.zeros(value_BK.shape, bool).at[rows_B1, local].set(True, mode="drop")
    return jnp.where(keep_BK, value_BK, 0.0)


def centred(x_BD: Float[Array, "B D"], b_dec_D: Float[Array, " D"] | None) -> Float[Array, "B D"]:
    """What the encoder multiplies: x - b_dec in an autoencoder; x in a transcoder, for None."""
    return x_BD if b_dec_D is None else x_BD - b_dec_D[None]


def preactivations(
    x_BD: Float[Array, "B D"],
    enc_rows_ND: Float[Array, "N D"],
    b_enc_N: Float[Array, " N"],
    b_dec_D: Float[Array, " D"] | None,
    *,
    dtype: str | None = None,
) -> Float[Array, "B N"]:
    """(x - b_dec) W_enc + b_enc, cut off from gradients: see `preactivations_at`.

    Args:
      x_BD: Activations of the language model.
      enc_rows_ND: W_enc transposed.
      b_enc_N: Encoder bias.
      b_dec_D: Decoder bias; None in a transcoder.
      dtype: Type of the factors and of the result, for choosing by: sums are not rounded to it.
        None for that of the arguments.
    """
    x_BD = centred(x_BD, b_dec_D)
    if dtype is None or dtype == x_BD.dtype:
        return lax.stop_gradient(x_BD @ enc_rows_ND.T + b_enc_N[None])
    product_BN = jnp.matmul(
        x_BD.astype(dtype), enc_rows_ND.T.astype(dtype), preferred_element_type=x_BD.dtype
    )
    return lax.stop_gradient((product_BN + b_enc_N[None]).astype(dtype))


@jax.custom_vjp
def preactivations_at(
    pre_BN: Float[Array, "B N"],
    index_BK: Int[Array, "B K"],
    x_BD: Float[Array, "B D"],
    enc_rows_ND: Float[Array, "N D"],
    b_enc_N: Float[Array, " N"],
    b_dec_D: Float[Array, " D"] | None,
) -> Float[Array, "B K"]:
    """pre[b, index[b, k]], with the gradients of the parameters that `pre` was made from.

    On CPUs the gradient adds K rows per token to W_enc and never forms a [B, N] array.

    Args:
      pre_BN: From `preactivations` with the same further arguments. If its type is another than
        theirs, the values are computed again, as they are.
      index_BK: Distinct within a token.
      x_BD: Activations of the language model.
      enc_rows_ND: W_enc transposed.
      b_enc_N: Encoder bias.
      b_dec_D: Decoder bias; None in a transcoder.
    """
    if pre_BN.dtype == x_BD.dtype:
        return jnp.take_along_axis(pre_BN, index_BK, axis=1)
    return row_dots(centred(x_BD, b_dec_D), index_BK, enc_rows_ND) + b_enc_N[index_BK]


def _at_forward(pre_BN, index_BK, x_BD, enc_rows_ND, b_enc_N, b_dec_D):
    value_BK = preactivations_at(pre_BN, index_BK, x_BD, enc_rows_ND, b_enc_N, b_dec_D)
    return value_BK, (index_BK, x_BD, enc_rows_ND, b_dec_D)


def _at_backward(residuals, dvalue_BK):
    index_BK, x_BD, enc_rows_ND, b_dec_D = residuals
    N = enc_rows_ND.shape[0]
    db_enc_N = jnp.zeros_like(enc_rows_ND[:, 0]).at[index_BK.reshape(-1)].add(dvalue_BK.reshape(-1))
    denc_rows_ND = scattered_rows(dvalue_BK, index_BK, centred(x_BD, b_dec_D), N)
    dx_BD = weighted_rows(dvalue_BK, index_BK, enc_rows_ND)
    # Equal to -dx.sum(0); summing over latents first needs no [B, D] array.
    db_dec_D = None if b_dec_D is None else -(db_enc_N @ enc_rows_ND)
    return None, None, dx_BD, denc_rows_ND, db_enc_N, db_dec_D


preactivations_at.defvjp(_at_forward, _at_backward)


def encode_topk(
    x_BD: Float[Array, "B D"],
    enc_rows_ND: Float[Array, "N D"],
    b_enc_N: Float[Array, " N"],
    b_dec_D: Float[Array, " D"],
    k: int,
    axis: str | None,
) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """TopK codes: the k largest of relu((x - b_dec) W_enc + b_enc) for each token.

    The ReLU comes before the selection (as in sparsify), so a token with fewer than k
    positive pre-activations has zeros among its values. Such zeros get no gradient.

    Args:
      x_BD: Activations of the language model.
      enc_rows_ND: W_enc transposed, one row a latent.
      b_enc_N: Encoder bias.
      b_dec_D: Decoder bias.
      k: Active latents per token, over all devices of the axis.
      axis: Mesh axis over which the latents are split inside `jax.shard_map`, or None.

    Returns:
      Values [B, K] and indices [B, K] into this device's latents, K = min(k, N). With an
      axis, values that are not among the k largest over all devices are zero.

    References:
      Gao et al., Scaling and evaluating sparse autoencoders (2024), arXiv 2406.04093, 2.3.
    """
    encoder = x_BD, enc_rows_ND, b_enc_N, b_dec_D
    pre_BN = preactivations(*encoder)
    index_BK, kept_BK = select(pre_BN, k, axis)
    return jnp.where(kept_BK, preactivations_at(pre_BN, index_BK, *encoder), 0.0), index_BK


def select(
    pre_BN: Float[Array, "B N"], k: int, axis: str | None
) -> tuple[Int[Array, "B K"], Bool[Array, "B K"]]:
    """Indices of the k largest of each token, and which of them are active: see `active`."""
    value_BK, index_BK = top_k(pre_BN, min(k, pre_BN.shape[1]))
    return index_BK, active(value_BK, k, axis)


def active(value_BK: Float[Array, "B K"], k: int, axis: str | None) -> Bool[Array, "B K"]:
    """Which of a token's largest values are positive and, over an axis, among the k largest."""
    value_BK = jnp.maximum(lax.stop_gradient(value_BK), 0.0)
    if axis is not None:
        value_BK = _keep_global_top_k(value_BK, k, axis)
    return value_BK > 0


@jax.custom_vjp
def decode_sparse(
    value_BK: Float[Array, "B K"], index_BK: Int[Array, "B K"], w_dec_ND: Float[Array, "N D"]
) -> Float[Array, "B D"]:
    """sum_k value[b, k] w_dec[index[b, k]], without the decoder bias."""
    return weighted_rows(value_BK, index_BK, w_dec_ND)


def _decode_forward(value_BK, index_BK, w_dec_ND):
    return weighted_rows(value_BK, index_BK, w_dec_ND), (value_BK, index_BK, w_dec_ND)


def _decode_backward(residuals, g_BD):
    value_BK, index_BK, w_dec_ND = residuals
    return (
        row_dots(g_BD, index_BK, w_dec_ND),
        np.zeros(index_BK.shape, jax.dtypes.float0),
        scattered_rows(value_BK, index_BK, g_BD, w_dec_ND.shape[0]),
    )


decode_sparse.defvjp(_decode_forward, _decode_backward)
