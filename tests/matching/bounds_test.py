"""Every pair that is not priced again is really proven."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saejax.matching.bounds import Bounds, unproven


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_what_is_left_out_is_proven(seed):
    rng = np.random.default_rng(seed)
    num_rows, num_columns = rng.integers(1, 12, size=2)
    similarity = rng.normal(size=(num_rows, num_columns))
    sides = []
    for matrix in (similarity, similarity.T):
        versions = rng.integers(1, 4)
        prices = [rng.normal(size=matrix.shape[1]) for _ in range(versions)]
        version = rng.integers(0, versions, matrix.shape[0])
        # Nothing is an edge here, so a bound is the largest reduced similarity, or above it.
        bound = np.array([(matrix[i] - prices[version[i]]).max() for i in range(len(matrix))])
        loose = rng.choice([0.0, 0.5, np.inf], size=len(matrix))
        sides.append(Bounds(prices, version, bound + loose))
    u, v = rng.normal(size=num_rows) + 1, rng.normal(size=num_columns) + 1
    rows, columns = unproven(sides[0], sides[1], u, v)
    left = np.ones((num_rows, num_columns), bool)
    left[rows] = False
    left[:, columns] = False
    assert (similarity - u[:, None] - v[None])[left].max(initial=-1) <= 1e-12


def test_nothing_is_priced_when_prices_stay():
    similarity = np.random.default_rng(0).normal(size=(20, 30))
    v = np.zeros(30)
    u = similarity.max(axis=1)
    rows = Bounds([v], np.zeros(20, int), u.copy())
    columns = Bounds([u], np.zeros(30, int), np.full(30, np.inf))
    assert [len(x) for x in unproven(rows, columns, u, v)] == [0, 0]


@pytest.mark.parametrize("fallen", [1, 3])
def test_a_few_fallen_prices_are_priced_as_columns(fallen):
    similarity = np.random.default_rng(0).normal(size=(20, 30))
    v = np.zeros(30)
    u = similarity.max(axis=1)
    rows = Bounds([v], np.zeros(20, int), u.copy())
    columns = Bounds([u], np.zeros(30, int), np.full(30, np.inf))
    now = v.copy()
    now[:fallen] = -9
    found = unproven(rows, columns, u, now)
    assert len(found[0]) == 0
    np.testing.assert_array_equal(found[1], np.arange(fallen))
