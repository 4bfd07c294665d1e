"""Token ids of a corpus as one stream, in memory-mapped files or in memory.

Dimension letters: T tokens of the corpus, N documents.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32, UInt

from saejax.errors import InputError


class Tokens:
    """A stream of token ids in pieces that follow each other, read anywhere.

    Args:
      pieces: Unsigned ids, each [T of the piece].
      starts_N: Positions where documents begin, if known. Between two documents is one
        end-of-text token, which belongs to neither.
      below: If given, ids that are read are checked to be below it: the vocabulary's size.
    """

    def __init__(
        self,
        pieces: Sequence[UInt[np.ndarray, " T"]],
        starts_N: Int[np.ndarray, " N"] | None = None,
        *,
        below: int | None = None,
    ):
        self._pieces = tuple(pieces)
        # Slices of a memmap are memmaps again, which takes longer than reading them.
        self._arrays = tuple(piece.view(np.ndarray) for piece in pieces)
        self._ends = np.cumsum([len(piece) for piece in pieces])
        self.starts_N = starts_N
        self._below = below

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, start: int, count: int) -> Int32[np.ndarray, " L"]:
        """Ids at positions start, ..., start + count - 1, all of which exist.

        Raises:
          InputError: For an id that is out of range, naming file and byte.
        """
        ids_L = np.empty(count, np.int32)
        piece, done = int(np.searchsorted(self._ends, start, side="right")), 0
        while done < count:
            ids_T = self._arrays[piece]
            first = start + done - int(self._ends[piece]) + len(ids_T)
            part = ids_T[first : first + count - done]
            if self._below is not None and part.max(initial=0) >= self._below:
                self._refuse(self._pieces[piece], first + int(np.argmax(part >= self._below)))
            ids_L[done : done + len(part)] = part
            done += len(part)
            piece += 1
        return ids_L

    def _refuse(self, ids_T: np.ndarray, place: int) -> None:
        file = ids_T.filename if isinstance(ids_T, np.memmap) else "the corpus"
        raise InputError(
            f"data.source={file}, byte {place * ids_T.itemsize}: id {ids_T[place]} does not fit a "
            f"vocabulary of {self._below}: use the model that the file was tokenized for"
        )
