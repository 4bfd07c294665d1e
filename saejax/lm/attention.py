"""Causal attention in blocks of queries: half of the work, and never the scores of all pairs.

Letters: B windows, L context length, H query heads, G key-value heads, R query heads that share
one (H = G R), E width of a head, Q queries of a block, K keys up to its end.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Queries of a block. With fewer, less is computed to be masked; with more, products are larger.
# Of 16 to 256, 32 and 64 were fastest on a CPU with AVX2, 8 windows of 256 tokens: 15 ms of 36
# with jax.nn.dot_product_attention.
_BLOCK = 64
# Long windows have larger blocks in place of more, since each is compiled on its own: 2 s for 8.
# With 8, 9/16 of all scores are computed; 16 were no faster at 2,048 tokens.
_MAX_BLOCKS = 8


def causal_attention(
    q_BLHE: Float[Array, "B L H E"],
    k_BLGE: Float[Array, "B L G E"],
    v_BLGE: Float[Array, "B L G E"],
) -> Float[Array, "B L H E"]:
    """Each token's mean of the values up to it, weighted by softmax(q k / sqrt(E)).

    Query head h reads key-value head h // R. Scores and softmax are float32, products of weights
    and values in the type of the input with float32 sums. The largest temporary, the scores of a
    block, takes B H Q L x 4 bytes, where Q is 64 or L / 8.

    References:
      Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1; Ainslie et al. 2023, arXiv 2305.13245,
      section 2.2. Dividing by the sum after the product with the values, and blocks: Dao et al.
      2022, arXiv 2205.14135, section 3.1.
    """
    B, length, H, E = q_BLHE.shape
    G = k_BLGE.shape[2]
    q_BGRLE = q_BLHE.reshape(B, length, G, H // G, E).transpose(0, 2, 3, 1, 4)
    k_BGLE, v_BGLE = (x_BLGE.transpose(0, 2, 1, 3) for x_BLGE in (k_BLGE, v_BLGE))
    # A last column of ones gives the sum of the weights with the product, without another pass.
    v_BGLX = jnp.concatenate([v_BGLE, jnp.ones_like(v_BGLE[..., :1])], axis=-1)
    block = max(_BLOCK, -(-length // _MAX_BLOCKS))
    blocks = []
    for first in range(0, length, block):
        end = min(first + block, length)
        # The queries of all heads that share a key-value head are rows of one product.
        q_BGrE = q_BGRLE[:, :, :, first:end].reshape(B, G, -1, E)
        score_BGrK = jnp.einsum(
            "bgre,bgke->bgrk", q_BGrE, k_BGLE[:, :, :end], preferred_element_type=jnp.float32
        )
        score_BGRQK = score_BGrK.reshape(B, G, H // G, end - first, end)
        future_QK = np.arange(end)[None, :] > np.arange(first, end)[:, None]
        # Added, and not selected, since XLA adds to a product without a pass of its own.
        score_BGRQK += jnp.where(future_QK, -jnp.inf, 0.0)[None, None, None]
        above_BGRQK = score_BGRQK - score_BGRQK.max(axis=-1, keepdims=True)
        weight_BGRQK = jnp.exp(E**-0.5 * above_BGRQK).astype(v_BGLX.dtype)
        sum_BGrX = jnp.einsum(
            "bgrk,bgkx->bgrx",
            weight_BGRQK.reshape(score_BGrK.shape),
            v_BGLX[:, :, :end],
            preferred_element_type=jnp.float32,
        )
        out_BGrE = sum_BGrX[..., :-1] / sum_BGrX[..., -1:]
        out_BGRQE = out_BGrE.reshape(B, G, H // G, end - first, E).astype(q_BLHE.dtype)
        blocks.append(out_BGRQE.transpose(0, 3, 1, 2, 4).reshape(B, -1, H, E))
    return jnp.concatenate(blocks, axis=1)
