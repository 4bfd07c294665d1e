"""Hook points: the places in a model whose activations can be read, and their names."""

import fnmatch
import re
from typing import NamedTuple

from saejax.config import HOOKPOINT_WILDCARDS
from saejax.errors import InputError
from saejax.lm.decoder_config import DecoderConfig


class Hook(NamedTuple):
    """A parsed hook point."""

    layer: int | None  # the block, or None for the embedding
    part: str  # "" for the residual stream after the block, or the name of a part


def hookpoints(config: DecoderConfig) -> tuple[str, ...]:
    """All hook points of a model, in the order in which a forward pass reaches layers.

    They are Hugging Face's module names relative to the base model:

    | Llama, Mistral, Qwen2 | GPT-NeoX | GPT-2 | what it is |
    |---|---|---|---|
    | `embed_tokens` | `embed_in` | `drop` | residual stream before the first block |
    | `layers.i` | `layers.i` | `h.i` | residual stream after block i |
    | `layers.i.mlp` | `layers.i.mlp` | `h.i.mlp` | output of the MLP |
    | `layers.i.self_attn` | `layers.i.attention` | `h.i.attn` | output of attention, projected |
    | `layers.i.input_layernorm` | the same | `h.i.ln_1` | input of attention |
    | `layers.i.post_attention_layernorm` | the same | `h.i.ln_2` | input of the MLP |

    GPT-2's residual stream begins with the sum of `wte` and `wpe`, which no module computes; its
    dropout `drop` hands it on unchanged.
    """
    blocks = [f"{config.hook_blocks}.{layer}" for layer in range(config.num_layers)]
    suffixes = ("", *(f".{part}" for part in config.hook_parts))
    return (config.hook_embedding, *(block + suffix for block in blocks for suffix in suffixes))


def parse_hookpoint(config: DecoderConfig, hookpoint: str) -> Hook:
    """Splits the name of a hook point.

    Raises:
      InputError: If the model has no such hook point; the message says which it has.
    """
    if hookpoint == config.hook_embedding:
        return Hook(None, "")
    blocks, last = config.hook_blocks, config.num_layers - 1
    match = re.fullmatch(rf"{blocks}\.(0|[1-9][0-9]*)(?:\.(.+))?", hookpoint)
    if match is None or match[2] not in (None, *config.hook_parts):
        raise InputError(
            f"hookpoint={hookpoint!r} does not exist; this model has {_described(config)}"
        )
    layer = int(match[1])
    if layer > last:
        raise InputError(f"hookpoint={hookpoint!r}: this model has layers 0 to {last}")
    return Hook(layer, match[2] or "")


def _described(config: DecoderConfig) -> str:
    block = f"{config.hook_blocks}.<i>"
    names = [config.hook_embedding, block, *(f"{block}.{part}" for part in config.hook_parts)]
    return f"{', '.join(names)} with <i> from 0 to {config.num_layers - 1}"


def check_hookpoint(config: DecoderConfig, hookpoint: str) -> None:
    """Raises `InputError`, saying what exists, unless the model has the hook point."""
    parse_hookpoint(config, hookpoint)


def expand_hookpoints(config: DecoderConfig, pattern: str) -> tuple[str, ...]:
    """The hook points that a pattern matches, in the order of `hookpoints`.

    Args:
      config: Of the model.
      pattern: A hook point, or a pattern of them as in the shell: `layers.*.mlp`, `layers.[0-5]`.
        `*` matches dots too, as in sparsify: `layers.*` takes every hook point of every block.

    Raises:
      InputError: If nothing matches; the message says what exists.
    """
    if not HOOKPOINT_WILDCARDS.intersection(pattern):
        check_hookpoint(config, pattern)
        return (pattern,)
    found = tuple(name for name in hookpoints(config) if fnmatch.fnmatchcase(name, pattern))
    if not found:
        raise InputError(
            f"hookpoint={pattern!r} matches nothing; this model has {_described(config)}"
        )
    return found


def hook_width(config: DecoderConfig, hookpoint: str) -> int:
    """Width D of the activations at a hook point.

    Raises:
      InputError: If the model has no such hook point.
    """
    parse_hookpoint(config, hookpoint)
    return config.d_model


def layers_needed(config: DecoderConfig, hookpoint: str) -> int:
    """Layers a model must hold to run up to a hook point.

    Raises:
      InputError: If the model has no such hook point.
    """
    layer = parse_hookpoint(config, hookpoint).layer
    return 0 if layer is None else layer + 1
