"""Activation store: written once, window by window, and read at random by every epoch.

A directory with `header.json` (what the activations are) and shards `00000.npy`, ..., each
[windows, L', D]. A shard appears under its name only when it is complete, so writing can be
interrupted at any moment and goes on with the first missing shard.

Dimension letters: W windows, L' tokens kept of a window, D activation width.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int32

from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.progress import Progress

# Size of a shard: large enough for few files, small enough to lose little when interrupted.
_SHARD_BYTES = 64 * 2**20

Capture = Callable[[np.ndarray], Any]


class ActivationStore:
    """A complete store, indexed by window number.

    Args:
      path: Directory that `write_store` filled.

    Raises:
      InputError: If the directory is not a complete store.
    """

    def __init__(self, path: Path):
        self.header = _read_header(path)
        self._windows_per_shard: int = self.header["windows_per_shard"]
        self._shards = [
            np.load(path / _shard_name(i), mmap_mode="r") for i in range(_num_shards(self.header))
        ]

    def __len__(self) -> int:
        return self.header["num_windows"]

    def __getitem__(self, window: int) -> Float[np.ndarray, "L D"]:
        shard, row = divmod(window, self._windows_per_shard)
        return self._shards[shard][row]

    @property
    def num_tokens(self) -> int:
        """Tokens of all windows, without those skipped."""
        return len(self) * self.header["tokens_per_window"]

    def tokens(self, index_B: Int[np.ndarray, " B"]) -> Float[np.ndarray, "B D"]:
        """Activations of single tokens, numbered through all windows."""
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
    path: Path,
    windows_WL: Int32[np.ndarray, "W L"],
    capture: Capture,
    *,
    width: int,
    skip_tokens: int,
    dtype: str,
    batch_windows: int,
    describes: dict[str, Any],
) -> None:
    """Writes the activations of all windows, or those still missing.

    Args:
      path: Directory, made if needed.
      windows_WL: Token ids.
      capture: Token ids [windows, L] to activations [windows, L, D].
      width: D.
      skip_tokens: Tokens dropped at the start of each window.
      dtype: "float16" or "float32".
      batch_windows: Windows per call of `capture`.
      describes: What the activations are of (model, hook point, text, ...); a store with
        another description is never continued.

    Raises:
      InputError: If the directory holds a store of something else, an activation is not
        finite or does not fit the type, or the disk is full.
    """
    num_windows, context_length = windows_WL.shape
    kept = context_length - skip_tokens
    window_bytes = kept * width * np.dtype(dtype).itemsize
    # Whole batches, so that where shards end never changes what is computed together.
    batches_per_shard = max(1, _SHARD_BYTES // (window_bytes * batch_windows))
    header = {
        "num_windows": num_windows,
        "windows_per_shard": batches_per_shard * batch_windows,
        "tokens_per_window": kept,
        "width": width,
        "dtype": dtype,
        "skip_tokens": skip_tokens,
        **describes,
    }
    if (path / _HEADER).exists():
        if (found := _read_header(path)) != header:
            changed = sorted(
                k for k in header.keys() | found.keys() if header.get(k) != found.get(k)
            )
            raise InputError(
                f"{path} holds activations of something else ({', '.join(changed)} differ); "
                "delete it or use another work directory"
            )
    else:
        with atomic_write(path / _HEADER) as file:
            file.write(json.dumps(header, indent=2).encode())
    missing = [i for i in range(_num_shards(header)) if not (path / _shard_name(i)).exists()]
    if not missing:
        return
    per_shard = header["windows_per_shard"]
    done = num_windows - sum(min(per_shard, num_windows - i * per_shard) for i in missing)
    with Progress(
        "capture",
        total=num_windows * context_length,
        initial=done * context_length,
        unit="tokens",
    ) as progress:
        for i in missing:
            start, stop = i * per_shard, min((i + 1) * per_shard, num_windows)
            shard = np.empty((stop - start, kept, width), dtype)
            for first in range(start, stop, batch_windows):
                last = min(first + batch_windows, stop)
                batch = windows_WL[first:last]
                # A short last batch is filled up, so that one compiled shape serves all.
                padded = np.resize(batch, (batch_windows, context_length))
                activations = np.asarray(capture(padded)[: last - first, skip_tokens:])
                shard[first - start : last - start] = _cast(activations, dtype, first)
                progress.advance((last - first) * context_length)
            with atomic_write(path / _shard_name(i)) as file:
                np.save(file, shard)


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


def is_complete(path: Path) -> bool:
    """Whether a store is there with all of its shards."""
    if not (path / _HEADER).exists():
        return False
    header = _read_header(path)
    return all((path / _shard_name(i)).exists() for i in range(_num_shards(header)))
