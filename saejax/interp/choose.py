"""Which latents are explained: as many of each level of sharing, and of each range of cosines.

Dimension letters: N latents, C chosen ones, G groups.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from saejax.errors import InputError

# Edges of the ranges of the decoder cosine with the partner; 0.7 is the paper's threshold.
COSINE_EDGES = (0.3, 0.5, 0.7, 0.9)


def cosine_bins(cosine: Float[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """The range of each cosine: 0 below 0.3, 1 from there, up to 4 from 0.9 on."""
    return np.searchsorted(np.asarray(COSINE_EDGES, cosine.dtype), cosine, side="right")


def allot(sizes: Int[np.ndarray, " G"], total: int) -> Int64[np.ndarray, " G"]:
    """Shares of a total that are as equal as the sizes allow.

    Each group gets one in turn, from the first on, until it is used up or the total is. The share
    of no group falls when the total rises.

    Example:
      >>> allot(np.array([1, 9, 3]), 8).tolist()
      [1, 4, 3]
    """
    shares_G = np.zeros(len(sizes), np.int64)
    left = min(total, int(np.sum(sizes)))
    while left:
        open_ones = np.flatnonzero(shares_G < sizes)[:left]
        shares_G[open_ones] += 1
        left -= len(open_ones)
    return shares_G


def choose(
    level: Int[np.ndarray, " N"],
    bins: Int[np.ndarray, " N"],
    eligible: Bool[np.ndarray, " N"],
    count: int,
    *,
    seed: int,
) -> Int64[np.ndarray, " C"]:
    """Draws latents without replacement, from each level and cosine bin in it about as many.

    Levels get equal shares, as far as they have latents, and so do bins within a level. The result
    depends on the arguments alone, and that of a smaller count is a part of that of a larger one:
    more latents can be added to what is explained already.

    Args:
      level: Of each latent.
      bins: Likewise, see `cosine_bins`.
      eligible: Whether the latent may be chosen.
      count: C, or as many as are eligible.
      seed: Of the draw.

    Returns:
      Numbers of latents, rising.

    Raises:
      InputError: If the count is below 1, or the seed below 0.
    """
    if count < 1 or seed < 0:
        raise InputError(f"latents={count} must be at least 1, and seed={seed} at least 0")
    levels, sizes = np.unique(level[eligible], return_counts=True)
    chosen = [np.zeros(0, np.int64)]
    for number, share in zip(levels, allot(sizes, count), strict=True):
        own_bins, own_sizes = np.unique(bins[eligible & (level == number)], return_counts=True)
        for b, part in zip(own_bins, allot(own_sizes, int(share)), strict=True):
            members = np.flatnonzero((level == number) & (bins == b))
            drawn = np.random.default_rng([seed, int(number), int(b)]).permutation(members)
            chosen.append(drawn[eligible[drawn]][:part])
    return np.sort(np.concatenate(chosen))
