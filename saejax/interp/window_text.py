"""The text of each token of a window, as `saejax.interp.examples.sample` wants it."""

import codecs
from collections.abc import Sequence

import numpy as np

from saejax.interp.examples import Decode
from saejax.lm.token_text import token_bytes
from saejax.lm.tokenizer import Tokenizer


def window_decoder(tokenizer: Tokenizer) -> Decode:
    """A function from token ids to their texts.

    A character that several tokens make up is the text of the last of them, and those before have
    an empty text, so that the texts joined are the text of the window. What no token completes
    becomes U+FFFD.
    """
    vocabulary = token_bytes(tokenizer, range(tokenizer.vocab_size))

    def decode(ids_T: np.ndarray) -> Sequence[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        last = len(ids_T) - 1
        return [decoder.decode(vocabulary[i], final=n == last) for n, i in enumerate(ids_T)]

    return decode
