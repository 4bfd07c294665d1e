"""Activation store: written once, window by window, and read at random by every epoch.

A folder a hook point, with `header.json` (what the activations are) and shards `00000.npy`, ...,
each [windows, L', D] with its checksum in `00000.json`. A shard appears under its name only when
it is complete, so writing can be interrupted at any moment and goes on with the missing shards.
Several processes write every n-th shard each.

Dimension letters: W windows, L' tokens kept of a window, D activation width.
"""

import concurrent.futures
import hashlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int32

from saejax.data.corpus import Windows
from saejax.data.exclude import Kept
from saejax.data.shards import (
    HEADER,
    Shard,
    check_header,
    fault,
    read_header,
    shard_paths,
    shard_shape,
    to_stored,
    write_shard,
)
from saejax.files import atomic_write, explain_os_errors
from saejax.progress import Progress

# Tokens of a shard: few files (38 MB each at a width of 576 in float16), and little to lose when
# interrupted.
_SHARD_TOKENS = 2**15

# Windows whose ids are read at once for their checksum: 16 MB of 2,049 tokens.
_HASHED_WINDOWS = 2**11

# Token ids [windows, L] to activations [windows, L', D] by hook point.
Capture = Callable[[np.ndarray], Kept]


class ActivationStore:
    """Complete stores of the same windows at one or more hook points, by window number.

    A shard is compared with its checksum when something of it is read for the first time; reading
    raises `InputError`, naming the file, for one that is damaged. Threads may share a store.

    Args:
      root: Folder that `write_store` filled.
      hookpoints: Which of its hook points to read.

    Raises:
      InputError: If a hook point has no complete store.
    """

    def __init__(self, root: Path, hookpoints: tuple[str, ...]):
        self._stores = {name: _Store(root / name) for name in hookpoints}
        self._first = self._stores[hookpoints[0]]
        self._lock = threading.Lock()
        self._is_checked = False

    def __len__(self) -> int:
        return self._first.header["num_windows"]

    def __getitem__(self, window: int) -> dict[str, Float[np.ndarray, "L D"]]:
        return {name: store.window(window) for name, store in self._stores.items()}

    @property
    def num_tokens(self) -> int:
        """Tokens of all windows, without those skipped."""
        return len(self) * self._first.header["tokens_per_window"]

    def tokens(self, index_B: Int[np.ndarray, " B"]) -> dict[str, Float[np.ndarray, "B D"]]:
        """Activations of single tokens, numbered through all windows."""
        self.check()  # a batch of single tokens is of most shards
        return {name: store.tokens(index_B) for name, store in self._stores.items()}

    def check(self) -> None:
        """Checks all shards once, on all cores; `InputError` names one that is damaged."""
        # Other threads wait instead of checking the same shards.
        with self._lock:
            if self._is_checked:
                return
            shards = [shard for store in self._stores.values() for shard in store.shards]
            total = sum(shard.num_bytes for shard in shards)
            with (
                # hashlib lets other threads run.
                concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
                Progress("check activations", total=total, unit="bytes") as progress,
            ):
                for shard, _ in zip(shards, pool.map(Shard.check, shards), strict=True):
                    progress.advance(shard.num_bytes)
            self._is_checked = True


class _Store:
    """The files of one hook point."""

    def __init__(self, path: Path):
        self.header = read_header(path)
        self._windows_per_shard: int = self.header["windows_per_shard"]
        self.shards = [
            Shard(shard, shard_shape(self.header, i), self.header["dtype"])
            for i, shard in shard_paths(path, self.header).items()
        ]

    def window(self, window: int) -> np.ndarray:
        shard, row = divmod(window, self._windows_per_shard)
        return self.shards[shard].rows()[row]

    def tokens(self, index_B: np.ndarray) -> np.ndarray:
        shard_B, row_B = np.divmod(
            index_B, self._windows_per_shard * self.header["tokens_per_window"]
        )
        out_BD = np.empty((len(index_B), self.header["width"]), self.header["dtype"])
        for shard in np.unique(shard_B):
            here_B = shard_B == shard
            rows_TD = self.shards[shard].rows().reshape(-1, self.header["width"])
            out_BD[here_B] = rows_TD[row_B[here_B]]
        return out_BD


def store_headers(
    windows_WL: Windows | Int32[np.ndarray, "W L"],
    *,
    widths: Mapping[str, int],
    tokens_per_window: int,
    dtype: str,
    batch_windows: int,
    describes: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """What a store of activations is, by hook point: only one with equal headers serves for it.

    Args:
      windows_WL: Token ids; a header has their checksum.
      widths: D by hook point.
      tokens_per_window: L', those kept of the L tokens of a window.
      dtype: "float16", "bfloat16" or "float32".
      batch_windows: Windows per call of the capture; those of a shard are a multiple.
      describes: What else decides the activations (model, positions left out, ...).
    """
    # Whole batches, so that where shards end never changes what is computed together.
    batches_per_shard = max(1, _SHARD_TOKENS // (tokens_per_window * batch_windows))
    tokens = tokens_sha256(windows_WL)
    return {
        name: {
            "num_windows": len(windows_WL),
            "windows_per_shard": batches_per_shard * batch_windows,
            "tokens_per_window": tokens_per_window,
            "width": width,
            "dtype": dtype,
            "hookpoint": name,
            "tokens_sha256": tokens,
            **describes,
        }
        for name, width in widths.items()
    }


def tokens_sha256(windows_WL: Windows | Int32[np.ndarray, "W L"]) -> str:
    """Checksum of the token ids of all windows, which a store's header keeps."""
    sha256 = hashlib.sha256()
    for first in range(0, len(windows_WL), _HASHED_WINDOWS):
        ids = windows_WL[first : first + _HASHED_WINDOWS]
        sha256.update(np.ascontiguousarray(ids, dtype="<i4").data)
    return sha256.hexdigest()


def begin_store(root: Path, headers: Mapping[str, dict[str, Any]]) -> None:
    """Writes what the activations will be, where it is not yet written.

    Args:
      root: Folder of the hook points' folders, made if needed.
      headers: Of `store_headers`.

    Raises:
      InputError: If a folder holds a store of something else, or cannot be written.
    """
    for name, header in headers.items():
        path = root / name
        if (path / HEADER).exists():
            check_header(path, read_header(path), header)
        else:
            with atomic_write(path / HEADER) as file:
                file.write(json.dumps(header, indent=2).encode())


def write_store(
    root: Path,
    headers: Mapping[str, dict[str, Any]],
    windows_WL: Windows | Int32[np.ndarray, "W L"],
    capture: Capture,
    *,
    batch_windows: int,
    process_index: int = 0,
    process_count: int = 1,
) -> None:
    """Writes the shards still missing of a store begun, in one pass for all hook points.

    A shard of every hook point is held in memory.

    Args:
      root: As for `begin_store`.
      headers: As for `begin_store`.
      windows_WL: Token ids.
      capture: Called with `batch_windows` windows.
      batch_windows: As for `store_headers`.
      process_index: This process writes the shards of its number modulo `process_count`.
      process_count: How many processes write.

    Raises:
      InputError: If an activation is not finite or does not fit the type, the disk is full, or
        a folder holds a store of something else.
    """
    missing: dict[int, dict[str, Path]] = {}
    for name, header in headers.items():
        # Another process may have begun the store, with another text.
        check_header(root / name, read_header(root / name), header)
        own = shard_paths(root / name, header, process_index, process_count)
        for i, path in own.items():
            if not path.exists():
                missing.setdefault(i, {})[name] = path
    if not missing:
        return
    num_windows, context_length = len(windows_WL), len(windows_WL[0])
    some = next(iter(headers.values()))
    per_shard, kept, dtype = (
        some[key] for key in ("windows_per_shard", "tokens_per_window", "dtype")
    )
    spans = {i: (i * per_shard, min((i + 1) * per_shard, num_windows)) for i in sorted(missing)}
    todo = sum(stop - start for start, stop in spans.values())
    replaced_in_all = 0
    with Progress("capture", total=todo * context_length, unit="tokens") as progress:
        for i, (start, stop) in spans.items():
            shard = {
                name: np.empty((stop - start, kept, headers[name]["width"]), dtype)
                for name in missing[i]
            }
            replaced = 0
            for first in range(start, stop, batch_windows):
                last = min(first + batch_windows, stop)
                # A short last batch is filled up, so that one compiled shape serves all.
                padded = np.resize(windows_WL[first:last], (batch_windows, context_length))
                captured = capture(padded)
                for name, rows in shard.items():
                    activations = np.asarray(captured.activations[name])[: last - first]
                    rows[first - start : last - start] = to_stored(activations, dtype, first)
                replaced += int(np.asarray(captured.replaced_BL)[: last - first].sum())
                told = {"replaced": replaced_in_all + replaced} if replaced else {}
                progress.advance((last - first) * context_length, **told)
            replaced_in_all += replaced
            for name, rows in shard.items():
                write_shard(missing[i][name], rows, replaced=replaced)


def is_complete(
    root: Path,
    headers: Mapping[str, dict[str, Any]],
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> bool:
    """Whether hook points have stores with all shards that this process is to write.

    A shard that is missing its checksum or of another size is deleted, with a warning, so that
    `write_store` writes it again. Checksums are compared when shards are read.

    Args:
      root: As for `begin_store`.
      headers: Of `store_headers`.
      process_index: As for `write_store`.
      process_count: As for `write_store`.

    Raises:
      InputError: If a folder holds a store of something else.
    """
    complete = True
    for name, header in headers.items():
        path = root / name
        if not (path / HEADER).exists():
            complete = False
            continue
        check_header(path, read_header(path), header)
        for i, shard in shard_paths(path, header, process_index, process_count).items():
            if not shard.exists():
                complete = False
            elif (why := fault(shard, shard_shape(header, i), header["dtype"])) is not None:
                warnings.warn(f"{shard} is damaged and is written again: {why}", stacklevel=2)
                with explain_os_errors(shard):
                    shard.unlink()
                complete = False
    return complete
