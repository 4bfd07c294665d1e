"""What latents do on text, read from `latents/<hookpoint>/*.npz` and checked.

Dimension letters: N latents, C contexts of a latent, W tokens of a context, P logit-lens tokens,
R neighbours.
"""

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from saejax.errors import InputError

# What writes the files.
SCRIPT = "experiments/analyze.py"


class SeedLatents(NamedTuple):
    """The latents of one seed."""

    num_tokens: Int[np.ndarray, ""]
    firings: Int[np.ndarray, " N"]  # tokens it fires on
    max: Float[np.ndarray, " N"]
    mean: Float[np.ndarray, " N"]  # over the tokens it fires on, 0 if there are none
    context_tokens: Int[np.ndarray, "N C W"]  # -1 pads
    context_values: Float[np.ndarray, "N C W"]  # sorted by their largest value, falling
    promoted: Int[np.ndarray, "N P"]
    suppressed: Int[np.ndarray, "N P"]
    promoted_logit: Float[np.ndarray, "N P"]
    suppressed_logit: Float[np.ndarray, "N P"]


class PairLatents(NamedTuple):
    """The latents of the first seed of a pair, beside their decoder partners in the second."""

    jaccard: Float[np.ndarray, " N"]  # tokens where both fire / tokens where one does
    correlation: Float[np.ndarray, " N"]
    both: Int[np.ndarray, " N"]  # tokens where both fire
    neighbour: Int[np.ndarray, "N R"]  # most similar decoder rows of the second seed
    neighbour_cosine: Float[np.ndarray, "N R"]


_SEED_AXES = dict(
    zip(
        SeedLatents._fields,
        ("", "N", "N", "N", "NCW", "NCW", "NP", "NP", "NP", "NP"),
        strict=True,
    )
)
_PAIR_AXES = dict(zip(PairLatents._fields, ("N", "N", "N", "NR", "NR"), strict=True))
_WHOLE_NUMBERS = {
    "num_tokens",
    "firings",
    "context_tokens",
    "promoted",
    "suppressed",
    "both",
    "neighbour",
}


def read_seed(path: Path, num_latents: int) -> SeedLatents | None:
    """Reads `seed<i>.npz`; None if there is no such file.

    Raises:
      InputError: For a file that is broken, or of another number of latents.
    """
    arrays = _read(path, _SEED_AXES, num_latents)
    if arrays is None:
        return None
    found = SeedLatents(**arrays)
    if found.num_tokens < 1 or found.firings.max() > found.num_tokens:
        raise _broken(path, f"{found.firings.max()} firings on {found.num_tokens} tokens")
    if min(found.promoted.min(), found.suppressed.min()) < 0 or found.context_tokens.min() < -1:
        raise _broken(path, "it has negative token ids")
    return found


def read_pair(path: Path, num_latents: int) -> PairLatents | None:
    """Reads `seed<i>-seed<j>.npz`; None if there is no such file.

    Raises:
      InputError: For a file that is broken, or of another number of latents.
    """
    arrays = _read(path, _PAIR_AXES, num_latents)
    if arrays is None:
        return None
    found = PairLatents(**arrays)
    for name in ("jaccard", "correlation", "neighbour_cosine"):
        # Float sums may pass 1 by a rounding.
        if np.abs(getattr(found, name)).max() > 1 + 1e-4:
            raise _broken(path, f"its {name} leaves [-1, 1]")
    if not 0 <= found.neighbour.min() <= found.neighbour.max() < num_latents:
        raise _broken(path, f"its neighbours are not all in [0, {num_latents})")
    return found


def _read(path: Path, axes: dict[str, str], num_latents: int) -> dict[str, np.ndarray] | None:
    """The arrays of a file by the names of their fields, of the right types and shapes."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as parts:
            arrays = {
                field: parts[f"{field}_{letters}" if letters else field]
                for field, letters in axes.items()
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # All that NumPy raises for truncated, damaged or foreign files.
        raise _broken(path, str(error)) from None
    sizes = {"N": num_latents}
    for field, letters in axes.items():
        array = arrays[field]
        kind = "iu" if field in _WHOLE_NUMBERS else "f"
        if array.ndim != len(letters) or array.dtype.kind not in kind or not array.size:
            raise _broken(path, f"{field} is {array.dtype} of shape {array.shape}")
        for letter, size in zip(letters, array.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise _broken(path, f"{field} has {size} {letter}, not {sizes[letter]}")
        if kind == "f" and not np.isfinite(array).all():
            raise _broken(path, f"{field} holds NaN or infinite values")
    return arrays


def _broken(path: Path, why: str) -> InputError:
    return InputError(
        f"{path} does not fit this run ({why}): delete it and run {COMMAND}=... again"
    )
