"""The families of language models, by the type that their config.json names."""

from collections.abc import Callable
from typing import Any

from saejax.errors import InputError
from saejax.lm.decoder_config import DecoderConfig
from saejax.lm.fields import Fields
from saejax.lm.gpt2 import read_gpt2
from saejax.lm.gpt_neox import read_gpt_neox
from saejax.lm.llama import read_llama

FAMILIES: dict[str, Callable[[Fields], DecoderConfig]] = {
    "llama": read_llama,
    "mistral": read_llama,
    "qwen2": read_llama,
    "gpt_neox": read_gpt_neox,
    "gpt2": read_gpt2,
}


def from_json(values: dict[str, Any], where: object) -> DecoderConfig:
    """Reads Hugging Face's configuration of a model.

    Args:
      values: The contents of config.json, as transformers 4 or 5 writes them.
      where: Its path, for messages.

    Raises:
      InputError: For a type of model that is not supported (the message lists those that are), a
        missing or malformed field, quantised weights, and variants that the family cannot run.
    """
    fields = Fields(values, where)
    family = fields.values.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(
            f"{where}: model_type={family!r} is not supported; supported: {', '.join(FAMILIES)}"
        )
    fields.only("quantization_config", None, default=None)
    return FAMILIES[family](fields)
