"""From one library's files to another's, with a report of what was kept."""

import dataclasses
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from saejax.errors import InputError
from saejax.formats.load import FORMATS, Found, load_found
from saejax.sae.sae import Sae, encode_dense

_ARRAYS = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold", "r_mag", "b_mag", "w_skip")
_PROBES = 64


@dataclasses.dataclass(frozen=True)
class Converted:
    """What became of one autoencoder.

    Attributes:
      name: Its path below the source.
      path: The folder that was written.
      sae: What the new folder holds, read again.
      same_bits: Whether all weights are what they were, to the bit.
      error: max |y'(x) - y(x)| / max |y(x)| of old and new y = f(x) W_dec on random inputs, before
        the k largest codes are chosen. (The codes themselves may have got other units.)
      dropped: What the new format has no place for.
    """

    name: str
    path: Path
    sae: Sae
    same_bits: bool
    error: float
    dropped: list[str]


def convert(source: str | Path, found: Found, out: Path, format: str) -> Converted:
    """Loads one of `saejax.formats.load.find`, writes it, reads it again and compares.

    Args:
      source: Where it was found.
      found: Which one.
      out: The folder to write, which must be empty or not there.
      format: As of `saejax.save_sae`.

    Raises:
      InputError: If it cannot be read, the format has no such autoencoder, the folder is in use,
        or what was written computes something else.
    """
    check_free(out)
    module: types.ModuleType = FORMATS[format]
    sae = load_found(source, found)
    if why := module.refuses(sae):
        raise InputError(f"{source}, {found.name or '.'}: {why}")
    module.save(sae, out)
    written = module.load(out)
    error = _error(sae, written)
    if not error < 1e-4:
        raise InputError(
            f"{out}: what was written gives other reconstructions, by {error:.1e} of the largest; "
            "take another format, and please report this"
        )
    return Converted(found.name, out, written, _same(sae, written), error, module.drops(sae))


def check_free(out: Path) -> None:
    """Refuses a folder that holds something.

    Raises:
      InputError: If it does, or is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not empty; name a new folder")


def _same(sae: Sae, other: Sae) -> bool:
    """Are all arrays the same, to the bit?"""
    for name in _ARRAYS:
        one, two = getattr(sae, name), getattr(other, name)
        if (one is None) != (two is None):
            return False
        if one is not None and not np.array_equal(np.asarray(one), np.asarray(two)):
            return False
    return True


def _error(sae: Sae, other: Sae) -> float:
    """See `Converted`. Of all codes, not of the k largest, which may change places where two tie.

    Raises:
      InputError: If the two are of other sizes, or keep other numbers of codes.
    """
    for name in ("d_model", "d_out", "num_latents", "k"):
        if getattr(sae, name) != getattr(other, name):
            raise InputError(f"{name} was {getattr(sae, name)} and became {getattr(other, name)}")
    rng = np.random.default_rng(0)
    x_BD = jnp.asarray(rng.normal(size=(_PROBES, sae.d_model)), jnp.float32)
    first_BE, second_BE = (
        np.asarray(
            encode_dense(dataclasses.replace(one, k=one.num_latents), x_BD) @ jnp.asarray(one.w_dec)
        )
        for one in (sae, other)
    )
    largest = np.abs(first_BE).max()
    return float(np.abs(first_BE - second_BE).max() / largest) if largest > 0 else 0.0
