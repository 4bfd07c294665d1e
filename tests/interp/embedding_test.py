"""AUROC against all pairs counted one by one, its interval against simulated latents."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import bootstrap

from saejax.errors import InputError
from saejax.interp.embedding import auroc, interval, score
from saejax.interp.example import Example
from saejax.interp.questions import Question

# Few values, so that many tie.
VALUES = st.lists(st.sampled_from([-1.0, -0.25, 0.0, 0.125, 0.5, 1.0]), min_size=1, max_size=30)


@hypothesis.given(VALUES, VALUES)
def test_auroc_counts_pairs(activating, others):
    won = sum((a > o) + (a == o) / 2 for a in activating for o in others)
    found = auroc(np.array(activating), np.array(others))
    assert found == won / (len(activating) * len(others))
    # Exchanged, and with the order of values turned round.
    assert auroc(np.array(others), np.array(activating)) == pytest.approx(1 - found)
    assert auroc(-np.array(others), -np.array(activating)) == pytest.approx(found)


@pytest.mark.parametrize("spread", [1.0, 2.0])
@pytest.mark.parametrize(("area", "num", "num_others"), [(0.5, 100, 100), (0.9, 40, 20)])
def test_the_interval_covers_the_area_of_normal_scores(area, num, num_others, spread):
    rng = np.random.default_rng(0)
    shift = ndtri(area) * np.hypot(1, spread)
    covered = []
    for _ in range(500):
        found = auroc(rng.normal(shift, spread, num), rng.normal(size=num_others))
        low, high = interval(found, num, num_others)
        assert 0 <= low <= found <= high <= 1
        covered.append(low <= area <= high)
    assert np.mean(covered) > 0.92


def test_the_interval_is_about_that_of_a_bootstrap():
    rng = np.random.default_rng(0)
    activating, others = rng.normal(0.8, 1, 100), rng.normal(size=100)
    found = auroc(activating, others)
    drawn = bootstrap(
        (activating, others), auroc, vectorized=False, paired=False, rng=rng, n_resamples=500
    )
    ends = drawn.confidence_interval
    assert interval(found, 100, 100) == pytest.approx((ends.low, ends.high), abs=0.02)


@pytest.mark.parametrize("num", [1, 3, 100, 10_000])
def test_ends_of_the_range(num):
    low, high = interval(1.0, num, num)
    assert high == 1
    assert 0 < low < 1
    # As seen from the other side.
    assert interval(0.0, num, num) == pytest.approx((0, 1 - low))
    low, high = interval(0.5, num, num)
    assert low == pytest.approx(1 - high)


def test_a_score_is_of_the_windows_that_fire():
    def question(fires):
        return Question(Example(("a",), np.ones(1, np.float32), 0 if fires else -1))

    found = score([question(fires) for fires in (True, False, True, False)], [0.9, 0.5, 0.5, 0.1])
    assert found.auroc == 0.875
    assert (found.num_activating, found.num_non_activating) == (2, 2)
    record = found.record()
    assert record["auroc"] == 0.875
    assert record["interval"][0] < 0.875 < record["interval"][1]


def test_what_has_no_area():
    some = np.array([0.5])
    with pytest.raises(InputError, match="both kinds"):
        auroc(some, some[:0])
    with pytest.raises(InputError, match="not all finite"):
        auroc(some, np.array([np.nan]))
    with pytest.raises(InputError, match="not an AUROC"):
        interval(1.5, 3, 3)
    with pytest.raises(InputError, match="0 questions, but 1 cosines"):
        score([], [0.1])
