"""The Llama family: Llama, SmolLM2, TinyLlama, and Mistral and Qwen2, which differ in details.

Letters: B windows, L context length, D width of the residual stream, H query heads, G
key-value heads, E width of a head, F width of the MLP.
"""

import dataclasses
from typing import ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float

from saejax.errors import InputError
from saejax.lm.attention import causal_attention
from saejax.lm.decoder_config import DecoderConfig, Edit, check_numbers, unchanged
from saejax.lm.fields import Fields
from saejax.lm.layers import Linear, RmsNorm, Weights
from saejax.lm.rope import Rope, read_rope, rotate, tables

# Tokens that sliding attention reaches back where config.json does not say (transformers'
# default).
_SLIDING_WINDOW = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderConfig):
    """Sizes and constants of a model of the Llama family."""

    num_kv_heads: int  # G, a divisor of num_heads
    head_dim: int  # E
    rope: Rope
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool

    hook_embedding: ClassVar = "embed_tokens"
    hook_blocks: ClassVar = "layers"
    hook_parts: ClassVar = ("mlp", "self_attn", "input_layernorm", "post_attention_layernorm")
    embedding: ClassVar = "embed_tokens"
    final_norm: ClassVar = "norm"
    norm_tensors: ClassVar = ("weight",)
    prefix: ClassVar = "model."
    # In files of 2023; they follow from rope_theta.
    buffers: ClassVar = (".rotary_emb.inv_freq",)

    def block_shapes(self) -> dict[str, tuple[int, ...]]:
        """See the base class."""
        d, f = self.d_model, self.d_mlp
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (d,)}
        for name, out, width, bias in (
            ("self_attn.q_proj", queries, d, self.qkv_bias),
            ("self_attn.k_proj", keys, d, self.qkv_bias),
            ("self_attn.v_proj", keys, d, self.qkv_bias),
            ("self_attn.o_proj", d, queries, self.o_bias),
            ("mlp.gate_proj", f, d, self.mlp_bias),
            ("mlp.up_proj", f, d, self.mlp_bias),
            ("mlp.down_proj", d, f, self.mlp_bias),
        ):
            shapes[f"{name}.weight"] = (out, width)
            if bias:
                shapes[f"{name}.bias"] = (out,)
        return shapes | {"post_attention_layernorm.weight": (d,)}

    def make_block(self, weights: Weights) -> "Block":
        """See the base class."""
        return Block(self, weights)

    def make_norm(self, weights: Weights, name: str) -> RmsNorm:
        """See the base class."""
        return RmsNorm(weights, name, self.norm_eps)


def check(config: LlamaConfig, where: object) -> LlamaConfig:
    """Returns the configuration, or raises `InputError` when no model can have it."""
    check_numbers(config, where)
    if config.num_heads % config.num_kv_heads:
        raise InputError(
            f"{where}: num_heads={config.num_heads}, num_kv_heads={config.num_kv_heads}: query "
            "heads must divide evenly among key-value heads"
        )
    return config


def read_llama(fields: Fields) -> LlamaConfig:
    """Reads a config.json of type `llama`, `mistral` or `qwen2`.

    Where attention is limited to a sliding window, so is the context length: in windows up to
    that length the limit changes nothing.

    Raises:
      InputError: For a missing or malformed field, and for what none of these models has.
    """
    family = fields.values["model_type"]
    fields.only("hidden_act", "silu", default="silu")
    heads, width = fields.number("num_attention_heads", int), fields.number("hidden_size", int)
    head_dim = fields.number("head_dim", int, width // max(heads, 1))
    rope = read_rope(fields, head_dim)
    if rope.dims != head_dim:
        raise InputError(
            f"{fields.where}: {rope.dims} of head_dim={head_dim} dimensions are rotated, which no "
            f"{family} model does: set partial_rotary_factor to 1"
        )
    context = fields.number("max_position_embeddings", int, 2048)
    slides = family == "mistral" or (
        family == "qwen2" and fields.flag("use_sliding_window", default=False)
    )
    # Null is for no limit.
    if slides and fields.values.get("sliding_window", _SLIDING_WINDOW) is not None:
        context = min(context, fields.number("sliding_window", int, _SLIDING_WINDOW))
    biases = family == "llama" and fields.flag("attention_bias", default=False)
    # Defaults are those of transformers.LlamaConfig; older files leave these fields out.
    config = LlamaConfig(
        num_layers=fields.number("num_hidden_layers", int),
        d_model=width,
        num_heads=heads,
        num_kv_heads=fields.number("num_key_value_heads", int, heads),
        head_dim=head_dim,
        d_mlp=fields.number("intermediate_size", int),
        vocab_size=fields.number("vocab_size", int),
        rope=rope,
        norm_eps=fields.number("rms_norm_eps", float, 1e-6),
        context_length=context,
        tie_embeddings=fields.flag("tie_word_embeddings", default=False),
        qkv_bias=biases or family == "qwen2",
        o_bias=biases,
        mlp_bias=family == "llama" and fields.flag("mlp_bias", default=False),
    )
    return check(config, fields.where)


class Attention(nnx.Module):
    """Causal grouped-query attention with rotary positions.

    References:
      Ainslie et al. 2023, arXiv 2305.13245, section 2.2.
    """

    def __init__(self, config: LlamaConfig, weights: Weights):
        self.q_proj = Linear(weights, "self_attn.q_proj")
        self.k_proj = Linear(weights, "self_attn.k_proj")
        self.v_proj = Linear(weights, "self_attn.v_proj")
        self.o_proj = Linear(weights, "self_attn.o_proj")
        self.head_dim, self.rope = config.head_dim, config.rope

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Attention's output after o_proj, for normalised input."""
        windows, length, _ = x_BLD.shape
        q_BLHE, k_BLGE, v_BLGE = (
            project(x_BLD).reshape(windows, length, -1, self.head_dim)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        tables_2L2r = tables(self.rope, length)
        out_BLHE = causal_attention(
            rotate(q_BLHE, tables_2L2r), rotate(k_BLGE, tables_2L2r), v_BLGE
        )
        return self.o_proj(out_BLHE.reshape(windows, length, -1))


class Mlp(nnx.Module):
    """SwiGLU: (silu(x W_gate) * (x W_up)) W_down.

    References:
      Shazeer 2020, arXiv 2002.05202, equation 6.
    """

    def __init__(self, weights: Weights):
        self.gate_proj = Linear(weights, "mlp.gate_proj")
        self.up_proj = Linear(weights, "mlp.up_proj")
        self.down_proj = Linear(weights, "mlp.down_proj")

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The MLP's output, for normalised input."""
        return self.down_proj(jax.nn.silu(self.gate_proj(x_BLD)) * self.up_proj(x_BLD))


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + MLP(norm(x)).

    References:
      Touvron et al. 2023, arXiv 2302.13971, section 2.2.
    """

    def __init__(self, config: LlamaConfig, weights: Weights):
        self.input_layernorm = config.make_norm(weights, "input_layernorm")
        self.self_attn = Attention(config, weights)
        self.post_attention_layernorm = config.make_norm(weights, "post_attention_layernorm")
        self.mlp = Mlp(weights)

    def outputs(
        self, x_BLD: Float[Array, "B L D"], edit: Edit = unchanged
    ) -> dict[str, Float[Array, "B L D"]]:
        """See `saejax.lm.decoder_config.Block`."""
        attention_input_BLD = edit("input_layernorm", self.input_layernorm(x_BLD))
        attention_BLD = edit("self_attn", self.self_attn(attention_input_BLD))
        between_BLD = x_BLD + attention_BLD
        mlp_input_BLD = edit("post_attention_layernorm", self.post_attention_layernorm(between_BLD))
        mlp_BLD = edit("mlp", self.mlp(mlp_input_BLD))
        return {
            "input_layernorm": attention_input_BLD,
            "self_attn": attention_BLD,
            "post_attention_layernorm": mlp_input_BLD,
            "mlp": mlp_BLD,
            "": edit("", between_BLD + mlp_BLD),
        }
