"""Sources of text: which files a corpus has, how each is read, and what tells corpora apart."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from saejax.config import DataConfig
from saejax.data import array_records, hub, tables, text_files
from saejax.errors import InputError
from saejax.sources import resolve

_READERS = {
    ".txt": text_files.read_txt,
    ".json": text_files.read_json,
    ".jsonl": text_files.read_jsonl,
    ".parquet": tables.read_parquet,
    ".arrow": tables.read_arrow,
    ".array_record": array_records.read_array_record,
    ".arrayrecord": array_records.read_array_record,
}
# Parquet and Arrow compress inside.
_COMPRESSIBLE = (".txt", ".json", ".jsonl")
_KINDS = f"{', '.join(_READERS)}, .bin, and {', '.join(_COMPRESSIBLE)} with .gz or .zst"
# The end of a shard's name, as in `c4-train.array_record-00000-of-01024`.
_SHARD = re.compile(r"-\d+-of-\d+$")


class Documents(NamedTuple):
    """The texts of a corpus, read as they are asked for.

    Attributes:
      identity: Differs where the texts may differ: paths, sizes and times of files, or the
        commit of a data set on the hub. Can be written as JSON.
      texts: Documents in the order of files and records, without those that have no text.
    """

    identity: list[Any]
    texts: Iterator[str]


def open_documents(cfg: DataConfig) -> Documents:
    """Finds the texts of a corpus, without reading them.

    A .txt file is one document. A .jsonl file has a record a line, a .json file a list of
    records or an object whose values are records; a record is a string, or an object with
    the text in the field `data.text_field`. Parquet and Arrow files have a record a row, and so
    have directories of `datasets.save_to_disk` and data sets of the hub; ArrayRecord files
    have records of text or JSON. Any other directory is read file by file, by name. Documents
    without any text are left out.

    Raises:
      InputError: If there is no such corpus, or none that can be read. Reading raises it
        for what is wrong within, with the file and the line where there is one.
    """
    if is_on_hub(cfg.source):
        identity, texts = hub.open_hub(cfg)
        return Documents(identity, (text for text in texts if text.strip()))
    root = resolve(cfg.source)
    if cfg.subset:
        raise InputError(
            f"data.subset={cfg.subset!r}: only data sets on the hub have subsets; leave it empty"
        )
    files = tables.saved_dataset(root, cfg.split) if root.is_dir() else None
    if files is None:
        if cfg.split:
            raise InputError(f"data.split={cfg.split!r}: {root} has no splits; leave it empty")
        files = [root]
        if root.is_dir():
            files = sorted(p for p in root.rglob("*") if _kind(p) is not None and p.is_file())
            if not files:
                raise InputError(f"data.source={cfg.source}: the directory holds no {_KINDS} files")
    if _kind(files[0]) is None:
        raise InputError(f"data.source={root}: cannot read {root.suffix!r} files; use {_KINDS}")
    return Documents([_state(path) for path in files], _read(files, cfg.text_field))


def is_on_hub(source: str) -> bool:
    """Whether a source is a data set's name on the hub, and neither a file nor meant as one."""
    path = Path(source).expanduser()
    file = path.suffix in (*_READERS, *text_files.COMPRESSION, ".bin")
    return hub.is_hub_id(source) and not file and not path.exists()


def _read(files: list[Path], field: str) -> Iterator[str]:
    for path in files:
        kind = _kind(path)
        assert kind is not None
        try:
            yield from (text for text in _READERS[kind](path, field) if text.strip())
        except (OSError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise InputError(f"data.source={path}: cannot be read: {reason}") from None


def _kind(path: Path) -> str | None:
    """The suffix that says how to read a file; None if nothing does."""
    suffixes = Path(_SHARD.sub("", path.name)).suffixes
    if suffixes and suffixes[-1] in text_files.COMPRESSION:
        inner = suffixes[-2] if len(suffixes) > 1 else ""
        return inner if inner in _COMPRESSIBLE else None
    return suffixes[-1] if suffixes and suffixes[-1] in _READERS else None


def _state(path: Path) -> list[Any]:
    # The time of change too: a copy can keep the time of modification.
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
