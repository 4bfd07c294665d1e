"""Whether sharing repeats, against counting over all pairs of others."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from saejax.analysis.repeats import repeats
from saejax.analysis.seeds import trend
from saejax.errors import InputError


@given(st.integers(3, 6), st.integers(1, 12), st.integers(0, 10**6))
def test_counting_over_all_pairs_of_others(num_seeds, num_latents, seed):
    rng = np.random.default_rng(seed)
    frac_N = rng.random(num_latents)
    hits = [
        [None if i == j else rng.random(num_latents) < frac_N for j in range(num_seeds)]
        for i in range(num_seeds)
    ]
    found = repeats(trend(hits).levels)
    after = {True: [], False: []}
    for base in hits:
        others = [mask for mask in base if mask is not None]
        for first, second in itertools.permutations(others, 2):
            for n in range(num_latents):
                after[bool(first[n])].append(bool(second[n]))
    for outcomes, frac in (
        (after[True], found.after_shared_frac),
        (after[False], found.after_unshared_frac),
    ):
        assert frac == (pytest.approx(np.mean(outcomes)) if outcomes else None)
    shared, unshared = len(after[True]), len(after[False])
    assert found.shared_frac == pytest.approx(shared / (shared + unshared))
    wanted = num_latents * stats.binom(num_seeds - 1, found.shared_frac).pmf(range(num_seeds))
    np.testing.assert_allclose(found.independent_levels, wanted, atol=1e-9)


def test_two_kinds_of_latents():
    # One latent that all share and one that none shares: sharing repeats for sure.
    found = repeats(np.array([[1, 0, 1]] * 3))
    assert (found.shared_frac, found.after_shared_frac, found.after_unshared_frac) == (0.5, 1, 0)


def test_all_or_nothing_shared():
    none, every = repeats(np.array([[5, 0, 0]] * 3)), repeats(np.array([[0, 0, 5]] * 3))
    assert (none.after_shared_frac, none.after_unshared_frac) == (None, 0)
    assert (every.after_shared_frac, every.after_unshared_frac) == (1, None)
    np.testing.assert_allclose(none.independent_levels, [5, 0, 0])
    np.testing.assert_allclose(every.independent_levels, [0, 0, 5])


def test_two_seeds_say_nothing():
    with pytest.raises(InputError, match="2 seeds"):
        repeats(np.array([[1, 1]] * 2))
