"""Which latents fire where in a text, on disk in delphi's layout, and read a latent at a time.

A folder holds one autoencoder: `config.json`, and for each range of latents
`{start}_{end}.safetensors` (end included) with

- `locations`, uint16 or uint32 [F, 3]: sequence, position in it, latent - start,
- `activations`, float16 [F]: the codes there,
- `tokens`, int64 [U, L]: the text, in every file.

Ours are sorted by latent, sequence and position. Those of delphi are not: their order is made once
and kept beside them, with the index. delphi reads both.

Dimension letters: N latents, U sequences, L tokens of a sequence, F firings.

References:
  delphi (eai-delphi 0.1.3), `latents/cache.py` and `latents/loader.py`; Paulo et al. 2024, arXiv
  2410.13928.
"""

import bisect
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, Integer
from safetensors import SafetensorError, safe_open

from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.progress import Progress

CONFIG = "config.json"
# What float16 holds at most. Larger values are stored as this, so that none becomes infinite: which
# of them is the larger is lost, and all below stay what they are.
LARGEST = float(np.finfo(np.float16).max)
_INDEX = "index.npz"
# Firings that are looked at together.
_CHUNK = 2**22
_DTYPES = {"I64": "<i8", "I32": "<i4", "U64": "<u8", "U32": "<u4", "U16": "<u2", "F16": "<f2"}
_DTYPES |= {"F32": "<f4"}


class Firings(NamedTuple):
    """Where one latent fires, in the order of the text.

    Attributes:
      sequences: [F] int64.
      positions: [F] int64, in their sequences.
      values: [F] float32, positive, at most 65,504.
    """

    sequences: np.ndarray
    positions: np.ndarray
    values: np.ndarray


class LatentCache:
    """The firings of an autoencoder's latents over a text; made by `open_cache`.

    The files are mapped, so that only what is asked for is read.

    Attributes:
      num_latents: N.
      tokens: [U, L] integers, mapped from the file.
      num_firings: [N] int64.
    """

    def __init__(self, files: "list[_File]", offsets: Int64[np.ndarray, " _"]):
        self._files, self._offsets = files, offsets
        self._starts = [file.start for file in files]
        self.num_latents = len(offsets) - 1
        self.num_firings = np.diff(offsets)
        self.tokens = files[0].tokens

    def latent(self, i: int) -> Firings:
        """Where latent i fires.

        Raises:
          InputError: If there is no such latent.
        """
        if not 0 <= i < self.num_latents:
            raise InputError(f"latent {i}: the cache has latents 0 to {self.num_latents - 1}")
        file = self._files[bisect.bisect(self._starts, i) - 1]
        first, end = self._offsets[i : i + 2] - self._offsets[file.start]
        rows = slice(first, end) if file.order is None else file.order[first:end]
        location_F3 = file.locations[rows].astype(np.int64)
        value_F = np.minimum(file.activations[rows].astype(np.float32), LARGEST)
        return Firings(location_F3[:, 0], location_F3[:, 1], value_F)


def open_cache(folder: Path) -> LatentCache:
    """Opens the cache of one autoencoder, made by `saejax.interp.cache_run` or by delphi.

    The first time all firings are read once, and an index is written beside the files: offsets,
    and the order of files that are not sorted. Memory: 16 bytes a latent; while a file that is not
    sorted is indexed, about 32 bytes for each of its firings.

    Args:
      folder: What holds the .safetensors files.

    Raises:
      InputError: If files are missing or damaged, or the index cannot be written.
    """
    paths = cache_files(folder)
    config = _config(folder)
    if not paths:
        raise InputError(
            f"{folder} has no .safetensors files named by ranges of latents: it is no latent cache"
        )
    wanted = 0
    for (start, end), path in paths.items():
        if start != wanted:
            raise InputError(f"{path.parent} lacks latents {wanted} to {start - 1}: {_fix(config)}")
        wanted = end + 1
    of_ours = config.get("saejax", {})
    if wanted != of_ours.get("num_latents", wanted):
        raise InputError(
            f"{folder} has {wanted} of {of_ours['num_latents']} latents: {_fix(config)}"
        )
    files = [_File(start, end, path) for (start, end), path in paths.items()]
    if len({file.tokens.shape for file in files}) > 1:
        raise InputError(f"{folder}: its files are of different texts; make it anew")
    offsets = _read_index(folder, files)
    if offsets is None:
        offsets = _write_index(folder, files)
    for file in files:
        if file.order_path.exists():
            file.order = np.load(file.order_path, mmap_mode="r")
    return LatentCache(files, offsets)


def cache_files(folder: Path) -> dict[tuple[int, int], Path]:
    """The files of a folder by their first and last latents, rising."""
    found = {}
    for path in folder.glob("*_*.safetensors"):
        start, _, end = path.stem.partition("_")
        if start.isdecimal() and end.isdecimal():
            found[int(start), int(end)] = path
    return dict(sorted(found.items()))


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, mapped.

    Raises:
      InputError: If the file is missing, cut short, or not safetensors.
    """
    try:
        with safe_open(path, framework="numpy"):  # Compares the header with the file's size.
            pass
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(size))
        raw = np.memmap(path, np.uint8, mode="r").view(np.ndarray)[8 + size :]
        return {
            name: raw.__getitem__(slice(*tensor["data_offsets"]))
            .view(_DTYPES[tensor["dtype"]])
            .reshape(tensor["shape"])
            for name, tensor in header.items()
            if name != "__metadata__"
        }
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): delete it and make the cache again"
        ) from None


class _File:
    """One range of latents.

    Attributes:
      order: [F] which firing comes where in the order of latents; None if the file has that order.
      stamp: Number of firings, and when the file was written: another file has another.
    """

    def __init__(self, start: int, end: int, path: Path):
        tensors = map_tensors(path)
        if missing := {"locations", "activations", "tokens"} - tensors.keys():
            raise InputError(f"{path} lacks {', '.join(sorted(missing))}: make the cache again")
        self.start, self.num_latents, self.path = start, end + 1 - start, path
        self.locations, self.activations = tensors["locations"], tensors["activations"]
        self.tokens = tensors["tokens"]
        self.order: np.ndarray | None = None
        self.stamp = [len(self.locations), path.stat().st_mtime_ns]
        self.order_path = path.with_suffix(".order.npy")
        shapes = self.locations.shape, self.activations.shape, self.tokens.ndim
        if shapes != ((len(self.activations), 3), (len(self.activations),), 2):
            raise InputError(
                f"{path}: locations {self.locations.shape}, activations {self.activations.shape} "
                f"and tokens {self.tokens.shape} do not belong together; make the cache again"
            )

    def count(self) -> tuple[np.ndarray, bool]:
        """Firings of each latent, and whether they are in order; checks that all is in range."""
        limits = (*self.tokens.shape, self.num_latents)
        counts, is_sorted, last = np.zeros(self.num_latents, np.int64), True, -1
        for first in range(0, len(self.locations), _CHUNK):
            location_F3 = self.locations[first : first + _CHUNK]
            outside = location_F3.max(0) >= limits
            if outside.any() or not (self.activations[first : first + _CHUNK] > 0).all():
                raise InputError(
                    f"{self.path}: has firings outside of its {limits[0]} sequences of {limits[1]} "
                    f"tokens and {limits[2]} latents, or values that are not positive"
                )
            counts += np.bincount(location_F3[:, 2], minlength=self.num_latents)
            place_F = self._places(location_F3)
            is_sorted &= bool(place_F[0] > last and (np.diff(place_F) > 0).all())
            last = place_F[-1]
        return counts, is_sorted

    def sorted_order(self) -> np.ndarray:
        """The order of the firings by latent, sequence and position."""
        place_F = self._places(self.locations)
        order_F = np.argsort(place_F)
        if not (np.diff(place_F[order_F]) > 0).all():
            raise InputError(f"{self.path}: has two values for one latent and token")
        return order_F.astype(np.min_scalar_type(len(order_F)))

    def _places(self, location_F3: Integer[np.ndarray, "F 3"]) -> Int64[np.ndarray, " F"]:
        """Numbers that rise with latent, sequence and position."""
        num_sequences, length = self.tokens.shape
        sequence_F, position_F, latent_F = location_F3.T.astype(np.int64)
        return (latent_F * num_sequences + sequence_F) * length + position_F


def _config(folder: Path) -> dict[str, Any]:
    """What is in config.json; empty if there is none."""
    try:
        config: Any = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / CONFIG} cannot be read: {error}") from None
    return config if isinstance(config, dict) else {}


def _fix(config: dict[str, Any]) -> str:
    if "saejax" in config:
        return "it is not finished; run the command that makes it again"
    return "copy the missing file, or make the cache again"


def _read_index(folder: Path, files: list[_File]) -> Int64[np.ndarray, " _"] | None:
    """Offsets of the latents, if the index is of these files."""
    try:
        with (folder / _INDEX).open("rb") as file, np.load(file, allow_pickle=False) as index:
            offsets, stamps, num_orders = (index[name] for name in ("offsets", "stamps", "orders"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    orders = [file for file in files if file.order_path.exists()]
    of_these = stamps.tolist() == [file.stamp for file in files]
    return offsets if of_these and num_orders == len(orders) else None


def _write_index(folder: Path, files: list[_File]) -> Int64[np.ndarray, " _"]:
    counts, orders = [], 0
    total = sum(len(file.locations) for file in files)
    with Progress("index latents", total=total, unit="firings") as progress:
        for file in files:
            of_file, is_sorted = file.count()
            counts.append(of_file)
            file.order_path.unlink(missing_ok=True)
            if not is_sorted:
                orders += 1
                with atomic_write(file.order_path) as order:
                    np.save(order, file.sorted_order())
            progress.advance(len(file.locations))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    stamps = np.array([file.stamp for file in files])
    with atomic_write(folder / _INDEX) as index:
        np.savez(index, offsets=offsets, stamps=stamps, orders=np.array(orders))
    return offsets
