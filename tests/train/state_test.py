"""The state before the first step, and the autoencoders that come out of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saejax import mesh as mesh_lib
from saejax.config import Config, MeshConfig, SaeConfig
from saejax.errors import InputError
from saejax.sae.architectures import ARCHITECTURES
from saejax.sae.init import init_params
from saejax.sae.sae import decode, encode
from saejax.train.optim import make_optimizer
from saejax.train.state import init_state, to_saes
from saejax.train.step import make_step

B, D, E, N = 40, 6, 10, 32


def start(*, arch="topk", skip=True, **train):
    """Configuration, inputs, targets, and the state of two transcoders before the first step."""
    sae = SaeConfig(arch=arch, num_latents=N, k=3, unit_decoder=False, skip_connection=skip)
    cfg = Config(init_seeds=(4, 7), target_hookpoint="layers.6.mlp", sae=sae)
    cfg.hookpoint = "layers.6.post_attention_layernorm"
    for name, value in train.items():
        setattr(cfg.train, name, value)
    rng = np.random.default_rng(0)
    x_BD = jnp.asarray(7 * rng.normal(size=(B, D)) + 2, jnp.float32)
    y_BE = jnp.asarray(rng.normal(size=(B, E)) / 5 - 1, jnp.float32)
    mesh = mesh_lib.make_mesh(MeshConfig(1, 1, 2))
    optimizer = make_optimizer(cfg, 10, latent_axis="latent")
    return cfg, x_BD, y_BE, init_state(cfg, x_BD, optimizer, mesh, y_BE)


@pytest.mark.parametrize("scaling", ["none", "sqrt_width"])
def test_transcoders_start_as_sparsifys(scaling):
    _, x_BD, y_BE, state = start(input_scaling=scaling, decoder_bias_init="mean")
    s, t = 1.0, 1.0
    if scaling == "sqrt_width":
        s = np.sqrt(D) / np.linalg.norm(x_BD, axis=1).mean()
        t = np.sqrt(E) / np.linalg.norm(y_BE, axis=1).mean()
    assert float(state.input_scale) == pytest.approx(s, rel=1e-6)
    assert float(state.target_scale) == pytest.approx(t, rel=1e-6)
    params = state.params
    assert params.w_dec.shape == (2, N, E)
    assert params.w_skip.shape == (2, E, D)
    assert not params.w_dec.any()
    assert not params.w_skip.any()
    for i, seed in enumerate((4, 7)):
        np.testing.assert_allclose(params.b_dec[i], t * y_BE.mean(0), rtol=1e-5)
        tied = init_params(jnp.uint32(seed), jnp.zeros(D), num_latents=N)
        np.testing.assert_array_equal(params.enc_rows[i], tied.enc_rows)
        centre = s * np.asarray(x_BD, np.float64).mean(0)
        np.testing.assert_allclose(params.b_enc[i], -(tied.enc_rows @ centre), rtol=1e-4, atol=1e-5)


def test_gated_magnitudes_start_as_the_gate():
    params = start(arch="gated", skip=False)[-1].params
    np.testing.assert_array_equal(params.b_mag, params.b_enc)
    assert params.b_enc.any()
    assert not params.r_mag.any()
    assert params.w_skip is None


def test_the_skip_connection_and_its_moments_are_on_every_device_of_the_latents():
    state = start()[-1]
    for path, leaf in jax.tree.leaves_with_path(state):
        if "w_skip" in jax.tree_util.keystr(path):
            assert leaf.sharding.spec == mesh_lib.state_specs(state).params.w_skip
            assert leaf.addressable_shards[0].data.shape == (2, E, D)


@pytest.mark.parametrize("skip", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_exported_transcoders_equal_the_trained_ones_on_scaled_activations(arch, skip):
    """exported(x) = trained(s x) / t, for weights that are far from the first ones."""
    cfg, x_BD, _, state = start(arch=arch, skip=skip, input_scaling="sqrt_width")
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, jnp.float32), state.params
    )
    state = state._replace(params=params, batch_threshold=jnp.array([0.4, 0.6]))
    s, t = float(state.input_scale), float(state.target_scale)
    assert abs(s / t - 1) > 0.1
    for i, exported in enumerate(dict(to_saes(state, cfg, {})).values()):
        own = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), params)
        # What a JumpReLU does at its threshold is checked in the tests of `encode`.
        threshold = np.full(N, (0.4, 0.6)[i], np.float32)
        trained = exported.replace(
            w_enc=own.enc_rows.T,
            b_enc=own.b_enc,
            w_dec=own.w_dec,
            b_dec=own.b_dec,
            b_mag=own.b_mag,
            w_skip=own.w_skip,
            threshold=None
            if exported.threshold is None
            else threshold
            if arch == "batch_topk"
            else np.maximum(own.threshold, 0),
        )
        found_BE = decode(exported, encode(exported, x_BD), x_BD)
        expected_BE = decode(trained, encode(trained, s * x_BD), s * x_BD) / t
        np.testing.assert_allclose(found_BE, expected_BE, rtol=1e-4, atol=1e-4)
        assert exported.transcoder
        assert (exported.d_model, exported.d_out) == (D, E)
        assert dict(exported.metadata)["target_hookpoint"] == "layers.6.mlp"


def test_per_token_scaling_is_part_of_the_autoencoder():
    """Reconstructions follow the norm of each token, in training and after it."""
    cfg = Config(init_seeds=(4,), sae=SaeConfig(num_latents=N, k=3))
    cfg.train.input_scaling, cfg.train.decoder_bias_init = "per_token", "mean"
    cfg.data.context_length = cfg.train.batch_tokens = B
    cfg.data.skip_tokens = cfg.train.warmup_steps = 0
    rng = np.random.default_rng(0)
    x_BD = jnp.asarray(rng.normal(size=(B, D)) + 1, jnp.float32)
    factor_B1 = jnp.asarray(10.0 ** rng.uniform(-2, 2, size=(B, 1)), jnp.float32)
    mesh = mesh_lib.make_mesh(MeshConfig(1, 1, 1))
    optimizer = make_optimizer(cfg, 10, latent_axis="latent")
    found = []
    for given_BD in (x_BD, factor_B1 * x_BD):
        state = init_state(cfg, given_BD, optimizer, mesh)
        step = make_step(cfg, optimizer, state, mesh)
        for _ in range(3):
            state, metrics = step(state, given_BD)
        found.append((metrics["train/fvu"], dict(to_saes(state, cfg, {}))[4]))
    (fvu, sae), (other_fvu, other) = found
    np.testing.assert_allclose(fvu, other_fvu, rtol=1e-4)
    np.testing.assert_allclose(sae.w_dec, other.w_dec, atol=1e-4)
    assert sae.normalize_activations == "constant_norm_rescale"
    unit_BD = x_BD * np.sqrt(D) / np.linalg.norm(x_BD, axis=1, keepdims=True)
    plain = sae.replace(normalize_activations="none")
    expected_BD = decode(plain, encode(plain, unit_BD))
    scale_B1 = np.sqrt(D) / np.linalg.norm(x_BD, axis=1, keepdims=True)
    for c in (1.0, factor_B1):
        mine_BD = decode(sae, encode(sae, c * x_BD), c * x_BD)
        np.testing.assert_allclose(mine_BD, c * expected_BD / scale_B1, rtol=2e-4, atol=1e-5)
    zeros_BD = jnp.zeros((1, D))
    assert jnp.isfinite(decode(sae, encode(sae, zeros_BD), zeros_BD)).all()
    with pytest.raises(InputError, match=r"normalize_activations, needs the input"):
        decode(sae, encode(sae, x_BD))
