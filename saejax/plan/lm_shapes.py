"""Sizes of published language models, so that runs can be planned without their files.

Each is what the model's config.json on huggingface.co says, under the name it has there, without
what no size follows from.
"""

from typing import Any

from saejax.errors import InputError
from saejax.lm import DecoderConfig, load_config
from saejax.lm.families import from_json

LM_SHAPES: dict[str, dict[str, Any]] = {
    # EleutherAI/pythia-160m; Biderman et al. 2023, arXiv 2304.01373, table 1.
    "pythia-160m": {
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "rotary_emb_base": 10_000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "vocab_size": 50_304,
    },
    # meta-llama/Meta-Llama-3-8B; Grattafiori et al. 2024, arXiv 2407.21783, table 3.
    "llama-3-8b": {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "max_position_embeddings": 8192,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": False,
        "vocab_size": 128_256,
    },
    # HuggingFaceTB/SmolLM2-135M; the GGUF file of the default run says the same.
    "smollm2-135m": {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "max_position_embeddings": 8192,
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100_000.0,
        "tie_word_embeddings": True,
        "vocab_size": 49_152,
    },
}
# Of the names that end in one of these, after "Meta-", the model is that.
_PREFIX = "meta-"


def lm_shape(name: str, source: str) -> DecoderConfig:
    """The sizes of a model.

    Args:
      name: One of `LM_SHAPES`; "" for the one that the source names, and else what its files say.
      source: As `lm.source`; looked for only if no shape has its name.

    Raises:
      InputError: If there is no such shape, or the source cannot be read.
    """
    if not name:
        own = source.partition("@")[0].rstrip("/").rpartition("/")[2].lower().removeprefix(_PREFIX)
        if own not in LM_SHAPES:
            return load_config(source)
        name = own
    if name not in LM_SHAPES:
        raise InputError(f"lm_shape={name!r}: choose one of {', '.join(LM_SHAPES)}")
    return from_json(LM_SHAPES[name], f"lm_shape={name}")
