"""Unit directions of latents, their row maxima, and products of pairs. N, M: latents, D: width."""

import warnings
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Float32, Float64, Int32

from saejax.errors import InputError
from saejax.matching.matching import SIDES
from saejax.matching.operands import Side
from saejax.matching.pricing import top_k
from saejax.progress import Progress

# Rows normalised at a time: bounds the float64 copy at 33 MB for D = 4,096.
_CHUNK_ROWS = 1024


@runtime_checkable
class SaeLike(Protocol):
    """Anything with the two weight matrices of a sparse autoencoder."""

    @property
    def w_enc(self) -> Any:
        """[D, N]."""

    @property
    def w_dec(self) -> Any:
        """[N, D]."""


Source = SaeLike | np.ndarray | jax.Array


def directions(
    source: Source, side: str, name: str = "the SAE", *, normalize: bool = True
) -> Float32[np.ndarray, "N D"]:
    """Unit vectors of an autoencoder's latents: x_i / ||x_i||.

    The source is read as float32, normalised in float64, and rounded to float32 once. A zero
    row has no direction; it stays zero, and its cosine with everything is 0.

    Args:
      source: An autoencoder with w_dec [N, D] and w_enc [D, N], or the rows themselves, [N, D].
      side: "decoder" takes the rows of w_dec, "encoder" the columns of w_enc. Rows given as an
        array are taken as they are.
      name: What to call the source in messages.
      normalize: False leaves the lengths of rows as they are.

    Returns:
      [N, D], each row of norm 1 or 0.

    Raises:
      InputError: If the side is unknown; if the weights are not a non-empty matrix of numbers;
        if one is NaN or infinite.

    Warns:
      UserWarning: If rows are zero, and if rows repeat others, with their number.
    """
    if side not in SIDES:
        raise InputError(f"side={side!r}: choose one of {', '.join(SIDES)}")
    if isinstance(source, SaeLike):
        label = f"{name}, {side}"
        weights_ND = np.asarray(source.w_dec) if side == "decoder" else np.asarray(source.w_enc).T
    else:
        label, weights_ND = name, np.asarray(source)
    if not (
        jnp.issubdtype(weights_ND.dtype, jnp.floating)
        or jnp.issubdtype(weights_ND.dtype, jnp.integer)
    ):
        raise InputError(
            f"{label}: holds {weights_ND.dtype}, not real numbers; give an SAE or an [N, D] array"
        )
    if weights_ND.ndim != 2 or 0 in weights_ND.shape:
        raise InputError(
            f"{label}: has shape {weights_ND.shape}; needs [latents, width], neither of them 0"
        )
    units_ND = np.empty(weights_ND.shape, np.float32)
    num_bad, first_bad, num_zero, first_zero = 0, 0, 0, 0
    for start in range(0, len(units_ND), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        with np.errstate(over="ignore"):  # What float32 cannot hold becomes inf, caught below.
            x_TD = np.ascontiguousarray(weights_ND[rows], np.float32).astype(np.float64)
        bad_TD = ~np.isfinite(x_TD)
        if bad_TD.any():
            first_bad = first_bad if num_bad else start + int(bad_TD.any(axis=1).argmax())
            num_bad += int(bad_TD.sum())
            continue
        # float64 holds the square of every float32, so no norm over- or underflows.
        norm_T = np.sqrt(np.sum(x_TD * x_TD, axis=1))
        zero_T = norm_T == 0
        if zero_T.any():
            first_zero = first_zero if num_zero else start + int(zero_T.argmax())
            num_zero += int(zero_T.sum())
        units_ND[rows] = x_TD / np.where(zero_T | (not normalize), 1.0, norm_T)[:, None]
    if num_bad:
        raise InputError(
            f"{label}: {num_bad} of {units_ND.size} values are NaN or infinite in float32, the "
            f"first in row {first_bad}; train again or drop these rows"
        )
    if num_zero:
        warnings.warn(
            f"{label}: {num_zero} of {len(units_ND)} rows are zero, the first is row "
            f"{first_zero}; their cosine with everything is 0",
            stacklevel=2,
        )
    _warn_of_repeats(units_ND, label)
    return units_ND


def _warn_of_repeats(units_ND: np.ndarray, label: str) -> None:
    """Warns if rows that are not zero occur more than once, by their 64-bit hashes."""
    nonzero = np.flatnonzero(units_ND.any(axis=1))
    hashes = np.array([hash(units_ND[i].tobytes()) for i in nonzero])
    distinct, first = np.unique(hashes, return_index=True)
    if num_repeats := len(hashes) - len(distinct):
        where = np.delete(nonzero, first)[0]
        warnings.warn(
            f"{label}: {num_repeats} of {len(units_ND)} rows repeat an earlier one, the first is "
            f"row {where}; which of equal rows gets which partner is arbitrary",
            stacklevel=3,
        )


def check_widths(a_ND: Float[np.ndarray, "N D"], b_MD: Float[np.ndarray, "M E"]) -> None:
    """Raises `InputError` unless both have the same width D."""
    if a_ND.shape[1] != b_MD.shape[1]:
        raise InputError(
            f"a has shape {a_ND.shape} and b {b_MD.shape}: the widths {a_ND.shape[1]} and "
            f"{b_MD.shape[1]} differ; take both from the same hook point of the same model"
        )


def row_products(
    a_ND: Float32[np.ndarray, "N D"], b_ND: Float32[np.ndarray, "N D"]
) -> Float64[np.ndarray, " N"]:
    """Row by row products, sum_d a_id b_id, in float64 and not clipped.

    Memory: two float64 copies of 1,024 rows.
    """
    cosine_N = np.empty(len(a_ND))
    for start in range(0, len(a_ND), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        a_TD, b_TD = a_ND[rows].astype(np.float64), b_ND[rows].astype(np.float64)
        cosine_N[rows] = np.sum(a_TD * b_TD, axis=1)
    return cosine_N


def row_max(
    a_ND: Float32[np.ndarray, "N D"],
    b_MD: Float32[np.ndarray, "M D"],
    progress: Progress,
    *,
    mesh: Mesh,
) -> tuple[Float32[np.ndarray, " N"], Int32[np.ndarray, " N"]]:
    """Largest cosine of each row of a with any row of b: max_j S_ij, and where it is.

    The products are float32; the cosine of the pair found is then computed in float64. Of rows
    of b closer than about 3e-6 any may be named. Cost and memory: as `pricing.top_k`.

    Args:
      a_ND: Unit rows, as from `directions`.
      b_MD: Unit rows.
      progress: Advances by N rows.
      mesh: Devices that share the rows of a.

    Returns:
      The cosines [N], in [-1, 1], and the rows of b [N].
    """
    a, b = (Side(rows, dtype=jnp.dtype(jnp.float32), mesh=mesh) for rows in (a_ND, b_MD))
    kept = top_k(a, b, np.arange(len(a)), np.zeros(len(b)), 1, progress.advance)
    target_N = kept.columns[:, 0]
    cosine_N = np.clip(row_products(a_ND, b_MD[target_N]), -1, 1)
    return cosine_N.astype(np.float32), target_N
