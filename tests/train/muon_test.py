"""Muon's orthogonalisation against its polynomial on singular values, and against optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from saejax import mesh as mesh_lib
from saejax.config import MeshConfig
from saejax.train import muon

SHAPES = [(16, 6), (8, 12), (8, 8)]


def on_devices(x_ND, devices, function=muon.orthogonalize):
    split = P("latent", None)
    run = jax.shard_map(
        functools.partial(function, latent_axis="latent"),
        mesh=mesh_lib.make_mesh(MeshConfig(1, 1, devices)),
        in_specs=split,
        out_specs=split,
    )
    return np.asarray(jax.jit(run)(x_ND))


def draw(shape, scale=1.0):
    return scale * np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_go_through_the_polynomial(shape, devices):
    x = draw(shape, scale=1e-3)
    left, values, right = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    values /= np.sqrt((values**2).sum()) + 1e-7
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert ((values > 0.6) & (values < 1.3)).all()
    np.testing.assert_allclose(on_devices(x, devices), left * values @ right, atol=2e-5)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_updates_equal_those_of_optax_on_a_whole_matrix(shape, devices):
    x = draw(shape)
    theirs = optax.contrib.muon(1.0, beta=0.0, nesterov=False, consistent_rms=0.2)
    expected, _ = theirs.update(x, theirs.init(jnp.asarray(x)), jnp.asarray(x))

    def ours(x_ND, latent_axis):
        transform = muon.orthogonal_updates(latent_axis)
        return transform.update(x_ND, transform.init(x_ND))[0]

    np.testing.assert_allclose(-on_devices(x, devices, ours), expected, atol=5e-5)


def test_zeros_stay_zeros():
    np.testing.assert_array_equal(on_devices(np.zeros((8, 3), np.float32), 4), 0.0)
