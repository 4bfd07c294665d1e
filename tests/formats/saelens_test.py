"""SAELens v6 directories: exact round trip, the layout SAELens reads, clear errors."""

import json

import jax
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


@pytest.mark.parametrize("arch", ["relu", "jump_relu"])
@pytest.mark.parametrize("skip", [False, True])
def test_saelens_computes_the_same_with_our_transcoders(tmp_path, arch, skip):
    theirs = pytest.importorskip("sae_lens")
    torch = pytest.importorskip("torch")
    sae = make_transcoder(arch, skip)
    saejax.save_sae(sae, tmp_path)
    x = np.random.default_rng(3).normal(size=(9, 5)).astype(np.float32)
    loaded = theirs.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        expected = loaded(torch.tensor(x)).numpy()
    loaded.save_model(tmp_path / "again")
    for own in (sae, saejax.load_sae(tmp_path / "again")):
        found = saejax.decode(own, saejax.encode(own, x), x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


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
    with pytest.raises(InputError, match="no d_out"):
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


@pytest.mark.parametrize(
    ("hookpoint", "name"),
    [
        ("layers.6", "blocks.6.hook_resid_post"),
        ("h.11.mlp", "blocks.11.hook_mlp_out"),
        ("layers.0.self_attn", "blocks.0.hook_attn_out"),
        ("embed_tokens", "embed_tokens"),
    ],
)
def test_hook_names(hookpoint, name):
    assert saelens.hook_name(hookpoint) == name


def spoil_config(folder, **changes):
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | changes))


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
    ],
)
def test_broken_folders_name_the_file(tmp_path, spoil, says):
    saelens.save(make(), tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=says) as error:
        saejax.load_sae(tmp_path)
    assert str(tmp_path) in str(error.value)


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
    theirs = pytest.importorskip("sae_lens")
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(9, 6)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.SAE.load_from_disk(tmp_path)(torch.tensor(x)).numpy()
    found = saejax.decode(loaded, saejax.encode(loaded, x), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
