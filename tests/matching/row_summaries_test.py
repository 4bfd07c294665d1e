"""Summaries of the rows of a plan against the dense plan."""

import jax
import numpy as np
import pytest

from saejax.config import MeshConfig
from saejax.matching import geometry as geometry_lib
from saejax.matching import row_summaries as module
from saejax.matching.geometry import make_geometry
from saejax.matching.row_summaries import row_summaries
from saejax.mesh import make_mesh


def units(num, seed, width=6):
    x = np.random.default_rng(seed).normal(size=(num, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 8])
def test_summaries_of_rows(count, monkeypatch):
    monkeypatch.setattr(module, "TILE_ROWS", 4)
    monkeypatch.setattr(geometry_lib, "_TILE_COLUMNS", 16)
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:count])
    a, b = units(41, 0), units(50, 1)
    g = np.random.default_rng(2).normal(size=50).astype(np.float32) / 5
    ours, _ = make_geometry(a, b, epsilon=0.05, memory_bytes=0, mesh=mesh)
    f = np.random.default_rng(3).normal(size=41).astype(np.float32) / 5
    found = row_summaries(ours, f, g, 0.05)
    similarity = a.astype(np.float64) @ b.astype(np.float64).T
    plan = np.exp((f[:, None] + g[None] + similarity - 1) / 0.05)
    np.testing.assert_allclose(found.mass, plan.sum(axis=1), rtol=1e-4)
    plan /= plan.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.entropy, -(plan * np.log(plan)).sum(axis=1), atol=1e-4)
    np.testing.assert_allclose(found.expected_cosine, (plan * similarity).sum(axis=1), atol=1e-5)
    np.testing.assert_array_equal(found.likeliest, plan.argmax(axis=1))
    np.testing.assert_allclose(found.weight, plan.max(axis=1), rtol=1e-4)
