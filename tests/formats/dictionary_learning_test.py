"""Folders of dictionary_learning without their package: round trips, guesses, clear errors."""

import json
import os
import shutil

import numpy as np
import pytest

import saejax
from saejax.errors import InputError
from saejax.formats import dictionary_learning, torch_file
from saejax.sae.sae import Sae

D, N = 5, 12


def leaves(seed=0, unit_rows=True, more=()):
    rng = np.random.default_rng(seed)
    shapes = {"w_enc": (D, N), "b_enc": (N,), "w_dec": (N, D), "b_dec": (D,)}
    shapes |= dict.fromkeys(more, (N,))
    found = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    if unit_rows:
        found["w_dec"] /= np.linalg.norm(found["w_dec"], axis=1, keepdims=True)
    return found


def make(arch="topk", k=3, **fields):
    own = {"gated": ("r_mag", "b_mag"), "jump_relu": ("threshold",)}.get(arch, ())
    metadata = (("hookpoint", "layers.6"), ("layer", 6), ("model_name", "gpt2"), ("seed", 1))
    given = {"metadata": metadata, **leaves(more=own), **fields}
    return Sae(k=k if arch == "topk" else N, arch=arch, **given)


SAES = {
    "AutoEncoder": make("relu"),
    "AutoEncoderNew": make("relu", apply_b_dec_to_input=False, **leaves(unit_rows=False)),
    "GatedAutoEncoder": make("gated"),
    "AutoEncoderTopK": make(),
    "BatchTopKSAE": make("jump_relu", threshold=np.full(N, 0.3, np.float32)),
    "JumpReluAutoEncoder": make("jump_relu", apply_b_dec_to_input=False),
}


def assert_same(found, expected):
    assert (found.arch, found.k) == (expected.arch, expected.k)
    assert found.centers_input == expected.centers_input
    for name in ("w_enc", "b_enc", "w_dec", "b_dec", "threshold", "r_mag", "b_mag"):
        value = getattr(expected, name)
        assert (getattr(found, name) is None) == (value is None)
        if value is not None:
            assert getattr(found, name).dtype == np.float32
            np.testing.assert_array_equal(getattr(found, name), value)


@pytest.mark.parametrize("name", SAES)
def test_round_trips_are_exact(tmp_path, name):
    sae = SAES[name]
    assert dictionary_learning.refuses(sae) is None
    assert dictionary_learning.drops(sae) == []
    assert not dictionary_learning.is_here(tmp_path)
    dictionary_learning.save(sae, tmp_path / "a")
    assert dictionary_learning.is_here(tmp_path / "a")
    trainer = json.loads((tmp_path / "a" / "config.json").read_text())["trainer"]
    assert (trainer["dict_class"], trainer["dict_size"]) == (name, N)
    assert (trainer["lm_name"], trainer["submodule_name"]) == ("gpt2", "layers.6")
    loaded = dictionary_learning.load(tmp_path / "a")
    assert_same(loaded, sae)
    # Their BatchTopK always has a k.
    more = {"k": N} if name == "BatchTopKSAE" else {}
    assert dict(loaded.metadata) == dict(sae.metadata) | more
    dictionary_learning.save(loaded, tmp_path / "b")
    assert (tmp_path / "a" / "ae.pt").read_bytes() == (tmp_path / "b" / "ae.pt").read_bytes()


def test_layout_is_theirs(tmp_path):
    sae = SAES["BatchTopKSAE"].replace(metadata=(("k", 4),))
    dictionary_learning.save(sae, tmp_path)
    tensors = torch_file.read(tmp_path / "ae.pt")
    assert {name: (value.shape, value.dtype.name) for name, value in tensors.items()} == {
        "b_dec": ((D,), "float32"),
        "encoder.weight": ((N, D), "float32"),
        "encoder.bias": ((N,), "float32"),
        "decoder.weight": ((D, N), "float32"),
        "k": ((), "int32"),
        "threshold": ((), "float32"),
    }
    assert (tensors["k"], tensors["threshold"]) == (4, np.float32(0.3))
    np.testing.assert_array_equal(tensors["decoder.weight"], sae.w_dec.T)
    assert dict(dictionary_learning.load(tmp_path).metadata) == {"k": 4}


def test_decoder_rows_of_autoencoders_get_norm_1(tmp_path):
    sae = make("relu", **leaves(unit_rows=False))
    assert "norms of decoder rows" in dictionary_learning.drops(sae)[0]
    dictionary_learning.save(sae, tmp_path)
    loaded = dictionary_learning.load(tmp_path)
    norm = np.linalg.norm(sae.w_dec, axis=1)
    np.testing.assert_allclose(np.linalg.norm(loaded.w_dec, axis=1), 1, rtol=1e-6)
    x = np.random.default_rng(1).normal(size=(7, D)).astype(np.float32)
    found, expected = (saejax.encode(s, x) for s in (loaded, sae))
    rows = np.arange(7)[:, None]
    dense, scaled = np.zeros((2, 7, N))
    dense[rows, found.indices] = found.values
    scaled[rows, expected.indices] = expected.values * norm[np.asarray(expected.indices)]
    np.testing.assert_allclose(dense, scaled, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        saejax.decode(loaded, found), saejax.decode(sae, expected), rtol=1e-5, atol=1e-5
    )
    # Now they have it, and nothing changes any more.
    dictionary_learning.save(loaded, tmp_path)
    assert_same(dictionary_learning.load(tmp_path), loaded)


def test_a_decoder_row_of_zeros_stays(tmp_path):
    own = leaves(unit_rows=False)
    own["w_dec"][3] = 0
    dictionary_learning.save(make("relu", **own), tmp_path)
    loaded = dictionary_learning.load(tmp_path)
    np.testing.assert_array_equal(loaded.w_dec[3], 0)
    np.testing.assert_array_equal(loaded.w_enc[:, 3], own["w_enc"][:, 3])


@pytest.mark.parametrize("sizes", [{"w_dec": 1e15, "w_enc": 1e25}, {"w_dec": 1e25}])
def test_weights_too_large_to_be_scaled(tmp_path, sizes):
    own = leaves(unit_rows=False)
    large = {name: own[name] * np.float32(size) for name, size in sizes.items()}
    dictionary_learning.save(make("relu", **own | large), tmp_path)
    with pytest.raises(InputError, match="weights too large"):
        dictionary_learning.load(tmp_path)


def test_jump_relu_with_many_thresholds_and_b_dec_subtracted(tmp_path):
    sae = make("jump_relu")
    assert "apply_b_dec_to_input" in dictionary_learning.drops(sae)[0]
    dictionary_learning.save(sae, tmp_path)
    loaded = dictionary_learning.load(tmp_path)
    assert loaded.apply_b_dec_to_input is False
    np.testing.assert_array_equal(loaded.threshold, sae.threshold)
    x = np.random.default_rng(1).normal(size=(7, D)).astype(np.float32)
    found, expected = (saejax.decode(s, saejax.encode(s, x)) for s in (loaded, sae))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SAES)
def test_without_configuration(tmp_path, name):
    dictionary_learning.save(SAES[name], tmp_path)
    (tmp_path / "config.json").unlink()
    if name in ("AutoEncoderTopK", "BatchTopKSAE"):
        with pytest.raises(InputError, match=r"config\.json: no such file.*TopK and BatchTopKSAE;"):
            dictionary_learning.load(tmp_path)
    else:
        loaded = dictionary_learning.load(tmp_path)
        assert_same(loaded, SAES[name])
        assert loaded.metadata == ()


def test_no_class_has_these_tensors(tmp_path):
    torch_file.write(tmp_path / "ae.pt", {"w": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match="those of no class; copy"):
        dictionary_learning.load(tmp_path)


def test_early_topk_without_k_among_its_tensors(tmp_path):
    dictionary_learning.save(make(), tmp_path)
    tensors = torch_file.read(tmp_path / "ae.pt")
    # A copy, since the file is written over.
    early = {n: np.array(v) for n, v in tensors.items() if n not in ("k", "threshold")}
    torch_file.write(tmp_path / "ae.pt", early)
    assert_same(dictionary_learning.load(tmp_path), make())


@pytest.mark.parametrize(
    ("sae", "why"),
    [
        (make(transcoder=True), "transcoders"),
        (make("relu", normalize_activations="layer_norm"), "normalize_activations='layer_norm'"),
        (make(apply_b_dec_to_input=False), "subtracts b_dec"),
        (make("gated", apply_b_dec_to_input=False), "subtracts b_dec"),
        (make("relu").replace(k=3), "no limit of k=3 for relu"),
    ],
)
def test_what_the_format_does_not_have(tmp_path, sae, why):
    assert why in str(dictionary_learning.refuses(sae))
    with pytest.raises(InputError, match=why):
        dictionary_learning.save(sae, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_metadata_with_names_of_theirs_is_dropped(tmp_path):
    sae = make(metadata=(("dict_class", "Mine"), ("k", 77), ("steps", 10)))
    assert dictionary_learning.drops(sae) == ["dict_class", "k"]
    dictionary_learning.save(sae, tmp_path)
    assert dictionary_learning.load(tmp_path).metadata == (("steps", 10),)


def spoil_config(**changes):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({"trainer": config["trainer"] | changes}))

    return spoil


def spoil_tensors(**changes):
    def spoil(folder):
        tensors = {n: np.array(v) for n, v in torch_file.read(folder / "ae.pt").items()}
        tensors |= {name.replace("__", "."): value for name, value in changes.items()}
        torch_file.write(folder / "ae.pt", {n: v for n, v in tensors.items() if v is not None})

    return spoil


def text_config(text):
    return lambda folder: (folder / "config.json").write_text(text)


NAN = np.full(N, np.nan, np.float32)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (text_config(""), r"config\.json: not JSON"),
        (text_config("[]"), "must hold a JSON object"),
        (text_config("[" * 100_000), "not JSON"),
        (text_config("{}"), "dict_class=None cannot be read"),
        (text_config('{"trainer": [1]}'), r"dict_class=\[1\] cannot be read"),
        (spoil_config(dict_class="CrossCoder"), "dict_class='CrossCoder' cannot be read, only"),
        (spoil_config(dict_class=["AutoEncoder"]), "cannot be read"),
        (spoil_config(dict_class="AutoEncoder"), "AutoEncoder has no .*b_dec.*another class"),
        (spoil_config(dict_class="MatryoshkaBatchTopKSAE"), "has no .*encoder.bias"),
        (spoil_config(dict_size=13), r"dict_size=13, but ae\.pt has 12"),
        (spoil_config(dict_size=-1), "dict_size=-1 must be a whole number"),
        (spoil_config(activation_dim=5.0), r"activation_dim=5\.0 must be a whole number"),
        (spoil_config(k=True), "k=True must be a whole number"),
        (spoil_config(k=4), r"k=4 in config\.json, but 3 in ae\.pt"),
        (spoil_config(k=0), "k=0 must be a whole number"),
        (spoil_tensors(k=np.array(13, np.int32)), "k=3 in config"),
        (spoil_tensors(k=np.array([3], np.int32)), "one whole number"),
        (spoil_tensors(k=np.array(3.0, np.float32)), "one whole number"),
        (spoil_tensors(k=np.array(-3, np.int32)), "k=-3 must be a whole number"),
        (spoil_tensors(b_dec=None), r"ae\.pt: no tensor b_dec"),
        (spoil_tensors(b_dec=np.zeros(4, np.float32)), r"b_dec has shape \(4,\)"),
        (spoil_tensors(encoder__bias=NAN), "12 entries that are NaN or infinite"),
        (spoil_tensors(b_dec=np.full(D, 1e300)), "5 entries that are NaN or infinite in float32"),
        (spoil_tensors(encoder__bias=np.zeros(N, int)), "has type int64"),
        (spoil_tensors(encoder__weight=NAN), r"encoder\.weight must be a matrix"),
        (spoil_tensors(other=NAN), r"AutoEncoderTopK has no .*other"),
        (lambda folder: (folder / "ae.pt").unlink(), r"ae\.pt: cannot be read: No such file"),
        (lambda folder: (folder / "ae.pt").write_bytes(b""), r"ae\.pt: 0 bytes"),
        (lambda folder: os.truncate(folder / "ae.pt", 300), "truncated"),
    ],
)
def test_broken_folders_name_the_file(tmp_path, spoil, says):
    dictionary_learning.save(make(), tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=says) as error:
        dictionary_learning.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_k_of_more_than_all_latents(tmp_path):
    dictionary_learning.save(make(k=13), tmp_path)
    assert dictionary_learning.load(tmp_path).k == N
    spoil_config(k=13)(tmp_path)
    spoil_tensors(k=np.array(13, np.int32))(tmp_path)
    with pytest.raises(InputError, match="k=13 is more than its 12 latents"):
        dictionary_learning.load(tmp_path)


def test_batch_topk_needs_its_threshold(tmp_path):
    dictionary_learning.save(SAES["BatchTopKSAE"], tmp_path)
    spoil_tensors(threshold=None)(tmp_path)
    with pytest.raises(InputError, match="no threshold, which BatchTopKSAE needs"):
        dictionary_learning.load(tmp_path)


def test_is_here_never_raises(tmp_path):
    for name in ("x" * 5000, "a\0b", "config.json"):
        assert not dictionary_learning.is_here(tmp_path / name)
    shutil.rmtree(tmp_path)
    assert not dictionary_learning.is_here(tmp_path)
