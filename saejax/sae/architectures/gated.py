"""Gated codes: a gate says whether a latent is active, a magnitude how much. B tokens, N latents.

    pi = (x - b_dec) W_enc + b_enc,  f = 1[pi > 0] relu((pi - b_enc) exp(r_mag) + b_mag)
    loss = mean ||x - x_hat||^2 + lambda mean sum_i relu(pi_i) ||w_dec,i||
           + mean ||x - relu(pi) W_dec - b_dec||^2

The step 1[pi > 0] has no gradient: the gate learns from the last two terms. In the last one
`sae.gated_auxiliary` = "frozen" holds the decoder fixed (Rajamanoharan et al., Improving
Dictionary Learning with Gated SAEs, 2024, arXiv 2404.16014, section 3.2); "attached" lets it
learn from it too, as SAELens does, with which the paper's runs on GPT-2 were made.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from saejax.config import SaeConfig
from saejax.sae.init import Params
from saejax.sae.objective import (
    Architecture,
    Axes,
    Batch,
    Outcome,
    besides_codes,
    dense_outcome,
    local_encoder,
    squared_error,
    weighted_l1,
)
from saejax.sae.sparse import centred


def init(params: Params) -> Params:
    """Magnitudes start as the gate's pre-activations: r_mag = 0, b_mag = b_enc."""
    return params._replace(r_mag=jnp.zeros_like(params.b_enc), b_mag=params.b_enc)


def loss(
    params: Params, batch: Batch, cfg: SaeConfig, axes: Axes
) -> tuple[Float[Array, ""], Outcome]:
    """See the module."""
    assert params.r_mag is not None
    assert params.b_mag is not None
    x_BD, enc_rows_ND, b_enc_N, b_dec_D = local_encoder(params, batch, axes)
    inner_BN = centred(x_BD, b_dec_D) @ enc_rows_ND.T
    gate_BN = inner_BN + b_enc_N[None]
    magnitude_BN = jax.nn.relu(inner_BN * jnp.exp(params.r_mag)[None] + params.b_mag[None])
    error, outcome = dense_outcome(params, batch, jnp.where(gate_BN > 0, magnitude_BN, 0.0), axes)
    positive_BN = jax.nn.relu(gate_BN)
    w_dec_NE, besides_BE = params.w_dec, besides_codes(params, batch)
    if cfg.gated_auxiliary == "frozen":
        w_dec_NE, besides_BE = lax.stop_gradient((w_dec_NE, besides_BE))
    through_gate_BE = lax.psum(positive_BN @ w_dec_NE, axes.latent) + besides_BE
    auxiliary = squared_error(batch.y, through_gate_BE, axes) / batch.num_tokens
    penalty = cfg.sparsity_coefficient * batch.sparsity_scale
    return error + auxiliary + penalty * weighted_l1(params, positive_BN, batch, axes), outcome


GATED = Architecture(loss, init)
