"""Writing files so that they are whole or not there."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from saejax.errors import InputError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary neighbour of `path` for writing and renames it when all went well.

    Example::

        with atomic_write(run_dir / "config.json") as file:
            file.write(text.encode())

    Raises:
      InputError: If the disk is full or the directory cannot be written, naming the path.
    """
    partial = path.with_name(path.name + ".partial")
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with explain_os_errors(path):
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def cache_folder(name: str) -> Path:
    """Where this user's files of a kind are kept between commands; it need not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "saejax" / name


@contextlib.contextmanager
def explain_os_errors(path: object) -> Iterator[None]:
    """Turns a full disk or a missing permission while writing into an `InputError`."""
    try:
        yield
    except OSError as error:
        # numpy's `tofile` reserves space first and gives its error no number.
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "Not enough free space" in str(error):
            raise InputError(
                f"no space left on the disk while writing {path}: free some space and run the "
                "same command again; what was finished before is kept"
            ) from None
        if error.errno in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.EISDIR,
        ):
            raise InputError(f"cannot write {path}: {error.strerror}") from None
        raise
