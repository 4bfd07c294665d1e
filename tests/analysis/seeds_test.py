"""The trend over seeds, against enumeration of all subsets, and its laws."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import saejax
from saejax.analysis.seeds import trend
from saejax.errors import InputError


def random_hits(num_seeds, num_latents, seed, frac=0.5):
    rng = np.random.default_rng(seed)
    # Some latents are shared more often than others.
    frac_N = rng.random(num_latents) ** (1 / frac - 1)
    return [
        [None if i == j else rng.random(num_latents) < frac_N for j in range(num_seeds)]
        for i in range(num_seeds)
    ]


def enumerated(hits, k):
    """For each base: mean over all choices of k - 1 others of the fraction none of them has."""
    S = len(hits)
    found = []
    for i in range(S):
        others = [j for j in range(S) if j != i]
        fractions = []
        for chosen in itertools.combinations(others, k - 1):
            alone = [not any(hits[i][j][n] for j in chosen) for n in range(len(hits[i][chosen[0]]))]
            fractions.append(sum(alone) / len(alone))
        found.append(sum(fractions) / len(fractions))
    return found


cases = st.tuples(st.integers(2, 6), st.integers(1, 9), st.integers(0, 10**6))


@given(cases)
def test_enumeration_of_all_subsets(case):
    hits = random_hits(*case)
    t = trend(hits)
    assert list(t.only_in_base_frac) == list(range(2, len(hits) + 1))
    for k, frac in t.only_in_base_frac.items():
        by_base = enumerated(hits, k)
        np.testing.assert_allclose(t.by_base[:, k - 2], by_base, atol=1e-12)
        assert frac == pytest.approx(sum(by_base) / len(by_base), abs=1e-12)


@given(cases)
def test_levels_count_every_latent_once(case):
    hits = random_hits(*case)
    levels = trend(hits).levels
    S, N, _ = case
    assert levels.shape == (S, S)
    np.testing.assert_array_equal(levels.sum(axis=1), N)
    for i, m in itertools.product(range(S), repeat=2):
        others = [mask for mask in hits[i] if mask is not None]
        assert levels[i, m] == sum(sum(mask[n] for mask in others) == m for n in range(N))


@given(cases)
def test_more_autoencoders_leave_less(case):
    t = trend(random_hits(*case))
    assert (np.diff(t.by_base, axis=1) <= 1e-12).all()
    # Two ends that need no formula.
    S, N, _ = case
    shared = t.levels @ np.arange(S) / (N * (S - 1))
    np.testing.assert_allclose(t.by_base[:, 0], 1 - shared, atol=1e-12)
    np.testing.assert_array_equal(t.by_base[:, -1], t.levels[:, 0] / N)


@given(cases, st.randoms())
def test_the_order_of_seeds_does_not_matter(case, random):
    hits = random_hits(*case)
    order = list(range(len(hits)))
    random.shuffle(order)
    first, second = trend(hits), trend([[hits[i][j] for j in order] for i in order])
    np.testing.assert_array_equal(second.levels, first.levels[order])
    np.testing.assert_array_equal(second.by_base, first.by_base[order])
    assert second.only_in_base_frac == pytest.approx(first.only_in_base_frac, abs=1e-12)
    assert second.standard_error == pytest.approx(first.standard_error, abs=1e-12)


@given(cases)
def test_the_jackknife_leaves_each_seed_out(case):
    hits = random_hits(*case)
    t, S = trend(hits), len(hits)
    assert list(t.interval) == list(t.standard_error) == list(range(2, S))
    if S == 2:
        return
    for s in range(S):
        kept = [j for j in range(S) if j != s]
        without = trend([[hits[i][j] for j in kept] for i in kept])
        np.testing.assert_allclose(
            t.leave_one_out[s], list(without.only_in_base_frac.values()), atol=1e-12
        )
    for k, error in t.standard_error.items():
        without, frac = t.leave_one_out[:, k - 2], t.only_in_base_frac[k]
        assert without.mean() == pytest.approx(frac, abs=1e-12)
        naive = math.sqrt((S - 1) / S * sum((f - frac) ** 2 for f in without))
        assert error == pytest.approx(naive, abs=1e-12)
        reach = stats.t(S - 1).ppf(0.975) * naive
        wanted = max(0, frac - reach), min(1, frac + reach)
        assert t.interval[k] == pytest.approx(wanted, abs=1e-9)


def test_the_interval_covers_what_other_seeds_would_give():
    # Slot n of seed i holds the common feature with probability q_n u_i, one of its own otherwise.
    rng = np.random.default_rng(0)
    S, N, trials = 6, 200, 300
    q_N = rng.random(N)
    truth = {k: np.mean(1 - 0.75 * q_N * (1 - (1 - 0.75 * q_N) ** (k - 1))) for k in (2, 4)}
    covered = dict.fromkeys(truth, 0)
    for _ in range(trials):
        common = rng.random((S, N)) < q_N[None] * rng.uniform(0.5, 1, (S, 1))
        hits = [[None if i == j else common[i] & common[j] for j in range(S)] for i in range(S)]
        interval = trend(hits).interval
        for k in truth:
            covered[k] += interval[k][0] <= truth[k] <= interval[k][1]
    for count in covered.values():
        assert 0.9 <= count / trials <= 1


def test_many_seeds_neither_overflow_nor_lose_digits():
    S = 300
    rng = np.random.default_rng(0)
    # Three latents that about 1 %, half and almost all of the others share.
    hits = [
        [None if i == j else rng.random(3) < [0.01, 0.5, 0.995] for j in range(S)] for i in range(S)
    ]
    t = trend(hits)
    for k in (2, 3, 10, 150, 299, 300):
        exact = sum(
            Fraction(int(count) * math.comb(S - 1 - m, k - 1), 3 * math.comb(S - 1, k - 1))
            for m, count in enumerate(t.levels[0])
        )
        assert t.by_base[0, k - 2] == pytest.approx(float(exact), rel=1e-12, abs=1e-300)
    assert np.isfinite(t.leave_one_out).all()


def test_the_contract():
    yes, no = np.array([True, True]), np.array([True, False])
    t = saejax.analysis.seeds.trend([[None, yes], [no, None]])
    assert t.only_in_base_frac == {2: 0.25}
    assert t.levels.tolist() == [[0, 2], [1, 1]]
    assert t.interval == {}


@pytest.mark.parametrize(
    ("hits", "message"),
    [
        ([[None]], "hits of 1 seeds"),
        ([[None, np.ones(2, bool)], [np.ones(2, bool)]], r"hits\[1\] has 1 entries for 2"),
        ([[np.ones(2, bool)] * 2] * 2, r"hits\[0\]\[0\] must be None"),
        ([[None, None], [np.ones(2, bool), None]], r"hits\[0\]\[1\] is object"),
        ([[None, np.ones(2)], [np.ones(2, bool), None]], r"hits\[0\]\[1\] is float64"),
        ([[None, np.ones(0, bool)], [np.ones(0, bool), None]], r"shape \(0,\)"),
        ([[None, np.ones(2, bool)], [np.ones(3, bool), None]], r"hits\[1\]\[0\] is of 3 latents"),
    ],
)
def test_bad_hits(hits, message):
    with pytest.raises(InputError, match=message):
        trend(hits)
