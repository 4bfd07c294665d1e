"""How well verdicts on windows agree with what a latent does."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from saejax.analysis.spread import wilson
from saejax.errors import InputError
from saejax.interp.questions import Question


class Score(NamedTuple):
    """A confusion matrix of verdicts; rates are None where there is nothing to divide by.

    Attributes:
      true_positives: Activating windows judged so.
      false_positives: Others judged activating.
      true_negatives: Others judged so.
      false_negatives: Activating windows judged otherwise.
      unparsable: Windows without a verdict; they count for nothing else.
      by_quantile: By quantile of the activating windows, -1 for the others: how many verdicts are
        right, and how many there are.
    """

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    unparsable: int
    by_quantile: dict[int, tuple[int, int]]

    @property
    def recall(self) -> float | None:
        """TP / (TP + FN), the true positive rate."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def specificity(self) -> float | None:
        """TN / (TN + FP), the true negative rate."""
        return _ratio(self.true_negatives, self.true_negatives + self.false_positives)

    @property
    def precision(self) -> float | None:
        """TP / (TP + FP)."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN)."""
        twice = 2 * self.true_positives
        return _ratio(twice, twice + self.false_positives + self.false_negatives)

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of recall and specificity: 0.5 for verdicts that do not depend on the window."""
        if self.recall is None or self.specificity is None:
            return None
        return (self.recall + self.specificity) / 2

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the balanced accuracy over windows.

        With Wilson intervals [l, u] of the two rates p, added in squares: the lower end is
        (p1 + p2) / 2 - sqrt((p1 - l1)^2 + (p2 - l2)^2) / 2, the upper one likewise.

        References:
          Newcombe 1998, Interval estimation for the difference between independent proportions,
          Statistics in Medicine 17, method 10, for a sum.
        """
        middle = self.balanced_accuracy
        if middle is None or self.recall is None or self.specificity is None:
            return None
        positives = self.true_positives + self.false_negatives
        negatives = self.true_negatives + self.false_positives
        low_1, high_1 = wilson(self.true_positives, positives)
        low_2, high_2 = wilson(self.true_negatives, negatives)
        below = math.hypot(self.recall - low_1, self.specificity - low_2) / 2
        above = math.hypot(self.recall - high_1, self.specificity - high_2) / 2
        return max(0.0, middle - below), min(1.0, middle + above)

    def record(self) -> dict[str, Any]:
        """The counts and rates, for JSON."""
        rates = ("balanced_accuracy", "interval", "precision", "recall", "specificity", "f1")
        by_quantile = {str(q): list(counts) for q, counts in sorted(self.by_quantile.items())}
        return (
            self._asdict()
            | {"by_quantile": by_quantile}
            | {name: getattr(self, name) for name in rates}
        )


def score(questions: Sequence[Question], verdicts: Sequence[bool | None]) -> Score:
    """Compares verdicts with what the latent does.

    Args:
      questions: Windows.
      verdicts: For each of them, whether it is judged activating; None if that is not known.

    Raises:
      InputError: If there are not as many verdicts as questions.
    """
    if len(questions) != len(verdicts):
        raise InputError(f"{len(questions)} questions, but {len(verdicts)} verdicts: give one each")
    counts = {(activating, verdict): 0 for activating in (True, False) for verdict in (True, False)}
    by_quantile: dict[int, tuple[int, int]] = {}
    for question, verdict in zip(questions, verdicts, strict=True):
        if verdict is None:
            continue
        activating, quantile = question.example.activating, question.example.quantile
        counts[activating, verdict] += 1
        right, judged = by_quantile.get(quantile, (0, 0))
        by_quantile[quantile] = right + (activating == verdict), judged + 1
    return Score(
        true_positives=counts[True, True],
        false_positives=counts[False, True],
        true_negatives=counts[False, False],
        false_negatives=counts[True, False],
        unparsable=len(questions) - sum(counts.values()),
        by_quantile=by_quantile,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
