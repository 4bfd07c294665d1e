"""What the processes of a run do together: all of them call these functions, in the same order."""

import contextlib
from collections.abc import Iterator

import numpy as np
from jax.experimental import multihost_utils

from saejax.errors import InputError


@contextlib.contextmanager
def all_succeed() -> Iterator[None]:
    """Waits at the end for the other processes, and fails in all of them if it fails in one.

    Without it, the others would wait for one that has told its error and left.

    Raises:
      InputError: This process's own, or one that names another process.
    """
    try:
        yield
    except InputError:
        _gather(True)
        raise
    if (failed := _gather(False)).any():
        raise InputError(f"process {failed.argmax()} stopped: see what it says")


def all_true(value: bool) -> bool:
    """Whether a value is true in every process."""
    return bool(_gather(value).all())


def _gather(value: bool) -> np.ndarray:
    return np.ravel(multihost_utils.process_allgather(np.asarray(value)))
