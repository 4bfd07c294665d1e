"""Files of latents are read as they were written, and broken ones are named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.report.latent_files import read_pair, read_seed

N = 64


@pytest.fixture
def folder(make_run: Callable[..., Path], add_latents: Callable[..., object]) -> Path:
    run = make_run(seeds=(1, 2))
    add_latents(run)
    return run / "latents" / "layers.6.mlp"


def test_what_was_written(folder: Path):
    with (
        np.load(folder / "seed1.npz") as seed_file,
        np.load(folder / "seed1-seed2.npz") as pair_file,
    ):
        seed, pair = read_seed(folder / "seed1.npz", N), read_pair(folder / "seed1-seed2.npz", N)
        assert seed is not None
        assert pair is not None
        for record, file in ((seed, seed_file), (pair, pair_file)):
            assert len(vars(record)) == len(file.files)
            for name in file.files:
                np.testing.assert_array_equal(getattr(record, name), file[name])


def test_a_missing_file_is_none(folder: Path):
    assert read_seed(folder / "seed3.npz", N) is None
    assert read_pair(folder / "seed1-seed3.npz", N) is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("max_N", np.full(N, np.nan, np.float32), "max_N holds NaN"),
        ("firings_N", np.full(N, 1001), "1001 firings on 1000 tokens"),
        ("firings_N", np.zeros(N, np.float32), "firings_N is float32"),
        ("mean_N", np.zeros(N - 1, np.float32), "mean_N is float32"),
        ("promoted_NP", np.full((N, 8), -2, np.int32), "negative token ids"),
        ("context_tokens_NCW", np.full((N, 6, 25), -2, np.int32), "negative token ids"),
        ("num_tokens", None, "num_tokens"),
    ],
)
def test_a_broken_seed_is_named(folder: Path, name: str, value: np.ndarray | None, said: str):
    with np.load(folder / "seed1.npz") as file:
        parts = {key: file[key] for key in file.files} | {name: value}
    parts = {key: array for key, array in parts.items() if array is not None}
    np.savez(folder / "seed1.npz", **parts)
    with pytest.raises(InputError, match=rf"seed1\.npz.*{said}.*experiments/analyze\.py"):
        read_seed(folder / "seed1.npz", N)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("jaccard_N", np.full(N, 1.5, np.float32), r"jaccard_N leaves \[-1, 1\]"),
        ("neighbour_NR", np.full((N, 4), N, np.int32), "neighbours are not all in"),
    ],
)
def test_a_broken_pair_is_named(folder: Path, name: str, value: np.ndarray, said: str):
    path = folder / "seed1-seed2.npz"
    with np.load(path) as file:
        parts = {key: file[key] for key in file.files} | {name: value}
    np.savez(path, **parts)
    with pytest.raises(InputError, match=rf"seed1-seed2\.npz.*{said}"):
        read_pair(path, N)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_cut_off_file_is_named(folder: Path, keep: int):
    path = folder / "seed1.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"seed1\.npz cannot be read"):
        read_seed(path, N)
