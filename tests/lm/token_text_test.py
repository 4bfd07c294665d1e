"""Bytes of single tokens against what the tokenizer itself says of whole texts."""

from pathlib import Path

import pytest
import tokenizers

from saejax.lm.token_text import token_bytes
from saejax.lm.tokenizer import Tokenizer, load_tokenizer

TEXT = " Café\n漢字 🙂\u202e</script>\0<|endoftext|> end"


def test_byte_level_tokens_join_to_their_text(tiny_lm: Path):
    tokenizer = load_tokenizer(str(tiny_lm))
    ids = tokenizer.encode_batch([TEXT])[0]
    parts = token_bytes(tokenizer, ids)
    assert b"".join(parts).decode() == TEXT
    assert b"<|endoftext|>" in parts
    # A token a byte: none but ASCII is text by itself.
    assert max(len(part) for part in parts if part != b"<|endoftext|>") == 1


def sentencepiece() -> Tokenizer:
    """As Llama 2: spaces are U+2581, and characters without a token are bytes."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {t: i for i, t in enumerate([*byte_tokens, "<s>", "▁", "t", "h", "e", "▁t"])}
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, [("▁", "t")], byte_fallback=True)
    )
    backend.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    backend.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<s>"])
    return Tokenizer(backend, len(vocabulary), 256, 256, (256,))


def test_sentencepiece_tokens_keep_their_spaces_and_bytes():
    tokenizer = sentencepiece()
    ids = tokenizer.encode_batch([" the 🙂"])[0]
    parts = token_bytes(tokenizer, ids)
    assert b"".join(parts).decode() == " the 🙂"
    assert parts[0] == b" t"
    assert token_bytes(tokenizer, [256]) == [b"<s>"]


@pytest.mark.parametrize("number", [9_999, 260_000])
def test_an_id_without_a_token_shows_its_number(tiny_lm: Path, number: int):
    assert token_bytes(load_tokenizer(str(tiny_lm)), [number]) == [f"<{number}>".encode()]
