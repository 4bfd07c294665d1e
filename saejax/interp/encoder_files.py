"""What the files of a sentence encoder say beside its weights: tokens, longest text, pooling."""

import json
from pathlib import Path
from typing import Any, Literal

import tokenizers

from saejax.errors import InputError
from saejax.lm.fields import Fields
from saejax.lm.safetensors import read_json
from saejax.lm.tokenizer import read_backend

Pooling = Literal["mean", "cls"]

# sentence-transformers before version 6 had a switch for each mode, and has one field since.
_SWITCHES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_MODULES = ("Transformer", "Pooling", "Normalize")

# A token between the two that begin and end a text.
_FEWEST_TOKENS = 3


def read_tokenizer(path: Path, vocab_size: int, max_tokens: int) -> tokenizers.Tokenizer:
    """The tokenizer of a directory, which cuts texts at `max_tokens` and does not pad them.

    Raises:
      InputError: If there is none, or it has ids beyond the model's.
    """
    backend = read_backend(path)
    last = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
    if last >= vocab_size:
        raise InputError(
            f"{path}: the tokenizer has ids up to {last}, but the model's vocab_size is "
            f"{vocab_size}: they do not belong together"
        )
    # The file of all-MiniLM-L6-v2 pads and cuts all texts to 128 tokens, which is not its limit.
    backend.no_padding()
    backend.enable_truncation(max_tokens)
    return backend


def read_max_tokens(path: Path) -> int:
    """Tokens of the longest text: the least that a file names, 512 where none does.

    Raises:
      InputError: If that leaves no room for a text.
    """
    # BERT's positions, for directories that say nothing.
    longest = 512
    for name, field in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        file = path / name
        fields = Fields(read_json(file) if file.exists() else {}, file)
        longest = min(longest, fields.number(field, int, longest))
        if longest < _FEWEST_TOKENS:
            raise InputError(f"{file}: {field}={longest} leaves no room for a text")
    return longest


def read_pooling(path: Path) -> Pooling:
    """How sentence-transformers pools tokens, by modules.json; "mean" without it.

    Raises:
      InputError: If the file is broken, or names another pooling or more modules.
    """
    file = path / "modules.json"
    if not file.exists():
        return "mean"
    folders = {}
    for module in _modules(file):
        kind = str(module.get("type")).rpartition(".")[2]
        if kind not in _MODULES:
            raise InputError(
                f"{file}: module {kind} is not supported, only {', '.join(_MODULES)}: choose "
                "another model"
            )
        folders[kind] = path / str(module.get("path"))
    if "Pooling" not in folders:
        return "mean"
    settings = folders["Pooling"] / "config.json"
    values = read_json(settings)
    switched = [mode for name, mode in _SWITCHES.items() if values.get(name)]
    named = values.get("pooling_mode", switched[0] if len(switched) == 1 else switched)
    if named == "mean":
        return "mean"
    if named == "cls":
        return "cls"
    raise InputError(
        f"{settings}: pooling by {named!r} is not supported, only by 'mean' or 'cls': choose "
        "another model"
    )


def _modules(file: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}") from None
    if not isinstance(modules, list) or not all(isinstance(each, dict) for each in modules):
        raise InputError(f"{file} must hold a list of modules")
    return modules
