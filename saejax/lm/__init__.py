"""The language model: weights from files, a tokenizer, and activations at a hook point."""

from saejax.lm.capture import (
    check_tokens,
    cross_entropy,
    logits,
    make_capture,
    token_losses,
)
from saejax.lm.decoder_config import DecoderConfig
from saejax.lm.hooks import (
    check_hookpoint,
    expand_hookpoints,
    hook_width,
    hookpoints,
    layers_needed,
)
from saejax.lm.load import (
    Lm,
    Unembedding,
    lm_fingerprint,
    load_config,
    load_lm,
    load_unembedding,
)
from saejax.lm.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "DecoderConfig",
    "Lm",
    "Tokenizer",
    "Unembedding",
    "check_hookpoint",
    "check_tokens",
    "cross_entropy",
    "expand_hookpoints",
    "hook_width",
    "hookpoints",
    "layers_needed",
    "lm_fingerprint",
    "load_config",
    "load_lm",
    "load_tokenizer",
    "load_unembedding",
    "logits",
    "make_capture",
    "token_losses",
]
