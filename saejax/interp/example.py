"""A piece of text with what one latent does on it."""

from typing import NamedTuple

import numpy as np


class Example(NamedTuple):
    """A context window.

    Attributes:
      tokens: The text of each of its T tokens.
      values: [T] float32, the latent's codes, 0 where it does not fire.
      quantile: Of activating ones: which part of the latent's activating windows it was drawn
        from, by their largest value, 0 for the largest; -1 if the latent does not fire in it.
    """

    tokens: tuple[str, ...]
    values: np.ndarray
    quantile: int

    @property
    def activating(self) -> bool:
        """Whether the latent fires in it."""
        return self.quantile >= 0
