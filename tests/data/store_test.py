"""The activation store: what was captured comes back, whole or not at all."""

import itertools

import numpy as np
import pytest

from saejax.data import store
from saejax.data.store import ActivationStore, is_complete, write_store
from saejax.errors import InputError

WINDOWS, LENGTH, WIDTH = 11, 6, 3
TOKENS = np.arange(WINDOWS * LENGTH, dtype=np.int32).reshape(WINDOWS, LENGTH)


def capture(tokens_WL):
    """Every activation tells its token."""
    return np.stack([tokens_WL, tokens_WL * 2, -tokens_WL.astype(np.int64)], -1).astype(np.float32)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    # Two batches of two windows a shard, so three shards, the last one incomplete.
    monkeypatch.setattr(store, "_SHARD_BYTES", 4 * 5 * WIDTH * 2)


def write(path, capture=capture, **changes):
    options = dict(
        width=WIDTH, skip_tokens=1, dtype="float16", batch_windows=2, describes={"lm": "x"}
    )
    write_store(path, TOKENS, capture, **(options | changes))


def test_round_trip(tmp_path):
    write(tmp_path)
    made = ActivationStore(tmp_path)
    assert len(made) == WINDOWS
    for window in range(WINDOWS):
        np.testing.assert_array_equal(made[window], capture(TOKENS)[window, 1:])
        assert made[window].dtype == np.float16
    assert len(list(tmp_path.glob("*.npy"))) == 3


@pytest.mark.parametrize("fails_at", range(6))
def test_interrupted_writing_goes_on(tmp_path, fails_at):
    calls = itertools.count()

    def interrupted(tokens_WL):
        if next(calls) == fails_at:
            raise KeyboardInterrupt
        return capture(tokens_WL)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, interrupted)
    assert not is_complete(tmp_path)
    assert not list(tmp_path.glob("*.partial"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    write(tmp_path)
    assert is_complete(tmp_path)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    np.testing.assert_array_equal(ActivationStore(tmp_path)[10], capture(TOKENS)[10, 1:])


def test_complete_store_captures_nothing(tmp_path):
    write(tmp_path)

    def never(tokens_WL):
        raise AssertionError

    write(tmp_path, never)


def test_other_activations_are_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(InputError, match=r"something else \(lm differ\)"):
        write(tmp_path, describes={"lm": "y"})
    with pytest.raises(InputError, match="skip_tokens"):
        write(tmp_path, skip_tokens=2)


def test_overflow_and_non_finite_are_refused(tmp_path):
    def large(tokens_WL):
        return capture(tokens_WL) + 7e4

    with pytest.raises(InputError, match=r"does not fit data\.store_dtype=float16"):
        write(tmp_path / "a", large)
    write(tmp_path / "b", large, dtype="float32")

    def broken(tokens_WL):
        return np.where(tokens_WL[..., None] == 3 * LENGTH + 2, np.nan, capture(tokens_WL))

    with pytest.raises(InputError, match="window 3 has activations that are not finite"):
        write(tmp_path / "c", broken)
    assert not is_complete(tmp_path / "c")


def test_no_store(tmp_path):
    assert not is_complete(tmp_path)
    with pytest.raises(InputError, match="not an activation store"):
        ActivationStore(tmp_path)
