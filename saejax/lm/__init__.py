"""The language model: weights from files, a tokenizer, and activations at a hook point."""

from saejax.lm.capture import (
    check_tokens,
    cross_entropy,
    logits,
    make_capture,
    token_losses,
)
from saejax.lm.hooks import check_hookpoint, hook_width, hookpoints, layers_needed
from saejax.lm.llama_config import LlamaConfig
from saejax.lm.load import Lm, load_config, load_lm
from saejax.lm.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "LlamaConfig",
    "Lm",
    "Tokenizer",
    "check_hookpoint",
    "check_tokens",
    "cross_entropy",
    "hook_width",
    "hookpoints",
    "layers_needed",
    "load_config",
    "load_lm",
    "load_tokenizer",
    "logits",
    "make_capture",
    "token_losses",
]
