"""Caches of a run against all of its codes, and stopping at any point."""

import json
import os
import signal
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

import saejax
from saejax.activations import open_activations
from saejax.analysis import text as text_module
from saejax.analysis.text import open_text
from saejax.errors import InputError
from saejax.interp import cache_parts
from saejax.interp import cache_run as module
from saejax.interp.cache import open_cache
from saejax.interp.cache_run import cache_run
from saejax.lm import load_lm, make_capture
from saejax.mesh import make_mesh
from saejax.rundir import RunDir
from saejax.sae.sae import encode_dense
from saejax.train.interrupt import Interrupted

D, U, L = 16, 48, 32


def make_sae(seed, num_latents, arch="topk", **fields):
    rng = np.random.default_rng(seed)
    w_enc = rng.normal(size=(D, num_latents)).astype(np.float32)
    bias_N = rng.normal(size=num_latents).astype(np.float32)
    k = 4 if arch == "topk" else num_latents
    return saejax.Sae(w_enc, bias_N, w_enc.T, np.zeros(D, np.float32), k=k, arch=arch, **fields)


@pytest.fixture(scope="module")
def saes():
    threshold_N = np.full(37, 0.5, np.float32)
    return {1: make_sae(1, 32), 2: make_sae(2, 37, "jump_relu", threshold=threshold_N)}


@pytest.fixture
def small_steps(monkeypatch):
    """Many parts, groups and chunks."""
    monkeypatch.setattr(module, "_HELD_FIRINGS", 2000)
    monkeypatch.setattr(module, "_CHUNK_CODES", 37 * 100)
    monkeypatch.setattr(cache_parts, "_GROUP", 300)
    monkeypatch.setattr(cache_parts, "_TOKEN_ROWS", 5)


@pytest.fixture
def run(tmp_path):
    """A directory without activations, so that the model is run."""
    return RunDir(tmp_path / "run")


def dense_codes(cfg, sae):
    """[U, L, N] float16, with the first token 0."""
    capture = make_capture(load_lm(cfg.lm.source), [cfg.hookpoint])
    x_ULD = capture(jnp.asarray(open_text(cfg).windows[:]))[cfg.hookpoint]
    code_TN = encode_dense(sae, x_ULD.reshape(-1, D))
    code_ULN = np.array(code_TN).reshape(*x_ULD.shape[:2], -1)
    code_ULN[:, :1] = 0
    return code_ULN


def assert_holds(folder, code_ULN):
    cache = open_cache(folder)
    assert cache.num_latents == code_ULN.shape[2]
    for n in range(cache.num_latents):
        found = cache.latent(n)
        own_UL = np.zeros(code_ULN.shape[:2])
        own_UL[found.sequences, found.positions] = found.values
        assert (found.values > 0).all()
        # A code at the edge of the k largest, or of a threshold, may fall either way.
        wrong = ~np.isclose(own_UL, code_ULN[:, :, n], rtol=1e-3, atol=1e-4)
        assert wrong.sum() <= 1
    assert cache.num_firings.sum() == pytest.approx((code_ULN > 0).sum(), abs=4)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*_*.safetensors"))}


def test_all_codes_are_there_and_sorted(cfg, run, saes, small_steps, tmp_path):
    folders = cache_run(cfg, run, saes, tmp_path / "caches")
    assert {path.name for path in (tmp_path / "caches").iterdir()} == {
        "layers.1.mlp.seed1",
        "layers.1.mlp.seed2",
    }
    windows = open_text(cfg).windows
    for seed, folder in folders.items():
        assert len(files(folder)) == 5
        assert not list(folder.rglob("*part*"))
        assert not list(folder.glob("*.order.npy"))
        assert_holds(folder, dense_codes(cfg, saes[seed]))
        np.testing.assert_array_equal(open_cache(folder).tokens, windows[:])
    config = json.loads((folders[1] / "config.json").read_text())
    expected = {"cache_ctx_len": L, "n_tokens": U * L, "n_splits": 5, "model_name": cfg.lm.source}
    assert config | expected == config


def test_the_store_of_the_run_serves(cfg, run, saes, tmp_path):
    cfg.data.store_dtype = "float32"
    at, mesh = (cfg.hookpoint,), make_mesh(cfg.mesh)
    open_activations(cfg, at, run.activations, mesh, norms_of=cfg.hookpoint)
    with mock.patch.object(text_module, "load_lm", side_effect=AssertionError):
        folders = cache_run(cfg, run, {1: saes[1]}, tmp_path / "caches")
        assert cache_run(cfg, run, {1: saes[1]}, tmp_path / "caches") == folders
    assert_holds(folders[1], dense_codes(cfg, saes[1]))


def stopping_reader(at, stop):
    """`open_reader` whose function stops at a batch, and the first windows that it read."""
    read_from = []
    real = text_module.open_reader

    def open_reader(*arguments):
        read, origin = real(*arguments)

        def stopped(numbers_B):
            if numbers_B[0] == at and len(read_from) == at // 8:
                stop()
            read_from.append(int(numbers_B[0]))
            return read(numbers_B)

        return stopped, origin

    return open_reader, read_from


def fail():
    raise MemoryError


def test_stopped_while_it_reads_it_goes_on(cfg, run, saes, small_steps, tmp_path, monkeypatch):
    straight = cache_run(cfg, run, saes, tmp_path / "straight")
    for name, stop, error, again_from in (
        ("signal", lambda: os.kill(os.getpid(), signal.SIGTERM), Interrupted, 32),
        ("dead", fail, MemoryError, 24),
    ):
        open_reader, read_from = stopping_reader(24, stop)
        monkeypatch.setattr(module, "open_reader", open_reader)
        with pytest.raises(error):
            cache_run(cfg, run, saes, tmp_path / name)
        with pytest.raises(InputError, match="no latent cache"):
            open_cache(tmp_path / name / "layers.1.mlp.seed1")
        read_from.clear()
        # What a killed writer leaves, and a seed whose last part was not written any more.
        parts = tmp_path / name / "layers.1.mlp.seed1" / "parts"
        (parts / "000000000048_000000000056.safetensors.partial").write_bytes(b"half")
        *_, last = sorted(parts.glob("*.safetensors"))
        end = int(last.stem.split("_")[1])
        assert end == again_from
        last.unlink()
        folders = cache_run(cfg, run, saes, tmp_path / name)
        assert 0 < read_from[0] < again_from
        for seed, folder in folders.items():
            assert files(folder) == files(straight[seed])
            assert not (folder / "parts").exists()


def test_stopped_while_it_sorts_whole_files_stay(
    cfg, run, saes, small_steps, tmp_path, monkeypatch
):
    straight = cache_run(cfg, run, saes, tmp_path / "straight")
    calls = []

    def failing(part_paths, base, group):
        calls.append(group)
        if len(calls) == 12:
            fail()
        return real(part_paths, base, group)

    real = cache_parts._sorted
    with monkeypatch.context() as patch:
        patch.setattr(cache_parts, "_sorted", failing)
        with pytest.raises(MemoryError):
            cache_run(cfg, run, saes, tmp_path / "caches")
    times = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "caches").glob("*/*.safetensors")
    }
    assert 0 < len(times) < 10
    with pytest.raises(InputError, match=r"it is not finished; run the command|has \d+ of 32"):
        open_cache(tmp_path / "caches" / "layers.1.mlp.seed1")
    with mock.patch.object(module, "open_reader", side_effect=AssertionError):
        folders = cache_run(cfg, run, saes, tmp_path / "caches")
    assert times == {path: path.stat().st_mtime_ns for path in times}
    for seed, folder in folders.items():
        assert files(folder) == files(straight[seed])


def test_seeds_can_be_added(cfg, run, saes, tmp_path):
    cache_run(cfg, run, {1: saes[1]}, tmp_path)
    before = files(tmp_path / "layers.1.mlp.seed1")
    folders = cache_run(cfg, run, saes, tmp_path)
    assert files(folders[1]) == before
    assert_holds(folders[2], dense_codes(cfg, saes[2]))


def test_large_values_are_cut_and_small_ones_left_out(cfg, run, tmp_path):
    sae = make_sae(1, 8, "relu").replace(b_enc=np.zeros(8, np.float32))
    scale_N = np.array([1e8, 1, 1, 1, 1, 1, 1, 1e-12], np.float32)
    sae = sae.replace(w_enc=sae.w_enc * scale_N, w_dec=(sae.w_enc * scale_N).T)
    code_ULN = dense_codes(cfg, sae)
    with pytest.warns(UserWarning, match=r"0_0\.safetensors: \d+ values of 65,504 or more are"):
        folders = cache_run(cfg, run, {1: sae}, tmp_path)
    cache = open_cache(folders[1])
    large = code_ULN[:, :, 0] > 0
    assert code_ULN.max() > 1e6
    assert cache.num_firings[0] == large.sum()
    assert np.isfinite(cache.latent(0).values).all()
    assert cache.latent(0).values.max() == 65504
    assert (code_ULN[:, :, 7] > 0).any()
    assert cache.num_firings[7] == 0


def test_another_text_is_read_by_the_model(cfg, run, saes, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("dogs sat on the mat and saw a cat. " * 50)
    data = type(cfg.data)(source=str(other), context_length=16, order="in_order")
    folders = cache_run(cfg, run, {1: saes[1]}, tmp_path / "caches", data=data, num_tokens=10 * 15)
    assert open_cache(folders[1]).tokens.shape == (10, 16)
    with pytest.raises(InputError, match="holds a cache of another autoencoder, text or number"):
        cache_run(cfg, run, {1: saes[1]}, tmp_path / "caches")


def test_excluded_positions_have_no_firings(cfg, run, saes, tmp_path):
    cfg.data.exclude_special_tokens = True
    folders = cache_run(cfg, run, {2: saes[2]}, tmp_path)
    cache, text = open_cache(folders[2]), open_text(cfg)
    special = np.isin(cache.tokens, text.tokenizer.special_ids)
    assert special.any()
    fires = np.zeros(special.shape, bool)
    for n in range(cache.num_latents):
        found = cache.latent(n)
        fires[found.sequences, found.positions] = True
    assert not fires[special].any()
    assert fires[:, 1:][~special[:, 1:]].mean() > 0.9


def test_bad_input_is_named(cfg, run, saes, tmp_path):
    with pytest.raises(InputError, match="num_splits=0 must be at least 1"):
        cache_run(cfg, run, saes, tmp_path, num_splits=0)
    with pytest.raises(InputError, match="tokens=30: a window has 31"):
        cache_run(cfg, run, saes, tmp_path, num_tokens=30)
    wide = saes[1].replace(w_enc=np.zeros((17, 32), np.float32))
    with pytest.raises(InputError, match=r"seed 1 reads width 17, but .* has width 16"):
        cache_run(cfg, run, {1: wide}, tmp_path)
    (tmp_path / "layers.1.mlp.seed1").mkdir()
    (tmp_path / "layers.1.mlp.seed1" / "0_31.safetensors").touch()
    with pytest.raises(InputError, match="holds files of unknown origin; name another folder"):
        cache_run(cfg, run, saes, tmp_path)
    folders = cache_run(cfg, run, {2: saes[2]}, tmp_path, num_tokens=31 * 8, num_splits=50)
    assert len(files(folders[2])) == 37
    changed = saes[2].replace(b_enc=saes[2].b_enc + 1)
    with pytest.raises(InputError, match="holds a cache of another autoencoder"):
        cache_run(cfg, run, {2: changed}, tmp_path, num_tokens=31 * 8, num_splits=50)
