"""Cycles through three matchings, against following every latent by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saejax.analysis.cycles import core, cycles, invert
from saejax.errors import InputError


def upper(make, num_seeds):
    return [[make(i, j) if i < j else None for j in range(num_seeds)] for i in range(num_seeds)]


def random_matching(rng, num_latents, unmatched=0):
    target = rng.permutation(num_latents)
    target[rng.permutation(num_latents)[:unmatched]] = -1
    return target


@given(st.integers(3, 5), st.integers(1, 8), st.integers(0, 3), st.integers(0, 10**6))
def test_following_every_latent_by_hand(num_seeds, num_latents, unmatched, seed):
    rng = np.random.default_rng(seed)
    targets = upper(lambda i, j: random_matching(rng, num_latents, unmatched), num_seeds)
    hits = upper(lambda i, j: (rng.random(num_latents) < 0.7) & (targets[i][j] >= 0), num_seeds)
    every, shared = cycles(targets), cycles(targets, hits)
    assert every.triples == tuple(itertools.combinations(range(num_seeds), 3))
    for t, (i, j, k) in enumerate(every.triples):
        back = {y: x for x, y in enumerate(targets[i][k]) if y >= 0}
        returned, followed, returned_shared = 0, 0, 0
        for x in range(num_latents):
            y = targets[i][j][x]
            z = targets[j][k][y] if y >= 0 else -1
            home = back.get(z) == x
            returned += home
            if hits[i][j][x] and hits[i][k][x] and hits[j][k][y]:
                followed += 1
                returned_shared += home
        assert (every.followed[t], every.returned[t]) == (num_latents, returned)
        assert (shared.followed[t], shared.returned[t]) == (followed, returned_shared)
        assert every.frac[t] == returned / num_latents
        assert shared.frac[t] == (returned_shared / followed if followed else None)


@given(st.integers(1, 8), st.integers(0, 3), st.integers(0, 10**6), st.permutations(range(3)))
def test_any_seed_may_come_first(num_latents, unmatched, seed, order):
    rng = np.random.default_rng(seed)
    targets = upper(lambda i, j: random_matching(rng, num_latents, unmatched), 3)
    both = {(i, j): targets[i][j] for i, j in ((0, 1), (0, 2), (1, 2))}
    both |= {(j, i): invert(target) for (i, j), target in both.items()}
    reordered = upper(lambda i, j: both[order[i], order[j]], 3)
    assert cycles(reordered).returned == cycles(targets).returned


def test_matchings_by_one_labelling_always_return():
    rng = np.random.default_rng(0)
    label = [rng.permutation(50) for _ in range(4)]
    found = cycles(upper(lambda i, j: invert(label[j])[label[i]], 4))
    assert found.frac == [1.0] * 4
    assert found.mean_frac == 1


def test_chance():
    rng = np.random.default_rng(0)
    found = cycles(upper(lambda i, j: rng.permutation(40), 20))
    assert found.chance == 1 / 40
    # One return a triple on average, Poisson; 1,140 triples of 190 independent matchings.
    assert found.returned.mean() == pytest.approx(1, abs=0.15)
    assert found.mean_frac == pytest.approx(found.chance, abs=0.15 / 40)


@given(st.integers(3, 5), st.integers(1, 8), st.integers(0, 10**6), st.randoms())
def test_the_core_is_the_same_by_every_way(num_seeds, num_latents, seed, random):
    rng = np.random.default_rng(seed)
    label = [rng.permutation(num_latents) for _ in range(num_seeds)]
    order = list(range(num_seeds))
    random.shuffle(order)
    both, both_hits = {}, {}
    for i, j in itertools.combinations(range(num_seeds), 2):
        target = invert(label[j])[label[i]]
        if num_latents > 1 and rng.random() < 0.3:
            target[:2] = target[1::-1]
        both[i, j], both_hits[i, j] = target, rng.random(num_latents) < 0.9
        both[j, i], both_hits[j, i] = invert(target), both_hits[i, j][invert(target)]
    core_N = core(
        upper(lambda i, j: both[i, j], num_seeds), upper(lambda i, j: both_hits[i, j], num_seeds)
    )
    for x in range(num_latents):
        place = {0: x} | {j: both[0, j][x] for j in range(1, num_seeds)}
        assert core_N[x] == all(
            both[i, j][place[i]] == place[j] and both_hits[i, j][place[i]]
            for i, j in itertools.permutations(range(num_seeds), 2)
        )
    reordered = core(
        upper(lambda i, j: both[order[i], order[j]], num_seeds),
        upper(lambda i, j: both_hits[order[i], order[j]], num_seeds),
    )
    assert reordered.sum() == core_N.sum()


def test_nothing_to_follow():
    targets = upper(lambda i, j: np.arange(4), 3)
    found = cycles(targets, upper(lambda i, j: np.zeros(4, bool), 3))
    assert found.frac == [None]
    assert found.mean_frac is None


def test_inverse():
    np.testing.assert_array_equal(invert(np.array([2, -1, 0, 3])), [2, -1, 0, 3])
    np.testing.assert_array_equal(invert(np.array([1, 2, -1, 0])), [3, 0, 1, -1])


def test_unsigned_targets_count_alike():
    rng = np.random.default_rng(0)
    targets = upper(lambda i, j: rng.permutation(30), 4)
    small = [[t if t is None else t.astype(np.uint16) for t in row] for row in targets]
    np.testing.assert_array_equal(cycles(small).returned, cycles(targets).returned)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([0, 0, 1]), r"targets\[0\]\[2\] is no matching of 3 latents"),
        (np.array([0, 1, 3]), "is no matching of 3"),
        (np.array([0, 1, -2]), "is no matching of 3"),
        (np.array([0, 1]), "is no matching of 3"),
        (np.array([0.0, 1, 2]), "is no matching of 3"),
        (None, r"targets\[0\]\[2\] must be a matching"),
    ],
    ids=str,
)
def test_bad_targets(bad, message):
    targets = upper(lambda i, j: np.arange(3), 3)
    targets[0][2] = bad
    with pytest.raises(InputError, match=message):
        cycles(targets)


def test_bad_shapes():
    targets = upper(lambda i, j: np.arange(3), 3)
    with pytest.raises(InputError, match="a cycle needs three"):
        cycles(upper(lambda i, j: np.arange(3), 2))
    with pytest.raises(InputError, match="3 entries for each of the 3 seeds"):
        cycles([row[:2] for row in targets])
    with pytest.raises(InputError, match=r"targets\[1\]\[0\] must be None"):
        cycles([[None if i == j else np.arange(3) for j in range(3)] for i in range(3)])
    with pytest.raises(InputError, match=r"hits\[0\]\[1\] must hold a bool for each of 3"):
        cycles(targets, upper(lambda i, j: np.ones(2, bool), 3))
    with pytest.raises(InputError, match="hits of 2 seeds must have 2 entries each"):
        cycles(targets, upper(lambda i, j: np.ones(3, bool), 2))
