"""The activation store: what was captured comes back, whole or not at all."""

import concurrent.futures
import errno
import hashlib
import itertools
import json
import os
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from saejax.data import store
from saejax.data.exclude import Kept
from saejax.data.store import (
    ActivationStore,
    begin_store,
    is_complete,
    store_headers,
    write_store,
)
from saejax.errors import InputError

WINDOWS, LENGTH, WIDTH = 11, 6, 3
TOKENS = np.arange(WINDOWS * LENGTH, dtype=np.int32).reshape(WINDOWS, LENGTH)


def activations(tokens_WL):
    """Every activation tells its token."""
    return np.stack([tokens_WL, tokens_WL * 2, -tokens_WL.astype(np.int64)], -1).astype(np.float32)


def kept(tokens_WL, captured):
    """Drops the first token of each window; calls windows replaced whose first id divides by 12."""
    replaced = np.repeat(tokens_WL[:, :1] % 12 == 0, LENGTH - 1, axis=1)
    return Kept({name: x[:, 1:] for name, x in captured.items()}, replaced)


def capture(tokens_WL):
    return kept(tokens_WL, {"layers.0": activations(tokens_WL)})


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    # Two batches of two windows a shard, so three shards, the last one incomplete.
    monkeypatch.setattr(store, "_SHARD_TOKENS", 4 * 5)


def opened(root):
    return ActivationStore(root, ("layers.0",))


def headers(tokens=TOKENS, **changes):
    options = dict(
        widths={"layers.0": WIDTH},
        tokens_per_window=LENGTH - 1,
        dtype="float16",
        batch_windows=2,
        describes={"lm": "x"},
    )
    return store_headers(tokens, **(options | changes))


def write(path, capture=capture, **changes):
    begin_store(path, headers(**changes))
    write_store(path, headers(**changes), TOKENS, capture, batch_windows=2)


def test_round_trip(tmp_path):
    write(tmp_path)
    made = opened(tmp_path)
    assert len(made) == WINDOWS
    for window in range(WINDOWS):
        np.testing.assert_array_equal(made[window]["layers.0"], activations(TOKENS)[window, 1:])
        assert made[window]["layers.0"].dtype == np.float16
    assert len(list(tmp_path.rglob("*.npy"))) == 3


@pytest.mark.parametrize("fails_at", range(6))
def test_interrupted_writing_goes_on(tmp_path, fails_at):
    calls = itertools.count()

    def interrupted(tokens_WL):
        if next(calls) == fails_at:
            raise KeyboardInterrupt
        return capture(tokens_WL)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, interrupted)
    assert not is_complete(tmp_path, headers())
    assert not list(tmp_path.rglob("*.partial"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    write(tmp_path)
    assert is_complete(tmp_path, headers())
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    np.testing.assert_array_equal(opened(tmp_path)[10]["layers.0"], activations(TOKENS)[10, 1:])


def test_complete_store_captures_nothing(tmp_path):
    write(tmp_path)

    def never(tokens_WL):
        raise AssertionError

    write(tmp_path, never)


def test_other_activations_are_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(InputError, match=r"something else \(lm differ\)"):
        write(tmp_path, describes={"lm": "y"})
    with pytest.raises(InputError, match=r"something else \(lm differ\)"):
        is_complete(tmp_path, headers(describes={"lm": "y"}))
    with pytest.raises(InputError, match="tokens_per_window"):
        write(tmp_path, tokens_per_window=4)
    with pytest.raises(InputError, match=r"something else \(tokens_sha256 differ\)"):
        begin_store(tmp_path, headers(TOKENS + 1))
    with pytest.raises(InputError, match=r"something else \(tokens_sha256 differ\)"):
        write_store(tmp_path, headers(TOKENS + 1), TOKENS + 1, capture, batch_windows=2)


def test_overflow_and_non_finite_are_refused(tmp_path):
    def large(tokens_WL):
        return kept(tokens_WL, {"layers.0": activations(tokens_WL) + 7e4})

    with pytest.raises(InputError, match=r"does not fit data\.store_dtype=float16"):
        write(tmp_path / "a", large)
    write(tmp_path / "b", large, dtype="float32")
    write(tmp_path / "b16", large, dtype="bfloat16")

    def broken(tokens_WL):
        bad = tokens_WL[..., None] == 3 * LENGTH + 2
        return kept(tokens_WL, {"layers.0": np.where(bad, np.nan, activations(tokens_WL))})

    with pytest.raises(InputError, match="window 3 has activations that are not finite"):
        write(tmp_path / "c", broken)
    assert not is_complete(tmp_path / "c", headers())


def test_no_store(tmp_path):
    assert not is_complete(tmp_path, headers())
    with pytest.raises(InputError, match="not an activation store"):
        opened(tmp_path)


def test_several_hook_points_in_one_pass(tmp_path):
    """One that is there already is not captured again, nor is a shard of another's."""
    write(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    calls = []

    def both(tokens_WL):
        calls.append(tokens_WL)
        wide = np.repeat(activations(tokens_WL), 2, axis=-1)
        places = {"layers.0": activations(tokens_WL), "layers.1": wide}
        return kept(tokens_WL, {**places, "layers.2": -activations(tokens_WL)})

    widths = {"layers.0": WIDTH, "layers.1": 2 * WIDTH, "layers.2": WIDTH}
    write(tmp_path, both, widths=widths)
    assert len(calls) == 6
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    made = ActivationStore(tmp_path, ("layers.0", "layers.2", "layers.1"))
    expected = both(TOKENS).activations
    for window in range(WINDOWS):
        for name, found in made[window].items():
            np.testing.assert_array_equal(found, expected[name][window])
    token = made.tokens(np.array([7, 0, 7]))
    np.testing.assert_array_equal(token["layers.1"][0], expected["layers.1"][1, 2])
    assert not is_complete(tmp_path, headers(widths=widths | {"layers.3": WIDTH}))


def test_bfloat16_is_exactly_rounded(tmp_path):
    write(tmp_path, dtype="bfloat16")
    made = opened(tmp_path)
    expected = activations(TOKENS)[:, 1:].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(made[7]["layers.0"], expected[7])
    some = np.array([0, 31, 54])
    np.testing.assert_array_equal(made.tokens(some)["layers.0"], expected.reshape(-1, 3)[some])
    assert made[0]["layers.0"].dtype == ml_dtypes.bfloat16


def shards(path):
    return sorted((path / "layers.0").glob("*.npy"))


def test_header_says_what_the_activations_are_and_shards_what_was_replaced(tmp_path):
    write(tmp_path)
    header = json.loads((tmp_path / "layers.0" / "header.json").read_text())
    assert header["hookpoint"] == "layers.0"
    assert header["dtype"] == "float16"
    assert header["tokens_sha256"] == hashlib.sha256(TOKENS.tobytes()).hexdigest()
    for number, path in enumerate(shards(tmp_path)):
        record = json.loads(path.with_suffix(".json").read_text())
        assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        first_ids = TOKENS[4 * number : 4 * number + 4, 0]
        assert record["replaced"] == 5 * (first_ids % 12 == 0).sum()


@pytest.mark.parametrize("harm", ["truncate", "longer", "empty", "no checksum", "bad checksum"])
def test_shard_that_is_not_whole_is_named_and_written_again(tmp_path, harm):
    write(tmp_path)
    path = shards(tmp_path)[1]
    good = path.read_bytes()
    if harm == "truncate":
        os.truncate(path, len(good) - 1)
    elif harm == "longer":
        path.write_bytes(good + b"0")
    elif harm == "empty":
        os.truncate(path, 0)
    elif harm == "no checksum":
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text("{")
    with pytest.warns(UserWarning, match=r"layers\.0/00001\.npy is damaged and is written again"):
        assert not is_complete(tmp_path, headers())
    times = [shard.stat().st_mtime_ns for shard in shards(tmp_path)]
    assert len(times) == 2
    write(tmp_path)
    assert path.read_bytes() == good
    assert is_complete(tmp_path, headers())
    assert [shards(tmp_path)[i].stat().st_mtime_ns for i in (0, 2)] == times


def test_a_shard_is_checked_once_when_it_is_first_read(tmp_path, monkeypatch):
    write(tmp_path)
    checked, real = [], hashlib.file_digest

    def counted(file, name):
        checked.append(Path(file.name).name)
        time.sleep(0.01)
        return real(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    assert is_complete(tmp_path, headers())
    made = opened(tmp_path)
    assert checked == []
    made[5]
    assert checked == ["00001.npy"]
    numbers = [*range(WINDOWS)] * 3
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(made.__getitem__, numbers))
    assert sorted(checked) == ["00000.npy", "00001.npy", "00002.npy"]
    for number, window in zip(numbers, found, strict=True):
        np.testing.assert_array_equal(window["layers.0"], activations(TOKENS)[number, 1:])
    made.tokens(np.arange(55))
    assert len(checked) == 3
    other = opened(tmp_path)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: other.tokens(np.arange(3)), range(8)))
    assert len(checked) == 6


@pytest.mark.parametrize("harm", ["flip", "vanish"])
def test_damaged_shard_is_never_read(tmp_path, harm):
    write(tmp_path)
    path = shards(tmp_path)[1]
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert is_complete(tmp_path, headers())
    made = opened(tmp_path)
    says = r"layers\.0/00001\.npy is damaged: .*; delete it and run the same command"
    if harm == "vanish":
        path.unlink()
        says = r"layers\.0/00001\.npy cannot be read .*run the same command"
    for read in (lambda: made[4], lambda: made[7], lambda: made.tokens(np.array([3]))):
        with pytest.raises(InputError, match=says) as error:
            read()
        assert "\n" not in str(error.value)
    np.testing.assert_array_equal(made[8]["layers.0"], activations(TOKENS)[8, 1:])
    path.unlink(missing_ok=True)
    assert not is_complete(tmp_path, headers())
    write(tmp_path)
    assert path.read_bytes() == good


@pytest.mark.parametrize("kind", ["pickle", "zip", "dtype", "shape"])
def test_a_foreign_file_in_the_place_of_a_shard(tmp_path, kind):
    write(tmp_path)
    path = shards(tmp_path)[0]
    if kind == "zip":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(3))
    else:
        dtype = {"pickle": object, "dtype": np.float32, "shape": np.float16}[kind]
        np.save(path, np.zeros((2, 5, 3), dtype), allow_pickle=True)
    with pytest.raises(InputError, match=r"00000\.npy is not a whole shard"):
        opened(tmp_path)


def test_opening_a_store_that_is_not_whole_is_one_line(tmp_path):
    write(tmp_path)
    path = shards(tmp_path)[2]
    os.truncate(path, 140)
    with pytest.raises(InputError, match=r"00002\.npy is not a whole shard"):
        opened(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"00002\.npy is not a whole shard"):
        opened(tmp_path)


@pytest.mark.parametrize(("text", "says"), [("{", "is not JSON"), ("[]", "lacks some of dtype")])
def test_damaged_header_is_one_line(tmp_path, text, says):
    write(tmp_path)
    (tmp_path / "layers.0" / "header.json").write_text(text)
    with pytest.raises(InputError, match=rf"header\.json {says}.*; delete .*layers\.0"):
        is_complete(tmp_path, headers())


@pytest.mark.parametrize("fails_at", range(6))
def test_disk_full_at_any_write_leaves_only_whole_shards(tmp_path, monkeypatch, fails_at):
    """Each shard is two files, which are synced one after the other."""
    real, calls = os.fsync, itertools.count()

    def fsync(descriptor):
        if next(calls) == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    begin_store(tmp_path, headers())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(InputError, match=r"no space left on the disk while writing .*0000"):
            write(tmp_path)
    assert not list(tmp_path.rglob("*.partial"))
    assert len(shards(tmp_path)) == fails_at // 2
    assert not is_complete(tmp_path, headers())
    write(tmp_path)
    assert is_complete(tmp_path, headers())


def test_read_only_folder(tmp_path, monkeypatch):
    """A whole store is read; where something has to be written, one line says that it cannot be."""
    write(tmp_path / "whole")
    begin_store(tmp_path / "begun", headers())
    real = Path.open

    def no_writing(path, mode="r", *rest, **options):
        if "w" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", no_writing)
    assert is_complete(tmp_path / "whole", headers())
    assert len(opened(tmp_path / "whole")) == WINDOWS
    with pytest.raises(InputError, match=r"cannot write .*00000\.npy: Read-only file system"):
        write(tmp_path / "begun")
    with pytest.raises(InputError, match=r"cannot write .*header\.json: Read-only file system"):
        begin_store(tmp_path / "new", headers())


@pytest.mark.parametrize("count", [2, 4])
def test_processes_write_what_one_would(tmp_path, count):
    write(tmp_path / "one")
    begin_store(tmp_path / "some", headers())
    for process in range(count):
        part = {"process_index": process, "process_count": count}
        is_last = process == count - 1
        write_store(tmp_path / "some", headers(), TOKENS, capture, batch_windows=2, **part)
        assert is_complete(tmp_path / "some", headers(), **part)
        complete = is_complete(tmp_path / "some", headers())
        assert complete == (is_last or len(shards(tmp_path / "some")) == 3)
    for ours, theirs in zip(shards(tmp_path / "some"), shards(tmp_path / "one"), strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
