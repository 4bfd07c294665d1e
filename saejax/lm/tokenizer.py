"""Text to token ids and back, with the tokenizer that belongs to a model."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from saejax.errors import InputError
from saejax.lm.gguf import read_gguf
from saejax.lm.safetensors import read_json
from saejax.sources import resolve

# Names of the token that pretraining put between documents: GPT-2, Pythia and SmolLM2; Llama 3.
_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>")

# Token types of GGUF that stand for themselves in text (specification, `tokenizer.ggml.token_type`).
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
    """

    backend: tokenizers.Tokenizer
    vocab_size: int
    end_of_text: int

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

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; incomplete characters become U+FFFD.

        Raises:
          InputError: For an id that is not in the vocabulary.
        """
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise InputError(f"token id {token} is not in [0, {self.vocab_size})")
        return self.backend.decode([int(token) for token in ids], skip_special_tokens=False)


def load_tokenizer(source: str) -> Tokenizer:
    """Loads the tokenizer of a model.

    Args:
      source: As for `saejax.lm.load.load_lm`: a GGUF file, or a directory with tokenizer.json
        and config.json.

    Raises:
      InputError: If the source has no tokenizer, or one that cannot be read.
    """
    path = resolve(source)
    if path.is_dir():
        return _from_directory(path)
    if path.suffix == ".gguf":
        return _from_gguf(path)
    raise InputError(f"{path} is neither a .gguf file nor a Hugging Face model directory")


def _from_directory(path: Path) -> Tokenizer:
    file = path / "tokenizer.json"
    # Read it first: the tokenizers package raises bare `Exception` for what is not JSON.
    read_json(file)
    backend = _parsed(file)
    eos = read_json(path / "config.json").get("eos_token_id")
    return _finished(backend, eos[0] if isinstance(eos, list) and eos else eos, path)
