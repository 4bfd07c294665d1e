"""Greedy rounding against the plain loop, and bounds against the dense maximum."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saejax.config import MeshConfig
from saejax.matching.operands import Side
from saejax.matching.pricing import top_k
from saejax.matching.rounding import greedy, upper_duals
from saejax.mesh import make_mesh


def one_by_one(columns, values, at_least):
    """The largest value first, in a loop."""
    target, taken = np.full(len(columns), -1), set()
    order = np.argsort(-values.ravel(), kind="stable")
    for entry in order:
        row, slot = divmod(int(entry), columns.shape[1])
        if values[row, slot] < at_least:
            break
        if target[row] < 0 and columns[row, slot] not in taken:
            target[row] = columns[row, slot]
            taken.add(columns[row, slot])
    return target


@settings(max_examples=100)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.integers(1, 6),
    st.sampled_from([-np.inf, -1.0, 0.0, 9.0]),
)
def test_greedy_takes_the_largest_first(seed, num_rows, k, at_least):
    rng = np.random.default_rng(seed)
    num_columns = num_rows + int(rng.integers(0, 5)) + k
    columns = np.stack([rng.permutation(num_columns)[:k] for _ in range(num_rows)])
    values = rng.normal(size=columns.shape).astype(np.float32)
    np.testing.assert_array_equal(
        greedy(columns, values, num_columns, at_least=at_least),
        one_by_one(columns, values, at_least),
    )


@pytest.mark.parametrize("k", [1, 3, 40])
def test_duals_bound_every_pair_and_closely(k):
    mesh = make_mesh(MeshConfig())
    rng = np.random.default_rng(0)
    a, b = (
        Side(rng.normal(size=(n, 5)).astype(np.float32), dtype=jnp.dtype(jnp.float32), mesh=mesh)
        for n in (30, 40)
    )
    price = rng.normal(size=40)
    kept = top_k(a, b, np.arange(30), price, k, lambda count: None)
    u = upper_duals(a, b, kept, price)
    best = (a.rows.astype(np.float64) @ b.rows.astype(np.float64).T - price[None]).max(axis=1)
    assert (u >= best - 1e-14).all()
    # With one candidate the bound has to allow for rounding; with more it is the maximum.
    np.testing.assert_allclose(u, best, atol=2e-4 if k == 1 else 1e-12)
