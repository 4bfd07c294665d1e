"""Firings in the order of the text to files in the order of latents: sorted parts, then a merge.

A part holds the firings of one autoencoder in some sequences, sorted by latent. All of a latent's
firings are then the concatenation of those in the parts, so that a file of any range of latents is
written group by group, and memory does not grow with the text.

Dimension letters: N latents, U sequences, L tokens of a sequence, F firings.
"""

import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from jaxtyping import Float16, Int32, Int64, UInt

from saejax.data.corpus import Windows
from saejax.files import atomic_write
from saejax.interp.cache import LARGEST, map_tensors

# Firings that are sorted together, of one latent or of several: about 50 bytes each.
_GROUP = 2**22
# Sequences whose tokens are written together.
_TOKEN_ROWS = 4096


def part_chain(folder: Path) -> tuple[list[Path], int]:
    """Parts that follow each other from the first sequence on, and where they end.

    Others, of which one before is missing, are deleted.
    """
    chain: list[Path] = []
    end = 0
    for path in sorted(folder.glob("*.safetensors")):
        first, last = map(int, path.stem.split("_"))
        if first == end:
            chain.append(path)
            end = last
        else:
            path.unlink()
    return chain, end


def write_part(
    folder: Path,
    sequences: range,
    latent_F: Int32[np.ndarray, " F"],
    token_F: UInt[np.ndarray, " F"],
    value_F: Float16[np.ndarray, " F"],
    *,
    num_latents: int,
) -> None:
    """Writes the firings in some sequences, whole or not at all.

    Args:
      folder: Of the parts.
      sequences: Which ones.
      latent_F: Latents, in the order of the text.
      token_F: Where, as sequence x L + position.
      value_F: Codes.
      num_latents: N.

    Raises:
      InputError: If the disk is full or cannot be written.
    """
    order_F = np.argsort(latent_F, kind="stable")
    counts_N = np.bincount(latent_F, minlength=num_latents)
    part = {
        "offsets": np.concatenate([[0], np.cumsum(counts_N)]),
        "tokens": token_F[order_F],
        "values": value_F[order_F],
    }
    name = f"{sequences.start:012d}_{sequences.stop:012d}.safetensors"
    with atomic_write(folder / name) as file:
        file.write(safetensors.numpy.save(part))


def count_firings(parts: Sequence[Path], latents: range) -> int:
    """Firings of a range of latents."""
    edges = [map_tensors(part)["offsets"][[latents.start, latents.stop]] for part in parts]
    return sum(int(end - start) for start, end in edges)


def write_range(
    path: Path,
    parts: Sequence[Path],
    windows: Windows,
    numbers: Int64[np.ndarray, " U"],
    latents: range,
    on_firings: Callable[[int], None],
) -> None:
    """Writes the file of a range of latents, see `saejax.interp.cache`, whole or not at all.

    Args:
      path: The file.
      parts: All parts.
      windows: The text.
      numbers: Which windows the sequences are.
      latents: Which ones.
      on_firings: Called after each group with how many firings it has.

    Raises:
      InputError: If the disk is full or cannot be written, or a part cannot be read.
    """
    length = windows.shape[1]
    counts_N = np.zeros(len(latents), np.int64)
    for part in parts:
        counts_N += np.diff(map_tensors(part)["offsets"][latents.start : latents.stop + 1])
    offsets = np.concatenate([[0], np.cumsum(counts_N)])
    largest = max(len(numbers), length, len(latents)) - 1
    dtype = np.dtype(np.uint16 if largest < 2**16 else np.uint32)
    shapes = {
        "tokens": ("I64", (len(numbers), length), 8),
        "locations": (f"U{8 * dtype.itemsize}", (int(offsets[-1]), 3), dtype.itemsize),
        "activations": ("F16", (int(offsets[-1]),), 2),
    }
    cut = 0
    with atomic_write(path) as file:
        starts = file.write(_header(shapes))
        for first in range(0, len(numbers), _TOKEN_ROWS):
            chosen = numbers[first : first + _TOKEN_ROWS]
            tokens_UL = np.stack([windows[int(number)] for number in chosen])
            starts += file.write(tokens_UL.astype("<i8").tobytes())
        values_start = starts + 3 * dtype.itemsize * int(offsets[-1])
        for group in _groups(offsets):
            latent_F, token_F, value_F = _sorted(parts, latents.start, group)
            location_F3 = np.stack(
                [token_F // length, token_F % length, latent_F - latents.start], axis=1
            )
            before = int(offsets[group.start])
            file.seek(starts + 3 * dtype.itemsize * before)
            file.write(location_F3.astype(dtype.newbyteorder("<")).tobytes())
            file.seek(values_start + 2 * before)
            file.write(value_F.astype("<f2").tobytes())
            cut += int((value_F >= LARGEST).sum())
            on_firings(len(value_F))
    if cut:
        warnings.warn(
            f"{path}: {cut} values of {LARGEST:,.0f} or more are stored as {LARGEST:,.0f}, the "
            "largest float16",
            stacklevel=2,
        )


def _header(shapes: dict[str, tuple[str, tuple[int, ...], int]]) -> bytes:
    """The beginning of a safetensors file whose tensors follow each other in this order."""
    header, at = {}, 0
    for name, (kind, shape, item_bytes) in shapes.items():
        end = at + int(np.prod(shape, dtype=np.int64)) * item_bytes
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # So that int64 tensors begin at multiples of 8.
    return len(text).to_bytes(8, "little") + text


def _groups(offsets: Int64[np.ndarray, " _"]) -> Iterable[range]:
    """Runs of latents of at most `_GROUP` firings, or of one latent."""
    start, end = 0, len(offsets) - 1
    while start < end:
        stop = int(np.searchsorted(offsets, offsets[start] + _GROUP, side="right")) - 1
        stop = min(max(stop, start + 1), end)
        yield range(start, stop)
        start = stop


def _sorted(
    parts: Sequence[Path], base: int, group: range
) -> tuple[Int64[np.ndarray, " F"], UInt[np.ndarray, " F"], Float16[np.ndarray, " F"]]:
    """Latents, tokens and values of a group of latents, which count from the base."""
    found = []
    latents = np.arange(base + group.start, base + group.stop)
    for path in parts:
        part = map_tensors(path)
        offsets = part["offsets"][latents[0] : latents[-1] + 2]
        own = slice(offsets[0], offsets[-1])
        found.append(
            (np.repeat(latents, np.diff(offsets)), part["tokens"][own], part["values"][own])
        )
    latent_F, token_F, value_F = map(np.concatenate, zip(*found, strict=True))
    # Stable: parts are in the order of the text.
    order_F = np.argsort(latent_F, kind="stable")
    return latent_F[order_F], token_F[order_F], value_F[order_F]
