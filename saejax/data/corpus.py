"""Documents of a corpus, and their token ids packed into windows.

Dimension letters: T tokens of the corpus, W windows, L context length.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from saejax.config import DataConfig
from saejax.errors import InputError
from saejax.progress import Progress
from saejax.sources import resolve

# Documents given to the tokenizer at once: enough to use all of its threads.
_DOCUMENTS_PER_CALL = 512

EncodeBatch = Callable[[Sequence[str]], Sequence[Sequence[int]]]


def documents(cfg: DataConfig) -> Iterator[str]:
    """Texts of a corpus, in the order of its files and records.

    A .txt file is one document. A .jsonl file has a record a line, a .json file a list of
    records or an object whose values are records; a record is a string, or an object with
    the text in the field `data.text_field`. A directory is read file by file, by name.
    Documents without any text are left out.

    Raises:
      InputError: For a missing or unreadable file, with the line where there is one.
    """
    root = resolve(cfg.source)
    files = [root]
    if root.is_dir():
        files = sorted(p for p in root.rglob("*") if p.suffix in _READERS and p.is_file())
        if not files:
            raise InputError(f"data.source={cfg.source}: the directory holds no {_KINDS} files")
    for path in files:
        if path.suffix not in _READERS:
            raise InputError(f"data.source={path}: cannot read {path.suffix!r} files; use {_KINDS}")
        try:
            for text in _READERS[path.suffix](path, cfg.text_field):
                if text.strip():
                    yield text
        except UnicodeDecodeError as error:
            raise InputError(
                f"data.source={path}: byte {error.start} is not UTF-8; convert the file"
            ) from None
        except OSError as error:
            raise InputError(f"data.source={path}: {error.strerror}") from None


def _text_file(path: Path, field: str) -> Iterator[str]:
    del field
    yield path.read_text(encoding="utf-8")


def _json_file(path: Path, field: str) -> Iterator[str]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"data.source={path}, line {error.lineno}: not JSON: {error.msg}"
        ) from None
    if isinstance(records, dict):
        records = list(records.values())
    if not isinstance(records, list):
        raise InputError(f"data.source={path}: expected a list or an object of records")
    for number, record in enumerate(records, start=1):
        yield _record_text(record, field, f"{path}, record {number}")


def _jsonl_file(path: Path, field: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"data.source={path}, line {number}: not JSON: {error.msg}"
                ) from None
            yield _record_text(record, field, f"{path}, line {number}")


def _record_text(record: object, field: str, where: str) -> str:
    if isinstance(record, str):
        return record
    if isinstance(record, dict) and isinstance(record.get(field), str):
        return record[field]
    found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
    raise InputError(
        f"data.source={where}: no text in field {field!r} (found: {found}); set "
        "--config.data.text_field"
    )


_READERS = {".txt": _text_file, ".json": _json_file, ".jsonl": _jsonl_file}
_KINDS = ", ".join(_READERS)


def read_windows(
    cfg: DataConfig, encode_batch: EncodeBatch, end_of_text: int
) -> Int32[np.ndarray, "W L"]:
    """Packs the corpus into windows of `data.context_length` token ids.

    Documents follow each other with one `end_of_text` between; windows are cut without
    regard to documents, and the tail that does not fill a window is dropped. Of more windows
    than `data.num_tokens` asks for, "in_order" takes the first, and stops reading there; the
    shuffled orders take windows spread evenly over the corpus, which may be sorted by topic.

    Args:
      cfg: Corpus and window length.
      encode_batch: Texts to lists of token ids.
      end_of_text: Token id put between documents.

    Raises:
      InputError: If the corpus has no text or does not fill one window.
    """
    length = cfg.context_length
    if cfg.num_tokens and cfg.num_tokens < length:
        raise InputError(
            f"data.num_tokens={cfg.num_tokens} is below one window of data.context_length={length} "
            "tokens; raise it, or 0 takes all"
        )
    enough = cfg.num_tokens if cfg.order == "in_order" and cfg.num_tokens else None
    parts: list[np.ndarray] = []
    total = 0
    texts = documents(cfg)
    with Progress("tokenize", total=enough, unit="tokens") as progress:
        while batch := list(itertools.islice(texts, _DOCUMENTS_PER_CALL)):
            before = total
            for ids in encode_batch(batch):
                if parts:
                    parts.append(np.array([end_of_text], np.int32))
                parts.append(np.asarray(ids, np.int32))
                total += len(ids) + (len(parts) > 1)
            if enough is not None and total >= enough:
                progress.advance(enough - before)
                break
            progress.advance(total - before)
    if not total:
        raise InputError(f"data.source={cfg.source}: the corpus is empty; name a file with text")
    if total < length:
        raise InputError(
            f"data.source={cfg.source}: {total} tokens do not fill one window of "
            f"data.context_length={length}; add text or shorten the window"
        )
    windows_WL = np.concatenate(parts)[: total // length * length].reshape(-1, length)
    wanted = min(cfg.num_tokens // length or len(windows_WL), len(windows_WL))
    if cfg.order == "in_order":
        return windows_WL[:wanted]
    return windows_WL[np.arange(wanted) * len(windows_WL) // wanted]
