"""The files of an activation store at one hook point: header, shards and their checksums.

Dimension letters: W windows, L tokens kept of a window, D activation width.
"""

import hashlib
import json
import threading
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
_FIX = "delete it and run the same command again, which writes it anew"


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


def shard_shape(header: dict[str, Any], i: int) -> tuple[int, int, int]:
    """[W, L, D] of a shard by its number; the last one may have fewer windows."""
    per_shard = header["windows_per_shard"]
    windows = min(per_shard, header["num_windows"] - i * per_shard)
    return windows, header["tokens_per_window"], header["width"]


def to_stored(
    activations: Float[np.ndarray, "W L D"], dtype: str, first_window: int
) -> Float[np.ndarray, "W L D"]:
    """Activations in the stored type.

    Raises:
      InputError: If one is not finite, naming its window, or does not fit the type.
    """
    activations = activations.astype(np.float32)
    if not np.isfinite(activations).all():
        window = first_window + int(np.argwhere(~np.isfinite(activations))[0, 0])
        raise InputError(
            f"window {window} has activations that are not finite: the model's weights or its "
            "dtype are at fault; try --config.lm.dtype=float32"
        )
    largest = float(np.abs(activations).max())
    limit = float(ml_dtypes.finfo(dtype).max)
    if largest > limit:
        raise InputError(
            f"an activation of {largest:.4g} does not fit data.store_dtype={dtype} (at most "
            f"{limit:.4g}); use --config.data.store_dtype=float32"
        )
    return activations.astype(dtype)


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


class Shard:
    """The activations of a shard, mapped from its file and checked when they are first read.

    Threads may share it.

    Args:
      path: The .npy file.
      shape: [W, L, D], what was written.
      dtype: "float16", "bfloat16" or "float32", what was written.

    Raises:
      InputError: If the file or its checksum is missing, or the file is of another size.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: str):
        if (why := fault(path, shape, dtype)) is not None:
            raise InputError(f"{path} is not a whole shard ({why}); {_FIX}")
        # Slices of a memmap are memmaps again, which takes longer than reading them.
        rows_WLD = _mapped(path).view(np.ndarray)
        self._rows_WLD = rows_WLD.view(_BFLOAT16) if dtype == "bfloat16" else rows_WLD
        self._path = path
        self._lock = threading.Lock()
        self._is_checked = False

    @property
    def num_bytes(self) -> int:
        """Size of the activations."""
        return self._rows_WLD.nbytes

    def check(self) -> None:
        """Compares the file with its checksum, once.

        Raises:
          InputError: If they differ, or the file cannot be read.
        """
        with self._lock:
            if self._is_checked:
                return
            try:
                with self._path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                expected = _sha256(self._path)
            except (OSError, ValueError) as error:
                raise InputError(f"{self._path} cannot be read ({error}); {_FIX}") from None
            if found != expected:
                raise InputError(
                    f"{self._path} is damaged: its bytes are not those that were written; {_FIX}"
                )
            self._is_checked = True

    def rows(self) -> Float[np.ndarray, "W L D"]:
        """The activations.

        Raises:
          InputError: As `check`.
        """
        self.check()
        return self._rows_WLD


def fault(path: Path, shape: tuple[int, int, int], dtype: str) -> str | None:
    """What is wrong with the files of a shard, or None; no activations are read."""
    try:
        rows_WLD = _mapped(path)
        _sha256(path)
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        return str(error).partition("\n")[0]
    stored = "uint16" if dtype == "bfloat16" else dtype
    if rows_WLD.shape != shape or rows_WLD.dtype != stored:
        return f"it holds {rows_WLD.shape} of {rows_WLD.dtype} instead of {shape} of {stored}"
    if size != (whole := rows_WLD.offset + rows_WLD.nbytes):
        return f"it has {size} bytes instead of {whole}"
    return None


def _mapped(path: Path) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="r")


def _sha256(path: Path) -> str:
    """The checksum beside a shard; `ValueError` if there is none in the file."""
    record: Any = json.loads(_record_path(path).read_text())
    if not isinstance(record, dict) or not isinstance(record.get("sha256"), str):
        raise ValueError(f"{_record_path(path)} holds no checksum")
    return record["sha256"]


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
