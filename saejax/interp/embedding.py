"""How well an explanation tells windows apart by an embedding of its words, without a chat model.

Dimension letters: A activating windows, O others, n windows, D width of the embedding.

References:
  Paulo et al. 2024, arXiv 2410.13928, section 3.2: explanations as queries for windows, scored by
  the area under the ROC curve. `saejax.interp.cosines` says what differs from their code.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri
from scipy.stats import rankdata

from saejax.analysis.seeds import CONFIDENCE
from saejax.errors import InputError
from saejax.interp.questions import Question

# Of [0, 1], in the search for the end of an interval: down to the spacing of floats below 1.
_HALVINGS = 53


class EmbeddingScore(NamedTuple):
    """How far the cosines of activating windows lie above those of the others.

    Attributes:
      auroc: In [0, 1]; 0.5 for an explanation that says nothing.
      interval: 95 %, over windows, see `interval`.
      num_activating: A.
      num_non_activating: O.
    """

    auroc: float
    interval: tuple[float, float]
    num_activating: int
    num_non_activating: int

    def record(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return self._asdict() | {"interval": list(self.interval)}


def score(questions: Sequence[Question], cosines: Sequence[float]) -> EmbeddingScore:
    """Scores an explanation by the cosine of each window with it.

    Args:
      questions: Windows.
      cosines: For each of them.

    Raises:
      InputError: If there is not one cosine for each, or windows of one kind are missing.
    """
    if len(questions) != len(cosines):
        raise InputError(f"{len(questions)} questions, but {len(cosines)} cosines: give one each")
    fires_n = np.array([question.example.activating for question in questions], bool)
    cosine_n = np.asarray(cosines, np.float64)
    found = auroc(cosine_n[fires_n], cosine_n[~fires_n])
    counts = int(fires_n.sum()), int((~fires_n).sum())
    return EmbeddingScore(found, interval(found, *counts), *counts)


def auroc(activating: Float[np.ndarray, " A"], others: Float[np.ndarray, " O"]) -> float:
    r"""Area under the receiver operating characteristic, exactly, from ranks.

    P(a > o) + P(a = o) / 2 over all pairs of an activating window and another, which with r_a the
    rank of a among all windows (of ties their mean) is

        (sum_a r_a - A (A + 1) / 2) / (A O)

    O(n log n). A threshold on the cosine is not needed, nor does its scale matter.

    Example:
      >>> auroc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
      0.875

    Raises:
      InputError: If one kind is missing, or a value is not finite.

    References:
      Hanley & McNeil 1982, The meaning and use of the area under a receiver operating
      characteristic (ROC) curve, Radiology 143.
    """
    num, num_others = len(activating), len(others)
    if not num or not num_others:
        raise InputError(f"{num} activating and {num_others} other windows: both kinds are needed")
    value_n = np.concatenate([activating, others])
    if not np.isfinite(value_n).all():
        raise InputError("cosines are not all finite: embed the windows again")
    # Sums of ranks and halves are exact in float64.
    above = rankdata(value_n)[:num].sum() - num * (num + 1) / 2
    return float(above / (num * num_others))


def interval(area: float, num: int, num_others: int) -> tuple[float, float]:
    r"""95 % interval of an AUROC over windows: a score interval, as `wilson` is of a fraction.

    It holds all areas q that lie within z standard errors of the one found, with the error that q
    itself would have,

        |q - area| <= z sqrt(q (1 - q) (1 + M (1 - q) / (2 - q) + M q / (1 + q)) / (A O)),

    M = (A + O) / 2 - 1. DeLong's interval and a bootstrap have no width where the two kinds are
    apart (area 1), which explanations by a rare word often are; this one has.

    Example:
      >>> [round(end, 3) for end in interval(1.0, 100, 100)]
      [0.98, 1.0]

    Raises:
      InputError: If the area is outside [0, 1], or a number below 1.

    References:
      Newcombe 2006, Confidence intervals for an effect size measure based on the Mann-Whitney
      statistic, part 2, Statistics in Medicine 25, method 5; the variance is Hanley & McNeil's.
    """
    if not 0 <= area <= 1 or num < 1 or num_others < 1:
        raise InputError(f"area={area} of {num} and {num_others} windows: not an AUROC")
    z, more = float(ndtri((1 + CONFIDENCE) / 2)), (num + num_others) / 2 - 1

    def within(q: float) -> bool:
        weight = 1 + more * (1 - q) / (2 - q) + more * q / (1 + q)
        return abs(q - area) <= z * math.sqrt(q * (1 - q) * weight / (num * num_others))

    return _edge(within, area, 0.0), _edge(within, area, 1.0)


def _edge(within: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where what holds inside ends, by halving; `inside` itself if the two are one."""
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if within(middle) else (inside, middle)
    return inside
