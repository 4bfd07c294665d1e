"""The compiled sparse solver against SciPy, and its prices against the definition."""

import jax
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from saejax.matching import sparse_lap
from saejax.matching.sparse_graph import make_graph

SCALE = 2.0**20


def solve(mask, weights, *, price=None, target=None):
    """Prices, partners and the number of signs of life, for the edges in a mask."""
    num_rows, num_columns = mask.shape
    rows, columns = np.nonzero(mask)
    price = np.zeros(num_columns, np.int64) if price is None else price
    target = np.full(num_rows, -1) if target is None else target
    with jax.enable_x64(True):
        graph = make_graph(rows, columns, weights[mask], num_rows, num_columns)
        return sparse_lap.solve(
            graph, price, target, pinned=num_rows < num_columns, on_phases=lambda: None
        )


def check(mask, weights, price, target):
    """Optimal: as good as SciPy on the graph, proven by the prices alone."""
    num_rows, num_columns = mask.shape
    assert len(set(target)) == num_rows
    assert mask[np.arange(num_rows), target].all()
    value = np.where(mask, weights - price[None], -(2**60)).max(axis=1)
    np.testing.assert_array_equal(value, (weights - price[None])[np.arange(num_rows), target])
    if num_rows < num_columns:
        assert price.min() >= 0
        assert not price[np.setdiff1d(np.arange(num_columns), target)].any()
    cost = np.where(mask, -weights, 2**40).astype(float)
    best = -cost[scipy.optimize.linear_sum_assignment(cost)].sum()
    assert weights[np.arange(num_rows), target].sum() == best


def random_graph(seed, num_rows, num_columns, density, distinct):
    rng = np.random.default_rng(seed)
    mask = rng.random((num_rows, num_columns)) < density
    # A matching that covers the rows exists.
    mask[np.arange(num_rows), rng.permutation(num_columns)[:num_rows]] = True
    weights = rng.integers(-distinct, distinct + 1, mask.shape) * int(SCALE // distinct)
    return mask, weights, rng


@settings(max_examples=80)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(0, 10),
    st.sampled_from([0.02, 0.2, 1.0]),
    st.sampled_from([1, 3, 2**20]),  # few values: ties everywhere
)
def test_small_graphs(seed, num_rows, more, density, distinct):
    mask, weights, _ = random_graph(seed, num_rows, num_rows + more, density, distinct)
    check(mask, weights, *solve(mask, weights))


@pytest.mark.parametrize("shape", [(400, 400), (300, 400), (399, 400)])
@pytest.mark.parametrize("distinct", [2, 2**20])
def test_graphs_with_long_rows(shape, distinct):
    # Up to 120 edges a row, so several lines each, and some rows with one edge alone.
    mask, weights, rng = random_graph(0, *shape, 0.3, distinct)
    mask[: shape[0] // 2] &= rng.random((shape[0] // 2, shape[1])) < 0.02
    mask |= random_graph(0, *shape, 0.0, distinct)[0]
    check(mask, weights, *solve(mask, weights))


@pytest.mark.parametrize("shape", [(60, 60), (50, 60)])
def test_any_start_leads_to_the_optimum(shape):
    mask, weights, rng = random_graph(1, *shape, 0.3, 2**20)
    for _ in range(5):
        target = np.full(shape[0], -1)
        some = rng.permutation(shape[0])[:20]
        target[some] = rng.permutation(shape[1])[:20]
        target[~mask[np.arange(shape[0]), target]] = -1
        price = rng.integers(-(2**20), 2**20, shape[1])
        check(mask, weights, *solve(mask, weights, price=price, target=target))


def test_a_warm_start_changes_nothing():
    mask, weights, _ = random_graph(2, 80, 80, 0.2, 2**20)
    price, target = solve(mask, weights)
    again = solve(mask, weights, price=price, target=target)
    np.testing.assert_array_equal(again[1], target)


@pytest.mark.parametrize("more", [0, 5])
def test_rows_without_a_partner_are_left_over(more):
    mask, weights, _ = random_graph(3, 30, 30 + more, 0.3, 2**20)
    mask[:4] = False
    mask[:4, 7] = True  # Four rows, one column.
    _, target = solve(mask, weights)
    assert (target[:4] >= 0).sum() == 1
    assert (target[4:] >= 0).sum() >= 25
    matched = target[target >= 0]
    assert len(set(matched)) == len(matched)


def test_centred_prices_leave_room_on_both_sides():
    mask, weights, _ = random_graph(4, 60, 60, 1.0, 2**20)
    price, target = solve(mask, weights)
    slack = (weights - price[None]).max(axis=1)[:, None] + price[None] - weights
    slack[np.arange(60), target] = 2**60
    # Moving one price up or down by itself by half of its room violates nothing.
    up = slack[np.arange(60)].min(axis=1)  # room of the row's own column to rise
    down = slack.min(axis=0)[target]
    assert np.median(np.abs(up - down) / np.maximum(up + down, 1)) < 0.05
