"""Questions: every window once, in random order, with marks that give nothing away."""

import numpy as np
import pytest
from scipy import stats

from saejax.errors import InputError
from saejax.interp.example import Example
from saejax.interp.marks import active
from saejax.interp.questions import detection, fuzzing


def make(num_activating, num_others, length=16, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for number in range(num_activating + num_others):
        values = np.zeros(length, np.float32)
        if number < num_activating:
            places = rng.choice(length, size=rng.integers(1, 5), replace=False)
            values[places] = rng.uniform(1, 2, size=len(places))
        tokens = tuple(f" {number}-{i}" for i in range(length))
        found.append(Example(tokens, values, number % 10 if number < num_activating else -1))
    return found


@pytest.mark.parametrize("kind", [detection, fuzzing])
def test_every_window_once_in_an_order_of_the_seed(kind):
    examples = make(20, 30)
    questions = kind(examples, seed=[3, 7])
    found = [question.example.tokens for question in questions]
    assert sorted(found) == sorted(example.tokens for example in examples)
    assert found != [example.tokens for example in examples]
    again = kind(examples, seed=[3, 7])
    assert [q.text for q in again] == [q.text for q in questions]
    assert [q.text for q in kind(examples, seed=[3, 8])] != [q.text for q in questions]


def test_detection_shows_no_marks():
    assert all("<<" not in question.text for question in detection(make(3, 3), seed=0))


def test_fuzzing_marks_as_many_tokens_in_both_kinds():
    questions = fuzzing(make(50, 50), seed=0)
    counts = {True: [], False: []}
    for question in questions:
        if question.example.activating:
            assert question.marked == active(question.example)
        assert len(set(question.marked)) == len(question.marked)
        counts[question.example.activating].append(len(question.marked))
    assert sorted(counts[True]) == sorted(counts[False])
    assert len(set(counts[True])) > 1


def test_fuzzing_marks_random_places():
    length, places = 16, []
    for seed in range(40):
        for question in fuzzing(make(10, 50, length), seed=seed):
            if not question.example.activating:
                places += question.marked
    observed = np.bincount(places, minlength=length)
    assert stats.chisquare(observed).pvalue > 1e-4


def test_fuzzing_of_windows_shorter_than_the_marks():
    long = Example(("a",) * 8, np.ones(8, np.float32), 0)
    short = Example(("b",) * 3, np.zeros(3, np.float32), -1)
    marked = {q.example.activating: q.marked for q in fuzzing([long, short], seed=0)}
    assert marked == {True: tuple(range(8)), False: (0, 1, 2)}


@pytest.mark.parametrize("kind", [detection, fuzzing])
@pytest.mark.parametrize("numbers", [(0, 3), (3, 0), (0, 0)])
def test_one_kind_of_windows_cannot_be_scored(kind, numbers):
    with pytest.raises(InputError, match="needs windows of both kinds"):
        kind(make(*numbers), seed=0)
