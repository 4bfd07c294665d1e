"""Text to token ids and back, with the tokenizer that belongs to a model."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from saejax.errors import InputError
from saejax.lm.gguf import read_gguf
from saejax.lm.safetensors import read_json
from saejax.sources import MODEL_FILES, resolve

# Names of the token that pretraining put between documents: GPT-2, Pythia and SmolLM2; Llama 3.
_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>")

# Types of tokens that are not made by merges (specification, `tokenizer.ggml.token_type`).
_CONTROL, _USER_DEFINED = 3, 4


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer; ids are in [0, vocab_size).

    Attributes:
      vocab_size: Number of ids.
      end_of_text: Id of the token that separates documents in pretraining. Where the
        vocabulary has `<|endoftext|>` or `<|end_of_text|>` it is that one, and not the
        end-of-sequence field of the file: chat models set that field to the token that ends
        a turn (SmolLM2-135M-Instruct: 2, `<|im_end|>`), which their pretraining never saw.
      bos: Id of the token that begins a sequence, as the files say; None if they name none.
      special_ids: Ids of special tokens, rising: those, and what else is not text.
    """

    backend: tokenizers.Tokenizer
    vocab_size: int
    end_of_text: int
    bos: int | None
    special_ids: tuple[int, ...]

    @property
    def fingerprint(self) -> str:
        """A hash that differs between tokenizers, and between versions of the package."""
        text = f"{tokenizers.__version__} {self.backend.to_str()}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without added beginning or end.

        Bytes that have no token are left out, as by Hugging Face's tokenizer (SmolLM2: six
        control characters, and the first bytes of planes 4 to 11, which Unicode leaves empty).

        Raises:
          InputError: For a text that is not valid Unicode.
        """
        for number, text in enumerate(texts):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"text {number} has an unpaired surrogate at character {error.start}: "
                    "repair its encoding"
                ) from None
        encoded = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " T"]) -> str:
        """Text of token ids; incomplete characters become U+FFFD.

        Raises:
          InputError: For an id that is not in the vocabulary.
        """
        if len(ids) and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise InputError(
                f"token ids from {min(ids)} to {max(ids)} are not all in [0, {self.vocab_size})"
            )
        return self.backend.decode([int(token) for token in ids], skip_special_tokens=False)


def load_tokenizer(source: str) -> Tokenizer:
    """Loads the tokenizer of a model.

    Args:
      source: As for `saejax.lm.load.load_lm`: a GGUF file, or a directory with tokenizer.json
        and config.json.

    Raises:
      InputError: If the source has no tokenizer, or one that cannot be read.
    """
    path = resolve(source, hub_files=MODEL_FILES)
    if path.is_dir():
        return _from_directory(path)
    if path.suffix == ".gguf":
        return _from_gguf(path)
    raise InputError(f"{path} is neither a .gguf file nor a Hugging Face model directory")


def read_backend(path: Path) -> tokenizers.Tokenizer:
    """What the tokenizer.json of a directory holds.

    Raises:
      InputError: If there is none, or it cannot be used.
    """
    file = path / "tokenizer.json"
    read_json(file)
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:
        # The package raises Exception itself, no subclass, for a file that it cannot use.
        if type(error) is not Exception:
            raise
        raise InputError(f"{file} is not a usable tokenizer: {error}") from None
    return backend


def _from_directory(path: Path) -> Tokenizer:
    backend = read_backend(path)
    config = read_json(path / "config.json")
    eos = config.get("eos_token_id")
    eos = eos[0] if isinstance(eos, list) and eos else eos
    return _finished(backend, eos, _bos(path, config, backend), config.get("vocab_size"), path)


def _bos(path: Path, config: dict[str, Any], backend: tokenizers.Tokenizer) -> object:
    """The id of the token in tokenizer_config.json if it names one or none, else config.json's."""
    file = path / "tokenizer_config.json"
    settings = read_json(file) if file.exists() else {}
    if "bos_token" not in settings:
        return config.get("bos_token_id")
    token = settings["bos_token"]
    token = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(token) if isinstance(token, str) else None


def _from_gguf(path: Path) -> Tokenizer:
    file = read_gguf(path)
    kind = tuple(file.metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != ("gpt2", "smollm"):
        raise InputError(
            f"{path}: a tokenizer of type {kind[0]!r} with pre-tokenizer {kind[1]!r} is not "
            "supported in GGUF files, only 'gpt2' with 'smollm': use the model's Hugging Face "
            "directory, which has a tokenizer.json"
        )

    def strings(name: str) -> list[str]:
        found = file.metadata.get(f"tokenizer.ggml.{name}")
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise InputError(f"{path}: tokenizer.ggml.{name} must be a list of strings")
        return found

    tokens = strings("tokens")
    ids = {token: number for number, token in enumerate(tokens)}
    types = file.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(types, list) or not len(types) == len(tokens) == len(ids):
        raise InputError(
            f"{path}: tokenizer.ggml.tokens must differ from each other, and token_type must "
            "have an entry for each"
        )
    merges = []
    for merge in strings("merges"):
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= ids.keys():
            raise InputError(
                f"{path}: tokenizer.ggml.merges has {merge!r}, which are no two tokens"
            )
        merges.append((left, right))
    backend = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges))
    # As SmolLM2's tokenizer.json: every digit is a word; GPT-2's expression splits the rest.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [
            AddedToken(t, normalized=False)
            for t, k in zip(tokens, types, strict=True)
            if k == _CONTROL
        ]
    )
    backend.add_tokens(
        [
            AddedToken(t, normalized=False)
            for t, k in zip(tokens, types, strict=True)
            if k == _USER_DEFINED
        ]
    )
    embedding = file.tensors.get("token_embd.weight")
    eos = file.metadata.get("tokenizer.ggml.eos_token_id")
    bos = file.metadata.get("tokenizer.ggml.bos_token_id")
    return _finished(backend, eos, bos, embedding.shape[0] if embedding else None, path)


def _finished(
    backend: tokenizers.Tokenizer,
    eos: object,
    bos: object,
    model_vocab_size: object,
    path: Path,
) -> Tokenizer:
    ids = backend.get_vocab(with_added_tokens=True)
    vocab_size = max(ids.values(), default=-1) + 1
    if not isinstance(model_vocab_size, int) or vocab_size > model_vocab_size:
        raise InputError(
            f"{path}: the tokenizer has ids up to {vocab_size - 1}, but the model's vocab_size is "
            f"{model_vocab_size}: they do not belong together"
        )
    named = [ids[name] for name in _END_OF_TEXT if name in ids]
    end_of_text = named[0] if named else eos
    if not isinstance(end_of_text, int) or not 0 <= end_of_text < vocab_size:
        raise InputError(
            f"{path}: no token to put between documents: the vocabulary has none of "
            f"{', '.join(_END_OF_TEXT)} and the end-of-sequence id is {end_of_text!r}"
        )
    if bos is not None and not (isinstance(bos, int) and 0 <= bos < vocab_size):
        raise InputError(
            f"{path}: the beginning-of-sequence id is {bos!r}, which is not in [0, {vocab_size})"
        )
    special = {
        token for token, added in backend.get_added_tokens_decoder().items() if added.special
    }
    special |= {end_of_text} if bos is None else {end_of_text, bos}
    return Tokenizer(backend, vocab_size, end_of_text, bos, tuple(sorted(special)))
