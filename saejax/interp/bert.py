"""BERT's encoder: embeddings of tokens and positions, and layers that see a text from both sides.

Letters: B texts, L padded length, D width, N layers, H heads, E width of a head, F width of the
MLP, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from saejax.errors import InputError
from saejax.lm.decoder_config import check_numbers
from saejax.lm.fields import Fields
from saejax.lm.layers import NONLINEARITIES, LayerNorm, Linear, Weights

_EMBEDDINGS = "embeddings"
_LAYERS = "encoder.layer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes and constants of a BERT model; heads have width E = D/H."""

    num_layers: int  # N
    width: int  # D
    num_heads: int  # H
    width_mlp: int  # F
    vocab_size: int  # V
    context_length: int  # learned positions: no text may have more tokens
    num_types: int  # of segments; a text alone is of the first
    norm_eps: float  # added to the variance
    nonlinearity: str  # of NONLINEARITIES


def read_bert(fields: Fields) -> BertConfig:
    """Reads a config.json of type `bert`.

    Raises:
      InputError: For another type of model, a missing or malformed field, quantised weights, and
        variants: decoders, relative positions.
    """
    family = fields.values.get("model_type")
    if family != "bert":
        raise InputError(
            f"{fields.where}: model_type={family!r} is not supported as a sentence encoder, only "
            "'bert': choose another model"
        )
    fields.only("quantization_config", None, default=None)
    fields.only("position_embedding_type", "absolute", default="absolute")
    fields.only("is_decoder", False, default=False)
    heads, width = fields.number("num_attention_heads", int), fields.number("hidden_size", int)
    if heads < 1 or width % heads:
        raise InputError(
            f"{fields.where}: hidden_size={width} must divide by num_attention_heads={heads}"
        )
    # Defaults are those of transformers.BertConfig.
    config = BertConfig(
        num_layers=fields.number("num_hidden_layers", int),
        width=width,
        num_heads=heads,
        width_mlp=fields.number("intermediate_size", int),
        vocab_size=fields.number("vocab_size", int),
        context_length=fields.number("max_position_embeddings", int, 512),
        num_types=fields.number("type_vocab_size", int, 2),
        norm_eps=fields.number("layer_norm_eps", float, 1e-12),
        nonlinearity=fields.only("hidden_act", *NONLINEARITIES, default="gelu"),
    )
    check_numbers(config, fields.where)
    return config


def layer_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of a layer's weights as in files, kernels [out, in], by their names there."""
    d, f = config.width, config.width_mlp
    shapes: dict[str, tuple[int, ...]] = {}
    for name, out, width in (
        ("attention.self.query", d, d),
        ("attention.self.key", d, d),
        ("attention.self.value", d, d),
        ("attention.output.dense", d, d),
        ("intermediate.dense", f, d),
        ("output.dense", d, f),
    ):
        shapes |= {f"{name}.weight": (out, width), f"{name}.bias": (out,)}
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        shapes |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
    return shapes


def embedding_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights before the layers."""
    return {
        f"{_EMBEDDINGS}.word_embeddings.weight": (config.vocab_size, config.width),
        f"{_EMBEDDINGS}.position_embeddings.weight": (config.context_length, config.width),
        f"{_EMBEDDINGS}.token_type_embeddings.weight": (config.num_types, config.width),
        f"{_EMBEDDINGS}.LayerNorm.weight": (config.width,),
        f"{_EMBEDDINGS}.LayerNorm.bias": (config.width,),
    }


def bert_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights, by Hugging Face's names without the prefix."""
    shapes = embedding_shapes(config)
    of_layer = layer_shapes(config)
    for layer in range(config.num_layers):
        shapes |= {f"{_LAYERS}.{layer}.{name}": shape for name, shape in of_layer.items()}
    return shapes


class Layer(nnx.Module):
    """One layer: y = norm(x + attention(x)), then norm(y + MLP(y)).

    References:
      Vaswani et al. 2017, arXiv 1706.03762, section 3.1.
    """

    def __init__(self, config: BertConfig, weights: Weights):
        self.query = Linear(weights, "attention.self.query")
        self.key = Linear(weights, "attention.self.key")
        self.value = Linear(weights, "attention.self.value")
        self.attended = Linear(weights, "attention.output.dense")
        self.attention_norm = LayerNorm(weights, "attention.output.LayerNorm", config.norm_eps)
        self.up = Linear(weights, "intermediate.dense")
        self.down = Linear(weights, "output.dense")
        self.norm = LayerNorm(weights, "output.LayerNorm", config.norm_eps)
        self.num_heads = config.num_heads
        self.nonlinearity = config.nonlinearity

    def __call__(
        self, x_BLD: Float[Array, "B L D"], is_token_BL: Bool[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        """The layer's output; padding is not attended to."""
        q_BLHE, k_BLHE, v_BLHE = (
            part(x_BLD).reshape(*x_BLD.shape[:2], self.num_heads, -1)
            for part in (self.query, self.key, self.value)
        )
        score_BHQK = jnp.einsum("bqhe,bkhe->bhqk", q_BLHE, k_BLHE) * q_BLHE.shape[-1] ** -0.5
        score_BHQK = jnp.where(is_token_BL[:, None, None, :], score_BHQK, -jnp.inf)
        weight_BHQK = jax.nn.softmax(score_BHQK, axis=-1)
        mixed_BLHE = jnp.einsum("bhqk,bkhe->bqhe", weight_BHQK, v_BLHE)
        y_BLD = self.attention_norm(x_BLD + self.attended(mixed_BLHE.reshape(x_BLD.shape)))
        return self.norm(y_BLD + self.down(NONLINEARITIES[self.nonlinearity](self.up(y_BLD))))


class Bert(nnx.Module):
    """Embeddings and layers, whose weights are stacked on a leading layer axis.

    Args:
      config: Sizes.
      weights: By the names of `embedding_shapes` and `layer_shapes`; those of layers [N, ...],
        kernels [in, out].

    References:
      Devlin et al. 2019, arXiv 1810.04805, section 3.
    """

    def __init__(self, config: BertConfig, weights: Weights):
        self.tokens = nnx.Param(weights[f"{_EMBEDDINGS}.word_embeddings.weight"])
        self.positions = nnx.Param(weights[f"{_EMBEDDINGS}.position_embeddings.weight"])
        self.types = nnx.Param(weights[f"{_EMBEDDINGS}.token_type_embeddings.weight"])
        self.norm = LayerNorm(weights, f"{_EMBEDDINGS}.LayerNorm", config.norm_eps)
        self.layers = Layer(config, weights)
        self.num_layers = config.num_layers

    def __call__(
        self, tokens_BL: Int[Array, "B L"], is_token_BL: Bool[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        """The last layer's output.

        Args:
          tokens_BL: Token ids, padded at the end of each text.
          is_token_BL: False for padding; a text has at least one token.
        """
        position_LD = self.positions[...][: tokens_BL.shape[1]] + self.types[...][:1]
        x_BLD = self.norm(self.tokens[...][tokens_BL] + position_LD[None])

        def run(x_BLD: Array, layer: Array) -> tuple[Array, None]:
            return jax.tree.map(lambda x_N: x_N[layer], self.layers)(x_BLD, is_token_BL), None

        return jax.lax.scan(run, x_BLD, jnp.arange(self.num_layers))[0]
