"""The cost on candidates against ott's own geometry of a dense cost with infinities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ott.geometry.geometry import Geometry

from saejax.config import MeshConfig
from saejax.matching import candidate_geometry as module
from saejax.matching.candidate_geometry import candidate_geometry
from saejax.matching.operands import Side
from saejax.mesh import make_mesh


def sides(num_a, num_b, width=6):
    rng = np.random.default_rng(0)
    mesh = make_mesh(MeshConfig())
    made = []
    for num in (num_a, num_b):
        x = rng.normal(size=(num, width)).astype(np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        made.append(Side(x, dtype=jnp.dtype(jnp.float32), mesh=mesh))
    return made


def dense_cost(geometry, num_a, num_b):
    """The cost that the rows' lines hold, and that the columns' lines hold."""
    found = []
    for lines, shape in ((geometry.rows, (num_a, num_b)), (geometry.columns, (num_b, num_a))):
        cost = np.full(shape, np.inf)
        line, slot = np.nonzero(np.asarray(lines.cosine) > -2)
        own = np.asarray(lines.latent)[line]
        partner = np.asarray(lines.partner)[line, slot]
        assert len(set(zip(own, partner, strict=True))) == len(own)
        cost[own, partner] = 1 - np.asarray(lines.cosine)[line, slot]
        found.append(cost)
    np.testing.assert_array_equal(found[0], found[1].T)
    return found[0]


@pytest.mark.parametrize("size", [(300, 300), (250, 300), (300, 250)])
@pytest.mark.parametrize("warm", [False, True])
def test_pairs_are_the_best_of_either_side(size, warm, monkeypatch):
    monkeypatch.setattr(module, "_CANDIDATES", 40)
    a, b = sides(*size)
    start, rng = None, np.random.default_rng(1)
    if warm:
        start = tuple(rng.normal(size=n) / 10 for n in size)
    geometry, (f, g) = candidate_geometry(a, b, start, 0.1, lambda count: None)
    cost = dense_cost(geometry, *size)
    true = 1 - a.rows.astype(np.float64) @ b.rows.astype(np.float64).T
    kept = np.isfinite(cost)
    np.testing.assert_allclose(cost[kept], true[kept], atol=1e-5)
    assert (kept.sum(axis=1) >= 40).all()
    assert (kept.sum(axis=0) >= 40).all()
    assert kept.mean() < 0.35
    if start is not None:
        f, g = start
    # Under the potentials one side's best are kept, and the other side's under what these leave.
    reduced = true - g[None] if size[0] <= size[1] else (true - f[:, None]).T
    best = reduced.argmin(axis=1)
    chosen = kept if size[0] <= size[1] else kept.T
    assert chosen[np.arange(len(best)), best].all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("epsilon", [0.5, 0.01, 0.001])
def test_updates_equal_those_of_ott(axis, epsilon, monkeypatch):
    monkeypatch.setattr(module, "_CANDIDATES", 20)
    a, b = sides(130, 150)
    ours, _ = candidate_geometry(a, b, None, epsilon, lambda count: None)
    cost = jnp.asarray(dense_cost(ours, 130, 150), jnp.float32)
    rng = np.random.default_rng(2)
    f, g = (jnp.asarray(rng.normal(size=n) / 5, jnp.float32) for n in (130, 150))
    with jax.numpy_rank_promotion("allow"):
        theirs = Geometry(cost_matrix=cost, epsilon=epsilon)
        expected = theirs.apply_lse_kernel(f, g, epsilon, axis=axis)[0]
        found = ours.apply_lse_kernel(f, g, epsilon, axis=axis)[0]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_all_pairs_are_candidates_of_few_latents():
    a, b = sides(20, 30)
    geometry, _ = candidate_geometry(a, b, None, 0.1, lambda count: None)
    assert np.isfinite(dense_cost(geometry, 20, 30)).all()
