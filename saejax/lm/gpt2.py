"""GPT-2: learned positions, layer norms, gelu.

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpt2Config(DecoderConfig):
    """Sizes and constants of a GPT-2 model; heads have width E = D/H."""

    nonlinearity: str  # of NONLINEARITIES

    # The dropout that takes the sum of token and position embeddings, and gives the first block
    # its input; `wte` alone is not in the residual stream.
    hook_embedding: ClassVar = "drop"
    hook_blocks: ClassVar = "h"
    hook_parts: ClassVar = ("mlp", "attn", "ln_1", "ln_2")
    embedding: ClassVar = "wte"
    positions: ClassVar = "wpe"
    final_norm: ClassVar = "ln_f"
    norm_tensors: ClassVar = ("weight", "bias")
    # transformers' Conv1D.
    kernels_in_out: ClassVar = True
    prefix: ClassVar = "transformer."
    # Masks in older files.
    buffers: ClassVar = (".attn.bias", ".attn.masked_bias")

    def block_shapes(self) -> dict[str, tuple[int, ...]]:
        """See the base class."""
        d, f = self.d_model, self.d_mlp
        shapes: dict[str, tuple[int, ...]] = {
            f"{norm}.{tensor}": (d,) for norm in ("ln_1", "ln_2") for tensor in self.norm_tensors
        }
        for name, width, out in (
            ("attn.c_attn", d, 3 * d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", d, f),
            ("mlp.c_proj", f, d),
        ):
            shapes |= {f"{name}.weight": (width, out), f"{name}.bias": (out,)}
        return shapes

    def make_block(self, weights: Weights) -> "Block":
        """See the base class."""
        return Block(self, weights)

    def make_norm(self, weights: Weights, name: str) -> LayerNorm:
        """See the base class."""
        return LayerNorm(weights, name, self.norm_eps)


def read_gpt2(fields: Fields) -> Gpt2Config:
    """Reads a config.json of type `gpt2`.

    Raises:
      InputError: For a missing or malformed field, and for variants: attention that is scaled by
        layer or not at all, cross-attention.
    """
    fields.only("scale_attn_weights", True, default=True)
    fields.only("scale_attn_by_inverse_layer_idx", False, default=False)
    fields.only("add_cross_attention", False, default=False)
    heads, width = fields.number("n_head", int), fields.number("n_embd", int)
    if heads < 1 or width % heads:
        raise InputError(f"{fields.where}: n_embd={width} must divide by n_head={heads}")
    # Defaults are those of transformers.GPT2Config.
    config = Gpt2Config(
        num_layers=fields.number("n_layer", int),
        d_model=width,
        num_heads=heads,
        d_mlp=fields.number("n_inner", int, 4 * width),
        vocab_size=fields.number("vocab_size", int),
        norm_eps=fields.number("layer_norm_epsilon", float, 1e-5),
        context_length=fields.number("n_positions", int, 1024),
        tie_embeddings=fields.flag("tie_word_embeddings", default=True),
        nonlinearity=fields.only("activation_function", *NONLINEARITIES, default="gelu_new"),
    )
    check_numbers(config, fields.where)
    return config


class Attention(nnx.Module):
    """Causal attention.

    References:
      Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3.
    """

    def __init__(self, config: Gpt2Config, weights: Weights):
        self.c_attn = Linear(weights, "attn.c_attn")
        self.c_proj = Linear(weights, "attn.c_proj")
        self.num_heads = config.num_heads

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Attention's output after c_proj, for normalised input."""
        windows, length, width = x_BLD.shape
        q_BLHE, k_BLHE, v_BLHE = (
            part.reshape(windows, length, self.num_heads, -1)
            for part in jnp.split(self.c_attn(x_BLD), 3, axis=-1)
        )
        out_BLHE = causal_attention(q_BLHE, k_BLHE, v_BLHE)
        return self.c_proj(out_BLHE.reshape(windows, length, width))


class Mlp(nnx.Module):
    """f(x W + b) W' + b', with f = gelu in OpenAI's models."""

    def __init__(self, config: Gpt2Config, weights: Weights):
        self.c_fc = Linear(weights, "mlp.c_fc")
        self.c_proj = Linear(weights, "mlp.c_proj")
        self.nonlinearity = config.nonlinearity

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The MLP's output, for normalised input."""
        return self.c_proj(NONLINEARITIES[self.nonlinearity](self.c_fc(x_BLD)))


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + MLP(norm(x)).

    References:
      Radford et al. 2019, section 2.3.
    """

    def __init__(self, config: Gpt2Config, weights: Weights):
        self.ln_1 = config.make_norm(weights, "ln_1")
        self.attn = Attention(config, weights)
        self.ln_2 = config.make_norm(weights, "ln_2")
        self.mlp = Mlp(config, weights)

    def outputs(
        self, x_BLD: Float[Array, "B L D"], edit: Edit = unchanged
    ) -> dict[str, Float[Array, "B L D"]]:
        """See `saejax.lm.decoder_config.Block`."""
        attention_input_BLD = edit("ln_1", self.ln_1(x_BLD))
        attention_BLD = edit("attn", self.attn(attention_input_BLD))
        between_BLD = x_BLD + attention_BLD
        mlp_input_BLD = edit("ln_2", self.ln_2(between_BLD))
        mlp_BLD = edit("mlp", self.mlp(mlp_input_BLD))
        return {
            "ln_1": attention_input_BLD,
            "attn": attention_BLD,
            "ln_2": mlp_input_BLD,
            "mlp": mlp_BLD,
            "": edit("", between_BLD + mlp_BLD),
        }
