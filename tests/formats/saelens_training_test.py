"""Checkpoints of SAELens in training against their formulas, written out."""

import json

import numpy as np
import pytest
import safetensors.numpy

import saejax
from saejax.errors import InputError
from saejax.formats import saelens
from saejax.sae.sae import encode_dense

D, N = 5, 12


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (D, N), "b_enc": (N,), "W_dec": (N, D), "b_dec": (D,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(size=(9, D)).astype(np.float32)


def write(folder, tensors, **config):
    base = {"d_in": D, "d_sae": N, "metadata": {"sae_lens_version": "6.54.12"}}
    (folder / "cfg.json").write_text(json.dumps(base | config))
    safetensors.numpy.save_file(tensors, folder / "sae_weights.safetensors")


def assert_computes(folder, x, code_BN, x_hat):
    sae = saelens.load(folder)
    np.testing.assert_allclose(encode_dense(sae, x), code_BN, rtol=1e-5, atol=1e-5)
    found = saejax.decode(sae, saejax.encode(sae, x), x)
    np.testing.assert_allclose(found, x_hat, rtol=1e-5, atol=1e-5)


def preactivations(t, x, scale=1.0):
    return (x * scale - t["b_dec"]) @ t["W_enc"] + t["b_enc"]


@pytest.mark.parametrize("theirs", ["batchtopk", "matryoshka_batchtopk"])
@pytest.mark.parametrize("rescale", [True, False])
def test_batch_topk_is_a_jump_relu(tmp_path, tensors, x, theirs, rescale):
    code_BN = np.maximum(preactivations(tensors, x), 0)
    norm_N = np.linalg.norm(tensors["W_dec"], axis=1) if rescale else np.ones(N)
    code_BN = code_BN * norm_N
    code_BN = np.where(code_BN > 0.8, code_BN, 0)
    assert 0 < (code_BN > 0).mean() < 0.5
    config = {"architecture": theirs, "k": 3.5, "rescale_acts_by_decoder_norm": rescale}
    write(tmp_path, tensors | {"topk_threshold": np.array(0.8)}, **config)
    assert_computes(tmp_path, x, code_BN, code_BN / norm_N @ tensors["W_dec"] + tensors["b_dec"])


def test_batch_topk_without_its_threshold_is_refused(tmp_path, tensors):
    write(tmp_path, tensors, architecture="batchtopk", k=3.0)
    with pytest.raises(InputError, match="no tensor topk_threshold"):
        saelens.load(tmp_path)


@pytest.mark.parametrize("rescale", [True, False])
def test_topk_in_units_of_the_reconstruction(tmp_path, tensors, x, rescale):
    norm_N = np.linalg.norm(tensors["W_dec"], axis=1) if rescale else np.ones(N)
    code_BN = np.maximum(preactivations(tensors, x), 0) * norm_N
    code_BN = np.where(code_BN >= np.sort(code_BN, axis=1)[:, [-3]], code_BN, 0)
    write(tmp_path, tensors, architecture="topk", k=3, rescale_acts_by_decoder_norm=rescale)
    assert_computes(tmp_path, x, code_BN, code_BN / norm_N @ tensors["W_dec"] + tensors["b_dec"])


def test_a_dead_row_of_the_decoder_gives_no_nan(tmp_path, tensors, x):
    tensors["W_dec"][3] = 0
    write(tmp_path, tensors, architecture="topk", k=3, rescale_acts_by_decoder_norm=True)
    sae = saelens.load(tmp_path)
    assert np.isfinite(saejax.decode(sae, saejax.encode(sae, x))).all()


def test_the_scale_of_activations_is_folded_where_it_is_there(tmp_path, tensors, x):
    code_BN = np.maximum(preactivations(tensors, x, scale=2.5), 0)
    x_hat = (code_BN @ tensors["W_dec"] + tensors["b_dec"]) / 2.5
    config = {"architecture": "standard", "normalize_activations": "expected_average_only_in"}
    write(tmp_path, tensors, **config)
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 2.5}')
    assert_computes(tmp_path, x, code_BN, x_hat)
    assert "normalize_activations" not in dict(saelens.load(tmp_path).metadata)
    # The folded autoencoder is saved as such, and not folded again.
    saelens.save(saelens.load(tmp_path), tmp_path)
    assert_computes(tmp_path, x, code_BN, x_hat)
    # Without it, the weights are for scaled activations, and the metadata say so.
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": null}')
    write(tmp_path, tensors, **config)
    sae = saelens.load(tmp_path)
    assert (sae.normalize_activations, dict(sae.metadata)["normalize_activations"]) == (
        "none",
        "expected_average_only_in",
    )
    np.testing.assert_array_equal(sae.w_enc, tensors["W_enc"])


@pytest.mark.parametrize("scale", ["true", "0", "-1", "NaN", "1e999", "1" + "0" * 400, '"2"', "[]"])
def test_bad_scales_of_activations(tmp_path, tensors, scale):
    write(
        tmp_path,
        tensors,
        architecture="standard",
        normalize_activations="expected_average_only_in",
    )
    (tmp_path / "activation_scaler.json").write_text(f'{{"scaling_factor": {scale}}}')
    with pytest.raises(
        InputError, match=r"activation_scaler\.json: scaling_factor=.* must be a number"
    ):
        saelens.load(tmp_path)


def test_logarithms_of_thresholds(tmp_path, tensors, x):
    log_N = np.random.default_rng(2).normal(size=N).astype(np.float32)
    code_BN = preactivations(tensors, x)
    code_BN = np.where(code_BN > np.exp(log_N), code_BN, 0)
    write(tmp_path, tensors | {"log_threshold": log_N}, architecture="jumprelu")
    assert_computes(tmp_path, x, code_BN, code_BN @ tensors["W_dec"] + tensors["b_dec"])
    write(tmp_path, tensors | {"log_threshold": log_N + 200}, architecture="jumprelu")
    with pytest.raises(InputError, match="threshold has 12 entries that are NaN or infinite"):
        saelens.load(tmp_path)


def test_factors_of_finetuning_multiply_decoded_codes(tmp_path, tensors, x):
    factor_N = np.linspace(0.5, 2, N, dtype=np.float32)
    code_BN = np.maximum(preactivations(tensors, x), 0)
    with_factor = tensors | {"scaling_factor": factor_N}
    write(tmp_path, with_factor, architecture="standard", finetuning_scaling_factor=True)
    x_hat = code_BN * factor_N @ tensors["W_dec"] + tensors["b_dec"]
    assert_computes(tmp_path, x, code_BN, x_hat)
    write(tmp_path, with_factor, architecture="standard")
    with pytest.raises(InputError, match="does not say finetuning_scaling_factor=true"):
        saelens.load(tmp_path)


def test_weights_that_overflow_when_folded_are_refused(tmp_path, tensors):
    tensors["W_dec"][:] = 1e30
    tensors["W_enc"][:] = 1e30
    write(tmp_path, tensors, architecture="topk", k=3, rescale_acts_by_decoder_norm=True)
    with pytest.raises(InputError, match="w_enc overflows when scales are folded"):
        saelens.load(tmp_path)
