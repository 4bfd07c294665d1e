"""Documents of ArrayRecord files, the format of Grain."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain

from saejax.data.records import record_text
from saejax.errors import InputError

# Records read at once: ArrayRecord reads a batch faster than single records.
_BATCH_RECORDS = 1024


def read_array_record(path: Path, field: str) -> Iterator[str]:
    """A document a record: the text in a record that is a JSON object, else the record itself."""
    try:
        # Its type says nothing of its length or of reading several records.
        records: Any = grain.sources.ArrayRecordDataSource(str(path))
        for start in range(0, len(records), _BATCH_RECORDS):
            numbers = range(start, min(start + _BATCH_RECORDS, len(records)))
            for number, record in zip(numbers, records.__getitems__(numbers), strict=True):
                yield _text(record, field, f"{path}, record {number + 1}")
    except RuntimeError as error:
        # Of the reader, which is C++.
        reason = str(error).partition("\n")[0]
        raise InputError(f"data.source={path}: cannot be read: {reason}") from None


def _text(record: bytes, field: str, where: str) -> str:
    try:
        text = record.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"data.source={where}, byte {error.start}: neither UTF-8 text nor JSON"
        ) from None
    if text.startswith("{"):
        try:
            return record_text(json.loads(text), field, where)
        except json.JSONDecodeError:
            return text
    return text
