"""Documents of Parquet and Arrow files, and of directories written by `datasets.save_to_disk`."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet

from saejax.errors import InputError

# Rows decoded at once: a few MB of text.
_BATCH_ROWS = 1024


def read_parquet(path: Path, field: str) -> Iterator[str]:
    """A text a row, in order; null is an empty one."""
    with parquet.ParquetFile(path) as file:
        _check_field(path, file.schema_arrow, field)
        yield from _texts(file.iter_batches(_BATCH_ROWS, columns=[field]), field)


def read_arrow(path: Path, field: str) -> Iterator[str]:
    """As `read_parquet`, of both of Arrow's formats: streams and files."""
    with pa.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            file = ipc.open_file(source)
            _check_field(path, file.schema, field)
            yield from _texts(map(file.get_batch, range(file.num_record_batches)), field)
        else:
            stream = ipc.open_stream(source)
            _check_field(path, stream.schema, field)
            yield from _texts(stream, field)


def _texts(batches: Iterable[pa.RecordBatch], field: str) -> Iterator[str]:
    for batch in batches:
        yield from (text or "" for text in batch.column(field).to_pylist())


def _check_field(path: Path, schema: pa.Schema, field: str) -> None:
    fields = {name: schema.field(name).type for name in dict.fromkeys(schema.names)}
    kind = fields.get(field, pa.null())
    if isinstance(kind, pa.DictionaryType):
        kind = kind.value_type
    if kind not in (pa.string(), pa.large_string(), pa.string_view()):
        columns = ", ".join(f"{name} ({kind})" for name, kind in fields.items())
        raise InputError(
            f"data.source={path}: no column {field!r} with text (columns: {columns}); set "
            "--config.data.text_field"
        )


def saved_dataset(root: Path, split: str) -> list[Path] | None:
    """The Arrow files of a directory that `datasets.save_to_disk` wrote, in order.

    Args:
      root: A directory.
      split: `data.split`; "" is "train" where there are several.

    Returns:
      None if the directory is something else.

    Raises:
      InputError: If there is no such split, or the directory is not complete.
    """
    if (root / "dataset_dict.json").is_file():
        splits = _member(root / "dataset_dict.json", "splits")
        name = split or "train"
        if name not in splits:
            raise InputError(
                f"data.split={split!r}: {root} has the splits {', '.join(map(str, splits))}"
            )
        root, split = root / name, ""
    if not (root / "state.json").is_file():
        return None
    if split:
        raise InputError(f"data.split={split!r}: {root} is a single split; leave it empty")
    files = [root / part["filename"] for part in _member(root / "state.json", "_data_files")]
    for path in files:
        if not path.is_file():
            raise InputError(f"data.source={root}: {path.name} is missing; copy it again")
    return files


def _member(path: Path, name: str) -> list[Any]:
    try:
        found = json.loads(path.read_text())[name]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, list):
        raise InputError(f"data.source={path}: not as datasets writes it; copy it again")
    return found
