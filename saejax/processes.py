"""What the processes of a run do together: all of them call these functions, in the same order.

They talk through the key-value store of JAX's coordination service, which waits without the devices
and so may wait for long. With one process every function returns at once.
"""

import contextlib
import functools
import itertools
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from saejax.errors import InputError
from saejax.files import atomic_write, explain_os_errors

# How long a process waits for others that are alive, unless `be_patient` says otherwise: PyTorch's
# default for its process groups (torch.distributed.constants.default_pg_timeout, 30 minutes).
PATIENCE_SECONDS = 1800.0
# How long a file may take to be seen by the other machines of a shared file system: NFS clients
# keep what they know of a folder for up to 60 seconds (nfs(5), acdirmax).
_FILE_SECONDS = 60.0
# Of the file by which processes see whether they share a folder.
SHARED_PREFIX = ".shared-"

_numbers = itertools.count()
_patience = PATIENCE_SECONDS


def be_patient(seconds: float) -> None:
    """Sets how long `exchange` waits in this process."""
    global _patience
    _patience = seconds


def is_first() -> bool:
    """Whether this is process 0, the one that writes files and prints."""
    return jax.process_index() == 0


def client() -> Any:
    """The client of JAX's coordination service, as `jax.experimental.multihost_utils` takes it.

    Raises:
      InputError: If `jax.distributed.initialize()` was not called.
    """
    from jax._src import distributed

    if (found := distributed.global_state.client) is None:
        raise InputError(
            "several processes need jax.distributed.initialize(), which was not called"
        )
    return found


def exchange(text: str, at: str) -> list[str]:
    """What each process gave, in their order.

    Args:
      text: What this process gives.
      at: The place in the program, for the message.

    Raises:
      InputError: If processes have not come there in time, naming them.
    """
    process, count = jax.process_index(), jax.process_count()
    if count == 1:
        return [text]
    number, service = next(_numbers), client()
    folder = f"saejax/exchange/{number}"
    service.key_value_set(f"{folder}/{process}", f"{at}={text}")
    try:
        service.wait_at_barrier(f"saejax exchange {number}", int(1000 * _patience))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        came = {int(key.rpartition("/")[2]) for key, _ in service.key_value_dir_get(folder)}
        missing = ", ".join(str(i) for i in range(count) if i not in came)
        raise InputError(
            f"waited {_patience:g} s for process {missing or 'unknown'} at: {at}. Look at what it "
            "does; the same command continues from the last checkpoint"
        ) from None
    given = {int(key.rpartition("/")[2]): x for key, x in service.key_value_dir_get(folder)}
    if number > 1:
        # All have read the exchange before the last, since they came to the last.
        service.key_value_delete(f"saejax/exchange/{number - 2}/{process}")
    places, _, texts = zip(*(given[i].partition("=") for i in range(count)), strict=True)
    if len(set(places)) > 1:
        raise InputError(f"the processes are at different places: {', '.join(places)}")
    return list(texts)


@contextlib.contextmanager
def all_succeed(at: str = "the end of a stage") -> Iterator[None]:
    """Waits at the end for the other processes, and fails in all of them if it fails in one.

    Without it, the others would wait for one that has told its error and left.

    Args:
      at: The place in the program, for the message.

    Raises:
      InputError: This process's own, or one that names another process.
    """
    try:
        yield
    except InputError:
        exchange("failed", at)
        raise
    if "failed" in (said := exchange("", at)):
        raise InputError(f"process {said.index('failed')} stopped: see what it says")


def all_true(value: bool) -> bool:
    """Whether a value is true in every process."""
    return "False" not in exchange(str(value), "a question to all")


def first_says(value: str) -> str:
    """What process 0 gives, in every process."""
    return exchange(value if jax.process_index() == 0 else "", "a question to process 0")[0]


def first_finds(value: bool) -> bool:
    """Whether a value is true in process 0: so all take the same branch."""
    return first_says(str(value)) == "True"


def check_shared(folder: Path) -> None:
    """Checks that all processes see what process 0 writes in a folder.

    Raises:
      InputError: If they do not, naming them; or the folder cannot be written.
    """
    if jax.process_count() == 1:
        return
    token = first_says(secrets.token_hex(8))
    path = folder / f"{SHARED_PREFIX}{token}"
    with all_succeed("writing the run directory"):
        if is_first():
            with atomic_write(path) as file:
                file.write(b"a test whether all processes see this folder\n")
    deadline = time.monotonic() + min(_FILE_SECONDS, _patience / 2)
    while not (seen := path.exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
        with contextlib.suppress(OSError):
            # Makes a client of NFS ask the server again.
            list(folder.iterdir())
    answers = exchange(str(seen), "reading the run directory")
    blind = [i for i, answer in enumerate(answers) if answer != "True"]
    if is_first():
        with explain_os_errors(path):
            path.unlink(missing_ok=True)
    if blind:
        raise InputError(
            f"process {', '.join(map(str, blind))} does not see what process 0 writes in {folder}: "
            "the run directory has to be on a file system that all processes share"
        )


def fetch(array: jax.Array | np.ndarray) -> np.ndarray:
    """An array on the host, in every process, also where its parts are on devices of others."""
    if isinstance(array, np.ndarray):
        return array
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    sharding = array.sharding
    assert isinstance(sharding, NamedSharding)
    return np.asarray(_copied(NamedSharding(sharding.mesh, PartitionSpec()))(array))


@functools.cache
def _copied(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    """A compiled function that copies an array to all devices of a mesh."""
    return jax.jit(lambda array: array, out_shardings=sharding)
