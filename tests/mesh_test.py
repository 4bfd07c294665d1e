"""The mesh and the placement of the training state."""

import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from saejax import mesh
from saejax.config import Config, MeshConfig
from saejax.errors import InputError
from saejax.train.optim import make_optimizer
from saejax.train.state import init_state


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((1, -1, 1), (1, 8, 1)),
        ((2, 2, -1), (2, 2, 2)),
        ((1, 1, 1), (1, 1, 1)),
        ((-1, 2, 1), (4, 2, 1)),
    ],
)
def test_sizes(sizes, shape):
    made = mesh.make_mesh(MeshConfig(*sizes))
    assert made.axis_names == ("seed", "data", "latent")
    assert made.devices.shape == shape


@pytest.mark.parametrize("sizes", [(3, -1, 1), (16, 1, 1), (1, -1, 16)])
def test_misfit_names_the_numbers(sizes):
    with pytest.raises(InputError, match="does not fit 8 devices"):
        mesh.make_mesh(MeshConfig(*sizes))


def test_check_divides():
    made = mesh.make_mesh(MeshConfig(1, 1, 8))
    mesh.check_divides(made, "latent", num_latents=1024)
    with pytest.raises(
        InputError, match="num_latents=100 must divide by the 8 devices on axis 'lat"
    ):
        mesh.check_divides(made, "latent", num_latents=100)


def of_processes(numbers):
    """A mesh whose devices belong to processes of these numbers, [seed, data, latent]."""
    devices = np.vectorize(lambda i: types.SimpleNamespace(process_index=i))(numbers)
    shape = dict(zip(mesh.AXES, devices.shape, strict=True))
    return mock.Mock(spec=Mesh, devices=devices, shape=shape)


@pytest.mark.parametrize(
    ("numbers", "part"),
    [
        ([[[0], [0], [0], [0]]], (0, 1)),
        ([[[0], [0], [1], [1]]], (0, 2)),
        ([[[1], [1], [0], [0]]], (1, 2)),
        ([[[1], [2], [0], [3]]], (2, 4)),
        ([[[0], [0]], [[1], [1]]], (0, 1)),
        ([[[1], [0]], [[1], [0]]], (1, 2)),
        ([[[1, 2], [0, 3]]], (1, 2)),
    ],
)
def test_part_of_a_batch_that_a_process_holds(numbers, part):
    assert mesh.batch_part(of_processes(numbers)) == part


@pytest.mark.parametrize("numbers", [[[[0], [1], [0], [1]]], [[[0], [0], [1]]], [[[1], [2]]]])
def test_unequal_parts_are_refused(numbers):
    with pytest.raises(InputError, match=r"'data' of mesh .* is not split equally"):
        mesh.batch_part(of_processes(numbers))


def test_every_leaf_of_the_state_has_its_place():
    cfg = Config(init_seeds=(1, 2))
    cfg.sae.num_latents, cfg.sae.k = 64, 4
    made = mesh.make_mesh(MeshConfig(2, 2, 2))
    optimizer = make_optimizer(cfg, 10, latent_axis="latent")
    state = init_state(cfg, jnp.ones((4, 8)), optimizer, made)
    assert state.params.w_dec.sharding.spec == P("seed", "latent", None)
    adam = next(
        s
        for s in jax.tree.leaves(state.opt_state, is_leaf=lambda x: hasattr(x, "mu"))
        if hasattr(s, "mu")
    )
    assert adam.mu.enc_rows.sharding == state.params.enc_rows.sharding
    assert adam.nu.b_dec.sharding == state.params.b_dec.sharding
    assert adam.count.sharding.spec == P("seed")
    assert state.tokens_since_fired.sharding.spec == P("seed", "latent")
    # Each device holds its shard and no more.
    assert state.params.w_dec.addressable_shards[0].data.shape == (1, 32, 8)


@pytest.mark.parametrize("optimizer", ["adam", "signum", "muon"])
def test_optimizer_states_are_split_as_their_shapes_tell(optimizer):
    cfg = Config(init_seeds=(1, 2))
    cfg.sae.num_latents, cfg.sae.k, cfg.train.optimizer = 64, 4, optimizer
    made = mesh.make_mesh(MeshConfig(1, 2, 4))
    state = init_state(cfg, jnp.ones((4, 8)), make_optimizer(cfg, 10, latent_axis="latent"), made)
    expected = {
        (2, 64, 8): P("seed", "latent", None),
        (2, 64): P("seed", "latent"),
        (2, 8): P("seed", None),
        (2,): P("seed"),
    }
    leaves = jax.tree.leaves(state.opt_state)
    assert sum(leaf.shape == (2, 64, 8) for leaf in leaves) >= 2
    for leaf in leaves:
        assert leaf.sharding.spec == expected[leaf.shape]
