"""The optimizer against a plain numpy version of the recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from saejax import mesh as mesh_lib
from saejax.config import Config, MeshConfig
from saejax.sae.init import Params
from saejax.train import optim


def make_config(**train):
    cfg = Config()
    cfg.sae.num_latents = 16
    for name, value in train.items():
        setattr(cfg.train, name, value)
    return cfg


def hugging_face_schedule(step, warmup, total):
    """transformers' get_linear_schedule_with_warmup, from its definition."""
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total - step) / max(1, total - warmup))


@pytest.mark.parametrize(("warmup", "total"), [(10, 50), (0, 20), (100, 30), (1, 1)])
def test_schedule_is_hugging_faces(warmup, total):
    cfg = make_config(warmup_steps=warmup)
    schedule, peak = optim.schedule(cfg, total), 2e-4 / np.sqrt(16 / 2**14)
    for step in range(total):
        expected = peak * hugging_face_schedule(step, min(warmup, total), total)
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def run_updates(cfg, params, grads_per_step, num_steps, devices):
    """Parameters after the updates, with latents split over devices."""
    mesh = mesh_lib.make_mesh(MeshConfig(1, 1, devices))
    optimizer = optim.make_optimizer(cfg, num_steps, latent_axis="latent")

    def local(params, *grads_per_step):
        state = optimizer.init(params)
        for grads in grads_per_step:
            updates, state = optimizer.update(grads, state, params)
            params = jax.tree.map(jnp.add, params, updates)
        return params

    specs = Params(P("latent"), P("latent"), P("latent"), P())
    return jax.jit(
        jax.shard_map(
            local, mesh=mesh, in_specs=(specs,) * (1 + len(grads_per_step)), out_specs=specs
        )
    )(params, *grads_per_step)


@pytest.mark.parametrize("devices", [1, 8])
def test_what_every_device_has_counts_once_in_the_norm(devices):
    rng = np.random.default_rng(0)
    shapes = ((16, 5), (16,), (16, 3), (3,), (3, 5))
    leaves = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    grads = Params(*leaves[:4], w_skip=leaves[4])
    specs = Params(P("latent"), P("latent"), P("latent"), P(), w_skip=P())
    mesh = mesh_lib.make_mesh(MeshConfig(1, 1, devices))
    norm = jax.shard_map(
        lambda g: optim.global_norm(g, "latent"), mesh=mesh, in_specs=(specs,), out_specs=P()
    )
    expected = np.sqrt(sum((leaf**2).sum() for leaf in leaves))
    assert float(jax.jit(norm)(grads)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_update_is_the_recipe(devices, scale):
    """Clip per autoencoder, remove the parallel gradient, Adam, unit rows; by the formulas."""
    rng = np.random.default_rng(0)
    N, D, steps = 16, 5, 6
    cfg = make_config(warmup_steps=2, lr_scale=3.0)

    def draw():
        return Params(*(rng.normal(size=s) for s in ((N, D), (N,), (N, D), (D,))))

    params = draw()
    params = params._replace(w_dec=params.w_dec / np.linalg.norm(params.w_dec, axis=1)[:, None])
    grads_per_step = [jax.tree.map(lambda g: scale * g, draw()) for _ in range(steps)]

    def to_f32(tree):
        return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)

    ours = run_updates(cfg, to_f32(params), [to_f32(g) for g in grads_per_step], 10, devices)

    schedule = optim.schedule(cfg, 10)
    moment = jax.tree.map(np.zeros_like, params)
    square = jax.tree.map(np.zeros_like, params)
    for step, grads in enumerate(grads_per_step):
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda g, norm=norm: g * min(1.0, 1.0 / (norm + 1e-6)), grads)
        along = (grads.w_dec * params.w_dec).sum(1, keepdims=True)
        grads = grads._replace(w_dec=grads.w_dec - along * params.w_dec)
        moment = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moment, grads)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, square, grads)
        lr, t = float(schedule(step)), step + 1
        params = jax.tree.map(
            lambda p, m, v, lr=lr, t=t: (
                p - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            ),
            params,
            moment,
            square,
        )
        params = params._replace(w_dec=params.w_dec / np.linalg.norm(params.w_dec, axis=1)[:, None])
    for mine, oracle in zip(*map(jax.tree.leaves, (ours, params)), strict=True):
        np.testing.assert_allclose(mine, oracle, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(jnp.linalg.norm(ours.w_dec, axis=1), 1.0, rtol=1e-6)
