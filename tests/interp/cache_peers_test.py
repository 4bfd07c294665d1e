"""Caches against the installed delphi (eai-delphi), both ways."""

import dataclasses
import json

import numpy as np
import pytest

import saejax
from saejax.interp.cache import map_tensors, open_cache
from saejax.interp.cache_run import cache_run
from saejax.interp.examples import sample
from saejax.rundir import RunDir

torch = pytest.importorskip("torch")
delphi = pytest.importorskip("delphi.latents")
config = pytest.importorskip("delphi.config")

D, N, CONTEXT = 16, 37, 8


class Tokenizer:
    """As much of a tokenizer as delphi needs to show examples."""

    def batch_decode(self, ids):
        return [str(int(token)) for token in ids]


@pytest.fixture(scope="module")
def sae():
    rng = np.random.default_rng(0)
    w_enc = rng.normal(size=(D, N)).astype(np.float32)
    w_enc[:, 5] = 0  # A latent that never fires.
    return saejax.Sae(w_enc, np.zeros(N), w_enc.T, np.zeros(D), k=6)


def assert_same(theirs, found):
    locations = theirs.locations.numpy()
    np.testing.assert_array_equal(locations[:, 0], found.sequences)
    np.testing.assert_array_equal(locations[:, 1], found.positions)
    np.testing.assert_array_equal(theirs.activations.numpy(), found.values)


def test_delphi_reads_ours(cfg, sae, tmp_path):
    folders = cache_run(cfg, RunDir(tmp_path / "run"), {1: sae}, tmp_path / "latents")
    cache = open_cache(folders[1])
    (name,) = [folder.name for folder in folders.values()]
    fields = {field.name for field in dataclasses.fields(config.CacheConfig)} | {"model_name"}
    assert fields <= json.loads((folders[1] / "config.json").read_text()).keys()
    constructor = config.ConstructorConfig(
        example_ctx_len=CONTEXT, min_examples=1, n_non_activating=3
    )
    sampler = config.SamplerConfig(n_examples_train=2, n_examples_test=2, n_quantiles=1)
    dataset = delphi.LatentDataset(
        tmp_path / "latents", sampler, constructor, tokenizer=Tokenizer(), modules=None
    )
    np.testing.assert_array_equal(dataset.tokens.numpy(), cache.tokens)
    buffers = [latent for buffer in dataset.buffers for latent in buffer]
    fired = {data.latent.latent_index: data.activation_data for data in buffers}
    assert sorted(fired) == np.flatnonzero(cache.num_firings).tolist()
    for n, theirs in fired.items():
        assert_same(theirs, cache.latent(n))
    records = {record.latent.latent_index: record for record in dataset}
    assert records.keys() == fired.keys()
    for n, record in records.items():
        # All activating windows, theirs and ours.
        some = {"num_explain": 0, "num_non_activating": 0, "context": CONTEXT, "quantiles": 1}
        ours = sample(
            cache, n, Tokenizer().batch_decode, num_activating=len(record.examples), **some
        )
        assert ours.num_windows == len(record.examples)
        theirs = sorted((e.tokens.tolist(), e.activations.tolist()) for e in record.examples)
        found = sorted(([*map(int, e.tokens)], e.values.tolist()) for e in ours.activating)
        assert found == theirs
    chosen = {name: torch.tensor([3, N - 1])}
    some = delphi.LatentDataset(
        tmp_path / "latents", sampler, constructor, Tokenizer(), [name], chosen
    )
    assert {record.latent.latent_index for record in some} == {3, N - 1}


def test_we_read_delphis(cfg, sae, tmp_path):
    rng = np.random.default_rng(1)
    batch, length = 4, 32
    code_ULN = np.where(rng.random((3 * batch, length, N)) < 0.1, rng.random(N) * 9, 0)
    code_ULN[:, :, 5] = 0
    tokens_UL = rng.integers(0, 99, code_ULN.shape[:2])
    theirs = delphi.LatentCache(None, {"layers.1.mlp": None}, batch)
    theirs.width = N
    for number in range(3):
        rows = slice(number * batch, (number + 1) * batch)
        theirs.cache.add(
            torch.tensor(code_ULN[rows], dtype=torch.float32),
            torch.tensor(tokens_UL[rows]),
            number,
            "layers.1.mlp",
        )
    theirs.cache.save()
    theirs.save_splits(5, tmp_path)
    theirs.save_config(tmp_path, config.CacheConfig(), "tiny")
    folder = tmp_path / "layers.1.mlp"
    cache = open_cache(folder)
    np.testing.assert_array_equal(cache.tokens, tokens_UL)
    np.testing.assert_array_equal(cache.num_firings, (code_ULN > 1e-5).sum((0, 1)))
    for n in range(N):
        found = cache.latent(n)
        own_UL = np.zeros(tokens_UL.shape, np.float32)
        own_UL[found.sequences, found.positions] = found.values
        np.testing.assert_array_equal(own_UL, code_ULN[:, :, n].astype(np.float16))
    # Our files have the same names and types.
    ours = cache_run(cfg, RunDir(tmp_path / "run"), {1: sae}, tmp_path / "ours")[1]
    names = {path.name for path in folder.glob("*.safetensors")}
    assert {path.name for path in ours.glob("*.safetensors")} == names
    dtypes = [
        {key: x.dtype for key, x in map_tensors(f / "0_6.safetensors").items()}
        for f in (ours, folder)
    ]
    assert dtypes[0] == dtypes[1]
