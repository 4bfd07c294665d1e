"""The optimizer against a plain numpy version of the recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
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


@pytest.mark.parametrize(
    ("optimizer", "num_latents", "rate"),
    [
        # sparsify, December 2024: 1.414e-4 at 32,768 latents, 7.07e-5 at 131,072.
        ("adam", 32_768, 1.414e-4),
        ("adam", 131_072, 7.07e-5),
        # sparsify 1.3.3: 5e-3 at 2^14 latents and a quarter of it at 2^18; 2e-3 at any width.
        ("signum", 2**14, 5e-3),
        ("signum", 2**18, 1.25e-3),
        ("muon", 2**18, 2e-3),
    ],
)
def test_peak_learning_rates_are_sparsifys(optimizer, num_latents, rate):
    cfg = make_config(optimizer=optimizer)
    cfg.sae.num_latents = num_latents
    assert optim.learning_rate(cfg) == pytest.approx(rate, rel=1e-3)
    cfg.train.lr_scale = 3.0
    assert optim.learning_rate(cfg) == pytest.approx(3 * rate, rel=1e-3)


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


@pytest.mark.parametrize(("optimizer", "last"), [("signum", 1.0), ("muon", 1 / 30)])
def test_schedules_of_the_other_optimizers(optimizer, last):
    cfg = make_config(warmup_steps=10, optimizer=optimizer)
    schedule, peak = optim.schedule(cfg, 30), optim.learning_rate(cfg)
    assert float(schedule(0)) == pytest.approx(peak)
    assert float(schedule(29)) == pytest.approx(last * peak, rel=1e-5)


def run_updates(cfg, params, grads_per_step, num_steps, devices):
    """Parameters after the updates, and those to export, with latents split over devices."""
    mesh = mesh_lib.make_mesh(MeshConfig(1, 1, devices))
    optimizer = optim.make_optimizer(cfg, num_steps, latent_axis="latent")

    def local(params, *grads_per_step):
        state = optimizer.init(params)
        for grads in grads_per_step:
            updates, state = optimizer.update(grads, state, params)
            params = optim.apply_updates(cfg, params, updates)
        stacked = jax.tree.map(lambda leaf: leaf[None], (params, state))
        exported = optim.params_to_export(cfg, *stacked)
        return params, jax.tree.map(lambda leaf: leaf[0], exported)

    specs = Params(P("latent"), P("latent"), P("latent"), P())
    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(specs,) * (1 + len(grads_per_step)),
            out_specs=(specs, specs),
        )
    )(params, *grads_per_step)


def unit(params):
    return params._replace(w_dec=params.w_dec / np.linalg.norm(params.w_dec, axis=1)[:, None])


def draw_problem(steps, scale=1.0):
    """Parameters with N = 16, D = 5, and the gradients of each step, in float64."""
    rng = np.random.default_rng(0)

    def draw(scale):
        return Params(*(scale * rng.normal(size=s) for s in ((16, 5), (16,), (16, 5), (5,))))

    return unit(draw(1.0)), [draw(scale) for _ in range(steps)]


def to_f32(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def project(grads, params):
    along = (grads.w_dec * params.w_dec).sum(1, keepdims=True)
    return grads._replace(w_dec=grads.w_dec - along * params.w_dec)


def assert_close(ours, oracle):
    for mine, theirs in zip(*map(jax.tree.leaves, (ours, oracle)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=5e-6)


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


def test_adam_is_that_of_optax():
    constants = {"b1": 0.8, "b2": 0.95, "eps": 1e-4}
    ours, theirs = optim.scale_by_adam(**constants), optax.scale_by_adam(**constants)
    rng = np.random.default_rng(0)
    params = {"w": jnp.zeros((5, 3)), "b": jnp.zeros(4)}
    states = [ours.init(params), theirs.init(params)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    for _ in range(5):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
        mine, states[0] = jax.jit(ours.update)(grads, states[0])
        expected, states[1] = jax.jit(theirs.update)(grads, states[1])
        for pair in ((mine, expected), states):
            for one, other in zip(*map(jax.tree.leaves, pair), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_update_is_the_recipe(devices, scale):
    """Clip per autoencoder, remove the parallel gradient, Adam, unit rows; by the formulas."""
    steps = 6
    cfg = make_config(warmup_steps=2, lr_scale=3.0)

    params, grads_per_step = draw_problem(steps, scale)
    ours, _ = run_updates(cfg, to_f32(params), to_f32(grads_per_step), 10, devices)

    schedule = optim.schedule(cfg, 10)
    moment = jax.tree.map(np.zeros_like, params)
    square = jax.tree.map(np.zeros_like, params)
    for step, grads in enumerate(grads_per_step):
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda g, norm=norm: g * min(1.0, 1.0 / (norm + 1e-6)), grads)
        grads = project(grads, params)
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
        params = unit(params)
    for mine, oracle in zip(*map(jax.tree.leaves, (ours, params)), strict=True):
        np.testing.assert_allclose(mine, oracle, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(jnp.linalg.norm(ours.w_dec, axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("unit_decoder", [True, False])
@pytest.mark.parametrize("devices", [1, 8])
def test_signum_is_schedule_free_sign_descent(devices, unit_decoder):
    """Defazio et al. (2024), with the sign of the gradient for the gradient."""
    steps, beta = 6, 0.95
    cfg = make_config(optimizer="signum", lr_scale=0.2)
    cfg.sae.unit_decoder = unit_decoder
    y, grads_per_step = draw_problem(steps)
    ours, exported = run_updates(cfg, to_f32(y), to_f32(grads_per_step), 10, devices)

    rate, x, z = 0.2 * 5e-3 * np.sqrt(2**14 / 16), y, y
    for step, grads in enumerate(grads_per_step):
        if unit_decoder:
            grads = project(grads, y)
        c = 1 / (step + 1)
        z = jax.tree.map(lambda z, g: z - rate * np.sign(g), z, grads)
        x = jax.tree.map(lambda x, z, c=c: (1 - c) * x + c * z, x, z)
        y = jax.tree.map(lambda x, z: (1 - beta) * z + beta * x, x, z)
        if unit_decoder:
            # The rows of y are normalised, and x is what makes up the rest of y.
            y = unit(y)
            x = x._replace(w_dec=(y.w_dec - (1 - beta) * z.w_dec) / beta)
    assert_close(ours, y)
    assert_close(exported, unit(x) if unit_decoder else x)
    assert np.abs(exported.b_enc - ours.b_enc).max() > 1e-3


@pytest.mark.parametrize("devices", [1, 8])
def test_muon_is_sparsifys(devices):
    """Momentum, orthogonalisation by singular values, weight decay; Adam for the biases."""
    cfg = make_config(optimizer="muon", lr_scale=5.0, warmup_steps=3, grad_clip=0.0)
    start, grads_per_step = draw_problem(6, scale=10.0)
    ours, exported = run_updates(cfg, to_f32(start), to_f32(grads_per_step), 10, devices)
    assert_close(ours, exported)

    params, zeros = start, jax.tree.map(np.zeros_like, start)
    moment, first, square = zeros, zeros, zeros
    for step, grads in enumerate(grads_per_step):
        grads, t = project(grads, params), step + 1
        moment = jax.tree.map(lambda m, g: 0.95 * m + 0.05 * g, moment, grads)
        nesterov = jax.tree.map(lambda m, g: 0.95 * m + 0.05 * g, moment, grads)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, square, grads)
        rate, peak = 0.01 * (1 - step / 10), 0.01
        warm = peak * hugging_face_schedule(step, 3, 10)

        def matrix(p, m, rate=rate):
            left, values, right = np.linalg.svd(m, full_matrices=False)
            values /= np.sqrt((values**2).sum())
            for _ in range(5):
                values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
            return p * (1 - rate * 0.1) - rate * 0.2 * 4 * left * values @ right

        def vector(p, m, v, warm=warm, t=t):
            return p - warm * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

        params = unit(
            Params(
                matrix(params.enc_rows, nesterov.enc_rows),
                vector(params.b_enc, first.b_enc, square.b_enc),
                matrix(params.w_dec, nesterov.w_dec),
                vector(params.b_dec, first.b_dec, square.b_dec),
            )
        )
    assert_close(ours, params)


def test_no_clip_is_a_very_large_one():
    params, grads_per_step = draw_problem(3, scale=100.0)
    none, large, one = (
        run_updates(
            make_config(grad_clip=clip, warmup_steps=0),
            to_f32(params),
            to_f32(grads_per_step),
            5,
            1,
        )[0]
        for clip in (0.0, 1e9, 1.0)
    )
    for a, b in zip(*map(jax.tree.leaves, (none, large)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(none.b_enc - one.b_enc).max() > 1e-6
