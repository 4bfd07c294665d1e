"""Operations of a language model and of autoencoders, counted by hand.

Two for a multiplication and an addition of a matrix product; element by element work is not
counted. Letters: L context length, D width, N latents, K active latents, H heads, E width of a
head.
"""

import math

from saejax.config import Config, SaeConfig
from saejax.lm import DecoderConfig
from saejax.lm.hooks import parse_hookpoint
from saejax.lm.llama import LlamaConfig

_ATTENTION = ("self_attn.", "attention.", "attn.")
# Parts of a block that come after attention or beside it, by what they need of it.
_BEFORE_ATTENTION = ("input_layernorm", "ln_1")
# Dense products of [B, N] codes in a training step, each 2 N D a token: encode, decode, and the
# gradients of codes, of both matrices and of b_dec, which the input has less; in gated ones also
# decoding the gate, and the gradient of its codes ("attached": of its decoder as well).
_DENSE_PRODUCTS = {"relu": 6, "jump_relu": 6, "gated": 8}
# Of the K latents that topk keeps: decoding, its two gradients, and the encoder's gradient.
_SPARSE_PRODUCTS = 4
# batch_topk's candidates of a token, and those of Multi-TopK (saejax/sae/architectures/topk.py).
_WIDE = 4


def lm_flops(cfg: Config, config: DecoderConfig) -> float:
    """FLOPs a token of the forward pass up to the hook points of a run.

    2 for each weight of a kernel, and 4 H E (L + 1) / 2 for causal attention in each block, that
    is for scores and for means of values over half of the window on average.
    """
    hooks = [parse_hookpoint(config, n) for n in (cfg.hookpoint, cfg.target_hookpoint) if n]
    last = max(hooks, key=lambda hook: -1 if hook.layer is None else hook.layer)
    if last.layer is None:
        return 0.0
    attention, rest = 0.0, 0.0
    for name, shape in config.block_shapes().items():
        if len(shape) == 2:
            flops = 2.0 * math.prod(shape)
            if name.startswith(_ATTENTION):
                attention += flops
            else:
                rest += flops
    head = (
        config.head_dim if isinstance(config, LlamaConfig) else config.d_model // config.num_heads
    )
    attention += 4.0 * config.num_heads * head * (cfg.data.context_length + 1) / 2
    parts = {hook.part for hook in hooks if hook.layer == last.layer}
    parallel = getattr(config, "parallel_residual", False)
    total = last.layer * (attention + rest)
    if not parts <= {
        *_BEFORE_ATTENTION,
        *(("mlp", "post_attention_layernorm") if parallel else ()),
    }:
        total += attention
    if parts & {"", "mlp"}:
        total += rest
    return total


def sae_flops(sae: SaeConfig, width: int) -> float:
    """FLOPs a token of a training step of one autoencoder.

    topk: 2 N D to encode, and 4 x 2 K D for what touches the K kept latents alone; batch_topk and
    Multi-TopK have 4 K. relu, jump_relu: 6 x 2 N D, gated: 8 or, attached, 9 x 2 N D. AuxK,
    prefixes and skip connections are not counted.
    """
    dense = 2.0 * sae.num_latents * width
    if sae.arch in _DENSE_PRODUCTS:
        attached = sae.arch == "gated" and sae.gated_auxiliary == "attached"
        return (_DENSE_PRODUCTS[sae.arch] + attached) * dense
    kept = sae.k * (_WIDE if sae.multi_topk or sae.arch == "batch_topk" else 1)
    return dense + _SPARSE_PRODUCTS * 2.0 * min(kept, sae.num_latents) * width
