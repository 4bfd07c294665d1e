"""GGUF files: metadata and tensors.

The header is parsed here because `gguf.GGUFReader` takes seconds and 150 MB for the 98,000
strings of a tokenizer, and does not say which tensor of a truncated file is cut; this takes a
tenth of a second. Dequantisation is the gguf package's.

References:
  GGUF specification, versions 2 and 3, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from saejax.errors import InputError
from saejax.lm.checkpoint import Tensor

_VERSIONS = (2, 3)
# Alignment of tensor data where the file does not say (specification, `general.alignment`).
_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
# struct formats of the scalar value types, by number (specification, `gguf_metadata_value_type`).
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


class Gguf(NamedTuple):
    """A GGUF file."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]  # shapes as in numpy: rows [out, in]


class _Cursor:
    """Reads little-endian values one after the other, never beyond the end."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.data, self.offset = path, data, 0

    def corrupt(self, why: str) -> InputError:
        return InputError(
            f"{self.path} is not a usable GGUF file: {why}; it has {len(self.data):,} bytes; "
            "download it again"
        )

    def skip(self, num_bytes: int) -> int:
        """Moves on and returns where it was."""
        start = self.offset
        if num_bytes > len(self.data) - start:
            raise self.corrupt(f"it ends in its header, at byte {start:,}")
        self.offset += num_bytes
        return start

    def numbers(self, form: str, count: int) -> tuple[Any, ...]:
        start = self.skip(struct.calcsize("<" + form) * count)
        return struct.unpack_from(f"<{count}{form}", self.data, start)

    def string(self) -> str:
        (length,) = self.numbers("Q", 1)
        start = self.skip(length)
        try:
            return self.data[start : start + length].decode()
        except UnicodeDecodeError:
            raise self.corrupt(f"the string at byte {start:,} is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.numbers(_SCALARS[kind], 1)[0]
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            (item,) = self.numbers("I", 1)
            (count,) = self.numbers("Q", 1)
            if item in _SCALARS:
                return list(self.numbers(_SCALARS[item], count))
            if item == _STRING:
                return [self.string() for _ in range(count)]
            kind = item
        raise self.corrupt(f"unknown value type {kind} before byte {self.offset:,}")


def read_gguf(path: Path) -> Gguf:
    """Reads the header of a GGUF file; tensors are read when asked for.

    Raises:
      InputError: If the file is truncated, corrupt, of an unknown version, or has a tensor of
        a type that cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise InputError(f"{path} is empty; download it again") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    cursor = _Cursor(path, data)
    if cursor.data[cursor.skip(4) : 4] != b"GGUF":
        raise cursor.corrupt("it does not begin with 'GGUF'")
    (version,) = cursor.numbers("I", 1)
    if version not in _VERSIONS:
        raise cursor.corrupt(f"version {version} is not one of {_VERSIONS}")
    num_tensors, num_values = cursor.numbers("Q", 2)
    metadata: dict[str, Any] = {}
    for _ in range(num_values):
        name = cursor.string()
        (kind,) = cursor.numbers("I", 1)
        metadata[name] = cursor.value(kind)
    entries = []
    for _ in range(num_tensors):
        name = cursor.string()
        (num_dims,) = cursor.numbers("I", 1)
        if num_dims > _MAX_DIMENSIONS:
            raise cursor.corrupt(f"tensor {name!r} has {num_dims} dimensions")
        entries.append(
            (name, cursor.numbers("Q", num_dims), *cursor.numbers("I", 1), *cursor.numbers("Q", 1))
        )
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise cursor.corrupt(f"general.alignment={alignment!r}")
    data_start = -(-cursor.offset // alignment) * alignment
    tensors = {}
    for name, dims, kind, offset in entries:
        tensors[name] = _tensor(cursor, name, dims, kind, data_start + offset)
    return Gguf(metadata, tensors)


def _tensor(cursor: _Cursor, name: str, dims: tuple[int, ...], kind: int, start: int) -> Tensor:
    try:
        quantisation = gguf.GGMLQuantizationType(kind)
    except ValueError:
        raise cursor.corrupt(f"tensor {name!r} has the unknown type {kind}") from None
    block, block_bytes = gguf.GGML_QUANT_SIZES[quantisation]
    if not dims or dims[0] % block:
        raise cursor.corrupt(f"tensor {name!r} of {quantisation.name} has dimensions {list(dims)}")
    shape = dims[::-1]
    byte_shape = (*shape[:-1], shape[-1] // block * block_bytes)
    num_bytes = math.prod(byte_shape)
    if start + num_bytes > len(cursor.data):
        raise cursor.corrupt(f"tensor {name!r} ends at byte {start + num_bytes:,}")

    def read() -> np.ndarray:
        stored = np.frombuffer(cursor.data, np.uint8, num_bytes, start).reshape(byte_shape)
        try:
            return gguf.dequantize(stored, quantisation)
        except NotImplementedError:
            raise InputError(
                f"{cursor.path}: tensor {name!r} has type {quantisation.name}, which cannot be "
                "dequantised; use a file of another quantisation, as Q8_0"
            ) from None

    return Tensor(shape, num_bytes, read)
