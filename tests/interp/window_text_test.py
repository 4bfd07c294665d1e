"""Texts of tokens, joined, against the tokenizer's own decoding."""

import numpy as np

from saejax.interp.window_text import window_decoder
from saejax.lm import load_tokenizer


def test_texts_join_to_the_text(tiny_lm):
    tokenizer = load_tokenizer(str(tiny_lm))
    decode = window_decoder(tokenizer)
    ids = np.array(tokenizer.encode_batch([" né漢 🙂."])[0])
    texts = decode(ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == " né漢 🙂."
    # A character of two bytes belongs to the second.
    assert texts[:4] == [" ", "n", "", "é"]
    # One that is cut off at either end is lost, not the rest.
    assert "".join(decode(ids[3:6])).strip("\ufffd") == ""
    assert decode(ids[1:2]) == ["n"]
