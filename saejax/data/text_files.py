"""Documents of .txt, .json and .jsonl files, plain or compressed with gzip or Zstandard."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from saejax.data.records import record_text
from saejax.errors import InputError

# Suffixes of compressed files, and Arrow's names of the methods. Arrow's readers take
# concatenated streams, and notice a stream that was cut, which zstandard's does not.
COMPRESSION = {".gz": "gzip", ".zst": "zstd"}


def read_txt(path: Path, field: str) -> Iterator[str]:
    """The whole file, as one document."""
    del field
    yield _whole(path)


def read_json(path: Path, field: str) -> Iterator[str]:
    """The records of a list, or of the values of an object."""
    try:
        records = json.loads(_whole(path))
    except json.JSONDecodeError as error:
        lines = "; a file with a record a line is a .jsonl" if error.msg == "Extra data" else ""
        raise InputError(
            f"data.source={path}, line {error.lineno}: not JSON: {error.msg}{lines}"
        ) from None
    if isinstance(records, dict):
        records = list(records.values())
    if not isinstance(records, list):
        raise InputError(f"data.source={path}: expected a list or an object of records")
    for number, record in enumerate(records, start=1):
        yield record_text(record, field, f"{path}, record {number}")


def read_jsonl(path: Path, field: str) -> Iterator[str]:
    """A record a line; empty lines are left out."""
    number = 0
    with _open(path) as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    where = f"{path}, line {number}"
                    yield record_text(_json_line(line, where), field, where)
        except OSError as error:
            raise InputError(
                f"data.source={path}, after line {number}: cannot be read on ({error}); "
                "is the file complete?"
            ) from None


def _json_line(line: bytes, where: str) -> Any:
    try:
        # Files of Windows programs begin with a byte order mark.
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(
            f"data.source={where}, byte {error.start}: not UTF-8; convert the file"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"data.source={where}: not JSON: {error.msg}") from None


def _whole(path: Path) -> str:
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig") as file:
        try:
            return file.read()
        except UnicodeDecodeError as error:
            raise InputError(
                f"data.source={path}: byte {error.start} is not UTF-8; convert the file"
            ) from None


def _open(path: Path) -> BinaryIO:
    if path.suffix not in COMPRESSION:
        return path.open("rb")
    return io.BufferedReader(pa.input_stream(str(path), compression=COMPRESSION[path.suffix]))
