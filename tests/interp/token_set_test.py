"""The token set on planted latents: right explanations score, wrong ones do not."""

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.interp.example import Example
from saejax.interp.questions import Question, detection, fuzzing
from saejax.interp.score import score
from saejax.interp.token_set import detect, fuzz, token_set

WORDS = [f" w{i}" for i in range(500)]


def planted(word, rng, num, *, firing, length=32):
    """Windows of random words; the latent fires on one word, a little less on what follows it."""
    found = []
    for _ in range(num):
        tokens = rng.choice([other for other in WORDS if other != word], size=length)
        values = np.zeros(length, np.float32)
        if firing:
            place = rng.integers(0, length - 1)
            tokens[place] = word
            values[place : place + 2] = rng.uniform(1, 2) * np.asarray([1.0, 0.2])
        found.append(Example(tuple(tokens.tolist()), values, 0 if firing else -1))
    return found


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def balanced(tokens, examples):
    by_detection = detection(examples, seed=1)
    by_fuzzing = fuzzing(examples, seed=1)
    return (
        score(by_detection, detect(tokens, by_detection)).balanced_accuracy,
        score(by_fuzzing, fuzz(tokens, by_fuzzing)).balanced_accuracy,
    )


def test_planted_latents(rng):
    sets = {word: token_set(planted(word, rng, 40, firing=True)) for word in WORDS[:4]}
    others = dict(zip(sets, [*WORDS[1:4], WORDS[0]], strict=True))
    wrong = []
    for word in sets:
        examples = planted(word, rng, 100, firing=True) + planted(word, rng, 100, firing=False)
        assert sets[word].tokens == [word]
        right = balanced(sets[word], examples)
        assert min(right) > 0.95
        assert balanced(sets[others[word]], examples) == pytest.approx((0.5, 0.5), abs=0.06)
        wrong.append(balanced(sets[others[word]], examples))
    np.testing.assert_allclose(np.mean(wrong, axis=0), 0.5, atol=0.03)


def make(text, values, quantile=0):
    return Example(tuple(text.split()), np.asarray(values, np.float32), quantile)


def test_weights_by_hand():
    examples = [
        make("the cat the cat", [0, 4, 0, 3]),
        make("a cat by the mat", [0, 0, 0, 2, 2]),
        make("cat", [1]),
    ]
    found = token_set(examples)
    # "cat" is active at 3 of 4 places, "the" at 1 of 3, "mat" at 1 of 1.
    assert found.active == {"cat": 3, "mat": 1, "the": 1}
    assert found.seen == {"cat": 4, "mat": 1, "the": 3}
    assert [found.weight(t) for t in ("cat", "the", "mat", "by")] == [0.75, 1 / 3, 1.0, 0.0]
    assert found.tokens == ["cat", "mat"]
    assert found.explanation == 'fires on these tokens: "cat" (3 of 4), "mat" (1 of 1)'
    assert token_set(examples[::-1]) == found
    assert list(token_set(examples[::-1]).active) == ["cat", "mat", "the"]


def test_verdicts_by_hand():
    tokens = token_set([make("cat sat", [2, 1])])
    assert tokens.tokens == ["cat", "sat"]
    windows = [make("a cat ran off", [0] * 4, -1), make("a dog ran off", [0] * 4, -1)]
    assert detect(tokens, [Question(window) for window in windows]) == [True, False]
    marks = [(1,), (1, 2), (1, 2, 3), (0,)]
    assert fuzz(tokens, [Question(windows[0], m) for m in marks]) == [True, True, False, False]


def test_latents_that_fire_on_no_one_token():
    tokens = token_set([make("a a a", [0, 0, 1])])
    assert tokens.tokens == []
    assert tokens.explanation == "fires on no one token"
    assert detect(tokens, [Question(make("a", [1]))]) == [False]


def test_what_cannot_be_done():
    with pytest.raises(InputError, match="none of 1 windows activates"):
        token_set([make("a", [0], -1)])
    with pytest.raises(InputError, match="no marks"):
        fuzz(token_set([make("a", [1])]), [Question(make("a", [1]))])
