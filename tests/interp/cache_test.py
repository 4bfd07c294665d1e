"""Reading caches that are not sorted, as delphi writes them, and what is wrong with others."""

import itertools
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from saejax.errors import InputError
from saejax.interp import cache as cache_module
from saejax.interp.cache import open_cache

N, U, L = 23, 7, 16


def dense_codes(seed=0, frac=0.1):
    """[U, L, N] codes that float16 holds, most of them 0."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 2000, (U, L, N)) / 8
    return np.where(rng.random((U, L, N)) < frac, values, 0).astype(np.float32)


def write(folder, code_ULN, tokens_UL, splits=3, dtype=np.uint16):
    """What delphi writes: the nonzero entries in the order of the text."""
    folder.mkdir(parents=True)
    bounds = np.linspace(0, code_ULN.shape[2], splits + 1).astype(int)
    for start, end in itertools.pairwise(bounds):
        part_ULn = code_ULN[:, :, start:end]
        tensors = {
            "locations": np.ascontiguousarray(np.argwhere(part_ULn), dtype),
            "activations": part_ULn[part_ULn != 0].astype(np.float16),
            "tokens": tokens_UL,
        }
        save_file(tensors, folder / f"{start}_{end - 1}.safetensors")


@pytest.fixture
def tokens_UL():
    return np.random.default_rng(1).integers(0, 99, (U, L))


@pytest.mark.parametrize("chunk", [3, 10**6])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_each_latent_is_that_of_the_matrix(tmp_path, tokens_UL, dtype, chunk, monkeypatch):
    monkeypatch.setattr(cache_module, "_CHUNK", chunk)
    code_ULN = dense_codes()
    code_ULN[:, :, 9:12] = 0
    write(tmp_path / "a", code_ULN, tokens_UL, dtype=dtype)
    for _ in range(2):  # The second time with the index.
        cache = open_cache(tmp_path / "a")
        assert cache.num_latents == N
        np.testing.assert_array_equal(cache.tokens, tokens_UL)
        np.testing.assert_array_equal(cache.num_firings, (code_ULN > 0).sum((0, 1)))
        for n in range(N):
            found = cache.latent(n)
            sequences, positions = np.nonzero(code_ULN[:, :, n])
            np.testing.assert_array_equal(found.sequences, sequences)
            np.testing.assert_array_equal(found.positions, positions)
            np.testing.assert_array_equal(found.values, code_ULN[sequences, positions, n])


def test_the_index_follows_the_files(tmp_path, tokens_UL):
    folder = tmp_path / "a"
    write(folder, dense_codes(), tokens_UL)
    before = open_cache(folder).latent(0).sequences
    # As many in each file as before, as of any autoencoder with k codes a token in one file.
    other_ULN = dense_codes()[::-1]
    for path in folder.glob("*.safetensors"):
        path.unlink()
    write(tmp_path / "b", other_ULN, tokens_UL)
    for path in (tmp_path / "b").glob("*.safetensors"):
        path.rename(folder / path.name)
    cache = open_cache(folder)
    assert cache.latent(0).sequences.tolist() == (U - 1 - before)[::-1].tolist()
    next(folder.glob("*.order.npy")).unlink()
    (folder / "index.npz").write_bytes(b"PK\x03\x04 no archive")
    np.testing.assert_array_equal(open_cache(folder).latent(3)[0], cache.latent(3)[0])


def test_infinite_values_of_delphi_are_the_largest(tmp_path, tokens_UL):
    code_ULN = np.zeros((U, L, N), np.float32)
    code_ULN[2, 3, 4] = np.inf
    write(tmp_path / "a", code_ULN, tokens_UL)
    assert open_cache(tmp_path / "a").latent(4).values.tolist() == [65504]


def test_what_is_no_cache_is_refused(tmp_path, tokens_UL):
    with pytest.raises(InputError, match="it is no latent cache"):
        open_cache(tmp_path)
    folder = tmp_path / "a"
    write(folder, dense_codes(), tokens_UL)
    cache = open_cache(folder)
    for i in (-1, N):
        with pytest.raises(InputError, match=rf"latent {i}: the cache has latents 0 to 22"):
            cache.latent(i)
    middle = folder / "7_14.safetensors"
    middle.rename(folder / "gone")
    with pytest.raises(InputError, match=r"lacks latents 7 to 14: copy the missing file"):
        open_cache(folder)
    (folder / "config.json").write_text(json.dumps({"saejax": {"num_latents": N}}))
    with pytest.raises(InputError, match=r"lacks latents 7 to 14: it is not finished; run"):
        open_cache(folder)
    (folder / "gone").rename(middle)
    (folder / "config.json").write_text(json.dumps({"saejax": {"num_latents": N + 1}}))
    with pytest.raises(InputError, match=r"has 23 of 24 latents: it is not finished"):
        open_cache(folder)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"tokens": np.zeros((U, L - 1), np.int64)}, "its files are of different texts"),
        ({"activations": np.ones(3, np.float16)}, "do not belong together"),
        ({"activations": -1}, "values that are not positive"),
        ({"activations": np.nan}, "values that are not positive"),
        ({"locations": (0, L, 0)}, "firings outside of its 7 sequences of 16 tokens and 8 latents"),
        ({"locations": (0, 0, 8)}, "firings outside of its 7 sequences of 16 tokens and 8 latents"),
        ({"locations": "twice"}, "two values for one latent and token"),
    ],
)
def test_damaged_files_are_named(tmp_path, tokens_UL, changed, says):
    folder = tmp_path / "a"
    write(folder, dense_codes(), tokens_UL)
    path = folder / "7_14.safetensors"
    tensors = load_file(path)
    for name, value in changed.items():
        if isinstance(value, np.ndarray):
            tensors[name] = value
        else:
            tensors[name][1] = tensors[name][0] if isinstance(value, str) else value
    save_file(tensors, path)
    with pytest.raises(InputError, match=says):
        open_cache(folder)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"7_14\.safetensors cannot be read"):
        open_cache(folder)
