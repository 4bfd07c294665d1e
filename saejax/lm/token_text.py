"""Token ids to the bytes that they stand for. V tokens."""

import json
import re
from collections.abc import Sequence

from tokenizers import pre_tokenizers

from saejax.lm.tokenizer import Tokenizer

_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def token_bytes(tokenizer: Tokenizer, ids: Sequence[int]) -> list[bytes]:
    """The bytes of single tokens, with their leading spaces.

    A token may end within a character, so that its bytes alone are no text; those of its
    neighbours complete it. `Tokenizer.decode` of single tokens would lose such bytes, and with
    SentencePiece vocabularies the spaces.

    Args:
      tokenizer: Byte-level (GPT-2, Pythia, Llama 3, SmolLM2) or SentencePiece with byte fallback
        (Llama 2, Mistral, Gemma).
      ids: [V]; an id without a token, as in a padded vocabulary, becomes `<id>`.
    """
    backend = tokenizer.backend
    decoder = json.loads(backend.to_str())["decoder"] or {}
    parts = [decoder, *decoder.get("decoders", ())]
    byte_of = _byte_alphabet() if any(part["type"] == "ByteLevel" for part in parts) else None
    added = backend.get_added_tokens_decoder()
    found = []
    for number in ids:
        token = backend.id_to_token(int(number))
        if token is None:
            found.append(f"<{number}>".encode())
        elif number in added:
            found.append(token.encode())
        elif byte_of is not None:
            found.append(b"".join(byte_of.get(symbol, symbol.encode()) for symbol in token))
        elif (match := _BYTE_TOKEN.fullmatch(token)) is not None:
            found.append(bytes.fromhex(match[1]))
        else:
            found.append(token.replace("▁", " ").encode())
    return found


def _byte_alphabet() -> dict[str, bytes]:
    """The byte of each symbol of byte-level vocabularies.

    Printable bytes are their own symbols, and the others, in order, have symbols from U+0100 on
    (Radford et al. 2019, GPT-2, `bytes_to_unicode` of its code).
    """
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = {ord(symbol) for symbol in symbols if ord(symbol) < 256}
    others = iter(sorted(set(range(256)) - own))
    return {
        symbol: bytes([ord(symbol) if ord(symbol) < 256 else next(others)]) for symbol in symbols
    }
