"""The .npz archives of matchings, opened so that whatever is wrong with one is told in one line."""

import contextlib
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from saejax.errors import InputError

# Written into every file; the number changes with the layout.
FORMAT = "saejax matching 2"


@contextlib.contextmanager
def open_archive(path: pathlib.Path) -> Iterator[Any]:
    """The parts of a file of matchings, by name.

    Raises:
      InputError: If the file is missing, damaged or not ours, also where what is done with its
        parts shows it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # Checks every checksum, so that nothing after this parses damaged bytes.
            damaged = archive.testzip()
        if damaged is not None:
            raise InputError(f"{path}: its part {damaged!r} is damaged; make the file again")
        with np.load(path, allow_pickle=False) as parts:
            if "format" not in parts or str(parts["format"]) != FORMAT:
                raise InputError(
                    f"{path}: not a file of format {FORMAT!r}; delete it and match again"
                )
            yield parts
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; make it with experiments/match.py") from None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        RuntimeError,
        OverflowError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        # All that zipfile, numpy and json raise for truncated, damaged or foreign files.
        raise InputError(
            f"{path}: not a readable matching ({error}); make the file again"
        ) from None
