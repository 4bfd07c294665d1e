"""Codes, reconstructions and FVU against the installed SAELens, both ways."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import saejax
from saejax.formats import saelens
from saejax.sae.sae import Sae, encode_dense

torch = pytest.importorskip("torch")
sae_lens = pytest.importorskip("sae_lens")

D, E, N, B = 6, 7, 16, 40


def inputs(width=D):
    return np.random.default_rng(3).normal(0.3, 1.5, size=(B, width)).astype(np.float32)


def randomize(theirs):
    """Random weights for an autoencoder of SAELens, whose own are mostly zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7)
    return theirs


def fvu(x, x_hat):
    return ((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()


def assert_same(ours, theirs, x):
    """Codes, reconstructions and FVU of an autoencoder here and there."""
    ours = ours.replace(metadata=())  # Which would compile all of it anew.
    with torch.no_grad():
        code_BN = theirs.encode(torch.tensor(x)).numpy()
        x_hat = theirs(torch.tensor(x)).numpy()
    assert 0 < (code_BN > 0).mean() < 1
    np.testing.assert_allclose(encode_dense(ours, x), code_BN, rtol=1e-5, atol=1e-5)
    found = np.asarray(saejax.decode(ours, saejax.encode(ours, x), x))
    np.testing.assert_allclose(found, x_hat, rtol=1e-5, atol=2e-5)
    if x.shape == x_hat.shape:
        assert fvu(x, found) == pytest.approx(fvu(x, x_hat), rel=1e-5)


def assert_round_trip(folder, x):
    """SAELens' folder, read, written and read by SAELens computes the same, and stays as it is."""
    ours = saelens.load(folder)
    saelens.save(ours, folder / "again")
    again = saelens.load(folder / "again")
    for name in ("w_enc", "b_enc", "w_dec", "b_dec", "threshold", "r_mag", "b_mag", "w_skip"):
        if getattr(ours, name) is not None:
            np.testing.assert_array_equal(getattr(again, name), getattr(ours, name))
    assert dict(again.metadata).items() >= dict(ours.metadata).items()
    assert_same(ours, sae_lens.SAE.load_from_disk(folder / "again"), x)
    return ours


def metadata():
    return sae_lens.saes.sae.SAEMetadata(
        model_name="gpt2-small", hook_name="blocks.2.hook_mlp_out", context_size=128
    )


@pytest.mark.parametrize(
    ("normalize", "center"),
    [("none", True), ("none", False), ("constant_norm_rescale", False), ("layer_norm", True)],
)
@pytest.mark.parametrize("kind", ["Standard", "TopK", "TopK rescaled", "JumpReLU", "Gated"])
def test_autoencoders(tmp_path, kind, normalize, center):
    kind, _, rescaled = kind.partition(" ")
    more = {"k": 4, "rescale_acts_by_decoder_norm": bool(rescaled)} if kind == "TopK" else {}
    config = getattr(sae_lens, f"{kind}SAEConfig")(
        d_in=D,
        d_sae=N,
        apply_b_dec_to_input=center,
        normalize_activations=normalize,
        metadata=metadata(),
        **more,
    )
    theirs = randomize(getattr(sae_lens, f"{kind}SAE")(config))
    theirs.save_model(tmp_path)
    ours = assert_round_trip(tmp_path, inputs())
    assert_same(ours, theirs, inputs())
    assert dict(ours.metadata)["hookpoint"] == "h.2.mlp"
    assert dict(ours.metadata)["context_size"] == 128


@pytest.mark.parametrize("skip", ["", "Skip"])
@pytest.mark.parametrize("kind", ["", "JumpReLU"])
def test_transcoders(tmp_path, kind, skip):
    config = getattr(sae_lens, f"{kind}{skip}TranscoderConfig")(
        d_in=D, d_out=E, d_sae=N, apply_b_dec_to_input=False, metadata=metadata()
    )
    theirs = randomize(getattr(sae_lens, f"{kind}{skip}Transcoder")(config))
    theirs.save_model(tmp_path)
    assert_same(assert_round_trip(tmp_path, inputs()), theirs, inputs())


def training_sae(kind, **config):
    widths = {"matryoshka_widths": [4, N]} if kind.startswith("Matryoshka") else {}
    return randomize(
        getattr(sae_lens, f"{kind}TrainingSAE")(
            getattr(sae_lens, f"{kind}TrainingSAEConfig")(d_in=D, d_sae=N, **widths, **config)
        )
    )


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("scale", [None, 2.5])
@pytest.mark.parametrize("kind", ["TopK", "BatchTopK", "MatryoshkaBatchTopK"])
def test_checkpoints_in_training(tmp_path, kind, scale, rescale):
    theirs = training_sae(
        kind,
        k=4,
        rescale_acts_by_decoder_norm=rescale,
        normalize_activations="none" if scale is None else "expected_average_only_in",
    )
    if kind != "TopK":
        theirs.topk_threshold = torch.tensor(0.9, dtype=torch.double)
    theirs.save_model(tmp_path / "checkpoint")
    scaler = sae_lens.training.activation_scaler.ActivationScaler(scale)
    scaler.save(str(tmp_path / "checkpoint" / "activation_scaler.json"))
    # The end of SAELens' training.
    if scale is not None:
        theirs.fold_activation_norm_scaling_factor(scale)
    theirs.save_inference_model(tmp_path / "final")
    final = sae_lens.SAE.load_from_disk(tmp_path / "final")
    for name in ("checkpoint", "final"):
        assert_same(assert_round_trip(tmp_path / name, inputs()), final, inputs())


@pytest.mark.parametrize("kind", ["Standard", "Gated", "JumpReLU"])
def test_other_checkpoints_in_training(tmp_path, kind):
    theirs = training_sae(kind, normalize_activations="expected_average_only_in")
    theirs.save_model(tmp_path)
    # Without the scale beside them, SAELens leaves the weights as they are.
    assert_same(saelens.load(tmp_path), sae_lens.SAE.load_from_disk(tmp_path), inputs())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_floats(tmp_path, dtype):
    config = sae_lens.StandardSAEConfig(d_in=D, d_sae=N, dtype=dtype, metadata=metadata())
    randomize(sae_lens.StandardSAE(config)).save_model(tmp_path)
    ours = saelens.load(tmp_path)
    assert ours.w_enc.dtype == np.float32
    assert_same(ours, sae_lens.SAE.load_from_disk(tmp_path, dtype="float32"), inputs())


OLD = {"d_in": D, "d_sae": N, "dtype": "torch.float32", "hook_point": "blocks.8.hook_resid_pre"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"architecture": "jumprelu", "normalize_activations": False},
        {"architecture": "gated", "apply_b_dec_to_input": False},
        {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}},
        {"normalize_activations": True},
        {"normalize_activations": "layer_norm", "sae_lens_version": "5.11.0"},
    ],
)
def test_configurations_before_version_6(tmp_path, changes):
    arch = changes.get("architecture", "standard")
    kind = {"standard": "Standard", "jumprelu": "JumpReLU", "gated": "Gated"}[arch]
    config = getattr(sae_lens, f"{kind}SAEConfig")(d_in=D, d_sae=N)
    randomize(getattr(sae_lens, f"{kind}SAE")(config)).save_model(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(OLD | changes))
    assert_same(
        assert_round_trip(tmp_path, inputs()), sae_lens.SAE.load_from_disk(tmp_path), inputs()
    )


def test_old_autoencoders_of_heads(tmp_path):
    theirs = randomize(sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=D, d_sae=N)))
    theirs.save_model(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(OLD | {"hook_point": "blocks.1.attn.hook_z"}))
    ours = saelens.load(tmp_path)
    saelens.save(ours, tmp_path / "again")
    x = inputs()
    for folder in (tmp_path, tmp_path / "again"):
        theirs = sae_lens.SAE.load_from_disk(folder)
        with torch.no_grad():
            x_hat = theirs(torch.tensor(x).reshape(B, 2, D // 2)).reshape(B, D).numpy()
        found = saejax.decode(ours, saejax.encode(ours, x))
        np.testing.assert_allclose(found, x_hat, rtol=1e-5, atol=1e-5)


def test_weights_are_saved_to_the_bit(tmp_path):
    rng = np.random.default_rng(1)
    shapes = {"w_enc": (D, N), "b_enc": (N,), "w_dec": (N, D), "b_dec": (D,), "threshold": (N,)}
    leaves = {name: jnp.asarray(rng.random(shape), jnp.float32) for name, shape in shapes.items()}
    ours = Sae(**leaves, arch="jump_relu", k=N, metadata=(("hookpoint", "layers.6.mlp"),))
    saelens.save(ours, tmp_path)
    assert_same(ours, sae_lens.SAE.load_from_disk(tmp_path), inputs() - 1)
    found = safetensors.numpy.load_file(tmp_path / "sae_weights.safetensors")
    np.testing.assert_array_equal(found["W_enc"], leaves["w_enc"])
