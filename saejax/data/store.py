"""Activation store: written once, window by window, and read at random by every epoch.

A folder a hook point, with `header.json` (what the activations are) and shards `00000.npy`, ...,
each [windows, L', D]. A shard appears under its name only when it is complete, so writing can be
interrupted at any moment and goes on with the first missing shard.

Dimension letters: W windows, L' tokens kept of a window, D activation width.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int32

from saejax.data.corpus import Windows
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.progress import Progress

# Tokens of a shard: few files (38 MB each at a width of 576 in float16), and little to lose when
# interrupted.
_SHARD_TOKENS = 2**15

Capture = Callable[[np.ndarray], Mapping[str, Any]]


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
        self.header = _read_header(path)
        self._windows_per_shard: int = self.header["windows_per_shard"]
        self._shards = [
            np.load(path / _shard_name(i), mmap_mode="r") for i in range(_num_shards(self.header))
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


def write_store(
    root: Path,
    windows_WL: Windows | Int32[np.ndarray, "W L"],
    capture: Capture,
    *,
    widths: Mapping[str, int],
    skip_tokens: int,
    dtype: str,
    batch_windows: int,
    describes: dict[str, Any],
) -> None:
    """Writes the activations of all windows, or those still missing, in one pass for all places.

    A shard of every hook point is held in memory.

    Args:
      root: Folder of the hook points' folders, made if needed.
      windows_WL: Token ids.
      capture: Token ids [windows, L] to activations [windows, L, D] by hook point.
      widths: D by hook point.
      skip_tokens: Tokens dropped at the start of each window.
      dtype: "float16" or "float32".
      batch_windows: Windows per call of `capture`.
      describes: What the activations are of (model, text, ...); a store with another
        description is never continued.

    Raises:
      InputError: If a folder holds a store of something else, an activation is not finite or
        does not fit the type, or the disk is full.
    """
    num_windows, context_length = windows_WL.shape
    kept = context_length - skip_tokens
    # Whole batches, so that where shards end never changes what is computed together.
    batches_per_shard = max(1, _SHARD_TOKENS // (kept * batch_windows))
    per_shard = batches_per_shard * batch_windows
    missing: dict[int, list[str]] = {}
    for name, width in widths.items():
        header = {
            "num_windows": num_windows,
            "windows_per_shard": per_shard,
            "tokens_per_window": kept,
            "width": width,
            "dtype": dtype,
            "skip_tokens": skip_tokens,
            "hookpoint": name,
            **describes,
        }
        _begin(root / name, header)
        for i in range(_num_shards(header)):
            if not (root / name / _shard_name(i)).exists():
                missing.setdefault(i, []).append(name)
    if not missing:
        return
    todo = sum(min(per_shard, num_windows - i * per_shard) for i in missing)
    with Progress(
        "capture",
        total=num_windows * context_length,
        initial=(num_windows - todo) * context_length,
        unit="tokens",
    ) as progress:
        for i in sorted(missing):
            start, stop = i * per_shard, min((i + 1) * per_shard, num_windows)
            shard = {
                name: np.empty((stop - start, kept, widths[name]), dtype) for name in missing[i]
            }
            for first in range(start, stop, batch_windows):
                last = min(first + batch_windows, stop)
                batch = windows_WL[first:last]
                # A short last batch is filled up, so that one compiled shape serves all.
                padded = np.resize(batch, (batch_windows, context_length))
                captured = capture(padded)
                for name, rows in shard.items():
                    activations = np.asarray(captured[name][: last - first, skip_tokens:])
                    rows[first - start : last - start] = _cast(activations, dtype, first)
                progress.advance((last - first) * context_length)
            for name, rows in shard.items():
                with atomic_write(root / name / _shard_name(i)) as file:
                    np.save(file, rows)


def _begin(path: Path, header: dict[str, Any]) -> None:
    """Writes the header, or checks the one that is there."""
    if not (path / _HEADER).exists():
        with atomic_write(path / _HEADER) as file:
            file.write(json.dumps(header, indent=2).encode())
    else:
        _check_same(path, _read_header(path), header)


def _check_same(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    if found != expected:
        names = found.keys() | expected.keys()
        changed = sorted(name for name in names if found.get(name) != expected.get(name))
        raise InputError(
            f"{path} holds activations of something else ({', '.join(changed)} differ); "
            "delete it or use another work directory"
        )


_HEADER = "header.json"


def _shard_name(i: int) -> str:
    return f"{i:05d}.npy"


def _num_shards(header: dict[str, Any]) -> int:
    return -(-header["num_windows"] // header["windows_per_shard"])


def _read_header(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / _HEADER).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no {_HEADER}, so this is not an activation store") from None
    except json.JSONDecodeError:
        raise InputError(f"{path / _HEADER} is not JSON; delete {path} to write it anew") from None


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
    limit = float(np.finfo(dtype).max)
    if largest > limit:
        raise InputError(
            f"an activation of {largest:.4g} does not fit data.store_dtype={dtype} (at most "
            f"{limit:.4g}); use --config.data.store_dtype=float32"
        )
    return activations.astype(dtype)


def is_complete(root: Path, hookpoints: tuple[str, ...], describes: dict[str, Any]) -> bool:
    """Whether hook points have stores with all of their shards.

    Raises:
      InputError: If one of them is of something else than `describes` says.
    """
    for path in (root / name for name in hookpoints):
        if not (path / _HEADER).exists():
            return False
        header = _read_header(path)
        _check_same(path, header, header | describes)
        if not all((path / _shard_name(i)).exists() for i in range(_num_shards(header))):
            return False
    return True
