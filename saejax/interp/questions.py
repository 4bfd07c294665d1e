"""What a scorer is asked about: windows in random order, with or without marks."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from saejax.errors import InputError
from saejax.interp.example import Example
from saejax.interp.marks import active, show


class Question(NamedTuple):
    """A window that fits its latent or not, as it is shown.

    Attributes:
      example: The window; the right answer is whether it is activating.
      marked: Positions that are marked; () in detection.
    """

    example: Example
    marked: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The window in one line, with its marks."""
        return show(self.example.tokens, self.marked)


def detection(examples: Sequence[Example], *, seed: int | Sequence[int]) -> list[Question]:
    """Does the latent fire in this window? All windows in random order, unmarked.

    Args:
      examples: Windows in which the latent fires, and others; none that the explainer saw.
      seed: Of the order. A list, as [seed, latent], gives each latent its own.

    Raises:
      InputError: If one of the two kinds is missing.
    """
    _both_kinds(examples)
    order = np.random.default_rng(seed).permutation(len(examples))
    return [Question(examples[i]) for i in order]


def fuzzing(examples: Sequence[Example], *, seed: int | Sequence[int]) -> list[Question]:
    """Does the latent fire on the marked tokens? All windows in random order.

    In activating windows the active tokens are marked (above 0.3 of the largest value). In the
    others as many tokens are marked as in a random activating one, so that the numbers agree in
    distribution and on average, at places drawn without replacement from the whole window: neither
    the number nor the place of the marks tells the two kinds apart.

    Args:
      examples: As for `detection`.
      seed: Of the order and the places.

    Raises:
      InputError: If one of the two kinds is missing.

    References:
      Paulo et al. 2024, arXiv 2410.13928, section 3.2.
    """
    _both_kinds(examples)
    rng = np.random.default_rng(seed)
    counts = [len(active(example)) for example in examples if example.activating]
    drawn = itertools.cycle(rng.permutation(counts).tolist())

    def marked(example: Example) -> tuple[int, ...]:
        if example.activating:
            return active(example)
        length = len(example.tokens)
        places = rng.choice(length, size=min(next(drawn), length), replace=False)
        return tuple(sorted(places.tolist()))

    questions = [Question(example, marked(example)) for example in examples]
    return [questions[i] for i in rng.permutation(len(questions))]


def _both_kinds(examples: Sequence[Example]) -> None:
    firing = sum(example.activating for example in examples)
    if not 0 < firing < len(examples):
        raise InputError(
            f"{firing} of {len(examples)} windows activate the latent: scoring needs windows of "
            "both kinds"
        )
