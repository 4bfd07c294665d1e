"""Lines, compaction and sums against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saejax.matching import sparse_graph
from saejax.matching.sparse_graph import LINE, lines_of, make_graph


def random_graph(seed=0, num_rows=300, num_columns=400):
    rng = np.random.default_rng(seed)
    mask = rng.random((num_rows, num_columns)) < rng.choice([0.01, 0.2], num_rows)[:, None]
    mask[:, 0] = True
    rows, columns = np.nonzero(mask)
    weights = rng.integers(-100, 100, len(rows))
    with jax.enable_x64(True):
        return rows, columns, weights, make_graph(rows, columns, weights, num_rows, num_columns)


def test_a_graph_holds_every_edge_once():
    rows, columns, weights, graph = random_graph()
    line, slot = np.nonzero(np.asarray(graph.column) < 512)
    found = sorted(
        zip(
            np.asarray(graph.row)[line].tolist(),
            np.asarray(graph.column)[line, slot].tolist(),
            np.asarray(graph.weight)[line, slot].tolist(),
            strict=True,
        )
    )
    expected = list(zip(rows.tolist(), columns.tolist(), weights.tolist(), strict=True))
    assert found == expected
    assert (np.diff(np.asarray(graph.row)) >= 0).all()
    np.testing.assert_array_equal(np.asarray(graph.num_lines)[:300], -(-np.bincount(rows) // LINE))


@pytest.mark.parametrize("size", [512, 4096])
def test_lines_of_some_rows(size):
    graph = random_graph()[3]
    rng = np.random.default_rng(1)
    mask = np.zeros(len(graph.num_lines), bool)
    mask[rng.permutation(300)[:50]] = True
    with jax.enable_x64(True):
        lines, valid = lines_of(graph, jnp.asarray(mask), min(size, len(graph.row)))
    expected = np.flatnonzero(mask[np.asarray(graph.row)])
    np.testing.assert_array_equal(np.asarray(lines)[np.asarray(valid)], expected)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3000), st.floats(0, 1))
def test_compact_and_running_sum(seed, length, density):
    mask = np.random.default_rng(seed).random(length) < density
    indices, valid = sparse_graph._compact(jnp.asarray(mask), 64)
    expected = np.flatnonzero(mask)[:64]
    np.testing.assert_array_equal(np.asarray(indices)[np.asarray(valid)], expected)
    counts = np.random.default_rng(seed).integers(0, 1000, 1024)
    np.testing.assert_array_equal(
        sparse_graph._running_sum(jnp.asarray(counts, jnp.int32)), np.cumsum(counts)
    )
