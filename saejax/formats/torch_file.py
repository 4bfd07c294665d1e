"""PyTorch's `.pt` files of named tensors, read and written without PyTorch.

A file is a zip archive of uncompressed entries (`torch.save` since PyTorch 1.6): `data.pkl`, a
pickle whose tensors are pieces of storages, and `data/<key>`, the bytes of each storage. Nothing of
the pickle is executed (see `torch_pickle`), nothing is unpacked to the disk, and since tensors are
views of the mapped file, it takes no more memory than its size.
"""

import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.formats import torch_pickle
from saejax.formats.torch_pickle import RefusedError

# The first bytes of what `torch.save` wrote before PyTorch 1.6: a pickled number, 0x1950a86a20f9...
_OLD_FORMAT = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# The fixed part of the header before each entry of a zip archive.
_HEADER_BYTES = 30


class _Archive:
    """The entries of a zip archive, as views of the mapped file. Nothing is unpacked."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            start = file.read(len(_OLD_FORMAT))
            if not start:
                raise RefusedError("0 bytes; was it copied to the end?")
            if start == _OLD_FORMAT:
                raise RefusedError(
                    "PyTorch's format before 1.6 is not read; convert it with a recent PyTorch: "
                    "torch.save(torch.load(path), path)"
                )
            with zipfile.ZipFile(file) as archive:
                self.entries = {info.filename: info for info in archive.infolist()}
        self.data = np.memmap(path, np.uint8, mode="r")
        self.checked: dict[str, np.ndarray] = {}

    def read(self, name: str) -> np.ndarray:
        """The bytes of an entry [size]. Its checksum is computed once, however often it is read."""
        if name in self.checked:
            return self.checked[name]
        if name not in self.entries:
            raise RefusedError(f"no entry {name!r:.80} in the archive; was it written to the end?")
        info = self.entries[name]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise RefusedError(
                f"its entry {name!r:.80} is compressed or encrypted, which PyTorch does not do; "
                "unpack it and pack it again with `zip -0`"
            )
        header = self.data[info.header_offset :][:_HEADER_BYTES].tobytes()
        if len(header) < _HEADER_BYTES or not header.startswith(b"PK\x03\x04"):
            raise RefusedError(f"its entry {name!r:.80} is damaged; copy the file again")
        # Lengths of the name and of the extra field, which follow the header.
        start = info.header_offset + _HEADER_BYTES + sum(struct.unpack("<HH", header[26:]))
        data = self.data[start:][: info.file_size]
        # PyTorch writes 0 where it was told to compute no checksums.
        if len(data) != info.file_size or info.CRC not in (0, zlib.crc32(data.data)):
            raise RefusedError(f"its entry {name!r:.80} is damaged; copy the file again")
        self.checked[name] = data
        return data


def read(path: Path) -> dict[str, Any]:
    """The entries of a dictionary that `torch.save` wrote, in its order.

    Tensors become arrays: read-only views of the mapped file, which are read from the disk when
    they are used. Every storage is compared with its checksum, if the file has them.

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
            raise RefusedError(f"{len(found)} entries data.pkl, not one; PyTorch did not write it")
        root = found[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in archive.entries and archive.read(order).tobytes() != b"little":
            raise RefusedError("written on a big-endian machine; save it again on another")
        program = archive.read(found[0]).tobytes()
        return torch_pickle.load(program, lambda key: archive.read(f"{root}data/{key}"))
    except RefusedError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    # What zipfile and `torch_pickle.load` raise for damaged input.
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


def write(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as `torch.save` writes a state dict: `torch.load` reads it as is.

    Args:
      path: Is replaced if it exists.
      tensors: Of type float32, int32 or int64; their order is kept.

    Raises:
      InputError: If it cannot be written.
    """
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        # A fixed date, so that the same tensors give the same bytes.
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), torch_pickle.dump(tensors))
        archive.writestr(zipfile.ZipInfo("archive/byteorder"), b"little")
        for key, value in enumerate(tensors.values()):
            data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            archive.writestr(zipfile.ZipInfo(f"archive/data/{key}"), data.data)
        archive.writestr(zipfile.ZipInfo("archive/version"), b"3\n")
