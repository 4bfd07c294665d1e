"""The cost and its streamed updates against ott's own geometries and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ott.geometry import costs, pointcloud
from ott.geometry.geometry import Geometry
from ott.problems.linear.linear_problem import LinearProblem
from ott.solvers.linear.sinkhorn import Sinkhorn

from saejax.config import MeshConfig
from saejax.matching import geometry as geometry_lib
from saejax.matching.geometry import make_geometry
from saejax.mesh import make_mesh


@pytest.fixture
def allow_promotion():
    """What ott itself needs."""
    with jax.numpy_rank_promotion("allow"):
        yield


def mesh(count=8):
    return make_mesh(MeshConfig(), devices=jax.devices()[:count])


def units(num, seed, width=6):
    x = np.random.default_rng(seed).normal(size=(num, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


BUDGETS = {"stored float32": 2**30, "stored bfloat16": 2 * 40 * 50, "streamed": 0}


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("axis", [0, 1])
def test_updates_equal_those_of_ott(name, count, axis, monkeypatch):
    monkeypatch.setattr(geometry_lib, "TILE_ROWS", 4)
    monkeypatch.setattr(geometry_lib, "_TILE_COLUMNS", 16)
    a, b, epsilon = units(40, 0), units(50, 1), 0.1
    budget = BUDGETS[name] // (count if name == "stored bfloat16" else 1)
    ours, said = make_geometry(a, b, epsilon=epsilon, memory_bytes=budget, mesh=mesh(count))
    assert said == name
    rng = np.random.default_rng(2)
    f, g = (jnp.asarray(rng.normal(size=n) / 5, jnp.float32) for n in (40, 50))
    theirs = Geometry(cost_matrix=1 - jnp.asarray(a @ b.T), epsilon=epsilon)
    cloud = pointcloud.PointCloud(
        jnp.asarray(a), jnp.asarray(b), cost_fn=costs.Cosine(), epsilon=epsilon
    )
    found = ours.apply_lse_kernel(f, g, epsilon, axis=axis)[0]
    tolerance = 5e-3 if name == "stored bfloat16" else 2e-6
    for peer in (theirs, cloud):
        expected = peer.apply_lse_kernel(f, g, epsilon, axis=axis)[0]
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_bfloat16_is_for_large_epsilon_alone():
    a, b = units(40, 0), units(50, 1)
    said = [
        make_geometry(a, b, epsilon=e, memory_bytes=2 * 40 * 50, mesh=mesh(1))[1]
        for e in (0.1, 0.02, 0.01)
    ]
    assert said == ["stored bfloat16", "stored bfloat16", "streamed"]


def test_memory_is_counted_for_each_device():
    a, b = units(40, 0), units(50, 1)
    for num, count, fits in ((40, 8, True), (39, 8, False), (40, 1, False)):
        said = make_geometry(
            a[:num], b, epsilon=0.001, memory_bytes=4 * 40 * 50 // 8, mesh=mesh(count)
        )[1]
        assert said == ("stored float32" if fits else "streamed")


def test_the_gradient_of_the_entropic_cost(monkeypatch, allow_promotion):
    monkeypatch.setattr(geometry_lib, "TILE_ROWS", 4)
    monkeypatch.setattr(geometry_lib, "_TILE_COLUMNS", 8)
    a, b = units(12, 0), units(15, 1)

    @jax.jit
    def cost(x):
        made, _ = geometry_lib.CosineGeometry(x, jnp.asarray(b), None, 0.1, mesh=mesh(1)), None
        return Sinkhorn(threshold=1e-6)(LinearProblem(made)).reg_ot_cost

    gradient = jax.grad(cost)(jnp.asarray(a))
    direction = np.random.default_rng(3).normal(size=a.shape).astype(np.float32)
    step = 1e-2
    difference = (cost(a + step * direction) - cost(a - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=2e-2)
