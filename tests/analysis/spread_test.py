"""Intervals of fractions, against other ways to get them, and their coverage."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from saejax.analysis.spread import FRACTIONS, over_seeds, spread_record, wilson
from saejax.errors import InputError


@pytest.mark.parametrize(
    ("count", "total"), [(0, 1), (0, 50), (3, 50), (25, 50), (50, 50), (490, 1024)]
)
def test_wilson_is_scipys(count, total):
    theirs = binomtest(count, total).proportion_ci(method="wilson")
    assert wilson(count, total) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_covers_what_it_says():
    # Exactly, over all counts of 100 latents: 95 % on average over fractions.
    covered = []
    for frac in np.linspace(0.1, 0.9, 81):
        inside = [low <= frac <= high for low, high in (wilson(k, 100) for k in range(101))]
        covered.append(binom.pmf(np.arange(101), 100, frac) @ inside)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.005)
    assert min(covered) > 0.92


def test_wilson_is_the_bootstrap_of_many_latents():
    rng = np.random.default_rng(0)
    drawn = rng.binomial(1024, 490 / 1024, size=20_000) / 1024
    assert wilson(490, 1024) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=2e-3)


@pytest.mark.parametrize(("count", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_no_fraction(count, total):
    with pytest.raises(InputError, match="are no fraction"):
        wilson(count, total)


def drawn_pairs(rng, S):
    """A fraction of each pair: what both seeds bring, and what they have together."""
    seed = rng.normal(scale=0.03, size=S)
    pairs = itertools.combinations(range(S), 2)
    return {(i, j): 0.5 + seed[i] + seed[j] + rng.normal(scale=0.02) for i, j in pairs}


def test_coverage_over_seeds():
    rng = np.random.default_rng(0)
    S, trials, covered, naive, squares, means = 6, 2000, 0, 0, [], []
    for _ in range(trials):
        values = drawn_pairs(rng, S)
        spread = over_seeds(values)
        covered += spread.low <= 0.5 <= spread.high
        error = np.std(list(values.values()), ddof=1) / math.sqrt(len(values))
        naive += abs(spread.mean - 0.5) <= 1.96 * error
        squares.append(spread.standard_error**2)
        means.append(spread.mean)
    # Not below what it says, and not far above. Taking pairs for independent is far below.
    assert 0.94 <= covered / trials <= 0.98
    assert naive / trials < 0.8
    assert 1 <= np.mean(squares) / np.var(means) < 1.25


def test_jackknife_by_hand():
    values = {(1, 2): 0.1, (3, 1): 0.2, (2, 3): 0.3, (4, 1): 0.1, (2, 4): 0.2, (3, 4): 0.3}
    spread = over_seeds(values)
    without = [0.8 / 3, 0.6 / 3, 0.4 / 3, 0.6 / 3]
    error = math.sqrt(3 / 4 * sum((each - 0.2) ** 2 for each in without))
    assert spread.standard_error == pytest.approx(error)
    assert (spread.lowest, spread.highest) == (0.1, 0.3)
    # Student's t with 3 degrees of freedom: 3.1824; the lower end is cut off.
    assert spread.high == pytest.approx(0.2 + 3.1824 * error, abs=1e-4)
    assert spread.low == 0


@pytest.mark.parametrize("pairs", [[], [(1, 2), (1, 3)], [(1, 2), (2, 1)]])
def test_pairs_that_are_missing_or_twice(pairs):
    with pytest.raises(InputError, match="needs each pair of them, once"):
        over_seeds(dict.fromkeys(pairs, 0.5))


def entry(seeds, method, frac):
    return {"seeds": seeds, "method": method, "num_latents": 10} | dict.fromkeys(FRACTIONS, frac)


def test_record():
    pairs = [entry([1, 2], "exact", 0.5), entry([1, 2], "sinkhorn", 0.4)]
    found = spread_record(pairs)
    assert list(found["methods"]) == ["exact", "sinkhorn"]
    assert found["methods"]["sinkhorn"]["shared_frac"]["mean"] == 0.4
    assert found["pairs"][0]["aligned_frac"] == wilson(5, 10)
    assert found["missing"] == {"jackknife": "2 seeds: needs three"}
    for method in ("exact", "sinkhorn"):
        pairs += [entry(seeds, method, 0.5) for seeds in ([1, 3], [2, 3])]
    assert spread_record(pairs)["missing"] == {}
