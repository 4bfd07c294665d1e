"""A tokenizer with a token a character, for tests of what is done with tokens."""

import pytest


class Letters:
    """Ids are code points, below 0x110000; `seen` has every text that was given to it."""

    def __init__(self, bos=1, fingerprint="letters"):
        self.end_of_text, self.bos, self.fingerprint = 0, bos, fingerprint
        self.seen = []

    def encode_batch(self, texts):
        self.seen += texts
        return [[ord(c) for c in text] for text in texts]


@pytest.fixture(scope="session")
def letters():
    """The class; making one forgets what others have seen."""
    return Letters
