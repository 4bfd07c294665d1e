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
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float, Int, Int32

from saejax.data.corpus import Windows
from saejax.data.exclude import Kept
from saejax.data.shards import (
    HEADER,
    check_header,
    damage,
    open_shard,
    read_header,
    shard_paths,
    write_shard,
)
from saejax.errors import InputError
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

    Args:
      root: Folder that `write_store` filled.
      hookpoints: Which of its hook points to read.

    Raises:
      InputError: If a hook point has no complete store.
    """

    def __init__(self, root: Path, hookpoints: tuple[str, ...]):
        self._stores = {name: _Store(root / name) for name in hookpoints}
        self._first = self._stores[hookpoints[0]]

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
        return {name: store.tokens(index_B) for name, store in self._stores.items()}


class _Store:
    """The files of one hook point."""

    def __init__(self, path: Path):
        self.header = read_header(path)
        self._windows_per_shard: int = self.header["windows_per_shard"]
        self._shards = [
            open_shard(shard, self.header["dtype"])
            for shard in shard_paths(path, self.header).values()
        ]

    def window(self, window: int) -> np.ndarray:
        shard, row = divmod(window, self._windows_per_shard)
        return self._shards[shard][row]

    def tokens(self, index_B: np.ndarray) -> np.ndarray:
        shard_B, row_B = np.divmod(
            index_B, self._windows_per_shard * self.header["tokens_per_window"]
        )
        out_BD = np.empty((len(index_B), self.header["width"]), self.header["dtype"])
        for shard in np.unique(shard_B):
            here_B = shard_B == shard
            rows_TD = self._shards[shard].reshape(-1, self.header["width"])
            out_BD[here_B] = rows_TD[row_B[here_B]]
        return out_BD


def begin_store(
    root: Path,
    windows_WL: Windows | Int32[np.ndarray, "W L"],
    *,
    widths: Mapping[str, int],
    tokens_per_window: int,
    dtype: str,
    batch_windows: int,
    describes: dict[str, Any],
) -> None:
    """Writes what the activations will be, or checks that a store of the same is there.

    Args:
      root: Folder of the hook points' folders, made if needed.
      windows_WL: Token ids; the store keeps their checksum.
      widths: D by hook point.
      tokens_per_window: L', those kept of the L tokens of a window.
      dtype: "float16", "bfloat16" or "float32".
      batch_windows: Windows per call of the capture; those of a shard are a multiple.
      describes: What else the activations are of (model, text, ...); a store with another
        description is never continued.

    Raises:
      InputError: If a folder holds a store of something else, or cannot be written.
    """
    # Whole batches, so that where shards end never changes what is computed together.
    batches_per_shard = max(1, _SHARD_TOKENS // (tokens_per_window * batch_windows))
    tokens = tokens_sha256(windows_WL)
    for name, width in widths.items():
        header = {
            "num_windows": len(windows_WL),
            "windows_per_shard": batches_per_shard * batch_windows,
            "tokens_per_window": tokens_per_window,
            "width": width,
            "dtype": dtype,
            "hookpoint": name,
            "tokens_sha256": tokens,
            **describes,
        }
        path = root / name
        if (path / HEADER).exists():
            check_header(path, read_header(path), header)
        else:
            with atomic_write(path / HEADER) as file:
                file.write(json.dumps(header, indent=2).encode())


def tokens_sha256(windows_WL: Windows | Int32[np.ndarray, "W L"]) -> str:
    """Checksum of the token ids of all windows, which a store's header keeps."""
    sha256 = hashlib.sha256()
    for first in range(0, len(windows_WL), _HASHED_WINDOWS):
        ids = windows_WL[first : first + _HASHED_WINDOWS]
        sha256.update(np.ascontiguousarray(ids, dtype="<i4").data)
    return sha256.hexdigest()


def write_store(
    root: Path,
    hookpoints: Iterable[str],
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
      hookpoints: Those of `begin_store`.
      windows_WL: Token ids.
      capture: Called with `batch_windows` windows.
      batch_windows: As for `begin_store`.
      process_index: This process writes the shards of its number modulo `process_count`.
      process_count: How many processes write.

    Raises:
      InputError: If an activation is not finite or does not fit the type, or the disk is full.
    """
    headers = {name: read_header(root / name) for name in hookpoints}
    missing: dict[int, dict[str, Path]] = {}
    for name, header in headers.items():
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
                    rows[first - start : last - start] = _cast(activations, dtype, first)
                replaced += int(np.asarray(captured.replaced_BL)[: last - first].sum())
                told = {"replaced": replaced_in_all + replaced} if replaced else {}
                progress.advance((last - first) * context_length, **told)
            replaced_in_all += replaced
            for name, rows in shard.items():
                write_shard(missing[i][name], rows, replaced=replaced)


def is_complete(
    root: Path,
    hookpoints: Iterable[str],
    describes: dict[str, Any],
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> bool:
    """Whether hook points have stores with all shards that this process is to write.

    Reads them all, to compare them with their checksums; one that is damaged is deleted, with a
    warning, so that `write_store` writes it again.

    Raises:
      InputError: If one of the stores is of something else than `describes` says.
    """
    complete = True
    found: list[Path] = []
    for path in (root / name for name in hookpoints):
        if not (path / HEADER).exists():
            complete = False
            continue
        header = read_header(path)
        check_header(path, header, header | describes)
        own = list(shard_paths(path, header, process_index, process_count).values())
        present = [shard for shard in own if shard.exists()]
        complete = complete and present == own
        found += present
    for path, why in _damaged(found).items():
        warnings.warn(f"{path} is damaged and is written again: {why}", stacklevel=2)
        with explain_os_errors(path):
            path.unlink()
        complete = False
    return complete


def _damaged(shards: list[Path]) -> dict[Path, str]:
    """Shards that are not as they were written, and why."""
    if not shards:
        return {}
    sizes = {path: path.stat().st_size for path in shards}
    damaged: dict[Path, str] = {}
    with (
        # hashlib lets other threads run.
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        Progress("check activations", total=sum(sizes.values()), unit="bytes") as progress,
    ):
        for path, why in zip(shards, pool.map(damage, shards), strict=True):
            progress.advance(sizes[path])
            if why is not None:
                damaged[path] = why
    return damaged


def _cast(activations: np.ndarray, dtype: str, first_window: int) -> np.ndarray:
    """Activations in the stored type; refuses what the type cannot hold."""
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
