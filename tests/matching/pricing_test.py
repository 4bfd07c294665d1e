"""The streamed largest values against numpy, and the bounds on their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saejax.config import MeshConfig
from saejax.matching import pricing
from saejax.matching.operands import Side, error_bounds
from saejax.matching.pricing import top_k, two_level_top_k
from saejax.mesh import make_mesh

DTYPES = (jnp.float32, jnp.bfloat16)


def mesh(count=8):
    return make_mesh(MeshConfig(), devices=jax.devices()[:count])


def sides(a, b, dtype=jnp.float32, count=8):
    return [Side(np.float32(x), dtype=jnp.dtype(dtype), mesh=mesh(count)) for x in (a, b)]


def reduced(a, b, prices):
    return np.float32(a).astype(np.float64) @ np.float32(b).astype(np.float64).T - prices[None]


def check_kept(kept, exact, rows, k):
    """Values are right within the bounds, and nothing that was not kept is larger."""
    of_rows = exact[rows]
    k = min(k, exact.shape[1])
    assert kept.columns.shape == kept.values.shape == (len(rows), k)
    assert (np.diff(kept.values, axis=1) <= 0).all()
    at_kept = np.take_along_axis(of_rows, kept.columns, axis=1)
    assert (np.abs(kept.values - at_kept) <= kept.errors[:, None]).all()
    others = of_rows.copy()
    for row, columns in zip(others, kept.columns, strict=True):
        assert len(set(columns)) == k
        row[columns] = -np.inf
    assert (others.max(axis=1) <= kept.values[:, -1] + kept.errors).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 8])
def test_the_largest_are_kept_in_every_chunk(dtype, count, monkeypatch):
    # Chunks of 256 columns, so that 1,000 fall into four.
    monkeypatch.setattr(pricing, "_TILE_COLUMNS", 256)
    rng = np.random.default_rng(0)
    a, b, prices = rng.normal(size=(700, 9)), rng.normal(size=(1000, 9)), rng.normal(size=1000)
    a_side, b_side = sides(a, b, dtype, count)
    rows = rng.permutation(700)[:500]
    done = []
    kept = top_k(a_side, b_side, rows, prices, 24, done.append)
    check_kept(kept, reduced(a, b, prices), rows, 24)
    assert sum(done) == 500


@settings(max_examples=60)
@given(st.data(), st.sampled_from(DTYPES), st.sampled_from([1e-6, 1.0, 1e6]))
def test_the_error_bounds_hold(data, dtype, scale):
    # Extreme but finite: mixed magnitudes lose the most in rounding.
    width = data.draw(st.integers(1, 6))
    values = st.floats(-8, 8, width=16)
    a, b = (
        scale
        * data.draw(hnp.arrays(np.float32, (data.draw(st.integers(1, 9)), width), elements=values))
        for _ in range(2)
    )
    prices = data.draw(hnp.arrays(np.float64, len(b), elements=st.floats(-8, 8, width=16)))
    rows = np.arange(len(a))
    kept = top_k(*sides(a, b, dtype), rows, scale**2 * prices, len(b), lambda count: None)
    check_kept(kept, reduced(a, b, scale**2 * prices), rows, len(b))


def test_the_error_bounds_are_as_small_as_documented():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 300, 768))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    low, high = (error_bounds(*sides(a, b, dtype), np.zeros(300)).max() for dtype in DTYPES)
    assert 4e-5 < low < 6e-5
    assert 3e-3 < high < 5e-3


def test_equal_columns_are_ranked_differently_by_different_rows():
    ones = np.ones((300, 4))
    kept = top_k(*sides(ones, ones), np.arange(300), np.zeros(300), 8, lambda count: None)
    counts = np.bincount(kept.columns.ravel(), minlength=300)
    # Always the first eight columns would be 300 each; chance gives 8 of each, at most 25.
    assert counts.max() <= 30


@settings(max_examples=30)
@given(st.data())
def test_two_levels_are_exact(data):
    rows, blocks = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    k = data.draw(st.integers(1, 32 * blocks))
    x = data.draw(
        hnp.arrays(np.float32, (rows, 32 * blocks), elements=st.integers(-3, 3).map(float))
    )
    values, columns = two_level_top_k(jnp.asarray(x), k)
    np.testing.assert_array_equal(values, -np.sort(-x, axis=1)[:, :k])
    np.testing.assert_array_equal(np.take_along_axis(x, np.asarray(columns), axis=1), values)
