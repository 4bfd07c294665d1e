"""ReLU codes with an L1 penalty: f(x) = relu((x - b_dec) W_enc + b_enc). B tokens, N latents.

    loss = mean_b ||x - x_hat||^2 + lambda mean_b sum_i f_i(x) ||w_dec,i||

With `sae.unit_decoder` the norms are 1 (Bricken et al. 2023); without, they take part, so that the
penalty cannot be escaped by small codes and a large decoder (Conerly et al. 2024; SAELens
"standard", with which the paper's ReLU runs on GPT-2 were made).
"""

import jax
from jaxtyping import Array, Float

from saejax.config import SaeConfig
from saejax.sae.init import Params
from saejax.sae.objective import (
    Architecture,
    Axes,
    Batch,
    Outcome,
    dense_outcome,
    local_encoder,
    weighted_l1,
)
from saejax.sae.sparse import centred


def loss(
    params: Params, batch: Batch, cfg: SaeConfig, axes: Axes
) -> tuple[Float[Array, ""], Outcome]:
    """See the module."""
    x_BD, enc_rows_ND, b_enc_N, b_dec_D = local_encoder(params, batch, axes)
    codes_BN = jax.nn.relu(centred(x_BD, b_dec_D) @ enc_rows_ND.T + b_enc_N[None])
    error, outcome = dense_outcome(params, batch, codes_BN, axes)
    penalty = cfg.sparsity_coefficient * batch.sparsity_scale
    return error + penalty * weighted_l1(params, codes_BN, batch, axes), outcome


RELU = Architecture(loss)
