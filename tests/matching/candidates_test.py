"""Edges and their weights against naive sums; first prices against what they are for."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from saejax.config import MeshConfig
from saejax.matching.candidates import Edges, pair_products, popularity
from saejax.matching.operands import Side
from saejax.mesh import make_mesh


def sides(a, b):
    mesh = make_mesh(MeshConfig())
    return [Side(np.float32(x), dtype=jnp.dtype(jnp.float32), mesh=mesh) for x in (a, b)]


def naive(x, y):
    return math.fsum(float(p) * float(q) for p, q in zip(x, y, strict=True))


def test_weights_are_float64_products():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 33)), rng.normal(size=(70, 33))
    a_side, b_side = sides(a, b)
    rows, columns = rng.integers(0, 50, 999), rng.integers(0, 70, 999)
    found = pair_products(a_side, b_side, rows, columns)
    expected = [naive(a_side.rows[i], b_side.rows[j]) for i, j in zip(rows, columns, strict=True)]
    np.testing.assert_allclose(found, expected, atol=33 * 2**-53 * 100)


def test_edges_are_sorted_and_unique():
    rng = np.random.default_rng(1)
    edges = Edges(*sides(rng.normal(size=(20, 3)), rng.normal(size=(30, 3))))
    pairs = set()
    for _ in range(5):
        rows, columns = rng.integers(0, 20, 40), rng.integers(0, 30, 40)
        new = set(zip(rows.tolist(), columns.tolist(), strict=True)) - pairs
        assert edges.add(rows, columns) == len(new)
        pairs |= new
        assert list(zip(edges.rows.tolist(), edges.columns.tolist(), strict=True)) == sorted(pairs)
        assert len(edges) == len(edges.weights) == len(pairs)
    expected = pair_products(*sides_of(edges), edges.rows, edges.columns)
    np.testing.assert_array_equal(edges.weights, expected)
    assert edges.num_bytes == 16 * len(pairs)


def sides_of(edges):
    return edges._a, edges._b


def repeats(a, b, prices):
    """Sum of squares of how often a column is among the best 24 of a row; least when even."""
    reduced = a @ b.T - prices[None]
    best = np.argpartition(-reduced, 24, axis=1)[:, :24]
    return np.square(np.bincount(best.ravel(), minlength=len(b))).sum()


@pytest.mark.parametrize("common", [0.5, 1.0])
def test_popular_columns_are_priced_until_all_are_wanted_alike(make_pair, common):
    a, b = make_pair(600, 600, 24, common=common)
    prices = popularity(*sides(a, b))
    even = 600 * 24**2
    assert repeats(a, b, prices) - even < 0.3 * (repeats(a, b, np.zeros(600)) - even)
    assert prices.min() == 0


def test_columns_that_may_stay_free_have_the_least_price(make_pair):
    a, b = make_pair(450, 600, 24, common=0.5)
    prices = popularity(*sides(a, b))
    assert prices.min() == 0
    assert (prices == 0).sum() >= 150
