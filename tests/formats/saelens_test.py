"""SAELens v6 directories: exact round trip, the layout SAELens reads, clear errors."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import saejax
from saejax.errors import InputError
from saejax.formats import saelens
from saejax.sae.sae import Sae


def make(seed=0, D=5, N=12):
    rng = np.random.default_rng(seed)
    return Sae(
        w_enc=rng.normal(size=(D, N)).astype(np.float32),
        b_enc=rng.normal(size=N).astype(np.float32),
        w_dec=rng.normal(size=(N, D)).astype(np.float32),
        b_dec=rng.normal(size=D).astype(np.float32),
        k=3,
        metadata=(("hookpoint", "layers.6.mlp"), ("seed", seed)),
    )


def test_round_trip_is_exact(tmp_path):
    sae = make()
    saejax.save_sae(sae, tmp_path / "sae")
    loaded = saejax.load_sae(tmp_path / "sae")
    for name in ("w_enc", "b_enc", "w_dec", "b_dec"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(sae, name))
    assert loaded.k == 3
    assert dict(sae.metadata).items() <= dict(loaded.metadata).items()


@pytest.mark.parametrize(
    ("arch", "theirs", "tensors"),
    [
        ("relu", "standard", {"b_enc"}),
        ("jump_relu", "jumprelu", {"b_enc", "threshold"}),
        ("gated", "gated", {"b_gate", "r_mag", "b_mag"}),
    ],
)
def test_other_architectures_round_trip(tmp_path, arch, theirs, tensors):
    rng = np.random.default_rng(1)
    own = {"relu": (), "jump_relu": ("threshold",), "gated": ("r_mag", "b_mag")}[arch]
    extra = {name: rng.random(12).astype(np.float32) for name in own}
    sae = make().replace(arch=arch, k=12, **extra)
    saejax.save_sae(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == theirs
    assert "k" not in config
    found = safetensors.numpy.load_file(tmp_path / "sae_weights.safetensors")
    assert set(found) == {"W_enc", "W_dec", "b_dec"} | tensors
    loaded = saejax.load_sae(tmp_path)
    assert (loaded.arch, loaded.k) == (arch, 12)
    for name in ("w_enc", "b_enc", "w_dec", "b_dec", *own):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(sae, name))
    x = rng.normal(size=(7, 5)).astype(np.float32)
    for mine, again in zip(saejax.encode(sae, x), saejax.encode(loaded, x), strict=True):
        np.testing.assert_array_equal(mine, again)


def make_transcoder(arch, skip, D=5, E=7, N=12):
    rng = np.random.default_rng(2)
    shapes = {"w_enc": (D, N), "b_enc": (N,), "w_dec": (N, E), "b_dec": (E,)}
    shapes |= {"jump_relu": {"threshold": (N,)}, "gated": {"r_mag": (N,), "b_mag": (N,)}}.get(
        arch, {}
    )
    shapes |= {"w_skip": (E, D)} if skip else {}
    leaves = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    hooks = {"hookpoint": "layers.6.post_attention_layernorm", "target_hookpoint": "layers.6.mlp"}
    k = 3 if arch == "topk" else N
    metadata = tuple(sorted(hooks.items()))
    return Sae(**leaves, k=k, arch=arch, transcoder=True, metadata=metadata)


@pytest.mark.parametrize(
    ("arch", "skip", "theirs"),
    [
        ("relu", False, "transcoder"),
        ("relu", True, "skip_transcoder"),
        ("jump_relu", False, "jumprelu_transcoder"),
        ("jump_relu", True, "jumprelu_skip_transcoder"),
        ("topk", False, "topk_transcoder"),
        ("topk", True, "topk_skip_transcoder"),
        ("gated", False, "gated_transcoder"),
        ("gated", True, "gated_skip_transcoder"),
    ],
)
def test_transcoders_round_trip(tmp_path, arch, skip, theirs):
    sae = make_transcoder(arch, skip)
    saejax.save_sae(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == theirs
    # SAELens refuses a transcoder with apply_b_dec_to_input, and takes 768 for a missing d_out.
    assert (config["d_in"], config["d_out"], config["d_sae"]) == (5, 7, 12)
    assert config["apply_b_dec_to_input"] is False
    assert config["metadata"]["hook_name"] == "layers.6.post_attention_layernorm"
    assert config["metadata"]["hook_name_out"] == "blocks.6.hook_mlp_out"
    found = safetensors.numpy.load_file(tmp_path / "sae_weights.safetensors")
    assert found["W_dec"].shape == (12, 7)
    assert ("W_skip" in found) == skip
    assert not skip or found["W_skip"].shape == (7, 5)
    loaded = saejax.load_sae(tmp_path)
    assert (loaded.arch, loaded.k, loaded.transcoder) == (arch, sae.k, True)
    for mine, again in zip(*map(jax.tree.leaves, (sae, loaded)), strict=True):
        np.testing.assert_array_equal(mine, again)
    assert dict(sae.metadata).items() <= dict(loaded.metadata).items()


def test_an_autoencoder_has_no_skip_connection(tmp_path):
    sae = make().replace(w_skip=np.zeros((5, 5), np.float32))
    with pytest.raises(InputError, match="needs transcoder=True"):
        saejax.save_sae(sae, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


def test_a_transcoder_without_its_output_width_is_refused(tmp_path):
    saejax.save_sae(make_transcoder("relu", False), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    del config["d_out"]
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"cfg\.json: d_out=None must be a whole number"):
        saejax.load_sae(tmp_path)


def test_layout_is_what_saelens_reads(tmp_path):
    sae = make()
    saelens.save(sae, tmp_path)
    tensors = safetensors.numpy.load_file(tmp_path / "sae_weights.safetensors")
    assert {k: v.shape for k, v in tensors.items()} == {
        "W_enc": (5, 12),
        "b_enc": (12,),
        "W_dec": (12, 5),
        "b_dec": (5,),
    }
    config = json.loads((tmp_path / "cfg.json").read_text())
    # The fields that SAELens' TopK configuration takes, with d_in and d_sae not swapped.
    assert config["architecture"] == "topk"
    assert (config["d_in"], config["d_sae"], config["k"]) == (5, 12, 3)
    assert config["apply_b_dec_to_input"] is True
    assert config["metadata"]["hook_name"] == "blocks.6.hook_mlp_out"
    assert int(config["metadata"]["sae_lens_version"].split(".")[0]) >= 6


def spoil_config(folder, **changes):
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | changes))


def spoil_weights(folder, **changes):
    path = folder / "sae_weights.safetensors"
    safetensors.numpy.save_file(safetensors.numpy.load_file(path) | changes, path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda f: spoil_config(f, architecture="temporal"),
            "architecture='temporal' cannot be read",
        ),
        (lambda f: spoil_config(f, d_sae=13), r"W_enc has shape \(5, 12\).*\(5, 13\)"),
        (lambda f: (f / "cfg.json").write_text("{"), "not JSON"),
        (lambda f: (f / "sae_weights.safetensors").unlink(), "no such file"),
        (
            lambda f: (f / "sae_weights.safetensors").write_bytes(
                (f / "sae_weights.safetensors").read_bytes()[:200]
            ),
            "truncated or not safetensors",
        ),
        (
            lambda f: safetensors.numpy.save_file(
                {"W_enc": np.zeros((5, 12), np.float32)}, f / "sae_weights.safetensors"
            ),
            "no tensor b_enc; found W_enc",
        ),
        (lambda f: spoil_weights(f, W_skip=np.zeros((5, 5))), "topk has no tensor W_skip"),
        (lambda f: spoil_weights(f, b_dec=np.full(5, np.nan)), "b_dec has 5 entries that are NaN"),
        (lambda f: spoil_weights(f, b_dec=np.full(5, 1e300)), "NaN or infinite in float32"),
        (lambda f: spoil_weights(f, b_dec=np.zeros(5, np.int32)), "b_dec has type int32"),
        (lambda f: (f / "sae_weights.safetensors").write_bytes(b""), "not safetensors"),
        (lambda f: (f / "cfg.json").write_text("[]"), "JSON object, not list"),
        (lambda f: (f / "cfg.json").write_text('{"a":' * 100_000), "not JSON"),
        (lambda f: (f / "cfg.json").write_bytes(b"\xff"), "not JSON"),
        (lambda f: spoil_config(f, architecture=["topk"]), r"architecture=\['topk'\] cannot"),
        (lambda f: spoil_config(f, architecture="abstopk"), "architecture='abstopk' cannot"),
        (lambda f: spoil_config(f, d_in=-1), "d_in=-1 must be a whole number"),
        (lambda f: spoil_config(f, d_in=5.0), "d_in=5.0 must be a whole number"),
        (lambda f: spoil_config(f, k=13), "k=13 is more than d_sae=12"),
        (lambda f: spoil_config(f, k=None), "k=None must be a whole number"),
        (lambda f: spoil_config(f, apply_b_dec_to_input="yes"), "='yes' must be true or false"),
        (
            lambda f: spoil_config(f, normalize_activations="covariance_whitening"),
            "normalize_activations='covariance_whitening' cannot be read",
        ),
        (lambda f: spoil_config(f, reshape_activations={}), "reshape_activations={} cannot"),
        (lambda f: spoil_config(f, metadata=[]), r"metadata=\[\] must be a JSON object"),
        (lambda f: spoil_config(f, metadata={"sae_lens_version": 6}), "sae_lens_version=6 must be"),
    ],
)
def test_broken_folders_name_the_file(tmp_path, spoil, says):
    saelens.save(make(), tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=says) as error:
        saelens.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("norm", ["constant_norm_rescale", "layer_norm"])
def test_normalized_activations_round_trip(tmp_path, norm):
    rng = np.random.default_rng(5)
    shapes = {"w_enc": (6, 16), "b_enc": (16,), "w_dec": (16, 6), "b_dec": (6,)}
    leaves = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    sae = Sae(**leaves, k=16, arch="relu", normalize_activations=norm)
    saejax.save_sae(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["normalize_activations"] == norm
    loaded = saejax.load_sae(tmp_path)
    assert loaded.normalize_activations == norm


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_types_are_read_as_float32(tmp_path, kind):
    sae = make()
    saelens.save(sae, tmp_path)
    spoil_weights(tmp_path, W_enc=sae.w_enc.astype(kind))
    w_enc = saelens.load(tmp_path).w_enc
    assert w_enc.dtype == np.float32
    np.testing.assert_array_equal(w_enc, sae.w_enc.astype(kind).astype(np.float32))


def test_which_folders_are_of_this_format(tmp_path):
    assert not saelens.is_here(tmp_path)
    assert not saelens.is_here(tmp_path / "nothing")
    (tmp_path / "cfg.json").touch()
    assert saelens.is_here(tmp_path)  # And its weights are missing, as `load` says.
    assert not saelens.is_here(tmp_path / "cfg.json")
    assert not saelens.is_here(tmp_path / "no\0name")
    (tmp_path / "sae.safetensors").touch()
    assert not saelens.is_here(tmp_path)
    (tmp_path / "sae_weights.safetensors").touch()
    assert saelens.is_here(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arch": "relu"}, "limits only topk to its k=3 largest codes"),
        ({"arch": "jump_relu", "k": 12}, "'jump_relu' needs threshold"),
        ({"arch": "lista"}, "no arch='lista'"),
        ({"normalize_activations": "batch"}, "no normalize_activations='batch'"),
        ({"w_dec": np.zeros((12, 6))}, "one width, and this one has 5 and 6"),
        ({"transcoder": True, "apply_b_dec_to_input": True}, "do not subtract b_dec"),
        ({"transcoder": True, "normalize_activations": "layer_norm"}, "do not undo layer_norm"),
    ],
)
def test_what_the_format_does_not_have(tmp_path, changes, says):
    sae = make().replace(**changes)
    assert says in saelens.refuses(sae)
    with pytest.raises(InputError, match=f"^{tmp_path / 'sae'}: .*{says}"):
        saelens.save(sae, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


def test_what_is_done_to_inputs_round_trips(tmp_path):
    assert saelens.refuses(make()) is None
    assert saelens.drops(make()) == []
    entries = {"hook_name": "blocks.2.attn.hook_z", "reshape_activations": "hook_z"}
    sae = make().replace(apply_b_dec_to_input=False, metadata=tuple(sorted(entries.items())))
    saelens.save(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["apply_b_dec_to_input"] is False
    assert config["reshape_activations"] == "hook_z"
    loaded = saelens.load(tmp_path)
    assert loaded.apply_b_dec_to_input is False
    assert entries.items() <= dict(loaded.metadata).items()


def test_hook_points_are_told_from_hooks_and_model(tmp_path):
    sae = make().replace(metadata=())
    saelens.save(sae, tmp_path)
    hook = {"sae_lens_version": "6.0.0", "hook_name": "blocks.6.hook_mlp_out"}
    for more, hookpoint in (
        ({"model_name": "gpt2-small"}, "h.6.mlp"),
        ({"model_name": "gpt2-small", "hookpoint": "mine"}, "mine"),
        ({}, None),
    ):
        spoil_config(tmp_path, metadata=hook | more)
        found = dict(saelens.load(tmp_path).metadata)
        assert found.get("hookpoint") == hookpoint
        assert found["hook_name"] == hook["hook_name"]
