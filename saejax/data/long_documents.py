"""Cutting long documents into pieces whose tokens are, one after the other, those of the whole.

A tokenizer holds some 150 bytes a character while it works on a text, and gives each text to one
core: a file of a gigabyte has to be cut, and no token may change.
"""

from collections.abc import Callable, Iterator, Sequence

# Characters on each side of a place that have to agree: far more than a word, which is as far as
# tokenizers look.
_CONTEXT = 500
# Places tried; a tokenizer that marks the beginning of a text fits none.
_PLACES = 32

EncodeBatch = Callable[[Sequence[str]], Sequence[Sequence[int]]]


def cut(text: str, encode_batch: EncodeBatch, size: int) -> Iterator[str]:
    """Pieces of about `size` characters, which end at line ends where tokens are separate anyway.

    At each place the text around it is tokenized whole and in two: they have to agree. Where no
    place is found, what is left is one piece.

    Args:
      text: A document.
      encode_batch: Texts to token ids.
      size: Characters.
    """
    start = 0
    while len(text) - start > 2 * size:
        end = _place(text, start + size, encode_batch)
        if end is None:
            break
        yield text[start:end]
        start = end
    yield text[start:]


def _place(text: str, position: int, encode_batch: EncodeBatch) -> int | None:
    for _ in range(_PLACES):
        position = text.find("\n", position) + 1
        if not position:
            return None
        before, after = text[position - _CONTEXT : position], text[position : position + _CONTEXT]
        left, right, both = encode_batch([before, after, before + after])
        # A run of blanks that is longer than what is seen of it may become any token.
        if before.strip() and after.strip() and [*left, *right] == list(both):
            return position
    return None
