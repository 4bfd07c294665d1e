"""Laws of the stratified choice: equal shares, nothing twice, and more only adds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from saejax.errors import InputError
from saejax.interp.choose import COSINE_EDGES, allot, choose, cosine_bins


@st.composite
def populations(draw):
    size = draw(st.integers(1, 60))
    level_N = draw(arrays(np.int64, size, elements=st.integers(0, 4)))
    bin_N = draw(arrays(np.int64, size, elements=st.integers(0, 4)))
    eligible_N = draw(arrays(bool, size))
    return level_N, bin_N, eligible_N


def is_fair(shares, sizes):
    """No group has two more than another that still had some."""
    return all(
        shares[i] <= shares[j] + 1
        for i in range(len(sizes))
        for j in range(len(sizes))
        if shares[j] < sizes[j]
    )


@given(arrays(np.int64, st.integers(1, 8), elements=st.integers(0, 30)), st.integers(0, 300))
def test_shares_are_fair_and_only_grow(sizes, total):
    shares, more = allot(sizes, total), allot(sizes, total + 1)
    assert shares.sum() == min(total, sizes.sum())
    assert (shares <= sizes).all()
    assert is_fair(shares, sizes)
    assert (more >= shares).all()


@given(populations(), st.integers(1, 70), st.integers(0, 5))
def test_the_choice_is_fair_repeats_and_only_grows(population, count, seed):
    level_N, bin_N, eligible_N = population
    chosen = choose(*population, count, seed=seed)
    assert len(chosen) == len(set(chosen)) == min(count, eligible_N.sum())
    assert (np.diff(chosen) > 0).all()
    assert eligible_N[chosen].all()
    np.testing.assert_array_equal(chosen, choose(*population, count, seed=seed))
    assert set(chosen) <= set(choose(*population, count + 7, seed=seed))
    groups = np.unique(level_N)
    sizes = [(eligible_N & (level_N == level)).sum() for level in groups]
    shares = [(level_N[chosen] == level).sum() for level in groups]
    assert is_fair(shares, sizes)
    for level in groups:
        own = eligible_N & (level_N == level)
        sizes = [(own & (bin_N == b)).sum() for b in range(5)]
        shares = [((level_N[chosen] == level) & (bin_N[chosen] == b)).sum() for b in range(5)]
        assert is_fair(shares, sizes)


def test_within_a_stratum_all_are_as_likely():
    zeros_N, all_N = np.zeros(10, np.int64), np.ones(10, bool)
    drawn = [choose(zeros_N, zeros_N, all_N, 3, seed=seed) for seed in range(1000)]
    count_N = np.bincount(np.concatenate(drawn), minlength=10)
    # 300 each, with a standard deviation of 14.5.
    assert (abs(count_N - 300) < 60).all()


def test_bins_hold_their_lower_edge():
    cosine_N = np.array([-1, 0.29, *COSINE_EDGES, 1], np.float32)
    assert cosine_bins(cosine_N).tolist() == [0, 0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (1, -1)])
def test_numbers_out_of_range(count, seed):
    with pytest.raises(InputError, match="must be at least"):
        choose(np.zeros(2, int), np.zeros(2, int), np.ones(2, bool), count, seed=seed)
