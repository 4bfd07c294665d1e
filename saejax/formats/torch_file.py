"""PyTorch's `.pt` files of named tensors, read and written without PyTorch.

A file is a zip archive of uncompressed entries (`torch.save` since PyTorch 1.6): `data.pkl`, a
pickle whose tensors are pieces of storages, and `data/<key>`, the bytes of each storage.

A pickle is a program, and Python's unpickler imports and calls what it names. The interpreter
here shares no code with that one. It cannot execute anything a file brings: names of functions
are compared with a list and never imported, the only calls are the four in `_call`, no attribute
is read or set, and an operation that is not listed ends it. Its work is linear in the pickle, of
at most 1 MiB, and shared or nested values are never walked through. Tensors are bounded views of
the mapped file, with no more entries than their storage, so a file takes no more memory than
its size.

References:
  PyTorch, "Serialization semantics", https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

import dataclasses
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from saejax.errors import InputError
from saejax.files import atomic_write

_STORAGES = {
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}
_CALLED = (
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_PLAIN = (np.ndarray, str, int, float, type(None))
# A tensor takes about 150 bytes, and an autoencoder has a dozen.
_MAX_PICKLE_BYTES = 1 << 20
# The first bytes of what `torch.save` wrote before PyTorch 1.6: a pickled number, 0x1950a86a20f9...
_OLD_FORMAT = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# The fixed part of the header before each entry of a zip archive.
_HEADER_BYTES = 30


class _Refused(Exception):
    """Why a file is not read."""


@dataclasses.dataclass(frozen=True)
class _Name:
    """What stands for a function or a type of the pickle: its name."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Entries that tensors are views of: bytes [size * itemsize]."""

    data: np.ndarray
    dtype: np.dtype
    size: int


class _Archive:
    """The entries of a zip archive, as views of the mapped file. Nothing is unpacked."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            start = file.read(len(_OLD_FORMAT))
            if not start:
                raise _Refused("0 bytes; was it copied to the end?")
            if start == _OLD_FORMAT:
                raise _Refused(
                    "PyTorch's format before 1.6 is not read; convert it with a recent PyTorch: "
                    "torch.save(torch.load(path), path)"
                )
            with zipfile.ZipFile(file) as archive:
                self.entries = {info.filename: info for info in archive.infolist()}
        self.data = np.memmap(path, np.uint8, mode="r")

    def read(self, name: str) -> np.ndarray:
        """The bytes of an entry [size]."""
        if name not in self.entries:
            raise _Refused(f"no entry {name!r:.80} in the archive; was it written to the end?")
        info = self.entries[name]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise _Refused(
                f"its entry {name!r:.80} is compressed or encrypted, which PyTorch does not do; "
                "unpack it and pack it again with `zip -0`"
            )
        header = self.data[info.header_offset :][:_HEADER_BYTES].tobytes()
        if len(header) < _HEADER_BYTES or not header.startswith(b"PK\x03\x04"):
            raise _Refused(f"its entry {name!r:.80} is damaged; copy the file again")
        # Lengths of the name and of the extra field, which follow the header.
        start = info.header_offset + _HEADER_BYTES + sum(struct.unpack("<HH", header[26:]))
        data = self.data[start:][: info.file_size]
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise _Refused(f"its entry {name!r:.80} is damaged; copy the file again")
        return data


def read(path: Path) -> dict[str, Any]:
    """The entries of a dictionary that `torch.save` wrote, in its order.

    Tensors become arrays: read-only views of the mapped file, which are read from the disk when
    they are used. Every storage is compared with its checksum.

    Returns:
      Arrays, strings, numbers and None by name, or dictionaries of these.

    Raises:
      InputError: If the file is missing, damaged, of another format, or holds or calls anything
        else; nothing is executed.
    """
    try:
        archive = _Archive(path)
        found = [name for name in archive.entries if name.rpartition("/")[2] == "data.pkl"]
        if len(found) != 1:
            raise _Refused(f"{len(found)} entries data.pkl, not one; PyTorch did not write it")
        root = found[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in archive.entries and archive.read(order).tobytes() != b"little":
            raise _Refused("written on a big-endian machine; save it again on another")
        program = archive.read(found[0]).tobytes()
        if len(program) > _MAX_PICKLE_BYTES:
            raise _Refused(f"its data.pkl has {len(program):,} bytes, more than any autoencoder's")
        values = _interpret(program, archive, root)
        return _checked(values)
    except _Refused as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    # What zipfile, pickletools and numpy raise for damaged input. A pickle that takes more from
    # the stack or the memo than there is, is an IndexError or a KeyError.
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        OverflowError,
        EOFError,
        struct.error,
        ValueError,
        IndexError,
        KeyError,
    ) as error:
        raise InputError(f"{path}: truncated or not a PyTorch file: {error!s:.80}") from None


def _checked(values: object) -> dict[str, Any]:
    """The result if it is a dictionary of plain values, or of dictionaries of these."""
    if not isinstance(values, dict):
        raise _Refused(
            f"holds a {type(values).__name__.strip('_').lower()}, not a dictionary of tensors; "
            "save the state_dict() of the model"
        )
    # Each dictionary once, however often the pickle refers to it.
    inner = {id(value): value for value in values.values() if isinstance(value, dict)}
    entries = [item for value in inner.values() for item in value.items()]
    entries += [(name, value) for name, value in values.items() if id(value) not in inner]
    for name, value in entries:
        if not isinstance(value, _PLAIN):
            raise _Refused(
                f"its entry {name!r:.80} is a {type(value).__name__.strip('_').lower()}; only "
                "tensors, numbers and strings are read, and dictionaries of these"
            )
    return values


def _interpret(program: bytes, archive: _Archive, root: str) -> object:
    """The value of a pickle of protocol 2, which is PyTorch's."""
    stack: list[Any] = []
    outer: list[list[Any]] = []
    memo: dict[int, Any] = {}
    for operation, argument, _ in pickletools.genops(program):
        match operation.name:
            case "PROTO" | "STOP":
                pass
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(_CONSTANTS[operation.name])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                outer.append(stack)
                stack = []
            case "TUPLE":
                items, stack = stack, outer.pop()
                stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(operation.name[-1]))]
                stack.append(tuple(reversed(items)))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set(stack[-1], [key, value])
            case "SETITEMS":
                items, stack = stack, outer.pop()
                _set(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                name = str(argument).replace(" ", ".")
                if name not in _CALLED and name not in _STORAGES:
                    raise _Refused(
                        f"refers to {name!r:.80}, which no dictionary of tensors needs; nothing "
                        "was executed; where you trust it, save the state_dict() alone"
                    )
                stack.append(_Name(name))
            case "BINPERSID":
                stack.append(_storage(stack.pop(), archive, root))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                # The attributes of a state dict: the versions of its modules. They are not kept.
                state = stack.pop()
                if not isinstance(stack[-1], dict) or not isinstance(state, dict):
                    raise _Refused("sets attributes of what is no dictionary; nothing was executed")
            case _:
                raise _Refused(
                    f"uses the operation {operation.name} of pickle, which no dictionary of "
                    "tensors needs; nothing was executed; save the state_dict() alone"
                )
    return stack[-1]


def _set(target: object, items: list[Any]) -> None:
    """Sets [key, value, key, value, ...]."""
    keys = items[::2]
    # Strings alone: to hash other keys can take exponential time. They end up in messages.
    if not all(type(key) is str and key.isprintable() and len(key) < 200 for key in keys):
        raise _Refused("has entries whose names are no short strings; save the state_dict() alone")
    if not isinstance(target, dict):
        raise _Refused("sets entries of what is no dictionary; nothing was executed")
    target.update(zip(keys, items[1::2], strict=True))


def _storage(identity: object, archive: _Archive, root: str) -> _Storage:
    match identity:
        case ("storage", _Name(name), str() as key, str(), int() as size) if name in _STORAGES:
            data, dtype = archive.read(f"{root}data/{key}"), _STORAGES[name]
            if len(data) != size * dtype.itemsize:
                raise _Refused(
                    f"its storage {key!r:.80} has {len(data):,} bytes, and should have "
                    f"{size * dtype.itemsize:,}; copy the file again"
                )
            return _Storage(data, dtype, size)
    raise _Refused("refers to a storage in a way that PyTorch does not")


def _call(function: object, arguments: object) -> object:
    match function, arguments:
        case _Name("collections.OrderedDict"), ():
            return {}
        case _Name("torch.Size"), (tuple() as size,):
            return size
        case _Name("torch._utils._rebuild_parameter"), (np.ndarray() as data, _, _):
            return data
        case (
            _Name("torch._utils._rebuild_tensor_v2"),
            (_Storage() as storage, int() as offset, tuple() as size, tuple() as stride, *_),
        ):
            return _view(storage, offset, size, stride)
    raise _Refused("calls a function in a way that PyTorch does not; nothing was executed")


def _view(
    storage: _Storage, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]
) -> np.ndarray:
    """A tensor: entry (i, j, ...) is offset + i stride[0] + j stride[1] + ... of its storage."""
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise _Refused("a tensor's size, strides and offset must be whole numbers of at least 0")
    count, last = 1, offset
    for n, step in zip(size, stride, strict=True):
        count, last = count * n, last + (n - 1) * step
    if count == 0:
        return np.empty(size, storage.dtype)
    if last >= storage.size or count > storage.size:
        raise _Refused(
            f"a tensor of {count:,} entries reaches to {last:,} in a storage of {storage.size:,}"
        )
    itemsize = storage.dtype.itemsize
    # Unlike `as_strided`, this checks the bounds once more.
    return np.ndarray(
        size,
        storage.dtype,
        storage.data,
        offset * itemsize,
        tuple(step * itemsize for step in stride),
    )


def write(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as `torch.save` writes a state dict: `torch.load` reads it as is.

    Args:
      path: Is replaced if it exists.
      tensors: Of type float32, int32 or int64; their order is kept.

    Raises:
      InputError: If it cannot be written.
    """
    storages = {dtype: name for name, dtype in _STORAGES.items()}
    empty = b"ccollections\nOrderedDict\n)R"
    program = [b"\x80\x02", empty, b"("]
    for key, (name, value) in enumerate(tensors.items()):
        # Rows of a matrix follow each other: the stride of a dimension is the size of those after.
        stride = [int(np.prod(value.shape[axis + 1 :])) for axis in range(value.ndim)]
        module, kind = storages[value.dtype].split(".")
        program += [
            _text(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            _text("storage"),
            f"c{module}\n{kind}\n".encode(),
            _text(str(key)),
            _text("cpu"),
            _whole(value.size),
            b"tQ",
            _whole(0),
            *(b"(" + b"".join(map(_whole, numbers)) + b"t" for numbers in (value.shape, stride)),
            b"\x89" + empty + b"tR",
        ]
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        # A fixed date, so that the same tensors give the same bytes.
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), b"".join([*program, b"u."]))
        archive.writestr(zipfile.ZipInfo("archive/byteorder"), b"little")
        for key, value in enumerate(tensors.values()):
            data = memoryview(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
            archive.writestr(zipfile.ZipInfo(f"archive/data/{key}"), data)
        archive.writestr(zipfile.ZipInfo("archive/version"), b"3\n")


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _whole(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data
