"""Checkpoints: whole or not there, checked byte for byte, restored on any mesh."""

import errno
import hashlib
import os
import re
import shutil
import warnings

import grain
import jax
import numpy as np
import pytest

from saejax import mesh as mesh_lib
from saejax.config import MeshConfig
from saejax.errors import InputError
from saejax.train import checkpoint
from saejax.train.checkpoint import Checkpoints
from saejax.train.state import TrainState

S, N, D = 2, 32, 16


def make_state(step, *, seed=0, num_latents=N, mesh=MeshConfig(1, 1, 1)):  # noqa: B008
    """A state of random numbers, on a mesh."""
    rng = np.random.default_rng((seed, step))

    def params():
        shapes = {
            "enc_rows": (S, num_latents, D),
            "b_enc": (S, num_latents),
            "w_dec": (S, num_latents, D),
            "b_dec": (S, D),
        }
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

    state = TrainState(
        params=params(),
        opt_state=(params(), params(), np.full(S, step, np.int32)),
        tokens_since_fired=rng.integers(0, 99, (S, num_latents), np.int32),
        batch_threshold=rng.normal(size=S).astype(np.float32),
        input_scale=np.asarray(rng.normal(), np.float32),
        step=np.asarray(step, np.int32),
    )
    mesh = mesh_lib.make_mesh(mesh)
    return jax.device_put(state, mesh_lib.state_shardings(state, mesh))


def make_batches(done=0):
    batches = iter(grain.MapDataset.range(400).shuffle(seed=0).batch(4).to_iter_dataset())
    for _ in range(done):
        next(batches)
    return batches


def make_checkpoints(root, *steps, keep=2, keep_every_steps=0):
    checkpoints = Checkpoints(root, keep=keep, keep_every_steps=keep_every_steps)
    for step in steps:
        checkpoints.save(make_state(step), make_batches(done=step))
    return checkpoints


def assert_equal_states(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


def assert_restores(checkpoints, step):
    """State and position are those of `step`."""
    batches = make_batches(done=3)
    assert_equal_states(checkpoints.restore(make_state(0), batches), make_state(step))
    np.testing.assert_array_equal(next(batches), next(make_batches(done=step)))


def names(root):
    return sorted(path.name for path in root.iterdir())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Checkpoints of steps 5 and 10; tests copy it."""
    root = tmp_path_factory.mktemp("two") / "checkpoints"
    make_checkpoints(root, 5, 10)
    return root


@pytest.fixture
def root(two, tmp_path):
    return shutil.copytree(two, tmp_path / "checkpoints")


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


def fill_with_noise(path):
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def test_newest_is_restored_with_the_position(root):
    checkpoints = make_checkpoints(root)
    assert checkpoints.latest == 10
    assert "step 10" in checkpoints.kept()
    assert_restores(checkpoints, 10)


def test_state_of_a_transcoder_is_restored(tmp_path):
    """It has a scale of its targets and a skip connection, which others have not."""

    def make(step):
        state, mesh = make_state(step), mesh_lib.make_mesh(MeshConfig(1, 1, 2))
        params = {**state.params, "w_skip": np.full((S, 3, D), step, np.float32)}
        state = state._replace(params=params, target_scale=np.float32(step + 0.5))
        return jax.device_put(state, mesh_lib.state_shardings(state, mesh))

    checkpoints = Checkpoints(tmp_path, keep=2, keep_every_steps=0)
    checkpoints.save(make(7), make_batches(done=7))
    assert_equal_states(checkpoints.restore(make(0), make_batches()), make(7))
    with pytest.raises(InputError, match="does not fit this run"):
        checkpoints.restore(make_state(0), make_batches())


def test_the_newest_are_kept_and_every_nth_for_good(tmp_path):
    checkpoints = make_checkpoints(tmp_path, *range(1, 10), keep=2, keep_every_steps=4)
    assert names(tmp_path) == ["4", "8", "9"]
    assert checkpoints.steps == [4, 8, 9]
    assert make_checkpoints(tmp_path / "new").latest is None


@pytest.mark.parametrize("damage", [cut, flip, remove, fill_with_noise])
def test_any_damaged_file_makes_restore_go_back(two, tmp_path, damage):
    """Whichever file it is: weights, indices of the weights, position, metadata, sums."""
    files = [path.relative_to(two) for path in (two / "10").rglob("*") if path.is_file()]
    tried = 0
    for i, name in enumerate(files):
        root = shutil.copytree(two, tmp_path / str(i))
        if not (root / name).stat().st_size and damage is not remove:
            continue
        damage(root / name)
        tried += 1
        checkpoints = make_checkpoints(root)
        with pytest.warns(UserWarning, match="goes back to step 5") as warned:
            assert_restores(checkpoints, 5)
        (warning,) = warned
        assert str(root / "10") in str(warning.message)
        assert "\n" not in str(warning.message)
        assert names(root) == ["10.broken", "5"]
    assert tried >= 5


def test_what_was_not_loaded_is_not_checked_nor_lost(root):
    flip(root / "5" / "_CHECKPOINT_METADATA")
    assert_restores(make_checkpoints(root), 10)
    assert names(root) == ["10", "5"]


def test_a_broken_step_is_saved_again(root):
    for _ in range(2):  # the second time there is a folder 10.broken
        cut(root / "10" / checkpoint._SUMS)
        checkpoints = make_checkpoints(root)
        with pytest.warns(UserWarning, match=r"now 10\.broken"):
            assert_restores(checkpoints, 5)
        checkpoints.save(make_state(10), make_batches(done=10))
        assert names(root) == ["10", "10.broken", "5"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_restores(make_checkpoints(root), 10)


def test_when_all_are_broken_nothing_is_touched(root):
    shutil.rmtree(root / "10" / "state")
    cut(next((root / "5" / "batches").iterdir()))
    for _ in range(2):
        with pytest.raises(InputError, match=r"no checkpoint in .* can be read") as error:
            make_checkpoints(root).restore(make_state(0), make_batches())
        says = str(error.value)
        assert re.search(r"\(10: state/\S+ is missing; 5: batches/\S+ is not as it was", says)
        assert "delete that folder and run the same command again" in says
        assert "\n" not in says
    assert names(root) == ["10", "5"]


def test_whole_checkpoint_of_another_shape_or_tree_is_not_called_broken(root):
    larger = make_state(0, num_latents=2 * N)
    without_moments = make_state(0)._replace(opt_state=())
    for state, named in ((larger, "b_enc"), (without_moments, "opt_state")):
        with pytest.raises(InputError, match=f"10 is whole but does not fit .*{named}") as error:
            make_checkpoints(root).restore(state, make_batches())
        assert "\n" not in str(error.value)
    assert names(root) == ["10", "5"]


def test_position_of_another_pipeline_is_refused_in_one_line(root):
    batches = iter(grain.MapDataset.range(9).to_iter_dataset().filter(bool))
    with pytest.raises(InputError, match="10 is whole but does not fit this run") as error:
        make_checkpoints(root).restore(make_state(0), batches)
    assert "\n" not in str(error.value)
    assert names(root) == ["10", "5"]


def test_position_that_several_processes_saved_is_restored_in_one(root):
    """grain writes a file for each process, all alike, and restores the one of its own number."""
    (position,) = (root / "10" / "batches").iterdir()
    for i in range(3):
        shutil.copy(position, position.with_name(f"process_{i}-of-3.json"))
    position.unlink()
    (root / "10" / checkpoint._SUMS).write_text(checkpoint._sums(root / "10"))
    assert_restores(make_checkpoints(root), 10)


@pytest.mark.parametrize(
    ("saved_on", "mesh"),
    [
        ((1, 1, 1), (2, 2, 2)),
        ((1, 8, 1), (2, 2, 2)),
        ((2, 2, 2), (1, 1, 8)),
        ((2, 1, 4), (1, 1, 1)),
    ],
)
def test_restored_on_another_mesh_bitwise(tmp_path, saved_on, mesh):
    saved = make_state(7, mesh=MeshConfig(*saved_on))
    checkpoints = make_checkpoints(tmp_path)
    checkpoints.save(saved, make_batches(done=7))
    like = make_state(0, mesh=MeshConfig(*mesh))
    restored = checkpoints.restore(like, make_batches())
    assert_equal_states(restored, saved)
    for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
        assert leaf.sharding == wanted.sharding


def test_a_step_that_is_there_is_not_saved_twice(root):
    before = (root / "10").stat().st_mtime_ns
    make_checkpoints(root, 10)
    assert (root / "10").stat().st_mtime_ns == before


def test_leftovers_of_a_killed_process_are_removed(root):
    for name in ("15.partial", "15.partial.orbax-checkpoint-tmp", "1.partial"):
        (root / name / "state").mkdir(parents=True)
    assert make_checkpoints(root).latest == 10
    assert names(root) == ["10", "5"]


@pytest.mark.parametrize("where", ["orbax", "tensorstore", "sums", "rename"])
def test_failed_save_leaves_the_earlier_ones(root, monkeypatch, where):
    def no_space(*args, **kwargs):
        if where == "tensorstore":
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    module, name = {
        "orbax": (checkpoint.ocp, "save_checkpointables"),
        "tensorstore": (checkpoint.ocp, "save_checkpointables"),
        "sums": (checkpoint, "_sums"),
        "rename": (checkpoint.os, "replace"),
    }[where]
    checkpoints = make_checkpoints(root)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, no_space)
        with pytest.raises(InputError, match="no space left on the disk while writing"):
            checkpoints.save(make_state(15), make_batches(done=15))
    assert names(root) == ["10", "5"]
    checkpoints.save(make_state(15), make_batches(done=15))
    assert names(root) == ["10", "15"]


def test_sums_are_those_of_sha256sum(root):
    """What `sha256sum -c SHA256SUMS` would read, computed another way."""
    lines = (root / "10" / "SHA256SUMS").read_text().splitlines()
    listed = dict(line.split("  ")[::-1] for line in lines)
    files = [p for p in (root / "10").rglob("*") if p.is_file() and p.name != "SHA256SUMS"]
    assert listed == {
        str(p.relative_to(root / "10")): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }
