"""Scores against a confusion matrix by hand, and the interval against its promise."""

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.interp.example import Example
from saejax.interp.questions import Question
from saejax.interp.score import Score, score


def questions(quantiles):
    return [Question(Example(("a",), np.zeros(1, np.float32), q)) for q in quantiles]


def test_a_confusion_matrix_by_hand():
    #           hit hit miss ?    hit  right wrong right ?
    quantiles = [0, 0, 1, 1, 2, -1, -1, -1, -1]
    verdicts = [True, True, False, None, True, False, True, False, None]
    found = score(questions(quantiles), verdicts)
    assert found == Score(3, 1, 2, 1, 2, {0: (2, 2), 1: (0, 1), 2: (1, 1), -1: (2, 3)})
    assert found.recall == 3 / 4
    assert found.specificity == 2 / 3
    assert found.precision == 3 / 4
    assert found.f1 == 3 / 4
    assert found.balanced_accuracy == (3 / 4 + 2 / 3) / 2
    record = found.record()
    assert record["by_quantile"] == {"-1": [2, 3], "0": [2, 2], "1": [0, 1], "2": [1, 1]}
    assert (record["true_positives"], record["unparsable"], record["f1"]) == (3, 2, 3 / 4)
    assert record["interval"] == found.interval


def test_a_random_matrix_against_numpy():
    rng = np.random.default_rng(0)
    truth, said = rng.random(400) < 0.4, rng.random(400) < 0.6
    found = score(questions(np.where(truth, 3, -1).tolist()), said.tolist())
    assert found.recall == pytest.approx(said[truth].mean())
    assert found.specificity == pytest.approx((~said[~truth]).mean())
    assert found.precision == pytest.approx(truth[said].mean())
    precision, recall = truth[said].mean(), said[truth].mean()
    assert found.f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_nothing_to_divide_by():
    empty = score([], [])
    for name in ("balanced_accuracy", "interval", "precision", "recall", "specificity", "f1"):
        assert getattr(empty, name) is None
    one_kind = score(questions([0, 0]), [False, None])
    assert one_kind.balanced_accuracy is one_kind.interval is one_kind.precision is None
    assert (one_kind.recall, one_kind.f1) == (0.0, 0.0)


@pytest.mark.parametrize("rates", [(0.9, 0.7), (0.5, 0.5), (0.99, 0.95)])
def test_the_interval_holds_what_it_promises(rates):
    rng = np.random.default_rng(1)
    truth = sum(rates) / 2
    held = 0
    for positives, negatives in zip(
        rng.binomial(50, rates[0], 2000), rng.binomial(50, rates[1], 2000), strict=True
    ):
        counts = map(int, (positives, 50 - negatives, negatives, 50 - positives))
        low, high = Score(*counts, 0, {}).interval
        assert 0 <= low <= high <= 1
        held += low <= truth <= high
    assert 0.93 < held / 2000 < 0.98


def test_as_many_verdicts_as_questions():
    with pytest.raises(InputError, match="2 questions, but 1 verdicts"):
        score(questions([0, 1]), [True])
