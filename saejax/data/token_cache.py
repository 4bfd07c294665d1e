"""Token ids on disk, so that a text is tokenized once: an entry is whole or not there.

An entry is a folder with `tokens.bin` (uint16 or uint32), `starts.npy` (where documents begin)
and `header.json` (what the ids are of). It is written under another name and then renamed.
"""

import array
import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int

from saejax.data.tokens import Tokens
from saejax.errors import InputError
from saejax.files import cache_folder, explain_os_errors

# Raised when tokens or their files change for the same key.
_FORMAT = 1
# Age of a folder whose writer was killed: none waits this long between two batches.
_ABANDONED_SECONDS = 24 * 3600.0

_PARTIAL = "partial-"


def find_entry(key: dict[str, Any], vocab_size: int) -> Tokens | None:
    """The tokens written under a key; None if there are none, or the entry is damaged.

    Args:
      key: What the tokens are of: anything JSON that differs whenever the tokens may.
      vocab_size: Of the model.

    Raises:
      InputError: If the ids do not fit the vocabulary.
    """
    folder = _folder(key)
    try:
        header = json.loads((folder / "header.json").read_text())
        if header["key"] != json.loads(json.dumps(key)):
            return None
        ids_T = np.memmap(folder / "tokens.bin", header["dtype"], mode="r")
        starts_N = np.load(folder / "starts.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError):
        return None
    if len(ids_T) != header["num_tokens"] or len(starts_N) != header["num_documents"]:
        return None
    _check_ids(header["largest_id"], vocab_size)
    return Tokens([ids_T], starts_N)


class EntryWriter:
    """Collects the tokens of an entry, in a file or, without a folder, in memory.

    Made by `write_entry`.

    Args:
      folder: Empty folder, or None.
      vocab_size: Of the model.
    """

    def __init__(self, folder: Path | None, vocab_size: int):
        self._folder = folder
        self._vocab_size = vocab_size
        self._dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
        self._file: BinaryIO = (
            io.BytesIO() if folder is None else (folder / "tokens.bin").open("wb")
        )
        self._starts = array.array("q")
        self._largest = 0
        self.num_tokens = 0

    def add(self, ids_T: Int[np.ndarray, " T"], starts: list[int]) -> None:
        """Appends ids, in which documents begin at the given positions.

        Raises:
          InputError: For an id that is not in the vocabulary, or a full disk.
        """
        self._starts.extend(self.num_tokens + start for start in starts)
        self._largest = max(self._largest, int(ids_T.max(initial=0)))
        _check_ids(self._largest, self._vocab_size)
        with self._explain():
            self._file.write(ids_T.astype(self._dtype).tobytes())
        self.num_tokens += len(ids_T)

    def finish(self, key: dict[str, Any]) -> Tokens:
        """The tokens, kept under a key for the next time if there is a folder."""
        starts_N = np.frombuffer(self._starts, np.int64)
        if isinstance(self._file, io.BytesIO):
            return Tokens([np.frombuffer(self._file.getvalue(), self._dtype)], starts_N)
        assert self._folder is not None
        header = {
            "key": key,
            "dtype": self._dtype.name,
            "num_tokens": self.num_tokens,
            "num_documents": len(starts_N),
            "largest_id": self._largest,
        }
        with self._explain():
            self._file.flush()
            os.fsync(self._file.fileno())
            np.save(self._folder / "starts.npy", starts_N)
            (self._folder / "header.json").write_text(json.dumps(header, indent=2))
            if find_entry(key, self._vocab_size) is None:
                # What is there is damaged.
                shutil.rmtree(_folder(key), ignore_errors=True)
                try:
                    self._folder.rename(_folder(key))
                except OSError as error:
                    # Another process may have been faster.
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
        tokens = find_entry(key, self._vocab_size)
        if tokens is None:
            raise InputError(f"{_folder(key)} cannot be read back; is its disk in order?")
        return tokens

    def close(self) -> None:
        """Closes the file and deletes what was not finished."""
        # A full disk has been reported; the rest of the buffer does not fit either.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _explain(self) -> contextlib.AbstractContextManager[None]:
        return explain_os_errors(f"{cache_folder('tokens')} (XDG_CACHE_HOME names another place)")


@contextlib.contextmanager
def write_entry(vocab_size: int) -> Iterator[EntryWriter]:
    """Opens an entry for writing; without `finish`, nothing of it is left.

    Where the cache folder cannot be written the tokens stay in memory, with a warning.
    """
    root = cache_folder("tokens")
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        writer = EntryWriter(Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=root)), vocab_size)
    except OSError as error:
        warnings.warn(
            f"tokens stay in memory and are made again the next time: cannot write {root}: "
            f"{error.strerror}; XDG_CACHE_HOME names another place",
            stacklevel=3,
        )
        writer = EntryWriter(None, vocab_size)
    try:
        yield writer
    finally:
        writer.close()


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob(f"{_PARTIAL}*"):
        # One that another process is about to finish may be gone at any moment.
        with contextlib.suppress(FileNotFoundError):
            newest = max(path.stat().st_mtime for path in [folder, *folder.iterdir()])
            if time.time() - newest > _ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _check_ids(largest: int, vocab_size: int) -> None:
    if largest >= vocab_size:
        raise InputError(
            f"token ids up to {largest} do not fit a vocabulary of {vocab_size}: tokenize with the "
            "model's own tokenizer"
        )


def _folder(key: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps([_FORMAT, key], sort_keys=True).encode()).hexdigest()
    return cache_folder("tokens") / digest[:32]
