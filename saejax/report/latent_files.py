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
    firings_N: Int[np.ndarray, " N"]  # tokens it fires on
    max_N: Float[np.ndarray, " N"]
    mean_N: Float[np.ndarray, " N"]  # over the tokens it fires on, 0 if there are none
    context_tokens_NCW: Int[np.ndarray, "N C W"]  # -1 pads
    context_values_NCW: Float[np.ndarray, "N C W"]  # sorted by their largest value, falling
    promoted_NP: Int[np.ndarray, "N P"]
    promoted_logit_NP: Float[np.ndarray, "N P"]
    suppressed_NP: Int[np.ndarray, "N P"]
    suppressed_logit_NP: Float[np.ndarray, "N P"]


class PairLatents(NamedTuple):
    """The latents of the first seed of a pair, beside their decoder partners in the second."""

    both_N: Int[np.ndarray, " N"]  # tokens where both fire
    jaccard_N: Float[np.ndarray, " N"]  # these / tokens where one does
    correlation_N: Float[np.ndarray, " N"]
    neighbour_NR: Int[np.ndarray, "N R"]  # most similar decoder rows of the second seed
    neighbour_cosine_NR: Float[np.ndarray, "N R"]


_WHOLE_NUMBERS = {
    "num_tokens",
    "firings_N",
    "context_tokens_NCW",
    "promoted_NP",
    "suppressed_NP",
    "both_N",
    "neighbour_NR",
}


def read_seed(path: Path, num_latents: int) -> SeedLatents | None:
    """Reads `seed<i>.npz`; None if there is no such file.

    Raises:
      InputError: For a file that is broken, or of another number of latents.
    """
    arrays = _read(path, SeedLatents._fields, num_latents)
    if arrays is None:
        return None
    found = SeedLatents(**arrays)
    if found.num_tokens < 1 or found.firings_N.max() > found.num_tokens:
        raise _broken(path, f"{found.firings_N.max()} firings on {found.num_tokens} tokens")
    if (
        min(found.promoted_NP.min(), found.suppressed_NP.min()) < 0
        or found.context_tokens_NCW.min() < -1
    ):
        raise _broken(path, "it has negative token ids")
    return found


def read_pair(path: Path, num_latents: int) -> PairLatents | None:
    """Reads `seed<i>-seed<j>.npz`; None if there is no such file.

    Raises:
      InputError: For a file that is broken, or of another number of latents.
    """
    arrays = _read(path, PairLatents._fields, num_latents)
    if arrays is None:
        return None
    found = PairLatents(**arrays)
    for name in ("jaccard_N", "correlation_N", "neighbour_cosine_NR"):
        # Float sums may pass 1 by a rounding.
        if np.abs(getattr(found, name)).max() > 1 + 1e-4:
            raise _broken(path, f"its {name} leaves [-1, 1]")
    if not 0 <= found.neighbour_NR.min() <= found.neighbour_NR.max() < num_latents:
        raise _broken(path, f"its neighbours are not all in [0, {num_latents})")
    return found


def _read(path: Path, names: tuple[str, ...], num_latents: int) -> dict[str, np.ndarray] | None:
    """The arrays of a file, of the types and shapes that their names say."""
    if not path.exists():
        return None
    try:
        # NumPy leaves a damaged file open if it opens it itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as parts:
            arrays = {name: parts[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # All that NumPy raises for truncated, damaged or foreign files.
        raise _broken(path, str(error)) from None
    sizes = {"N": num_latents}
    for name, array in arrays.items():
        axes = name.rpartition("_")[2] if name != "num_tokens" else ""
        kind = "iu" if name in _WHOLE_NUMBERS else "f"
        if array.ndim != len(axes) or array.dtype.kind not in kind or not array.size:
            raise _broken(path, f"{name} is {array.dtype} of shape {array.shape}")
        for axis, size in zip(axes, array.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise _broken(path, f"{name} has {size} {axis}, not {sizes[axis]}")
        if kind == "f" and not np.isfinite(array).all():
            raise _broken(path, f"{name} holds NaN or infinite values")
    return arrays


def _broken(path: Path, why: str) -> InputError:
    return InputError(f"{path} does not fit this run ({why}): delete it and run {SCRIPT} again")
