"""The pickle in PyTorch's files: a dictionary of named tensors, whose storages lie beside it.

A pickle is a program, and Python's unpickler imports and calls what it names. The interpreter
here shares no code with that one. It cannot execute anything a file brings: names of functions
are compared with a list and never imported, the only calls are the four in `_call`, no attribute
is read or set, and an operation that is not listed ends it. Shared or nested values are never
walked through, so that its work is bounded by the size of the pickle, of which 64 KiB are taken.
Tensors are views within their storage, with no more entries than it has.

References:
  Python, Lib/pickletools.py, for the operations; PyTorch, "Serialization semantics",
  https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

import dataclasses
import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

# From the key of a storage to its bytes.
ReadStorage = Callable[[str], np.ndarray]

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
_MAX_BYTES = 1 << 16
# Of a tensor; those of autoencoders have two.
_MAX_DIMENSIONS = 8


class RefusedError(Exception):
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


def load(program: bytes, read_storage: ReadStorage) -> dict[str, Any]:
    """The dictionary of a pickle: arrays, strings, numbers and None by name, or dictionaries of it.

    Raises:
      RefusedError: For a pickle of anything else.
      IndexError, KeyError, ValueError, OverflowError: For a damaged one, as `pickletools` and
        numpy raise them; one that takes more from the stack or the memo than there is gives the
        first two.
    """
    if len(program) > _MAX_BYTES:
        raise RefusedError(f"its data.pkl has {len(program):,} bytes, more than any autoencoder's")
    values = _interpret(program, read_storage)
    if not isinstance(values, dict):
        raise RefusedError(
            f"holds a {type(values).__name__.strip('_').lower()}, not a dictionary of tensors; "
            "save the state_dict() of the model"
        )
    # Each dictionary once, however often the pickle refers to it.
    inner = {id(value): value for value in values.values() if isinstance(value, dict)}
    entries = [item for value in inner.values() for item in value.items()]
    entries += [(name, value) for name, value in values.items() if id(value) not in inner]
    for name, value in entries:
        if not isinstance(value, _PLAIN):
            raise RefusedError(
                f"its entry {name!r:.80} is a {type(value).__name__.strip('_').lower()}; only "
                "tensors, numbers and strings are read, and dictionaries of these"
            )
    return values


def _interpret(program: bytes, read_storage: ReadStorage) -> object:
    """The value of a pickle of protocol 2, which is PyTorch's."""
    stack: list[Any] = []
    outer: list[list[Any]] = []
    memo: dict[Any, Any] = {}
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
                    raise RefusedError(
                        f"refers to {name!r:.80}, which no dictionary of tensors needs; nothing "
                        "was executed; where you trust it, save the state_dict() alone"
                    )
                stack.append(_Name(name))
            case "BINPERSID":
                stack.append(_storage(stack.pop(), read_storage))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                # The attributes of a state dict: the versions of its modules. They are not kept.
                state = stack.pop()
                if not isinstance(stack[-1], dict) or not isinstance(state, dict):
                    raise RefusedError(
                        "sets attributes of what is no dictionary; nothing was executed"
                    )
            case _:
                raise RefusedError(
                    f"uses the operation {operation.name} of pickle, which no dictionary of "
                    "tensors needs; nothing was executed; save the state_dict() alone"
                )
    return stack[-1]


def _set(target: object, items: list[Any]) -> None:
    """Sets [key, value, key, value, ...]."""
    keys = items[::2]
    # Strings alone: to hash other keys can take exponential time. They end up in messages.
    if not all(type(key) is str and len(key) < 200 and key.isprintable() for key in keys):
        raise RefusedError(
            "has entries whose names are no short strings; save the state_dict() alone"
        )
    if not isinstance(target, dict):
        raise RefusedError("sets entries of what is no dictionary; nothing was executed")
    target.update(zip(keys, items[1::2], strict=True))


def _storage(identity: object, read_storage: ReadStorage) -> _Storage:
    match identity:
        case ("storage", _Name(name), str() as key, str(), int() as size) if name in _STORAGES:
            data, dtype = read_storage(key), _STORAGES[name]
            if len(data) != size * dtype.itemsize:
                raise RefusedError(
                    f"its storage {key!r:.80} has {len(data):,} bytes, and should have "
                    f"{size * dtype.itemsize:,}; copy the file again"
                )
            return _Storage(data, dtype, size)
    raise RefusedError("refers to a storage in a way that PyTorch does not")


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
    raise RefusedError("calls a function in a way that PyTorch does not; nothing was executed")


def _view(
    storage: _Storage, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]
) -> np.ndarray:
    """A tensor: entry (i, j, ...) is offset + i stride[0] + j stride[1] + ... of its storage."""
    if not len(size) == len(stride) <= _MAX_DIMENSIONS:
        raise RefusedError(f"a tensor has {len(size)} dimensions and {len(stride)} strides")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *size, *stride)):
        raise RefusedError("a tensor's size, strides and offset must be whole and at least 0")
    count, last = 1, offset
    for n, step in zip(size, stride, strict=True):
        count, last = count * n, last + (n - 1) * step
    if count == 0:
        return np.empty(size, storage.dtype)
    if last >= storage.size or count > storage.size:
        raise RefusedError(
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


def dump(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of a dictionary of arrays, of which the first has the storage "0", and so on."""
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
    return b"".join([*program, b"u."])


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _whole(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data
