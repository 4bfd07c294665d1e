"""Files of latents, as far as they are there and fit the matchings of the report."""

from pathlib import Path

import numpy as np

from saejax.analysis.latent_files import PairLatents, SeedLatents
from saejax.errors import InputError


def read_seed(path: Path, num_latents: int) -> SeedLatents | None:
    """Reads `seed<i>.npz`; None if there is no such file.

    Raises:
      InputError: For a file that is broken, or of another number of latents.
    """
    if not path.exists():
        return None
    found = SeedLatents.load(path)
    _check(path, found, num_latents)
    if found.num_tokens < 1 or found.firings_N.max() > found.num_tokens:
        raise _broken(path, f"{found.firings_N.max()} firings on {found.num_tokens} tokens")
    if found.context_values_NCW.shape != found.context_tokens_NCW.shape:
        raise _broken(path, "its contexts have other numbers of tokens and of values")
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
    if not path.exists():
        return None
    found = PairLatents.load(path)
    _check(path, found, num_latents)
    for name in ("jaccard_N", "correlation_N", "neighbour_cosine_NR"):
        # Float sums may pass 1 by a rounding.
        if np.abs(getattr(found, name)).max() > 1 + 1e-4:
            raise _broken(path, f"its {name} leaves [-1, 1]")
    if not 0 <= found.neighbour_NR.min() <= found.neighbour_NR.max() < num_latents:
        raise _broken(path, f"its neighbours are not all in [0, {num_latents})")
    return found


def _check(path: Path, found: SeedLatents | PairLatents, num_latents: int) -> None:
    for name, array in vars(found).items():
        if name != "num_tokens" and (len(array) != num_latents or not array.size):
            raise _broken(path, f"{name} has shape {array.shape} for {num_latents} latents")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _broken(path, f"{name} holds NaN or infinite values")


def _broken(path: Path, why: str) -> InputError:
    return InputError(
        f"{path} does not fit this run ({why}): delete it and run experiments/analyze.py again"
    )
