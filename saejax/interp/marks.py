"""How windows are shown to a language model: as one line, with some tokens between << and >>."""

import itertools
from collections.abc import Collection, Sequence

import numpy as np

from saejax.interp.example import Example

# Tokens above this fraction of the window's largest value count as active (Paulo et al. 2024,
# arXiv 2410.13928, code of version 0.1.3).
ACTIVE_FRAC = 0.3


def active(example: Example) -> tuple[int, ...]:
    """Positions of the tokens whose value is above 0.3 of the window's largest; () if none fires.

    Example:
      >>> active(Example(("a", "b", "c"), np.asarray([0.0, 1.0, 4.0], np.float32), 0))
      (2,)
    """
    largest = example.values.max(initial=0.0)
    return tuple(int(i) for i in np.flatnonzero(example.values > ACTIVE_FRAC * largest))


def show(tokens: Sequence[str], marked: Collection[int] = ()) -> str:
    r"""The text of a window in one line, with runs of marked tokens between << and >>.

    Line breaks become \n, and what looks like a mark in the text itself is spaced out.

    Example:
      >>> show(("An", " old", " man", "\n", "a<<b"), {1, 2})
      'An<< old man>>\\na< <b'
    """
    shown = []
    for is_marked, group in itertools.groupby(range(len(tokens)), lambda i: i in marked):
        text = "".join(tokens[i] for i in group)
        text = text.replace("<<", "< <").replace(">>", "> >")
        shown.append(f"<<{text}>>" if is_marked else text)
    return "".join(shown).replace("\r", r"\r").replace("\n", r"\n")
