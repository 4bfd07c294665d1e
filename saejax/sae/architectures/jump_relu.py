"""JumpReLU codes, with a learned threshold for each latent. B tokens, N latents.

    z = relu((x - b_dec) W_enc + b_enc),  f = z 1[z > theta]
    loss = mean ||x - x_hat||^2 + lambda mean sum_i 1[z_i > theta_i]

The step has no gradient, so the threshold gets a pseudo-derivative from a rectangle K of width
eps around it, -(theta / eps) K((z - theta) / eps) for f and -(1 / eps) K((z - theta) / eps) for the
count. theta is the positive part of a parameter that is trained as it is: its logarithm, as in the
paper, moves by a factor of 3 in a run of 1,000 steps at the learning rates used here.

References:
  Rajamanoharan et al., Jumping Ahead (2024), arXiv 2407.14435, sections 3 and 4.
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
    dense_outcome,
    local_encoder,
)
from saejax.sae.sparse import centred

# SAELens: jumprelu_init_threshold.
_FIRST_THRESHOLD = 0.01


def init(params: Params) -> Params:
    """Thresholds start at 0.01."""
    return params._replace(threshold=jnp.full_like(params.b_enc, _FIRST_THRESHOLD))


@jax.custom_vjp
def step_and_code(
    pre_BN: Float[Array, "B N"], threshold_N: Float[Array, " N"], bandwidth: Float[Array, ""]
) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
    """1[z > theta] and z 1[z > theta], with the pseudo-derivatives of the threshold."""
    above_BN = (pre_BN > threshold_N[None]).astype(pre_BN.dtype)
    return above_BN, pre_BN * above_BN


def _forward(pre_BN, threshold_N, bandwidth):
    above_BN, code_BN = step_and_code(pre_BN, threshold_N, bandwidth)
    return (above_BN, code_BN), (pre_BN, threshold_N, bandwidth, above_BN)


def _backward(residuals, cotangents):
    pre_BN, threshold_N, bandwidth, above_BN = residuals
    dstep_BN, dcode_BN = cotangents
    inside_BN = jnp.abs(pre_BN - threshold_N[None]) <= bandwidth / 2
    pull_BN = jnp.where(inside_BN, dstep_BN + threshold_N[None] * dcode_BN, 0.0) / bandwidth
    return dcode_BN * above_BN, -pull_BN.sum(axis=0), jnp.zeros_like(bandwidth)


step_and_code.defvjp(_forward, _backward)


def loss(
    params: Params, batch: Batch, cfg: SaeConfig, axes: Axes
) -> tuple[Float[Array, ""], Outcome]:
    """See the module."""
    assert params.threshold is not None
    x_BD, enc_rows_ND, b_enc_N, b_dec_D = local_encoder(params, batch, axes)
    pre_BN = jax.nn.relu(centred(x_BD, b_dec_D) @ enc_rows_ND.T + b_enc_N[None])
    step_BN, codes_BN = step_and_code(
        pre_BN, jax.nn.relu(params.threshold), jnp.asarray(cfg.bandwidth, pre_BN.dtype)
    )
    error, outcome = dense_outcome(params, batch, codes_BN, axes)
    count = lax.psum(step_BN.sum(), (axes.data, axes.latent)) / batch.num_tokens
    return error + cfg.sparsity_coefficient * batch.sparsity_scale * count, outcome


JUMP_RELU = Architecture(loss, init)
