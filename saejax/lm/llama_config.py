"""Sizes and constants of a Llama model, from a Hugging Face config.json, and what they imply."""

import dataclasses
import math
from typing import Any, ClassVar

from saejax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Sizes and constants of a Llama model; `num_layers` is that of the full model."""

    num_layers: int
    d_model: int  # D
    num_heads: int  # H
    num_kv_heads: int  # G, a divisor of num_heads
    head_dim: int  # E, even
    d_mlp: int  # F
    vocab_size: int  # V
    rope_theta: float  # base of the rotary wavelengths, 2 pi theta^(2i/E) tokens
    rms_eps: float  # added to the mean square in RMSNorm
    context_length: int  # positions the model was trained on, and the longest window
    tie_embeddings: bool  # the unembedding is the transposed embedding

    # Names of the hook points, after the modules of Hugging Face's implementation.
    hook_embedding: ClassVar[str] = "embed_tokens"
    hook_blocks: ClassVar[str] = "layers"
    hook_parts: ClassVar[tuple[str, ...]] = (
        "mlp",
        "self_attn",
        "input_layernorm",
        "post_attention_layernorm",
    )


def check(config: LlamaConfig, where: object) -> LlamaConfig:
    """Returns the configuration, or raises `InputError` when no model can have it."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not isinstance(value, bool) and not (math.isfinite(value) and value > 0):
            raise InputError(f"{where}: {field.name}={value} must be finite and above 0")
    if config.num_heads % config.num_kv_heads or config.head_dim % 2:
        raise InputError(
            f"{where}: num_heads={config.num_heads}, num_kv_heads={config.num_kv_heads}, head_dim="
            f"{config.head_dim}: query heads must divide evenly among key-value heads, and a "
            "head must be of even width"
        )
    return config


def from_json(values: dict[str, Any], where: object) -> LlamaConfig:
    """Reads Hugging Face's configuration of a model of type `llama`.

    Args:
      values: The contents of config.json, as transformers 4 or 5 writes them.
      where: Its path, for messages.

    Raises:
      InputError: For a missing or malformed field, and for what is not plain Llama: scaled or
        partial rotary embeddings, biases, another activation, quantised weights.
    """

    def number(name: str, kind: type, default: float | None = None) -> Any:
        value = values.get(name)
        value = default if value is None else value
        allowed = (int,) if kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise InputError(f"{where}: {name}={value!r} must be a number ({kind.__name__})")
        return kind(value)

    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise InputError(f"{where}: rope_parameters={rope!r} must be an object")
    plain = {
        "hidden_act": (values.get("hidden_act", "silu"), "silu"),
        "attention_bias": (values.get("attention_bias", False), False),
        "mlp_bias": (values.get("mlp_bias", False), False),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
        "partial_rotary_factor": (
            rope.get("partial_rotary_factor", values.get("partial_rotary_factor", 1)),
            1,
        ),
        "quantization_config": (values.get("quantization_config"), None),
    }
    for name, (found, supported) in plain.items():
        if found != supported:
            raise InputError(
                f"{where}: {name}={found!r} is not supported, only {supported!r}: choose a plain "
                "Llama model"
            )
    heads, width = number("num_attention_heads", int), number("hidden_size", int)
    # Defaults are those of transformers.LlamaConfig; older files leave these fields out.
    config = LlamaConfig(
        num_layers=number("num_hidden_layers", int),
        d_model=width,
        num_heads=heads,
        num_kv_heads=number("num_key_value_heads", int, heads),
        head_dim=number("head_dim", int, width // max(heads, 1)),
        d_mlp=number("intermediate_size", int),
        vocab_size=number("vocab_size", int),
        rope_theta=number("rope_theta", float, rope.get("rope_theta", 10_000.0)),
        rms_eps=number("rms_norm_eps", float, 1e-6),
        context_length=number("max_position_embeddings", int, 2048),
        tie_embeddings=bool(values.get("tie_word_embeddings", False)),
    )
    return check(config, where)


def block_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Shapes [out, in] of a block's weights, by their names in Hugging Face checkpoints."""
    d, f = config.d_model, config.d_mlp
    queries, keys = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
    return {
        "input_layernorm.weight": (d,),
        "self_attn.q_proj.weight": (queries, d),
        "self_attn.k_proj.weight": (keys, d),
        "self_attn.v_proj.weight": (keys, d),
        "self_attn.o_proj.weight": (d, queries),
        "post_attention_layernorm.weight": (d,),
        "mlp.gate_proj.weight": (f, d),
        "mlp.up_proj.weight": (f, d),
        "mlp.down_proj.weight": (d, f),
    }


def tensor_shapes(config: LlamaConfig, num_layers: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a model of the first `num_layers` layers needs.

    Names are those of Hugging Face checkpoints without `model.`; the full model also needs
    the final norm and, where it is not tied to the embedding, the unembedding.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (config.vocab_size, config.d_model)
    }
    for layer in range(num_layers):
        shapes |= {f"layers.{layer}.{name}": s for name, s in block_shapes(config).items()}
    if num_layers == config.num_layers:
        shapes["norm.weight"] = (config.d_model,)
        if not config.tie_embeddings:
            shapes["lm_head.weight"] = (config.vocab_size, config.d_model)
    return shapes
