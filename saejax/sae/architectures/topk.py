"""TopK codes, over each token or over the batch, with the losses that go with them.

    f(x) = TopK(relu((x - b_dec) W_enc + b_enc)),  loss = FVU + alpha AuxK + FVU_4k / 8

FVU is sum ||x - x_hat||^2 / sum ||x - mean(x)||^2 over the batch. All terms reach the encoder.

- AuxK (`sae.auxk_alpha`): the D/2 largest latents among the dead reconstruct what is left,
  sum ||e - e_hat||^2 / sum ||x - mean(x)||^2 with e = x - x_hat held fixed, times
  min(number of dead / (D/2), 1). As sparsify, which differs from Gao et al. (2024, arXiv
  2406.04093, A.2) in the denominator.
- Multi-TopK (`sae.multi_topk`): the FVU of the 4k largest, with weight 1/8 (Gao et al., 2.4).
- Matryoshka (`sae.prefixes`): the mean of the FVU of each prefix of the latents, so that the
  first ones stand alone (Bussmann et al., Learning Multi-Level Features with Matryoshka SAEs,
  2025, arXiv 2503.17547).
- BatchTopK keeps the k B largest of a batch of B tokens instead, of the 4k largest of each token
  (Bussmann et al., BatchTopK SAEs, 2024, arXiv 2412.06410); a chunk of tokens is such a batch.

In a transcoder x is not centred, the target takes the place of x everywhere else, and every
reconstruction but AuxK's has the skip connection, if there is one.

Dimension letters: B tokens, D activation width, E width of what is reconstructed (D in an
autoencoder), N latents on this device, K candidates, A those of AuxK.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from saejax.config import SaeConfig
from saejax.sae import sparse
from saejax.sae.init import Params
from saejax.sae.objective import (
    Architecture,
    Axes,
    Batch,
    Outcome,
    besides_codes,
    local_encoder,
    squared_error,
)

# Gao et al. (2024), section 2.4, and sparsify.
_MULTI, _MULTI_WEIGHT = 4, 1 / 8
# Candidates of a token in BatchTopK, in units of k.
_SPREAD = 4


def loss(
    params: Params, batch: Batch, cfg: SaeConfig, axes: Axes, *, over_batch: bool
) -> tuple[Float[Array, ""], Outcome]:
    """See the module."""
    encoder = local_encoder(params, batch, axes)
    low = None if cfg.product_dtype == "float32" else cfg.product_dtype
    pre_BN = sparse.preactivations(*encoder, dtype=low)
    split = axes.latent if lax.axis_size(axes.latent) > 1 else None
    wide = _MULTI if cfg.multi_topk else 1
    if over_batch:
        wide = max(wide, _SPREAD)
    index_BK, wide_BK = sparse.select(pre_BN, wide * cfg.k, split)
    value_BK = jax.nn.relu(sparse.preactivations_at(pre_BN, index_BK, *encoder))
    least = jnp.zeros(())
    if over_batch:
        kept_BK, least = _largest_of_batch(value_BK, wide_BK, cfg.k, axes)
    elif wide > 1:
        narrow = min(cfg.k, pre_BN.shape[1])
        # The k largest come first among the wide * k largest.
        first_BK = sparse.active(value_BK[:, :narrow], cfg.k, split)
        kept_BK = jnp.pad(first_BK, ((0, 0), (0, index_BK.shape[1] - narrow)))
    else:
        kept_BK = wide_BK
    code_BK = jnp.where(kept_BK, value_BK, 0.0)

    besides_BE = besides_codes(params, batch)
    y_hat_BE = _decode(params, code_BK, index_BK, axes) + besides_BE
    error = squared_error(batch.y, y_hat_BE, axes)
    fvu = error / batch.total_variance
    total: Array = fvu
    if cfg.prefixes:
        offset = lax.axis_index(axes.latent) * pre_BN.shape[1]
        parts = [fvu]
        for size in cfg.prefixes:
            inside_BK = index_BK + offset < size
            prefix_BE = _decode(params, jnp.where(inside_BK, code_BK, 0.0), index_BK, axes)
            found_BE = prefix_BE + besides_BE
            parts.append(squared_error(batch.y, found_BE, axes) / batch.total_variance)
        total = jnp.stack(parts).mean()
    if cfg.multi_topk:
        multi_BE = _decode(params, jnp.where(wide_BK, value_BK, 0.0), index_BK, axes)
        multi = squared_error(batch.y, multi_BE + besides_BE, axes)
        total += _MULTI_WEIGHT * multi / batch.total_variance
    if cfg.auxk_alpha:
        left_BE = lax.stop_gradient(batch.y - y_hat_BE)
        total += cfg.auxk_alpha * _auxk(params, batch, encoder, pre_BN, left_BE, axes)
    active_BK = kept_BK & (value_BK > 0)
    fired_N = jnp.zeros(pre_BN.shape[1], jnp.int32).at[index_BK].max(active_BK.astype(jnp.int32))
    return total, Outcome(
        fvu=fvu,
        active=lax.psum(active_BK.sum(), (axes.data, axes.latent)) / batch.num_tokens,
        fired=fired_N > 0,
        threshold=least,
    )


def _decode(params: Params, code_BK: Array, index_BK: Array, axes: Axes) -> Float[Array, "B E"]:
    return lax.psum(sparse.decode_sparse(code_BK, index_BK, params.w_dec), axes.latent)


def _largest_of_batch(
    value_BK: Float[Array, "B K"], wide_BK: Bool[Array, "B K"], k: int, axes: Axes
) -> tuple[Bool[Array, "B K"], Float[Array, ""]]:
    """Which candidates are among the k B largest of all tokens, and the least of these.

    Values equal to the least are all kept. The least is found bit by bit, since positive floats
    are ordered as their bits are: some 30 counts instead of sorting, and nothing is gathered.
    """
    everywhere = (axes.data, axes.latent)
    value_BK = jnp.where(wide_BK, lax.stop_gradient(value_BK), 0.0)
    integer, width = (jnp.int32, 31) if value_BK.dtype == jnp.float32 else (jnp.int64, 63)
    bits_BK = lax.bitcast_convert_type(value_BK, integer)
    wanted = k * value_BK.shape[0] * lax.axis_size(axes.data)

    def try_bit(i: Array, found: Array) -> Array:
        larger = found | (jnp.ones((), integer) << (width - 1 - i).astype(integer))
        count = lax.psum((bits_BK >= larger).sum(), everywhere)
        return jnp.where(count >= wanted, larger, found)

    none = lax.psum(0 * bits_BK[0, 0], everywhere)
    kept_BK = (value_BK > 0) & (bits_BK >= lax.fori_loop(0, width, try_bit, none))
    least = lax.pmin(jnp.where(kept_BK, value_BK, jnp.inf).min(), everywhere)
    return kept_BK, jnp.where(jnp.isfinite(least), least, 0.0)


def _auxk(
    params: Params,
    batch: Batch,
    encoder: tuple[Array, Array, Array, Array | None],
    pre_BN: Float[Array, "B N"],
    left_BE: Float[Array, "B E"],
    axes: Axes,
) -> Float[Array, ""]:
    """Scale * sum ||e - e_hat||^2 / total variance, with the dead latents alone."""
    wanted = left_BE.shape[1] // 2
    num_dead = lax.psum(batch.dead.sum(), axes.latent)
    split = axes.latent if lax.axis_size(axes.latent) > 1 else None

    def term() -> Float[Array, ""]:
        index_BA, kept_BA = sparse.select(jnp.where(batch.dead[None], pre_BN, 0.0), wanted, split)
        value_BA = jax.nn.relu(sparse.preactivations_at(pre_BN, index_BA, *encoder))
        found_BE = _decode(params, jnp.where(kept_BA, value_BA, 0.0), index_BA, axes)
        scale = jnp.minimum(num_dead / wanted, 1.0)
        return scale * squared_error(left_BE, found_BE, axes) / batch.total_variance

    # In most steps nothing is dead, and the D/2 candidates would cost as much as all the rest. The
    # 0 is their number, since a new one would be of another kind on the mesh.
    return lax.cond(num_dead > 0, term, lambda: num_dead.astype(left_BE.dtype))


TOPK = Architecture(partial(loss, over_batch=False))
BATCH_TOPK = Architecture(partial(loss, over_batch=True))
