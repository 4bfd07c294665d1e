"""Finding one autoencoder among those of a run, of another library's run, or alone."""

import dataclasses

import numpy as np
import pytest

import saejax
from saejax.errors import InputError
from saejax.formats.load import FORMATS, find

LAYOUTS = {
    "saelens": "saes/layers.{layer}.mlp/seed{seed}",
    "sparsify": "layers.{layer}.mlp/seed{seed}",
    "dictionary_learning": "run/layers.{layer}.mlp/seed{seed}",
}


def make(seed, D=5, N=12):
    rng = np.random.default_rng(seed)
    return saejax.Sae(
        w_enc=rng.normal(size=(D, N)).astype(np.float32),
        b_enc=rng.normal(size=N).astype(np.float32),
        w_dec=rng.normal(size=(N, D)).astype(np.float32),
        b_dec=rng.normal(size=D).astype(np.float32),
        k=3,
    )


@pytest.fixture(params=FORMATS)
def folder(request, tmp_path):
    for layer in (6, 7):
        for seed in (1, 2):
            path = tmp_path / LAYOUTS[request.param].format(layer=layer, seed=seed)
            saejax.save_sae(make(10 * layer + seed), path, format=request.param)
    return tmp_path


def test_hook_point_and_seed_choose(folder):
    for layer in (6, 7):
        for seed in (1, 2):
            sae = saejax.load_sae(folder, hookpoint=f"layers.{layer}.mlp", seed=seed)
            np.testing.assert_array_equal(sae.w_dec, make(10 * layer + seed).w_dec)
    sae = saejax.load_sae(folder, hookpoint="layers.7.mlp/seed2")
    np.testing.assert_array_equal(sae.w_dec, make(72).w_dec)


def test_what_names_none_or_several_lists_what_there_is(folder):
    with pytest.raises(InputError, match=r"names 2 .*layers\.6\.mlp/seed1, .*layers\.6\.mlp/seed2"):
        saejax.load_sae(folder, hookpoint="layers.6.mlp")
    with pytest.raises(InputError, match=r"names no .*layers\.6\.mlp/seed1"):
        saejax.load_sae(folder, hookpoint="layers.6", seed=1)
    with pytest.raises(InputError, match="seed=3 names no"):
        saejax.load_sae(folder, seed=3)


def test_hook_names_of_transformer_lens_choose_too(tmp_path):
    for layer in (6, 7):
        saejax.save_sae(make(layer), tmp_path / f"blocks.{layer}.hook_mlp_out")
    for name in ("layers.7.mlp", "h.7.mlp", "blocks.7.hook_mlp_out"):
        np.testing.assert_array_equal(saejax.load_sae(tmp_path, name).w_enc, make(7).w_enc)


def test_a_folder_of_one_is_taken_unless_it_says_that_it_is_another(tmp_path):
    sae = dataclasses.replace(make(1), metadata=(("hookpoint", "layers.6.mlp"), ("seed", 1)))
    saejax.save_sae(sae, tmp_path)
    saejax.load_sae(tmp_path)
    saejax.load_sae(tmp_path, hookpoint="layers.6.mlp", seed=1)
    with pytest.raises(InputError, match="seed=2 was asked for, and it is of 1"):
        saejax.load_sae(tmp_path, seed=2)


def test_nothing_to_find(tmp_path):
    with pytest.raises(InputError, match="no autoencoder here; looked for folders"):
        find(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        find(tmp_path / "nothing")
    with pytest.raises(InputError, match="choose saelens, sparsify, dictionary_learning"):
        saejax.save_sae(make(1), tmp_path / "x", format="onnx")
