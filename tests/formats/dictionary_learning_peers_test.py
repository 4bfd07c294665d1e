"""Codes and reconstructions against dictionary_learning's, in both directions."""

import json

import numpy as np
import pytest

import saejax
from saejax.formats import dictionary_learning
from saejax.sae.sae import Sae, encode_dense

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("dictionary_learning.dictionary")
peer = pytest.importorskip("dictionary_learning.utils")

D, N, K = 16, 40, 5


def make(name):
    """One of theirs with random weights, rows of the decoder not of norm 1."""
    torch.manual_seed(0)
    if name in ("AutoEncoderTopK", "BatchTopKSAE"):
        module = getattr(peer, name)(D, N, K)
    elif name == "MatryoshkaBatchTopKSAE":
        module = peer.MatryoshkaBatchTopKSAE(D, N, K, group_sizes=[10, 30])
    else:
        module = getattr(theirs, name)(D, N)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
        if "BatchTopK" in name:
            module.threshold.fill_(0.7)
        elif name == "AutoEncoderTopK":
            # Of theirs it changes nothing: `use_threshold` is off.
            module.threshold.fill_(5.0)
    return module


def saved(folder, name, module, **config):
    trainer = {
        "dict_class": name,
        "trainer_class": "Trainer",
        "activation_dim": D,
        "dict_size": N,
        "k": K,
        "lr": 1e-4,
        "lm_name": "EleutherAI/pythia-70m-deduped",
        "layer": 3,
        "submodule_name": "resid_post_layer_3",
        "seed": 42,
        "decay_start": None,
    }
    folder.mkdir(exist_ok=True)
    torch.save({k: v.cpu() for k, v in module.state_dict().items()}, folder / "ae.pt")
    (folder / "config.json").write_text(
        json.dumps({"trainer": trainer | config, "buffer": {"d_submodule": D}})
    )


def assert_agree(sae, module):
    x = torch.randn(33, D)
    with torch.no_grad():
        code, decoded = module.encode(x), module(x)
    assert 0 < (code > 0).float().mean() < 1
    found = np.asarray(encode_dense(sae, x.numpy()))
    np.testing.assert_array_equal(found > 0, code.numpy() > 0)
    scale = float(code.max())
    np.testing.assert_allclose(found, code.numpy(), rtol=1e-5, atol=1e-6 * scale)
    scale = float(decoded.abs().max())
    reconstruction = saejax.decode(sae, saejax.encode(sae, x.numpy()))
    np.testing.assert_allclose(reconstruction, decoded.numpy(), rtol=1e-5, atol=1e-6 * scale)


CLASSES = list(dictionary_learning._CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_theirs_is_read_and_written(tmp_path, name):
    saved(tmp_path / "a", name, make(name))
    module, _ = peer.load_dictionary(str(tmp_path / "a"), "cpu")
    sae = dictionary_learning.load(tmp_path / "a")
    assert_agree(sae, module)
    metadata = dict(sae.metadata)
    assert metadata["hookpoint"] == "resid_post_layer_3"
    assert (metadata["model_name"], metadata["layer"]) == ("EleutherAI/pythia-70m-deduped", 3)
    assert metadata["seed"] == 42
    assert not metadata.keys() & {"dict_class", "dict_size", "lm_name", "submodule_name", "lr"}
    assert "k" not in metadata or sae.arch != "topk"

    dictionary_learning.save(sae, tmp_path / "b")
    again, config = peer.load_dictionary(str(tmp_path / "b"), "cpu")
    kept = {"lm_name": "EleutherAI/pythia-70m-deduped", "layer": 3, "seed": 42, "k": K}
    assert config["trainer"].items() >= kept.items()
    assert_agree(sae, again)
    if name != "MatryoshkaBatchTopKSAE":  # which becomes a BatchTopKSAE
        for key, value in module.state_dict().items():
            if key != "threshold" or name != "AutoEncoderTopK":
                assert torch.equal(again.state_dict()[key], value)
    reloaded = dictionary_learning.load(tmp_path / "b")
    assert reloaded.metadata == sae.metadata
    for field in ("w_enc", "b_enc", "w_dec", "b_dec", "threshold", "r_mag", "b_mag"):
        np.testing.assert_array_equal(getattr(reloaded, field), getattr(sae, field))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_types(tmp_path, name, dtype):
    module = make(name)
    saved(tmp_path, name, module.to(dtype))
    sae = dictionary_learning.load(tmp_path)
    assert sae.w_enc.dtype == sae.b_dec.dtype == np.float32
    state = {k: v.float() if v.is_floating_point() else v for k, v in module.state_dict().items()}
    full = make(name)
    full.load_state_dict(state)
    if name == "AutoEncoder":
        full.normalize_decoder()
    assert_agree(sae, full)


@pytest.mark.parametrize("name", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_a_threshold_that_training_did_not_reach(tmp_path, name):
    module = make(name)
    module.threshold.fill_(-1.0)
    saved(tmp_path, name, module)
    assert_agree(dictionary_learning.load(tmp_path), module)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"AutoEncoderTopK", "BatchTopKSAE"}))
def test_without_configuration(tmp_path, name):
    saved(tmp_path, name, make(name))
    module, _ = peer.load_dictionary(str(tmp_path), "cpu")
    (tmp_path / "config.json").unlink()
    assert_agree(dictionary_learning.load(tmp_path), module)


@pytest.mark.parametrize("centers", [None, False])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("arch", ["relu", "topk", "gated", "jump_relu"])
def test_ours_is_loaded(tmp_path, arch, unit, centers):
    rng = np.random.default_rng(3)
    shapes = {"w_enc": (D, N), "b_enc": (N,), "w_dec": (N, D), "b_dec": (D,)}
    own = {"gated": ("r_mag", "b_mag"), "jump_relu": ("threshold",)}.get(arch, ())
    shapes |= dict.fromkeys(own, (N,))
    leaves = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    if unit:
        leaves["w_dec"] /= np.linalg.norm(leaves["w_dec"], axis=1, keepdims=True)
    k = K if arch == "topk" else N
    sae = Sae(**leaves, k=k, arch=arch, apply_b_dec_to_input=centers)
    if dictionary_learning.refuses(sae):
        assert centers is False
        assert arch in ("topk", "gated")
        return
    dictionary_learning.save(sae, tmp_path)
    module, _ = peer.load_dictionary(str(tmp_path), "cpu")
    x = torch.randn(33, D)
    with torch.no_grad():
        expected = module(x).numpy()
    found = saejax.decode(sae, saejax.encode(sae, x.numpy()))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    if arch != "relu" or unit or centers is False:
        assert_agree(sae, module)
