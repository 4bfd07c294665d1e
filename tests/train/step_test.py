"""The training step: its metrics, independence of the seeds, and all meshes alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saejax import mesh as mesh_lib
from saejax.config import Config, MeshConfig, SaeConfig
from saejax.sae.architectures import ARCHITECTURES
from saejax.sae.sae import decode, encode
from saejax.train import optim
from saejax.train.state import init_state, to_saes
from saejax.train.step import make_step

D, E, N, K, B = 8, 12, 64, 4, 32


def activations(steps, seed=0):
    """Correlated activations, [steps, B, D]."""
    mix = jax.random.normal(jax.random.key(100), (D, D))
    return jax.random.normal(jax.random.key(seed), (steps, B, D)) @ mix + 1.0


def targets(x):
    """What a small MLP makes of the activations, [steps, B, E]."""
    keys = jax.random.split(jax.random.key(200), 2)
    first, second = jax.random.normal(keys[0], (D, 3 * D)), jax.random.normal(keys[1], (3 * D, E))
    return jax.nn.relu(x @ first) @ second - 2.0


def run(seeds, x, sizes=(1, 1, 1), sae=None, target=None, **train):
    """Trains autoencoders, or transcoders if there are targets."""
    cfg = Config(init_seeds=seeds, sae=SaeConfig() if sae is None else sae)
    if target is not None:
        cfg.target_hookpoint, cfg.sae.unit_decoder = "layers.0.mlp", False
    cfg.sae.num_latents, cfg.sae.k = N, K
    cfg.train.warmup_steps, cfg.train.lr_scale = 2, 5.0
    cfg.train.decoder_bias_init = "mean"
    for name, value in train.items():
        setattr(cfg.train, name, value)
    mesh = mesh_lib.make_mesh(MeshConfig(*sizes))
    optimizer = optim.make_optimizer(cfg, len(x), latent_axis="latent")
    given = list(zip(*((x,) if target is None else (x, target)), strict=True))
    first_BD, *first_target = given[0]
    state = init_state(cfg, first_BD, optimizer, mesh, *first_target)
    step = make_step(cfg, optimizer, state, mesh)
    history = []
    for batch in given:
        before = jax.device_get(state.params)
        state, metrics = step(state, *batch)
        history.append(jax.device_get(metrics))
    return cfg, state, before, history


SOME = ("topk", "gated")
OTHERS = tuple(arch for arch in ARCHITECTURES if arch not in SOME)


@pytest.mark.parametrize(
    ("arch", "optimizer"),
    [
        *((arch, "adam") for arch in SOME),
        ("topk", "signum"),
        ("topk", "muon"),
        *(pytest.param(arch, "adam", marks=pytest.mark.slow) for arch in OTHERS),
    ],
)
def test_seed_alone_equals_seed_among_others_bitwise(arch, optimizer):
    x = activations(12)
    options = {
        "sae": SaeConfig(arch=arch),
        "input_scaling": "sqrt_width",
        "optimizer": optimizer,
    }
    _, together, _, _ = run((5, 1, 9), x, **options)
    for i, seed in enumerate((5, 1, 9)):
        _, alone, _, _ = run((seed,), x, **options)
        for among, single in zip(
            *map(jax.tree.leaves, (together.params, alone.params)), strict=True
        ):
            np.testing.assert_array_equal(among[i], single[0])


@pytest.mark.parametrize("arch", ["topk", pytest.param("gated", marks=pytest.mark.slow)])
def test_transcoder_alone_equals_transcoder_among_others_bitwise(arch):
    x = activations(8)
    options = {"input_scaling": "sqrt_width", "target": targets(x)}
    options["sae"] = SaeConfig(arch=arch, skip_connection=True)
    _, together, _, _ = run((5, 1, 9), x, **options)
    _, alone, _, _ = run((1,), x, **options)
    for among, single in zip(*map(jax.tree.leaves, (together.params, alone.params)), strict=True):
        np.testing.assert_array_equal(among[1], single[0])


@pytest.mark.parametrize(
    "sizes", [(2, 2, 2), *(pytest.param(s, marks=pytest.mark.slow) for s in [(1, 1, 8), (1, 8, 1)])]
)
def test_all_meshes_train_transcoders_alike(sizes):
    """With gradients that are clipped, so that their norm matters, and in chunks."""
    x = activations(4)
    sae = SaeConfig(skip_connection=True)
    options = {"sae": sae, "target": targets(x), "grad_clip": 0.1}
    _, one, _, one_history = run((1, 2), x, **options)
    _, many, _, many_history = run((1, 2), x, sizes, chunk_tokens=3, **options)
    for a, b in zip(*map(jax.tree.leaves, (one.params, many.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(many.params))
    for name in one_history[-1]:
        np.testing.assert_allclose(one_history[-1][name], many_history[-1][name], rtol=2e-5)
    assert (one_history[-1]["train/grad_norm"] > 0.1).all()


@pytest.mark.parametrize(
    "sizes", [(2, 2, 2), (1, 8, 1), (1, 1, 8), pytest.param((4, 1, 2), marks=pytest.mark.slow)]
)
def test_all_meshes_train_alike(sizes):
    x = activations(4)
    _, one, _, one_history = run((1, 2, 3, 4), x)
    _, many, _, many_history = run((1, 2, 3, 4), x, sizes)
    for a, b in zip(*map(jax.tree.leaves, (one.params, many.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)
    np.testing.assert_array_equal(one.tokens_since_fired, many.tokens_since_fired)
    for name in one_history[-1]:
        np.testing.assert_allclose(one_history[-1][name], many_history[-1][name], rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["signum", "muon"])
def test_other_optimizers_train_alike_on_a_mesh(optimizer):
    x = activations(4)
    options = {"optimizer": optimizer, "lr_scale": 0.1}
    cfg, one, _, _ = run((1, 2), x, **options)
    _, many, _, _ = run((1, 2), x, (1, 2, 4), **options)
    for a, b in zip(*map(jax.tree.leaves, (one.params, many.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    saes, of_many = dict(to_saes(one, cfg, {})), dict(to_saes(many, cfg, {}))
    for seed in (1, 2):
        np.testing.assert_allclose(saes[seed].w_dec, of_many[seed].w_dec, atol=1e-5)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_metrics_equal_numpy(sizes):
    x = activations(3)
    _, state, before, history = run((1, 2), x, sizes, dead_after_tokens=2 * B)
    last = np.asarray(x[-1], np.float64)
    total = ((last - last.mean(0)) ** 2).sum()
    for i in range(2):
        params = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i], np.float64), before)
        pre = np.maximum((last - params.b_dec) @ params.enc_rows.T + params.b_enc, 0)
        codes = np.where(np.argsort(np.argsort(-pre, axis=1, kind="stable"), axis=1) < K, pre, 0)
        error = ((last - codes @ params.w_dec - params.b_dec) ** 2).sum()
        assert history[-1]["train/fvu"][i] == pytest.approx(error / total, rel=1e-5)
        assert history[-1]["train/l0"][i] == pytest.approx((codes > 0).sum(1).mean())
        silent = np.asarray(state.tokens_since_fired[i])
        assert history[-1]["train/dead_frac"][i] == pytest.approx((silent >= 2 * B).mean())
        np.testing.assert_array_equal(silent == 0, (codes > 0).any(0))
    assert history[-1]["train/total_variance"] == pytest.approx(total, rel=1e-5)


def test_metrics_of_a_transcoder_equal_numpy():
    x = activations(3)
    y, sae = targets(x), SaeConfig(skip_connection=True)
    _, _, params, history = run((1,), x, sae=sae, target=y, input_scaling="sqrt_width")
    last_x, last_y, first_x, first_y = (
        np.asarray(a, np.float64) for a in (x[-1], y[-1], x[0], y[0])
    )
    params = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), params)
    total = ((last_y - last_y.mean(0)) ** 2).sum()
    assert history[-1]["train/total_variance"] == pytest.approx(total, rel=1e-5)
    scaled_x = last_x * np.sqrt(D) / np.linalg.norm(first_x, axis=1).mean()
    scale = np.sqrt(E) / np.linalg.norm(first_y, axis=1).mean()
    pre = np.maximum(scaled_x @ params.enc_rows.T + params.b_enc, 0)
    codes = np.where(np.argsort(np.argsort(-pre, axis=1, kind="stable"), axis=1) < K, pre, 0)
    found = codes @ params.w_dec + params.b_dec + scaled_x @ params.w_skip.T
    error = ((scale * last_y - found) ** 2).sum()
    assert history[-1]["train/fvu"][0] == pytest.approx(error / total / scale**2, rel=1e-5)
    assert history[-1]["train/l0"][0] == pytest.approx((codes > 0).sum(1).mean())


def test_tokens_since_fired_saturate():
    cfg, state, _, _ = run((1,), activations(1))
    state = state._replace(tokens_since_fired=jnp.full_like(state.tokens_since_fired, 2**30 - 1))
    optimizer = optim.make_optimizer(cfg, 5, latent_axis="latent")
    step = make_step(cfg, optimizer, state, mesh_lib.make_mesh(MeshConfig(1, 1, 1)))
    state, _ = step(state, jnp.ones((B, D)))
    silent = np.asarray(state.tokens_since_fired)
    assert silent.min() == 0
    assert silent.max() == 2**30


def test_planted_dictionary_is_recovered():
    """Data that are sparse sums of known atoms: the decoder finds the atoms, for both seeds."""
    atoms = jax.random.normal(jax.random.key(7), (24, 16))
    atoms /= jnp.linalg.norm(atoms, axis=1, keepdims=True)

    def batch(key):
        which, size = jax.random.split(key)
        scores = jax.random.uniform(which, (256, 24))
        active = scores >= jnp.sort(scores, axis=1)[:, -2:-1]
        return (active * jax.random.uniform(size, (256, 24), minval=0.5, maxval=1.5)) @ atoms

    x = jax.vmap(batch)(jax.random.split(jax.random.key(8), 1500))
    cfg = Config(init_seeds=(1, 2))
    cfg.sae.num_latents, cfg.sae.k = 48, 2
    cfg.train.warmup_steps, cfg.train.lr_scale = 20, 0.5
    cfg.train.decoder_bias_init = "zero"
    mesh = mesh_lib.make_mesh(MeshConfig(1, 1, 1))
    optimizer = optim.make_optimizer(cfg, len(x), latent_axis="latent")
    state = init_state(cfg, x[0], optimizer, mesh)
    step = make_step(cfg, optimizer, state, mesh)
    fvu = []
    for x_BD in x:
        state, metrics = step(state, x_BD)
        fvu.append(np.asarray(metrics["train/fvu"]))
    assert (fvu[-1] < 0.1).all()
    assert (fvu[-1] < 0.2 * fvu[0]).all()
    for _, sae in to_saes(state, cfg, {}):
        best = (np.asarray(atoms) @ sae.w_dec.T).max(axis=1)
        assert (best > 0.95).mean() > 0.9


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 2, 2)])
def test_chunks_of_tokens_add_up(sizes):
    x = activations(4)
    sae = SaeConfig(auxk_alpha=1 / 32, multi_topk=True)
    _, whole, _, whole_history = run((1, 2), x, sizes, sae, dead_after_tokens=B)
    _, parts, _, history = run((1, 2), x, sizes, sae, dead_after_tokens=B, chunk_tokens=5)
    for a, b in zip(*map(jax.tree.leaves, (whole.params, parts.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    np.testing.assert_array_equal(whole.tokens_since_fired, parts.tokens_since_fired)
    for name in history[-1]:
        np.testing.assert_allclose(history[-1][name], whole_history[-1][name], rtol=1e-5)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_learns_and_its_export_takes_the_scale_back(arch):
    x = 30 * activations(150)
    sae = SaeConfig(arch=arch, sparsity_coefficient=0.1, bandwidth=0.1)
    _, state, _, history = run((1, 2), x, sae=sae, input_scaling="sqrt_width", lr_scale=60.0)
    fvu = np.stack([metrics["train/fvu"] for metrics in history])
    assert (fvu[-10:].mean(0) < 0.5 * fvu[0]).all()
    assert (fvu[-10:].mean(0) < 0.2).all()
    cfg = Config(init_seeds=(1, 2), sae=sae)
    for i, exported in enumerate(dict(to_saes(state, cfg, {})).values()):
        codes = encode(exported, x[-1])
        error = jnp.square(x[-1] - decode(exported, codes)).sum()
        found = float(error / jnp.square(x[-1] - x[-1].mean(0)[None]).sum())
        # The last metrics are of the weights before the last step, whose rate is near 0.
        tolerance = 0.5 if arch == "batch_topk" else 0.02
        assert found == pytest.approx(float(fvu[-1][i]), rel=tolerance)
        norm = jnp.linalg.norm(exported.w_dec, axis=1)
        np.testing.assert_allclose(norm, np.ones(N), rtol=1e-5)


@pytest.mark.parametrize(
    ("arch", "skip"),
    [
        ("topk", True),
        pytest.param("topk", False, marks=pytest.mark.slow),
        *(pytest.param(a, True, marks=pytest.mark.slow) for a in ARCHITECTURES if a != "topk"),
    ],
)
def test_transcoders_learn_and_their_export_takes_the_scales_back(arch, skip):
    x = 30 * activations(150)
    y = targets(x)
    sae = SaeConfig(arch=arch, skip_connection=skip, sparsity_coefficient=0.02, bandwidth=0.1)
    options = {"input_scaling": "sqrt_width", "lr_scale": 60.0}
    cfg, state, _, history = run((1, 2), x, sae=sae, target=y, **options)
    fvu = np.stack([metrics["train/fvu"] for metrics in history])
    # The decoder starts at 0, and its bias at the mean.
    np.testing.assert_allclose(fvu[0], 1.0, rtol=1e-4)
    assert (fvu[-10:].mean(0) < 0.45).all()
    for i, exported in enumerate(dict(to_saes(state, cfg, {})).values()):
        codes = encode(exported, x[-1])
        error = jnp.square(y[-1] - decode(exported, codes, x[-1])).sum()
        found = float(error / jnp.square(y[-1] - y[-1].mean(0)[None]).sum())
        # The last metrics are of the weights before the last step, whose rate is near 0.
        tolerance = 0.5 if arch == "batch_topk" else 0.02
        assert found == pytest.approx(float(fvu[-1][i]), rel=tolerance)


def test_a_free_decoder_changes_its_norms():
    x = activations(20)
    sae = SaeConfig(arch="relu", unit_decoder=False, sparsity_coefficient=0.1)
    _, state, _, _ = run((1,), x, sae=sae)
    norm = jnp.linalg.norm(state.params.w_dec, axis=2)
    assert float(jnp.abs(norm - 1).max()) > 1e-3


def test_the_penalty_warms_up():
    x = activations(8)
    sae = SaeConfig(arch="relu", sparsity_coefficient=50.0, sparsity_warmup_steps=1000)
    _, slow, _, _ = run((1,), x, sae=sae)
    _, fast, _, _ = run((1,), x, sae=SaeConfig(arch="relu", sparsity_coefficient=50.0))
    _, none, _, _ = run((1,), x, sae=SaeConfig(arch="relu", sparsity_coefficient=0.0))

    def distance(state):
        return float(jnp.abs(state.params.enc_rows - none.params.enc_rows).max())

    assert distance(slow) < distance(fast)
