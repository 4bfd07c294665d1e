"""Files of bare token ids, as Pythia's pre-shuffled Pile: uint16, without header or borders."""

import itertools
import re
from pathlib import Path

import numpy as np

from saejax.data.tokens import Tokens
from saejax.errors import InputError

_SHARD = re.compile(r"(?P<stem>.*-)(?P<number>\d+)-of-\d+\.bin")


def memmap_files(root: Path) -> list[Path]:
    """A .bin file, or those of a directory by name; empty if the corpus is of another kind.

    Raises:
      InputError: If a directory lacks a shard between others, as in 1 and 3 of
        `document-00001-of-00020.bin`. Those after the last one are not missed.
    """
    if not root.is_dir():
        return [root] if root.suffix == ".bin" else []
    files = sorted(path for path in root.iterdir() if path.suffix == ".bin" and path.is_file())
    shards = [_SHARD.fullmatch(path.name) for path in files]
    for before, after in itertools.pairwise(shards):
        if before is None or after is None or before["stem"] != after["stem"]:
            continue
        if int(after["number"]) != int(before["number"]) + 1:
            raise InputError(
                f"data.source={root}: a shard between {before[0]} and {after[0]} is missing; the "
                "order of the text depends on it"
            )
    return files


def open_memmap(files: list[Path], vocab_size: int) -> Tokens:
    """The files as one stream; a window may begin in one and end in the next.

    Nothing is read now. Ids are checked when they are.

    Raises:
      InputError: For a file that cannot be opened or is not whole.
    """
    pieces = []
    for path in files:
        try:
            size = path.stat().st_size
            if size % 2:
                raise InputError(
                    f"data.source={path}: {size} bytes are no whole number of uint16 ids; the file "
                    "was cut or is of another kind"
                )
            # An empty file cannot be mapped.
            if size:
                pieces.append(np.memmap(path, np.uint16, mode="r"))
        except OSError as error:
            raise InputError(f"data.source={path}: cannot be read: {error.strerror}") from None
    if not pieces:
        raise InputError(f"data.source={files[0]}: the corpus is empty; name a file with ids")
    # 65,536 ids and more cannot be exceeded by uint16.
    return Tokens(pieces, below=vocab_size if vocab_size < 2**16 else None)
