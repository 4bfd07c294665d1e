"""The tokens around the largest values of each latent, the best windows kept as they come.

The values of a context are cut out of the codes while these exist, and carried along: 372 bytes
a latent with all else. A second pass over the windows in question would be one over nearly all of
them, since every latent has six.

Dimension letters: N latents, C contexts of a latent, W tokens of a context, T tokens of a segment,
L tokens of a window, U windows.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

NUM_CONTEXTS = 6
# Tokens of a context before and after its peak.
BEFORE, AFTER = 16, 8
_WIDTH = BEFORE + 1 + AFTER
_LARGEST = float(jnp.finfo(jnp.float16).max)


class Peak(NamedTuple):
    """Each latent's largest value in a window.

    Attributes:
      value: [N] float32, 0 where it does not fire.
      token: [N] int32, where it is, the first of equal ones.
      around: [W, N] float16, the latent's values BEFORE tokens before it to AFTER tokens after.
    """

    value: Array
    token: Array
    around: Array


class Peaks(NamedTuple):
    """Each latent's C largest peaks, one a window, descending.

    Attributes:
      value: [C, N] float32, 0 where fewer windows have it fire.
      token: [C, N] int32, as in `Peak`.
      around: [C, W, N] float16, as in `Peak`.
      window: [C, N] int32, the window's number.
    """

    value: Array
    token: Array
    around: Array
    window: Array


def no_peak(num_latents: int) -> Peak:
    """Before the first segment of a window."""
    return Peak(
        jnp.zeros(num_latents),
        jnp.zeros(num_latents, jnp.int32),
        jnp.zeros((_WIDTH, num_latents), jnp.float16),
    )


def no_peaks(num_latents: int) -> Peaks:
    """Before the first window."""
    stacked = (jnp.stack([part] * NUM_CONTEXTS) for part in no_peak(num_latents))
    return Peaks(*stacked, window=jnp.zeros((NUM_CONTEXTS, num_latents), jnp.int32))


def peak_of_segment(code_TN: Float[Array, "T N"], start: Int[Array, ""]) -> Peak:
    """The peak in a segment of a window.

    Args:
      code_TN: Codes of the segment with BEFORE tokens before and AFTER tokens after it.
      start: The segment's first token.
    """
    own_TN = code_TN[BEFORE : len(code_TN) - AFTER]
    first_N = own_TN.argmax(0).astype(jnp.int32)
    # Counted from the token BEFORE the segment.
    at_WN = first_N[None] + jnp.arange(_WIDTH)[:, None]
    around_WN = jnp.take_along_axis(code_TN, at_WN, axis=0)
    return Peak(
        own_TN.max(0), start + first_N, jnp.minimum(around_WN, _LARGEST).astype(jnp.float16)
    )


def larger(a: Peak, b: Peak) -> Peak:
    """The larger of two for each latent, a where they are equal."""
    other_N = b.value > a.value
    return Peak(
        jnp.where(other_N, b.value, a.value),
        jnp.where(other_N, b.token, a.token),
        jnp.where(other_N[None], b.around, a.around),
    )


def insert(held: Peaks, new: Peak, window: Int[Array, ""]) -> Peaks:
    """Takes in the peaks of a window; of equal ones those that came first stay ahead."""
    place_1N = (held.value >= new.value[None]).sum(0, keepdims=True)
    rank_C1 = jnp.arange(NUM_CONTEXTS)[:, None]
    stays_CN, enters_CN = rank_C1 < place_1N, rank_C1 == place_1N

    def put(held_C: Array, new: Array) -> Array:
        stays, enters = stays_CN, enters_CN
        if held_C.ndim == 3:
            stays, enters = stays[:, None], enters[:, None]
        moved_C = jnp.concatenate([held_C[:1], held_C[:-1]])
        return jnp.where(stays, held_C, jnp.where(enters, new[None], moved_C))

    numbers_N = jnp.full_like(new.token, window)
    fields = (*new, numbers_N)
    return Peaks(*(put(old, field) for old, field in zip(held, fields, strict=True)))


def context_tokens(
    peaks: Peaks, windows_UL: Int[np.ndarray, "U L"], numbers_U: Int[np.ndarray, " U"], skip: int
) -> Int32[np.ndarray, "N C W"]:
    """Token ids of the contexts; -1 before and after the window, and where there is no context.

    Args:
      peaks: Whose `token` counts from the first token after those skipped.
      windows_UL: Token ids of the windows that peaks name.
      numbers_U: Their numbers, ascending.
      skip: Tokens at the start of a window that the autoencoder is not given.
    """
    value_NC, token_NC, window_NC = (
        np.asarray(part).T for part in (peaks.value, peaks.token, peaks.window)
    )
    padded_UL = np.pad(windows_UL, ((0, 0), (BEFORE, AFTER)), constant_values=-1)
    row_NC1 = np.searchsorted(numbers_U, window_NC)[..., None]
    ids_NCW = padded_UL[row_NC1, (token_NC + skip)[..., None] + np.arange(_WIDTH)]
    return np.where(value_NC[..., None] > 0, ids_NCW, -1).astype(np.int32)
