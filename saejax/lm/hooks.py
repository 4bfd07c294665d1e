"""Hook points: the places in a model whose activations can be read, and their names."""

import re
from typing import NamedTuple

from saejax.errors import InputError
from saejax.lm.llama_config import LlamaConfig


class Hook(NamedTuple):
    """A parsed hook point."""

    layer: int | None  # the block, or None for the embedding
    part: str  # "" for the residual stream after the block, or the name of a part


def hookpoints(config: LlamaConfig) -> tuple[str, ...]:
    """All hook points of a model, in the order in which a forward pass reaches layers.

    They are Hugging Face's module names relative to the base model: `embed_tokens`,
    `layers.i` (the residual stream after block i), `layers.i.mlp` (the output of the MLP),
    `layers.i.self_attn` (the output of attention, after o_proj), `layers.i.input_layernorm` (the
    input of attention) and `layers.i.post_attention_layernorm` (the input of the MLP).
    """
    blocks = [f"{config.hook_blocks}.{layer}" for layer in range(config.num_layers)]
    suffixes = ("", *(f".{part}" for part in config.hook_parts))
    return (config.hook_embedding, *(block + suffix for block in blocks for suffix in suffixes))


def parse_hookpoint(config: LlamaConfig, hookpoint: str) -> Hook:
    """Splits the name of a hook point.

    Raises:
      InputError: If the model has no such hook point; the message says which it has.
    """
    if hookpoint == config.hook_embedding:
        return Hook(None, "")
    blocks, last = config.hook_blocks, config.num_layers - 1
    match = re.fullmatch(rf"{blocks}\.(0|[1-9][0-9]*)(?:\.(.+))?", hookpoint)
    if match is None or match[2] not in (None, *config.hook_parts):
        patterns = [f"{blocks}.<i>", *(f"{blocks}.<i>.{part}" for part in config.hook_parts)]
        raise InputError(
            f"hookpoint={hookpoint!r} does not exist; this model has {config.hook_embedding}, "
            f"{', '.join(patterns)} with <i> from 0 to {last}"
        )
    layer = int(match[1])
    if layer > last:
        raise InputError(f"hookpoint={hookpoint!r}: this model has layers 0 to {last}")
    return Hook(layer, match[2] or "")


def check_hookpoint(config: LlamaConfig, hookpoint: str) -> None:
    """Raises `InputError`, saying what exists, unless the model has the hook point."""
    parse_hookpoint(config, hookpoint)


def hook_width(config: LlamaConfig, hookpoint: str) -> int:
    """Width D of the activations at a hook point.

    Raises:
      InputError: If the model has no such hook point.
    """
    parse_hookpoint(config, hookpoint)
    return config.d_model


def layers_needed(config: LlamaConfig, hookpoint: str) -> int:
    """Layers a model must hold to run up to a hook point.

    Raises:
      InputError: If the model has no such hook point.
    """
    layer = parse_hookpoint(config, hookpoint).layer
    return 0 if layer is None else layer + 1
