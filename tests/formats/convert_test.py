"""Conversions keep the weights, say what they drop, and refuse what the format does not have."""

import numpy as np
import pytest

import saejax
from saejax.errors import InputError
from saejax.formats.convert import convert
from saejax.formats.load import FORMATS, find


def make(arch="topk", D=6, N=20, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w_enc": (D, N), "b_enc": (N,), "b_dec": (D,)}
    if arch == "gated":
        shapes |= {"r_mag": (N,), "b_mag": (N,)}
    leaves = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    # Powers of two as norms, so that rows of unit norm are exact.
    w_dec = np.eye(D, dtype=np.float32)[rng.integers(0, D, N)]
    metadata = (("hookpoint", "layers.6.mlp"), ("model_name", "org/tiny"), ("seed", seed))
    return saejax.Sae(
        **leaves, w_dec=w_dec, arch=arch, k=4 if arch == "topk" else N, metadata=metadata
    )


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_any_to_any(tmp_path, first, second):
    sae = make()
    saejax.save_sae(sae, tmp_path / "first", format=first)
    (found,) = find(tmp_path / "first")
    assert (found.name, found.format) == ("", first)
    done = convert(tmp_path / "first", found, tmp_path / "second", second)
    assert done.same_bits
    assert done.error == 0
    np.testing.assert_array_equal(done.sae.w_enc, sae.w_enc)
    assert (done.sae.arch, done.sae.k) == ("topk", 4)


def test_what_is_folded_reconstructs_the_same(tmp_path):
    sae = make("relu")
    sae = sae.replace(w_dec=3 * sae.w_dec, apply_b_dec_to_input=True)
    saejax.save_sae(sae, tmp_path / "ours")
    (found,) = find(tmp_path / "ours")
    done = convert(tmp_path / "ours", found, tmp_path / "out", "dictionary_learning")
    assert not done.same_bits
    assert 0 <= done.error < 1e-5
    assert any("norms of decoder rows" in text for text in done.dropped)


def test_what_a_format_does_not_have_is_refused_and_nothing_is_written(tmp_path):
    saejax.save_sae(make("gated"), tmp_path / "gated")
    (found,) = find(tmp_path / "gated")
    with pytest.raises(InputError, match=r"sparsify .*gated"):
        convert(tmp_path / "gated", found, tmp_path / "out", "sparsify")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_metadata_are_kept_or_named(tmp_path, format):
    sae = make()
    # A name that dictionary_learning uses for something else.
    sae = sae.replace(metadata=(("dict_class", "mine"), *sae.metadata))
    saejax.save_sae(sae, tmp_path / "ours")
    (found,) = find(tmp_path / "ours")
    done = convert(tmp_path / "ours", found, tmp_path / "out", format)
    kept = dict(done.sae.metadata)
    for name, value in sae.metadata:
        assert (kept.get(name) == value) != (name in done.dropped)
    assert ("dict_class" in done.dropped) == (format == "dictionary_learning")


def test_a_folder_in_use_is_left_alone(tmp_path):
    saejax.save_sae(make(), tmp_path / "ours")
    (found,) = find(tmp_path / "ours")
    before = (tmp_path / "ours" / "cfg.json").read_bytes()
    with pytest.raises(InputError, match="not empty"):
        convert(tmp_path / "ours", found, tmp_path / "ours", "sparsify")
    assert (tmp_path / "ours" / "cfg.json").read_bytes() == before
