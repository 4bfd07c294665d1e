"""A model on disk, opened for reading: its configuration and its tensors, which must agree."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from saejax.errors import InputError
from saejax.lm.decoder_config import DecoderConfig, tensor_shapes

# A fingerprint reads this many pieces of a file, evenly spread, of this many bytes: 1 MiB in
# all, so that it costs nothing next to reading the model.
_PIECES = 16
_PIECE_BYTES = 1 << 16

# Names spelled out in a message before it says how many more there are.
_NAMES_SHOWN = 5


class Tensor(NamedTuple):
    """A tensor in a file."""

    shape: tuple[int, ...]
    num_bytes: int  # in the file
    read: Callable[[], np.ndarray]  # the values, in any float type


class Checkpoint(NamedTuple):
    """A model on disk."""

    config: DecoderConfig
    tensors: dict[str, Tensor]  # by Hugging Face name without the model's prefix
    files: tuple[Path, ...]  # everything that decides the activations


def check_tensors(checkpoint: Checkpoint, where: object) -> Checkpoint:
    """Returns the checkpoint, or raises `InputError` when tensors and configuration disagree."""
    num_layers = checkpoint.config.num_layers
    if num_layers > len(checkpoint.tensors):
        raise InputError(
            f"{where}: {num_layers} layers cannot come from {len(checkpoint.tensors)} tensors"
        )
    check_shapes(checkpoint.tensors, tensor_shapes(checkpoint.config, num_layers), where)
    return checkpoint


def check_shapes(
    found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], where: object
) -> None:
    """Raises `InputError` unless the tensors are those expected, and have these shapes."""
    for kind, names in (
        ("lacks tensors that its configuration calls for", expected.keys() - found.keys()),
        ("has tensors that its configuration does not call for", found.keys() - expected.keys()),
    ):
        if names:
            raise InputError(f"{where} {kind}: {_listed(names)}; use another model")
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise InputError(
                f"{where}: tensor {name} has shape {list(found[name].shape)}, but the "
                f"configuration calls for {list(shape)}"
            )


def fingerprint(files: Iterable[Path]) -> str:
    """A short hash of names, sizes and evenly spread pieces of files.

    Equal for copies of the same files in another directory. It tells models apart; it does
    not protect against deliberate changes, since most bytes of a large file are not read.
    """
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for piece in range(_PIECES):
                file.seek(max(size - _PIECE_BYTES, 0) * piece // (_PIECES - 1))
                digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()[:16]


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(ordered[:_NAMES_SHOWN])
    more = len(ordered) - _NAMES_SHOWN
    return shown + (f" and {more} more" if more > 0 else "")
