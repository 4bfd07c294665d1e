"""The records and their file: exact round trips, and no damaged file that loads."""

import dataclasses
import errno
import os
import zipfile

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.matching import Certificate, Matching, match, save_matchings
from saejax.matching.matching import Soft


def rows(num_latents, seed):
    return np.random.default_rng(seed).normal(size=(num_latents, 4))


def assert_same(a, b):
    assert type(a) is type(b)
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, Soft):
            assert_same(x, y)
        elif isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        else:
            assert x == y


@pytest.mark.parametrize("method", ["exact", "sinkhorn", "scipy", "max_cosine"])
@pytest.mark.parametrize(("num_a", "num_b"), [(6, 6), (4, 7), (7, 4), (1, 1)])
def test_round_trip_is_exact(tmp_path, method, num_a, num_b):
    matching = match(rows(num_a, 0), rows(num_b, 1), method=method, side="encoder")
    matching.save(tmp_path / "made" / "m.npz")
    assert_same(Matching.load(tmp_path / "made" / "m.npz"), matching)
    assert os.listdir(tmp_path / "made") == ["m.npz"]


def test_one_file_holds_both_sides(tmp_path):
    both = {s: match(rows(5, i), rows(5, 2), side=s) for i, s in enumerate(("decoder", "encoder"))}
    path = tmp_path / "seed1-seed2.exact.npz"
    save_matchings(path, both)
    for side, matching in both.items():
        assert_same(Matching.load(path, side=side), matching)
    with pytest.raises(InputError, match="holds decoder and encoder"):
        Matching.load(path)
    both["encoder"].save(path)
    with pytest.raises(InputError, match="side='decoder', but the file holds encoder"):
        Matching.load(path, side="decoder")


def test_counts():
    matching = match(rows(7, 0), rows(4, 1))
    assert (matching.num_latents, matching.num_matched) == (7, 4)
    assert not matching.cosine[~matching.matched].any()


def test_a_matching_under_the_wrong_name_is_refused(tmp_path):
    matching = match(rows(3, 0), rows(3, 1))
    with pytest.raises(InputError, match="decoder side is given as 'encoder'"):
        save_matchings(tmp_path / "m.npz", {"encoder": matching})
    assert not list(tmp_path.iterdir())


def test_damaged_files_raise_or_load_the_same(tmp_path):
    path = tmp_path / "m.npz"
    matching = match(rows(3, 0), rows(3, 1))
    matching.save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:n] for n in rng.integers(0, len(whole), 60)]
    for position in rng.integers(0, len(whole), 400):
        flipped = bytearray(whole)
        flipped[position] ^= int(rng.integers(1, 256))
        damaged.append(bytes(flipped))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        message = f"{path}: "
        try:
            loaded = Matching.load(path)
        except InputError as error:
            message = str(error)
            refused += 1
        else:
            # Bytes that zip does not need, such as dates.
            assert_same(loaded, matching)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
    assert refused > 300


def test_foreign_files_are_input_errors(tmp_path):
    path = tmp_path / "m.npz"
    with pytest.raises(InputError, match="no such file"):
        Matching.load(path)
    with pytest.raises(InputError, match=str(tmp_path)):
        Matching.load(tmp_path)
    np.savez(path, target=np.arange(3))
    with pytest.raises(InputError, match="not a file of format"):
        Matching.load(path)
    np.save(tmp_path / "array.npy", np.arange(3))
    with pytest.raises(InputError, match="not a readable matching"):
        Matching.load(tmp_path / "array.npy")
    path.write_text("hello")
    with pytest.raises(InputError, match="not a readable matching"):
        Matching.load(path)
    np.savez(
        path, **{"format": "saejax matching 2", "decoder/record": np.array([{}], dtype=object)}
    )
    with pytest.raises(InputError, match="not a readable matching"):
        Matching.load(path)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("target", np.array([0, 1, -2], np.int32), "target lies below -1"),
        ("target", np.array([0, 1], np.int32), "cosine has 3 values for 2 latents"),
        ("cosine", np.array([0, 2, 0], np.float32), "outside"),
        ("cosine", np.array([0, np.nan, 0], np.float32), "NaN"),
        ("u", np.zeros(2), "u has 2 values for 3 latents"),
        ("v", np.array([0, np.inf, 0]), "infinite"),
    ],
)
def test_parts_that_do_not_fit_are_input_errors(tmp_path, part, value, message):
    path = tmp_path / "m.npz"
    match(rows(3, 0), rows(3, 1)).save(path)
    with np.load(path) as parts:
        changed = dict(parts) | {f"decoder/{part}": value}
    np.savez(path, **changed)
    with pytest.raises(InputError, match=message):
        Matching.load(path)


def test_a_missing_part_and_a_wrong_type_are_input_errors(tmp_path):
    path = tmp_path / "m.npz"
    match(rows(3, 0), rows(3, 1)).save(path)
    with np.load(path) as parts:
        whole = dict(parts)
    np.savez(path, **{k: v for k, v in whole.items() if k != "decoder/v"})
    with pytest.raises(InputError, match=r"m\.npz"):
        Matching.load(path)
    np.savez(path, **(whole | {"decoder/target": whole["decoder/target"].astype(np.int64)}))
    with pytest.raises(InputError, match=r"m\.npz"):
        Matching.load(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "m.npz"
    matching = match(rows(3, 0), rows(3, 1))
    matching.save(path)
    before = path.read_bytes()

    def full(file, **parts):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match="no space left"):
        matching.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_zip_archives_with_the_documented_parts(tmp_path):
    path = tmp_path / "m.npz"
    match(rows(3, 0), rows(3, 1)).save(path)
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == {
            "format.npy",
            *(f"decoder/{part}.npy" for part in ("target", "cosine", "u", "v", "record")),
        }
    assert isinstance(Matching.load(path).certificate, Certificate)
