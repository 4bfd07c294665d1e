"""Checkpoints of the training state and of the position in the data, through orbax."""

import contextlib
from pathlib import Path
from typing import Any

import grain
import jax
from orbax.checkpoint import v1 as ocp

from saejax.errors import InputError
from saejax.files import explain_os_errors
from saejax.train.state import TrainState


class Checkpoints:
    """The checkpoints of a run: `<directory>/<step>/`, of which the newest few are kept.

    A checkpoint that was cut off while it was written has no name yet, so the newest one is
    always whole.

    Args:
      directory: Absolute or relative path.
      keep: How many to keep.
    """

    def __init__(self, directory: Path, *, keep: int):
        self.directory = directory.absolute()
        with explain_os_errors(directory):
            self._checkpointer = ocp.training.Checkpointer(
                str(self.directory),
                preservation_policy=ocp.training.preservation_policies.LatestN(keep),  # pyright: ignore[reportArgumentType]
                cleanup_tmp_directories=True,
            )

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def kept(self) -> str:
        """A sentence for messages: which checkpoint there is to go back to."""
        if self.latest is None:
            return "No checkpoint had been saved yet"
        return f"The last good checkpoint is step {self.latest} in {self.directory}"

    def save(self, state: TrainState, batches: grain.DatasetIterator[Any]) -> None:
        """Saves the state and the position of the iterator, and waits until they are on disk."""
        step = int(state.step)
        with self._full_disk_explained():
            self._checkpointer.save_checkpointables(
                step, {"state": state._asdict(), "batches": batches}
            )

    def restore(self, state: TrainState, batches: grain.DatasetIterator[Any]) -> TrainState:
        """The newest checkpoint, with the shapes and shardings of `state`; moves the iterator.

        Raises:
          InputError: If the checkpoint does not fit the state.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state._asdict()
        )
        latest = self._checkpointer.latest
        assert latest is not None
        try:
            loaded = self._checkpointer.load_checkpointables(
                latest, {"state": abstract, "batches": batches}
            )
        except (ValueError, OSError) as error:
            raise InputError(
                f"{self.directory / str(latest.step)} cannot be read; delete that folder to "
                f"resume from the one before: {str(error).splitlines()[0]}"
            ) from error
        return TrainState(**loaded["state"])

    def close(self) -> None:
        """Waits for pending work and frees the threads."""
        self._checkpointer.close()

    @contextlib.contextmanager
    def _full_disk_explained(self):
        with explain_os_errors(self.directory):
            try:
                yield
            except ValueError as error:
                # Tensorstore reports system errors as ValueError with the errno's name inside.
                if "No space left" not in str(error):
                    raise
                raise InputError(
                    f"no space left on the disk while writing {self.directory}: free some "
                    "space and run the same command again; earlier checkpoints are kept"
                ) from None
