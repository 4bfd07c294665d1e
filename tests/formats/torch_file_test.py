"""PyTorch's files without PyTorch: round trips, views, and files that want to do harm."""

import builtins
import io
import os
import pickle
import struct
import subprocess
import zipfile

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.formats import torch_file

FLOATS = np.arange(6, dtype=np.float32)
STORAGES = (FLOATS.tobytes(),)


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value):
    return b"J" + struct.pack("<i", value)


def numbers(*values):
    return b"(" + b"".join(map(whole, values)) + b"t"


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def tensor(offset=0, size=(2, 3), stride=(3, 1), kind="FloatStorage", key="0", count=6):
    """The operations that push a tensor, written from the documentation of pickle."""
    storage = b"(" + text("storage") + named("torch", kind) + text(key) + text("cpu")
    return (
        named("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + (storage + whole(count) + b"tQ")
        + whole(offset)
        + (numbers(*size) + numbers(*stride))
        + (b"\x89" + named("collections", "OrderedDict") + b")R" + b"tR")
    )


def entry(value):
    """A pickle of {"w": value}."""
    return b"\x80\x02}" + text("w") + value + b"s."


def archive(path, program, storages=STORAGES, method=zipfile.ZIP_STORED, **more):
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a/data.pkl", program)
        for key, data in enumerate(storages):
            file.writestr(f"a/data/{key}", data)
        for name, data in more.items():
            file.writestr(f"a/{name}", data)
    return path


def test_round_trip_keeps_order_types_and_bits(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "z": rng.normal(size=(3, 5)).astype(np.float32),
        "a.weight": rng.normal(size=(4, 2)).astype(np.float32).T,
        "k": np.array(300, np.int32),
        "group_sizes": np.array([2**40, -1]),
        "empty": np.zeros((0, 3), np.float32),
    }
    torch_file.write(tmp_path / "ae.pt", tensors)
    read = torch_file.read(tmp_path / "ae.pt")
    assert list(read) == list(tensors)
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype
        np.testing.assert_array_equal(read[name], value)
    assert os.listdir(tmp_path) == ["ae.pt"]


def test_tensors_are_views_of_the_mapped_file(tmp_path):
    value = torch_file.read(archive(tmp_path / "a.pt", entry(tensor())))["w"]
    base = value
    while not isinstance(base, np.memmap):
        assert not base.flags.owndata
        base = base.base
    assert not value.flags.writeable


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (tensor(), FLOATS.reshape(2, 3)),
        (tensor(0, (3, 2), (1, 3)), FLOATS.reshape(2, 3).T),
        (tensor(1, (2,), (3,)), FLOATS[1::3]),
        (tensor(5, (), ()), FLOATS[5]),
        (tensor(4, (1, 2), (99999, 1)), FLOATS[None, 4:]),
        (tensor(kind="IntStorage"), FLOATS.view(np.int32).reshape(2, 3)),
        (tensor(0, (12,), (1,), "HalfStorage", count=12), FLOATS.view(np.float16)),
        (
            tensor(0, (12,), (1,), "BFloat16Storage", count=12),
            # A bfloat16 is the upper half of a float32.
            (FLOATS.view(np.uint16).astype(np.uint32) << 16).view(np.float32),
        ),
    ],
)
def test_views(tmp_path, view, expected):
    found = torch_file.read(archive(tmp_path / "a.pt", entry(view)))["w"]
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found.astype(expected.dtype), expected)


@pytest.mark.parametrize(
    ("view", "says"),
    [
        (tensor(1), "reaches to 6 in a storage of 6"),
        (tensor(0, (2, 3), (4, 1)), "reaches to 6 in a storage of 6"),
        (tensor(2**31 - 1), "reaches to"),
        (tensor(-1), "at least 0"),
        (tensor(0, (2, 3), (-3, 1)), "at least 0"),
        (tensor(0, (-2, 3), (3, 1)), "at least 0"),
        (tensor(0, (2, 3), (3,)), "2 dimensions and 1 strides"),
        (tensor(0, (1,) * 9, (1,) * 9), "9 dimensions and 9 strides"),
        # One number repeated to fill the memory.
        (tensor(0, (2**20, 2**20), (0, 0)), "1,099,511,627,776 entries"),
        (tensor(0, (0,) + (2**31 - 1,) * 4, (1,) * 5), "truncated or not"),
        (tensor(count=7), "storage '0' has 24 bytes, and should have 28"),
        (tensor(kind="DoubleStorage"), "has 24 bytes, and should have 48"),
        (tensor(key="1"), "no entry 'a/data/1'"),
        (tensor(key="../../../../etc/passwd"), "no entry 'a/data/../../"),
        (tensor(kind="ComplexFloatStorage"), r"refers to 'torch\.ComplexFloatStorage'"),
    ],
)
def test_views_stay_in_their_storage(tmp_path, view, says):
    path = archive(tmp_path / "a.pt", entry(view))
    with pytest.raises(InputError, match=says) as error:
        torch_file.read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


class Reduced:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments, state)

    def __reduce__(self):
        return self.parts


MARKER = "saejax-was-here"


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "bomb",
    [
        Reduced(os.system, f"touch {MARKER}"),
        Reduced(eval, f"open({MARKER!r}, 'w')"),
        Reduced(exec, f"open({MARKER!r}, 'w')"),
        Reduced(subprocess.Popen, ["touch", MARKER]),
        Reduced(builtins.getattr, os, "system"),
        Reduced(io.open, MARKER, "w"),
        Reduced(dict, Reduced(os.system, f"touch {MARKER}")),
        np.zeros(3),
    ],
)
def test_nothing_is_executed(tmp_path, monkeypatch, bomb, protocol):
    monkeypatch.chdir(tmp_path)
    try:
        program = pickle.dumps({"encoder.weight": bomb}, protocol)
    except TypeError:
        # A module cannot be pickled; its name can.
        program = entry(named("os", "system") + b"(" + text(f"touch {MARKER}") + b"tR")
    with pytest.raises(InputError, match="nothing was executed"):
        torch_file.read(archive(tmp_path / "a.pt", program))
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize(
    ("program", "says"),
    [
        # Attributes of a stub, and arguments that no constructor of PyTorch gets.
        (entry(named("torch", "FloatStorage") + b"}b"), "sets attributes"),
        (entry(tensor() + b"}" + text("__class__") + whole(1) + b"sb"), "sets attributes"),
        (entry(named("torch", "FloatStorage") + b")R"), "calls a function"),
        (entry(named("torch", "Size") + b")R"), "calls a function"),
        (entry(named("collections", "OrderedDict") + numbers(1) + b"R"), "calls a function"),
        (entry(named("torch._utils", "_rebuild_tensor_v2") + numbers(1, 2) + b"R"), "calls a fun"),
        (entry(named("torch._utils", "_rebuild_tensor_v3") + b")R"), "_rebuild_tensor_v3"),
        (entry(text("storage") + b"Q"), "refers to a storage"),
        (entry(b"(" + text("module") + text("os") + b"tQ"), "refers to a storage"),
        (entry(b"i" + b"os\nsystem\n"), "operation INST"),
        (entry(b"(cos\nsystem\n" + text("true") + b"o"), r"refers to 'os\.system'"),
        (entry(b"\x82\x01"), "operation EXT1"),
        (entry(b"]"), "operation EMPTY_LIST"),
        (entry(named("torch", "FloatStorage")), "entry 'w' is a name"),
        (entry(numbers(1)), "entry 'w' is a tuple"),
        (entry(b"}" + text("x") + b"}ss"), "truncated or not"),
        (entry(b"}" + text("x") + b"}s"), "entry 'x' is a dict"),
        (b"\x80\x02}" + whole(1) + tensor() + b"s.", "names are no short strings"),
        (b"\x80\x02}" + text("a\nb") + tensor() + b"s.", "names are no short strings"),
        (b"\x80\x02" + tensor() + b".", "holds a ndarray, not a dictionary"),
        (b"\x80\x02s.", "truncated or not"),
        (b"\x80\x02h\x07.", "truncated or not"),
        (b"\x80\x02}", "truncated or not"),
        (b"", "truncated or not"),
        (b"\xff" * 100, "truncated or not"),
        (b"\x80\x02" + b"}" * 70_000 + b"}.", "more than any"),
    ],
)
def test_pickles_of_something_else_are_refused(tmp_path, program, says):
    with pytest.raises(InputError, match=says) as error:
        torch_file.read(archive(tmp_path / "a.pt", program))
    assert "\n" not in str(error.value)


LEVELS = 99
LAST = b"h" + bytes([LEVELS])


def laughs(first, double):
    """Nested values that take 2^99 steps to walk through, each twice in the next; at LAST."""
    program = b"\x80\x02" + first + b"q\x00"
    for level in range(LEVELS):
        program += double(b"h" + bytes([level])) + b"q" + bytes([level + 1])
    return program


TUPLES = laughs(b")", lambda last: last + last + b"\x86")
DICTS = laughs(b"}", lambda last: b"}(" + text("a") + last + text("b") + last + b"u")


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (TUPLES + b"}" + text("w") + LAST + b"s.", "entry 'w' is a tuple"),
        (TUPLES + b"}" + LAST + b")s.", "no short strings"),
        (TUPLES + named("torch", "Size") + LAST + b"\x85R.", "holds a tuple"),
        (DICTS + b"}" + text("w") + LAST + b"s.", "entry 'a' is a dict"),
        # A dictionary in itself.
        (b"\x80\x02}q\x00" + text("w") + b"h\x00s.", "entry 'w' is a dict"),
        (entry(b"(" * 30_000 + b"t" * 30_000), "entry 'w' is a tuple"),
        (entry(b"".join(b")r" + struct.pack("<I", 2**32 - 1 - i) for i in range(10_000))), "w"),
    ],
)
def test_laughs_end_at_once(tmp_path, program, says):
    with pytest.raises(InputError, match=says) as error:
        torch_file.read(archive(tmp_path / "a.pt", program))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: b"", "0 bytes"),
        (lambda data: b"PK", "truncated or not"),
        (lambda data: data[: len(data) // 2], "truncated or not"),
        (lambda data: data[:-1], "truncated or not"),
        (lambda data: b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + data, "before 1.6"),
        (lambda data: data.replace(FLOATS.tobytes(), FLOATS[::-1].tobytes()), "damaged"),
        (lambda data: b"{}", "truncated or not"),
    ],
)
def test_damaged_files(tmp_path, spoil, says):
    path = archive(tmp_path / "a.pt", entry(tensor()))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match=says):
        torch_file.read(path)


def test_many_references_to_a_large_storage_cost_one_checksum(tmp_path):
    storage = b"(" + text("storage") + named("torch", "ByteStorage") + text("0") + text("cpu")
    program = b"\x80\x02" + storage + whole(10**7) + b"tq\x00" + b"h\x00Q" * 15_000 + b"}."
    # 15,000 checksums of 10 MB would take minutes.
    assert torch_file.read(archive(tmp_path / "a.pt", program, [bytes(10**7)])) == {}


def test_any_damaged_byte_is_an_input_error_or_harmless(tmp_path):
    path = archive(tmp_path / "a.pt", entry(tensor()))
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            found = torch_file.read(path)
        except InputError:
            continue
        # Dates, versions and permissions of the archive.
        np.testing.assert_array_equal(found["w"], FLOATS.reshape(2, 3))


def test_archives_of_something_else(tmp_path):
    path = tmp_path / "a.pt"
    with pytest.raises(InputError, match="compressed"):
        torch_file.read(archive(path, entry(tensor()), [bytes(10**7)], zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="big-endian"):
        torch_file.read(archive(path, entry(tensor()), byteorder="big"))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../../outside/data.pkl", entry(tensor(count=0, size=(0,), stride=(1,))))
        file.writestr("../../outside/data/0", b"")
    assert torch_file.read(path)["w"].shape == (0,)
    assert os.listdir(tmp_path) == ["a.pt"]
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("b/data.pkl", b"")
    with pytest.raises(InputError, match=r"2 entries data\.pkl, not one"):
        torch_file.read(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        torch_file.read(tmp_path / "none.pt")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        torch_file.read(tmp_path)
