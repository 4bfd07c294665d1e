"""GPT-NeoX: Pythia and GPT-NeoX-20B.

Letters: B windows, L context length, D width of the residual stream, H heads, E width of a head.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from saejax.errors import InputError
from saejax.lm.attention import causal_attention
from saejax.lm.decoder_config import DecoderConfig, Edit, check_numbers, unchanged
from saejax.lm.fields import Fields
from saejax.lm.layers import NONLINEARITIES, LayerNorm, Linear, Weights
from saejax.lm.rope import Rope, read_rope, rotate, tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class GptNeoxConfig(DecoderConfig):
    """Sizes and constants of a GPT-NeoX model; heads have width E = D/H."""

    rope: Rope
    nonlinearity: str  # of NONLINEARITIES
    parallel_residual: bool  # attention and MLP read the same residual stream
    attention_bias: bool

    hook_embedding: ClassVar = "embed_in"
    hook_blocks: ClassVar = "layers"
    hook_parts: ClassVar = ("mlp", "attention", "input_layernorm", "post_attention_layernorm")
    embedding: ClassVar = "embed_in"
    final_norm: ClassVar = "final_layer_norm"
    norm_tensors: ClassVar = ("weight", "bias")
    prefix: ClassVar = "gpt_neox."
    # The name in the files themselves, before transformers renames it.
    renamed: ClassVar = {"embed_out.weight": "lm_head.weight"}
    # Masks and rotary frequencies in files of 2023.
    buffers: ClassVar = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")

    def block_shapes(self) -> dict[str, tuple[int, ...]]:
        """See the base class."""
        d, f = self.d_model, self.d_mlp
        norms = ("input_layernorm", "post_attention_layernorm")
        shapes: dict[str, tuple[int, ...]] = {
            f"{norm}.{tensor}": (d,) for norm in norms for tensor in self.norm_tensors
        }
        for name, out, width, bias in (
            ("attention.query_key_value", 3 * d, d, self.attention_bias),
            ("attention.dense", d, d, self.attention_bias),
            ("mlp.dense_h_to_4h", f, d, True),
            ("mlp.dense_4h_to_h", d, f, True),
        ):
            shapes[f"{name}.weight"] = (out, width)
            if bias:
                shapes[f"{name}.bias"] = (out,)
        return shapes

    def make_block(self, weights: Weights) -> "Block":
        """See the base class."""
        return Block(self, weights)

    def make_norm(self, weights: Weights, name: str) -> LayerNorm:
        """See the base class."""
        return LayerNorm(weights, name, self.norm_eps)


def read_gpt_neox(fields: Fields) -> GptNeoxConfig:
    """Reads a config.json of type `gpt_neox`.

    Raises:
      InputError: For a missing or malformed field, and for what no such model has.
    """
    heads, width = fields.number("num_attention_heads", int), fields.number("hidden_size", int)
    if heads < 1 or width % heads:
        raise InputError(
            f"{fields.where}: hidden_size={width} must divide by num_attention_heads={heads}"
        )
    # Defaults are those of transformers.GPTNeoXConfig.
    config = GptNeoxConfig(
        num_layers=fields.number("num_hidden_layers", int),
        d_model=width,
        num_heads=heads,
        d_mlp=fields.number("intermediate_size", int),
        vocab_size=fields.number("vocab_size", int),
        norm_eps=fields.number("layer_norm_eps", float, 1e-5),
        context_length=fields.number("max_position_embeddings", int, 2048),
        tie_embeddings=fields.flag("tie_word_embeddings", default=False),
        rope=read_rope(
            fields,
            width // heads,
            theta_name="rotary_emb_base",
            part_name="rotary_pct",
            default_part=0.25,
        ),
        nonlinearity=fields.only("hidden_act", *NONLINEARITIES, default="gelu"),
        parallel_residual=fields.flag("use_parallel_residual", default=True),
        attention_bias=fields.flag("attention_bias", default=True),
    )
    check_numbers(config, fields.where)
    return config


class Attention(nnx.Module):
    """Causal attention with rotary positions in a part of each head.

    References:
      Black et al. 2022, arXiv 2204.06745, section 2.1.
    """

    def __init__(self, config: GptNeoxConfig, weights: Weights):
        self.query_key_value = Linear(weights, "attention.query_key_value")
        self.dense = Linear(weights, "attention.dense")
        self.num_heads, self.rope = config.num_heads, config.rope

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Attention's output after `dense`, for normalised input."""
        windows, length, width = x_BLD.shape
        # The output of the fused product is ordered by head, then query, key, value.
        fused = self.query_key_value(x_BLD).reshape(windows, length, self.num_heads, -1)
        q_BLHE, k_BLHE, v_BLHE = jnp.split(fused, 3, axis=-1)
        tables_2L2r = tables(self.rope, length)
        out_BLHE = causal_attention(
            rotate(q_BLHE, tables_2L2r), rotate(k_BLHE, tables_2L2r), v_BLHE
        )
        return self.dense(out_BLHE.reshape(windows, length, width))


class Mlp(nnx.Module):
    """f(x W + b) W' + b', with f = gelu in all published models."""

    def __init__(self, config: GptNeoxConfig, weights: Weights):
        self.dense_h_to_4h = Linear(weights, "mlp.dense_h_to_4h")
        self.dense_4h_to_h = Linear(weights, "mlp.dense_4h_to_h")
        self.nonlinearity = config.nonlinearity

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The MLP's output, for normalised input."""
        return self.dense_4h_to_h(NONLINEARITIES[self.nonlinearity](self.dense_h_to_4h(x_BLD)))


class Block(nnx.Module):
    """One layer, x + attention(norm(x)) + MLP(norm'(y)).

    y is x with a parallel residual, which Pythia has, else x + attention(norm(x)).

    References:
      Black et al. 2022, arXiv 2204.06745, section 2.1; Biderman et al. 2023, arXiv 2304.01373,
      section 2.2.
    """

    def __init__(self, config: GptNeoxConfig, weights: Weights):
        self.input_layernorm = config.make_norm(weights, "input_layernorm")
        self.attention = Attention(config, weights)
        self.post_attention_layernorm = config.make_norm(weights, "post_attention_layernorm")
        self.mlp = Mlp(config, weights)
        self.parallel_residual = config.parallel_residual

    def outputs(
        self, x_BLD: Float[Array, "B L D"], edit: Edit = unchanged
    ) -> dict[str, Float[Array, "B L D"]]:
        """See `saejax.lm.decoder_config.Block`."""
        attention_input_BLD = edit("input_layernorm", self.input_layernorm(x_BLD))
        attention_BLD = edit("attention", self.attention(attention_input_BLD))
        between_BLD = x_BLD + attention_BLD
        mlp_input_BLD = edit(
            "post_attention_layernorm",
            self.post_attention_layernorm(x_BLD if self.parallel_residual else between_BLD),
        )
        mlp_BLD = edit("mlp", self.mlp(mlp_input_BLD))
        return {
            "input_layernorm": attention_input_BLD,
            "attention": attention_BLD,
            "post_attention_layernorm": mlp_input_BLD,
            "mlp": mlp_BLD,
            "": edit("", between_BLD + mlp_BLD),
        }
