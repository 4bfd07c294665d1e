"""The activation store: what was captured comes back, whole or not at all."""

import itertools

import numpy as np
import pytest

from saejax.data import store
from saejax.data.store import ActivationStore, is_complete, write_store
from saejax.errors import InputError

WINDOWS, LENGTH, WIDTH = 11, 6, 3
TOKENS = np.arange(WINDOWS * LENGTH, dtype=np.int32).reshape(WINDOWS, LENGTH)


def activations(tokens_WL):
    """Every activation tells its token."""
    return np.stack([tokens_WL, tokens_WL * 2, -tokens_WL.astype(np.int64)], -1).astype(np.float32)


def capture(tokens_WL):
    return {"layers.0": activations(tokens_WL)}


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    # Two batches of two windows a shard, so three shards, the last one incomplete.
    monkeypatch.setattr(store, "_SHARD_TOKENS", 4 * 5)


def opened(root):
    return ActivationStore(root, ("layers.0",))


def write(path, capture=capture, **changes):
    options = dict(
        widths={"layers.0": WIDTH},
        skip_tokens=1,
        dtype="float16",
        batch_windows=2,
        describes={"lm": "x"},
    )
    write_store(path, TOKENS, capture, **(options | changes))


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
    assert not is_complete(tmp_path, ("layers.0",), {"lm": "x"})
    assert not list(tmp_path.rglob("*.partial"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    write(tmp_path)
    assert is_complete(tmp_path, ("layers.0",), {"lm": "x"})
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
        is_complete(tmp_path, ("layers.0",), {"lm": "y"})
    with pytest.raises(InputError, match="skip_tokens"):
        write(tmp_path, skip_tokens=2)


def test_overflow_and_non_finite_are_refused(tmp_path):
    def large(tokens_WL):
        return {"layers.0": activations(tokens_WL) + 7e4}

    with pytest.raises(InputError, match=r"does not fit data\.store_dtype=float16"):
        write(tmp_path / "a", large)
    write(tmp_path / "b", large, dtype="float32")

    def broken(tokens_WL):
        bad = tokens_WL[..., None] == 3 * LENGTH + 2
        return {"layers.0": np.where(bad, np.nan, activations(tokens_WL))}

    with pytest.raises(InputError, match="window 3 has activations that are not finite"):
        write(tmp_path / "c", broken)
    assert not is_complete(tmp_path / "c", ("layers.0",), {"lm": "x"})


def test_no_store(tmp_path):
    assert not is_complete(tmp_path, ("layers.0",), {"lm": "x"})
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
        return capture(tokens_WL) | {"layers.1": wide, "layers.2": -activations(tokens_WL)}

    widths = {"layers.0": WIDTH, "layers.1": 2 * WIDTH, "layers.2": WIDTH}
    write(tmp_path, both, widths=widths)
    assert len(calls) == 6
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    made = ActivationStore(tmp_path, ("layers.0", "layers.2", "layers.1"))
    expected = both(TOKENS)
    for window in range(WINDOWS):
        for name, found in made[window].items():
            np.testing.assert_array_equal(found, expected[name][window, 1:])
    token = made.tokens(np.array([7, 0, 7]))
    np.testing.assert_array_equal(token["layers.1"][0], expected["layers.1"][1, 3])
    assert not is_complete(tmp_path, ("layers.0", "layers.3"), {"lm": "x"})
