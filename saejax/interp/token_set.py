"""The simplest explanation, "fires on these tokens", made and scored without a language model."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from saejax.errors import InputError
from saejax.interp.example import Example
from saejax.interp.marks import active, show
from saejax.interp.questions import Question

# A token belongs to the set if it is active at least at half of its places.
_LEAST_WEIGHT = 0.5

# Tokens in the text of the explanation.
_SHOWN = 10


class TokenSet(NamedTuple):
    """What a latent does on each token of some windows in which it fires.

    Attributes:
      active: How often each token is active, most often first.
      seen: How often each of these occurs in the windows.
    """

    active: dict[str, int]
    seen: dict[str, int]

    def weight(self, token: str) -> float:
        """At which fraction of its places the token is active; 0 for one that is never."""
        return self.active[token] / self.seen[token] if token in self.active else 0.0

    @property
    def tokens(self) -> list[str]:
        """The set: tokens of a weight of at least 0.5, most often active first."""
        return [token for token in self.active if self.weight(token) >= _LEAST_WEIGHT]

    @property
    def explanation(self) -> str:
        """The set in words, with the ten tokens that are most often active."""
        shown = [
            f'"{show((token,))}" ({self.active[token]} of {self.seen[token]})'
            for token in self.tokens[:_SHOWN]
        ]
        return f"fires on these tokens: {', '.join(shown)}" if shown else "fires on no one token"


def token_set(examples: Sequence[Example]) -> TokenSet:
    """The tokens on which a latent's value is above 0.3 of the window's largest.

    Args:
      examples: Windows in which the latent fires: those that an explainer gets.

    Raises:
      InputError: If there is none.
    """
    if not any(example.activating for example in examples):
        raise InputError(f"none of {len(examples)} windows activates the latent: give some that do")
    active_counts, seen = Counter[str](), Counter[str]()
    for example in examples:
        seen.update(example.tokens)
        active_counts.update(example.tokens[i] for i in active(example))
    # Ties in the order of the alphabet, so that the order of windows does not matter.
    ordered = dict(sorted(active_counts.items(), key=lambda item: (-item[1], item[0])))
    return TokenSet(ordered, {token: seen[token] for token in ordered})


def detect(tokens: TokenSet, questions: Sequence[Question]) -> list[bool | None]:
    """Detection by the set: a window is judged activating if it holds one of the tokens."""
    chosen = set(tokens.tokens)
    return [not chosen.isdisjoint(question.example.tokens) for question in questions]


def fuzz(tokens: TokenSet, questions: Sequence[Question]) -> list[bool | None]:
    """Fuzzing by the set: marks are judged right if half of the marked tokens are in it.

    Raises:
      InputError: If a window has no marks.
    """
    chosen = set(tokens.tokens)

    def right(question: Question) -> bool:
        marked = [question.example.tokens[i] for i in question.marked]
        if not marked:
            raise InputError("a window has no marks: make the questions with questions.fuzzing")
        return 2 * sum(token in chosen for token in marked) >= len(marked)

    return [right(question) for question in questions]
