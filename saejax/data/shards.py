"""The files of an activation store at one hook point: header, shards and their checksums.

Dimension letters: W windows, L tokens kept of a window, D activation width.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from jaxtyping import Float

from saejax.errors import InputError
from saejax.files import atomic_write

HEADER = "header.json"
# What the files cannot be read without.
_LAYOUT = {"num_windows", "windows_per_shard", "tokens_per_window", "width", "dtype"}
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def read_header(path: Path) -> dict[str, Any]:
    """What the activations in a folder are.

    Raises:
      InputError: If the folder has no header, or one that cannot be read.
    """
    try:
        header: Any = json.loads((path / HEADER).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no {HEADER}, so this is not an activation store") from None
    except ValueError:
        raise InputError(f"{path / HEADER} is not JSON; delete {path} to write it anew") from None
    if not isinstance(header, dict) or not header.keys() >= _LAYOUT:
        wanted = ", ".join(sorted(_LAYOUT))
        raise InputError(f"{path / HEADER} lacks some of {wanted}; delete {path} to write it anew")
    return header


def check_header(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises `InputError`, naming what differs, unless a folder holds what is expected."""
    if found != expected:
        names = found.keys() | expected.keys()
        changed = sorted(name for name in names if found.get(name) != expected.get(name))
        raise InputError(
            f"{path} holds activations of something else ({', '.join(changed)} differ); "
            "delete it or use another work directory"
        )


def shard_paths(
    path: Path, header: dict[str, Any], process_index: int = 0, process_count: int = 1
) -> dict[int, Path]:
    """Shards of a folder by number: every `process_count`-th, from `process_index` on."""
    num_shards = -(-header["num_windows"] // header["windows_per_shard"])
    return {i: path / f"{i:05d}.npy" for i in range(process_index, num_shards, process_count)}


def write_shard(path: Path, rows_WLD: Float[np.ndarray, "W L D"], *, replaced: int) -> None:
    """Writes a shard, which has its name only when it and its checksum are whole.

    Args:
      path: The .npy file. bfloat16, which .npy files do not know, is written as its bits, uint16.
      rows_WLD: Activations.
      replaced: How many of their W x L positions have the activations of another, see
        `saejax.data.exclude`; recorded beside the checksum.

    Raises:
      InputError: If the disk is full or cannot be written.
    """
    with atomic_write(path) as file:
        hashed = _Hashed(file)
        np.save(hashed, rows_WLD.view(np.uint16) if rows_WLD.dtype == _BFLOAT16 else rows_WLD)
        record = {"sha256": hashed.sha256.hexdigest(), "replaced": replaced}
        with atomic_write(_record_path(path)) as beside:
            beside.write(json.dumps(record).encode() + b"\n")


def open_shard(path: Path, dtype: str) -> Float[np.ndarray, "W L D"]:
    """The activations of a shard, mapped from the file.

    Args:
      path: The .npy file.
      dtype: "float16", "bfloat16" or "float32", what was written.

    Raises:
      InputError: If the file is missing or shorter than it says.
    """
    try:
        rows_WLD = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a whole shard ({reason}); delete it") from None
    return rows_WLD.view(_BFLOAT16) if dtype == "bfloat16" else rows_WLD


def damage(path: Path) -> str | None:
    """What is wrong with the file of a shard, or None; reads all of it."""
    try:
        record: Any = json.loads(_record_path(path).read_text())
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if not isinstance(record, dict) or record.get("sha256") != found:
        return "its bytes are not those that were written"
    return None


def _record_path(path: Path) -> Path:
    return path.with_suffix(".json")


class _Hashed:
    """A file that takes the checksum of what is written to it."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)
