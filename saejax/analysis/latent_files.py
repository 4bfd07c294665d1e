"""What the latents of a seed, and of a pair of seeds, do on text: two records and their files.

Dimension letters: N latents, C contexts, W tokens of a context, P tokens named by the logit lens,
R neighbours.
"""

import dataclasses
import zipfile
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float16, Float32, Int32, Int64

from saejax.errors import InputError
from saejax.files import atomic_write

_Record = TypeVar("_Record", "SeedLatents", "PairLatents")

# By the name of the array; all others are float32.
_DTYPES = {
    "num_tokens": np.int64,
    "firings_N": np.int64,
    "both_N": np.int64,
    "context_tokens_NCW": np.int32,
    "context_values_NCW": np.float16,
    "promoted_NP": np.int32,
    "suppressed_NP": np.int32,
    "neighbour_NR": np.int32,
}


@dataclasses.dataclass(frozen=True, eq=False)
class SeedLatents:
    """`latents/<hookpoint>/seed<i>.npz`; every field is an array of that name.

    Attributes:
      num_tokens: Tokens that were read.
      firings_N: Tokens on which a latent fires.
      max_N: Largest value, 0 of a latent that never fires.
      mean_N: Mean value over the tokens on which it fires, 0 if there are none.
      context_tokens_NCW: Token ids around the C = 6 largest values, each the largest of its window,
        descending, of equal ones the first; 16 before the peak, which is at 16, and 8 after. -1 is
        before or after the window, or all of a context where fewer windows have it fire.
      context_values_NCW: The latent's value at each of them; 0 too at tokens that the autoencoder
        is not given (`data.skip_tokens` and those excluded). At most 65,504, the largest float16.
      promoted_NP: The P = 8 tokens that the decoder row raises most, see
        `saejax.analysis.logit_lens`.
      promoted_logit_NP: By how much, descending.
      suppressed_NP: Those it lowers most.
      suppressed_logit_NP: By how much, ascending.
    """

    num_tokens: Int64[np.ndarray, ""]
    firings_N: Int64[np.ndarray, " N"]
    max_N: Float32[np.ndarray, " N"]
    mean_N: Float32[np.ndarray, " N"]
    context_tokens_NCW: Int32[np.ndarray, "N C W"]
    context_values_NCW: Float16[np.ndarray, "N C W"]
    promoted_NP: Int32[np.ndarray, "N P"]
    promoted_logit_NP: Float32[np.ndarray, "N P"]
    suppressed_NP: Int32[np.ndarray, "N P"]
    suppressed_logit_NP: Float32[np.ndarray, "N P"]

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        _save(self, path)

    @classmethod
    def load(cls, path: Path) -> "SeedLatents":
        """Reads the file; `InputError` if it is missing or not one of ours."""
        return _load(cls, path)


@dataclasses.dataclass(frozen=True, eq=False)
class PairLatents:
    """`latents/<hookpoint>/seed<i>-seed<j>.npz`; every field is an array of that name.

    Attributes:
      both_N: Tokens on which a latent of i and its decoder partner in j both fire.
      jaccard_N: These over the tokens on which one of them does; 0 if there are none.
      correlation_N: Pearson's, of the two values over all tokens; 0 where undefined.
      neighbour_NR: The R = 4 latents of j with the most similar decoder rows (as many as there are,
        if fewer).
      neighbour_cosine_NR: Their cosines, descending.
    """

    both_N: Int64[np.ndarray, " N"]
    jaccard_N: Float32[np.ndarray, " N"]
    correlation_N: Float32[np.ndarray, " N"]
    neighbour_NR: Int32[np.ndarray, "N R"]
    neighbour_cosine_NR: Float32[np.ndarray, "N R"]

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        _save(self, path)

    @classmethod
    def load(cls, path: Path) -> "PairLatents":
        """Reads the file; `InputError` if it is missing or not one of ours."""
        return _load(cls, path)


def _save(record: SeedLatents | PairLatents, path: Path) -> None:
    with atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **vars(record))


def _load(cls: type[_Record], path: Path) -> _Record:
    names = [field.name for field in dataclasses.fields(cls)]
    try:
        # numpy leaves a damaged archive open that it opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as parts:
            arrays = {name: parts[name] for name in names}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; experiments/analyze.py writes it") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} cannot be read ({error}): delete it and run experiments/analyze.py"
        ) from None
    rows = arrays[names[-1]].shape[:1]
    for name, array in arrays.items():
        # `_NCW` has three axes, of which the first is N; `num_tokens` none.
        axes = name.rpartition("_")[2] if name != "num_tokens" else ""
        dtype = _DTYPES.get(name, np.float32)
        expected = rows if axes else ()
        if array.dtype != dtype or array.ndim != len(axes) or array.shape[:1] != expected:
            raise InputError(
                f"{path}: {name} is {array.dtype}{list(array.shape)}, not {np.dtype(dtype)} "
                f"as the others: delete it and run experiments/analyze.py"
            )
    return cls(**arrays)
