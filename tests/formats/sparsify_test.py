"""sparsify's folders: exact round trips, old files, what the folder's place says, clear errors."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import saejax
from saejax.errors import InputError
from saejax.formats import sparsify
from saejax.sae.sae import Sae, encode_dense

D, N = 5, 12


def make(**changes):
    rng = np.random.default_rng(0)
    shapes = {"w_enc": (D, N), "b_enc": (N,), "w_dec": (N, D), "b_dec": (D,)}
    shapes |= {"w_skip": (D, D)} if changes.pop("skip", False) else {}
    leaves = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    metadata = (("hookpoint", "layers.6.mlp"), ("seed", 3))
    return Sae(**leaves, k=3, metadata=metadata).replace(**changes)


def write(folder, *, skip=False, **config):
    """As sparsify writes it; returns the tensors."""
    rng = np.random.default_rng(1)
    shapes = {"encoder.weight": (N, D), "encoder.bias": (N,), "W_dec": (N, D), "b_dec": (D,)}
    shapes |= {"W_skip": (D, D)} if skip else {}
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({"d_in": D, "num_latents": N, "k": 3} | config))
    safetensors.numpy.save_file(tensors, folder / "sae.safetensors")
    return tensors


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"transcoder": True},
        {"transcoder": True, "skip": True},
        # What a file of before February 2025 with a skip connection is read as.
        {"transcoder": True, "skip": True, "apply_b_dec_to_input": True},
    ],
)
def test_round_trip_is_exact(tmp_path, changes):
    sae = make(**changes)
    assert sparsify.refuses(sae) is None
    assert sparsify.drops(sae) == []
    sparsify.save(sae, tmp_path)
    loaded = sparsify.load(tmp_path)
    for name in ("w_enc", "b_enc", "w_dec", "b_dec", "w_skip"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(sae, name))
    for name in ("k", "metadata", "transcoder", "centers_input", "arch"):
        assert getattr(loaded, name) == getattr(sae, name)


@pytest.mark.parametrize("transcoder", [False, True])
def test_inputs_that_sparsify_would_treat_otherwise_are_folded(tmp_path, transcoder):
    sae = make(transcoder=transcoder, apply_b_dec_to_input=transcoder)
    sparsify.save(sae, tmp_path)
    loaded = sparsify.load(tmp_path)
    assert (loaded.transcoder, loaded.centers_input) == (transcoder, not transcoder)
    np.testing.assert_array_equal(loaded.w_enc, sae.w_enc)
    x = np.random.default_rng(2).normal(size=(9, D)).astype(np.float32)
    np.testing.assert_allclose(encode_dense(loaded, x), encode_dense(sae, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arch": "relu"}, "topk alone, and this one is relu"),
        ({"normalize_activations": "layer_norm"}, "no normalize_activations='layer_norm'"),
        ({"transcoder": True, "w_dec": np.zeros((N, 6))}, "one width, and this one has 5 and 6"),
        ({"skip": True}, "needs transcoder=True"),
    ],
)
def test_what_sparsify_does_not_have(tmp_path, changes, says):
    sae = make(**changes)
    with pytest.raises(InputError, match=f"^{tmp_path / 'sae'}: .*{says}"):
        sparsify.save(sae, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


def test_layout(tmp_path):
    tensors = write(tmp_path, signed=False, transcode=True, skip_connection=True, skip=True)
    sae = sparsify.load(tmp_path)
    x = np.random.default_rng(2).normal(size=(9, D)).astype(np.float32)
    code_BN = np.maximum(x @ tensors["encoder.weight"].T + tensors["encoder.bias"], 0)
    code_BN = np.where(code_BN >= np.sort(code_BN, axis=1)[:, [-3]], code_BN, 0)
    np.testing.assert_allclose(encode_dense(sae, x), code_BN, rtol=1e-5, atol=1e-5)
    y_hat = code_BN @ tensors["W_dec"] + tensors["b_dec"] + x @ tensors["W_skip"].T
    found = saejax.decode(sae, saejax.encode(sae, x), x)
    np.testing.assert_allclose(found, y_hat, rtol=1e-5, atol=1e-5)


def test_old_files(tmp_path):
    tensors = write(tmp_path, num_latents=0, expansion_factor=2, signed=False)
    tensors |= {
        name: np.zeros((10, *tensors[name].shape[1:]), ml_dtypes.bfloat16)
        for name in ("encoder.weight", "encoder.bias", "W_dec")
    }
    safetensors.numpy.save_file(tensors, tmp_path / "sae.safetensors")
    sae = sparsify.load(tmp_path)
    assert (sae.num_latents, sae.transcoder, sae.centers_input) == (10, False, True)
    assert sae.w_enc.dtype == sae.w_dec.dtype == np.float32
    # Without `transcode`, a skip connection is all that tells transcoders.
    write(tmp_path, skip_connection=True, skip=True)
    sae = sparsify.load(tmp_path)
    assert (sae.transcoder, sae.centers_input) == (True, True)


RUN = {
    "sae": {"k": 32},
    "model": "EleutherAI/pythia-160m",
    "dataset": "EleutherAI/the_pile",
    "ctx_len": 2049,
    "shuffle_seed": 42,
    "init_seeds": [7],
    "hf_token": None,
}
OF_RUN = {
    "model_name": "EleutherAI/pythia-160m",
    "dataset_path": "EleutherAI/the_pile",
    "context_size": 2049,
    "data_seed": 42,
}


@pytest.mark.parametrize(
    ("folder", "run", "says"),
    [
        ("layers.6.mlp", RUN, OF_RUN | {"hookpoint": "layers.6.mlp", "seed": 7}),
        ("h.6/seed42", RUN | {"init_seeds": [41, 42]}, OF_RUN | {"hookpoint": "h.6", "seed": 42}),
        ("layers.6", None, {"hookpoint": "layers.6"}),
        ("embed_tokens", [], {"hookpoint": "embed_tokens"}),
        ("mine", {"model": "another program's"}, {}),
    ],
)
def test_the_place_says_what_it_is(tmp_path, monkeypatch, folder, run, says):
    write(tmp_path / folder)
    if run is not None:
        (tmp_path / "config.json").write_text(json.dumps(run))
    assert dict(sparsify.load(tmp_path / folder).metadata) == says
    monkeypatch.chdir(tmp_path / folder)
    assert dict(sparsify.load(type(tmp_path)()).metadata) == says


def test_which_folders_are_of_this_format(tmp_path):
    assert not sparsify.is_here(tmp_path)
    (tmp_path / "cfg.json").touch()
    assert not sparsify.is_here(tmp_path)
    (tmp_path / "sae.safetensors").touch()
    assert sparsify.is_here(tmp_path)
    assert not sparsify.is_here(tmp_path / "sae.safetensors")
    assert not sparsify.is_here(tmp_path / "no\0name")


def spoil_config(**changes):
    return lambda folder: write(folder, **changes)


def spoil_weights(**changes):
    def spoil(folder):
        tensors = write(folder) | {name.replace("__", "."): x for name, x in changes.items()}
        safetensors.numpy.save_file(tensors, folder / "sae.safetensors")

    return spoil


def spoil_bytes(name, text):
    return lambda folder: (folder / name).write_bytes(text)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_config(activation="groupmax"), "activation='groupmax' cannot be read"),
        (spoil_config(signed=True), "signed=true cannot be read"),
        (spoil_config(signed="no"), "signed='no' must be true or false"),
        (spoil_config(transcode=1), "transcode=1 must be true or false"),
        (spoil_config(d_in=None), "d_in=None must be a whole number"),
        (spoil_config(num_latents=-12), "num_latents=-12 must be a whole number"),
        (spoil_config(num_latents=0, expansion_factor=0.5), "expansion_factor=0.5 must be"),
        (spoil_config(num_latents=13), r"shape \(12, 5\); its configuration says \(13, 5\)"),
        (spoil_config(k=13), "k=13 is more than num_latents=12"),
        (spoil_config(k=True), "k=True must be a whole number"),
        (spoil_config(metadata=[]), r"metadata=\[\] must be a JSON object"),
        (spoil_config(skip_connection=True), "no tensor W_skip"),
        (spoil_config(skip=True), "extra tensor W_skip; skip_connection=False"),
        (spoil_weights(W_dec=np.full((N, D), np.inf)), "W_dec has 60 entries that are NaN or inf"),
        (spoil_weights(encoder__weight=np.zeros((D, N))), r"encoder.weight has shape \(5, 12\)"),
        (spoil_weights(b_dec=np.zeros(D, np.uint8)), "b_dec has type uint8"),
        (lambda folder: (folder / "cfg.json").unlink(), "cfg.json: cannot be read"),
        (lambda folder: (folder / "sae.safetensors").unlink(), "no such file"),
        (spoil_bytes("sae.safetensors", b""), "not safetensors"),
        (spoil_bytes("sae.safetensors", b"\x10" + b"\0" * 7 + b"{"), "not safetensors"),
        (spoil_bytes("cfg.json", b""), "not JSON"),
        (spoil_bytes("cfg.json", b"[1]"), "JSON object, not list"),
        (spoil_bytes("cfg.json", b'{"a":' * 100_000), "not JSON"),
    ],
)
def test_broken_folders_name_the_file(tmp_path, spoil, says):
    write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=says) as error:
        sparsify.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
