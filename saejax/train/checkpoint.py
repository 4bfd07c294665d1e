"""Checkpoints of the training state and of the position in the data, through orbax."""

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import grain
import jax
from orbax.checkpoint import v1 as ocp

from saejax.errors import InputError
from saejax.files import atomic_write, explain_os_errors
from saejax.processes import all_succeed, first_finds, first_says, is_first
from saejax.train.state import TrainState

# In each checkpoint, for `sha256sum -c SHA256SUMS`: arrays as orbax stores them have no checksum,
# so that wrong bytes on the disk would pass for weights.
_SUMS = "SHA256SUMS"
# A line a leaf of the state: name, type, shape.
_LAYOUT = "state.txt"


class Checkpoints:
    """The checkpoints of a run: `<directory>/<step>/`.

    A folder has a number for its name only from the moment when it is whole until the moment
    before it is deleted, so a process may be killed at any time.

    Of several processes all make one and call its methods, in the same order, with a directory
    that all of them see. Each writes its part of the state; process 0 does all else.

    Args:
      directory: Absolute or relative path; made if needed.
      keep: How many to keep, the newest.
      keep_every_steps: Checkpoints of multiples of this are kept as well; 0 for none.
    """

    def __init__(self, directory: Path, *, keep: int, keep_every_steps: int):
        self.directory = directory.absolute()
        self._keep, self._keep_every_steps = keep, keep_every_steps
        with all_succeed("opening checkpoints"), explain_os_errors(self.directory):
            if is_first():
                self.directory.mkdir(parents=True, exist_ok=True)
                self._clear_partial()

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints, ascending."""
        names = [path.name for path in self.directory.iterdir() if path.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal())

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return max(self.steps, default=None)

    def kept(self) -> str:
        """A sentence for messages: which checkpoint there is to go back to."""
        if self.latest is None:
            return "No checkpoint had been saved yet"
        return f"The last good checkpoint is step {self.latest} in {self.directory}"

    def save(self, state: TrainState, batches: grain.DatasetIterator[Any]) -> None:
        """Saves the state and the position of the iterator, and waits until they are on disk.

        Does nothing if there is a checkpoint of this step. Older ones are deleted after it.

        Raises:
          InputError: If the disk is full or cannot be written; earlier checkpoints are kept.
        """
        step = int(state.step)
        if first_finds(step in self.steps):
            return
        partial = self._partial(step)
        try:
            with explain_os_errors(self.directory):
                # Returns when the parts of all processes are on disk.
                ocp.save_checkpointables(
                    str(partial), {"state": state._asdict(), "batches": batches}
                )
                if is_first():
                    with atomic_write(partial / _LAYOUT) as file:
                        file.write(_layout(state).encode())
                    sums = _sums(partial)
                    with atomic_write(partial / _SUMS) as file:
                        file.write(sums.encode())
                    os.replace(partial, self.directory / str(step))
        except ValueError as error:
            # Tensorstore reports system errors as ValueError with the errno's name inside.
            if "No space left" not in str(error):
                raise
            raise InputError(
                f"no space left on the disk while writing {self.directory}: free some space and "
                "run the same command again; earlier checkpoints are kept"
            ) from None
        finally:
            if is_first():
                self._clear_partial()
        with all_succeed("saving a checkpoint"), explain_os_errors(self.directory):
            if is_first():
                for old in self.steps[: -self._keep]:
                    if not self._keep_every_steps or old % self._keep_every_steps:
                        os.replace(self.directory / str(old), self._partial(old))
                self._clear_partial()

    def restore(self, state: TrainState, batches: grain.DatasetIterator[Any]) -> TrainState:
        """The newest whole checkpoint, with the shapes and shardings of `state`.

        Moves the iterator to where it was then. Newer checkpoints whose files are not as they
        were written are renamed to `<step>.broken`, with a warning. The devices, and the number of
        processes, may be others than those that saved.

        Raises:
          InputError: If no checkpoint is whole, or the newest whole one does not fit the state.
        """
        with all_succeed("checking checkpoints"):
            newest = self._newest_whole() if is_first() else 0
        folder = self.directory / first_says(str(newest))
        does_not_fit = (
            f"{folder} is whole but does not fit this run; use the version of saejax in "
            "versions.json, or delete checkpoints/ to train from step 0"
        )
        # Before orbax looks, which tells of the first difference in many lines.
        there, here = (folder / _LAYOUT).read_text().splitlines(), _layout(state).splitlines()
        if different := sorted(set(there) ^ set(here)):
            raise InputError(f"{does_not_fit}: {different[0]}")
        try:
            batches.set_state(json.loads(_position(folder).read_text()))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise InputError(f"{does_not_fit}: {str(error).splitlines()[0]}") from error
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state._asdict()
        )
        return TrainState(**ocp.load_checkpointables(str(folder), {"state": abstract})["state"])

    def _newest_whole(self) -> int:
        """Step of the newest checkpoint that is as it was written; newer ones are set aside."""
        broken: dict[int, str] = {}
        for step in reversed(self.steps):
            if (damage := _damage(self.directory / str(step))) is None:
                break
            broken[step] = damage
        else:
            found = "; ".join(f"{step}: {damage}" for step, damage in broken.items())
            raise InputError(
                f"no checkpoint in {self.directory} can be read ({found}): delete that folder and "
                "run the same command again to train from step 0"
            )
        for other, damage in broken.items():
            self._set_aside(other, f"{damage}; training goes back to step {step}")
        return step

    def _partial(self, step: int) -> Path:
        """A folder that is being written or deleted."""
        return self.directory / f"{step}.partial"

    def _clear_partial(self) -> None:
        # While it writes, orbax has a temporary folder of its own: the name and more.
        for path in self.directory.glob("*.partial*"):
            shutil.rmtree(path, ignore_errors=True)

    def _set_aside(self, step: int, why: str) -> None:
        """Renames a broken checkpoint, so that the step can be saved again."""
        folder = self.directory / str(step)
        aside = folder.with_suffix(".broken")
        with explain_os_errors(folder):
            if aside.exists():
                shutil.rmtree(aside)
            os.replace(folder, aside)
        warnings.warn(f"{folder}: {why}; the folder is now {aside.name}", stacklevel=4)


def _position(folder: Path) -> Path:
    """The file of the iterator's position in a checkpoint.

    grain writes one for each process, all with the same content: the number of the next batch, of
    which each process reads its part. So any of them serves any number of processes.
    """
    return next(iter(sorted((folder / "batches").glob("process_*.json"))))


def _layout(state: TrainState) -> str:
    """Names, types and shapes of the leaves."""
    leaves = jax.tree.leaves_with_path(state)
    return "".join(f"{jax.tree_util.keystr(at)} {x.dtype}{list(x.shape)}\n" for at, x in leaves)


def _sums(folder: Path) -> str:
    """A line a file, as `sha256sum` writes them."""
    lines: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and str(name) != _SUMS:
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def _damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None."""
    try:
        written = (folder / _SUMS).read_text(errors="replace").splitlines()
        found = _sums(folder).splitlines()
    except FileNotFoundError:
        return f"{_SUMS} is missing"
    except OSError as error:
        return str(error)
    # A line is 64 digits, two blanks, and the name.
    if changed := [line[66:] for line in found if line not in written]:
        return f"{changed[0]} is not as it was written"
    if missing := [line[66:] for line in written if line not in found]:
        return f"{missing[0]} is missing"
    return None
