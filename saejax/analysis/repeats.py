"""Does a latent that one seed shares belong to the next one too? N latents, S seeds."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import gammaln, xlog1py, xlogy

from saejax.errors import InputError


class Repeats(NamedTuple):
    """How far being shared is a property of the latent, not of the pair of seeds.

    Were it a coin toss for each latent and seed, the first three would be equal.
    """

    shared_frac: float  # mean over pairs
    after_shared_frac: float | None  # shared with one seed: also with another; None if none is
    after_unshared_frac: float | None  # not shared with one: with another; None if all are
    independent_levels: Float64[np.ndarray, " S"]  # latents per level if it were independent


def repeats(levels: Int64[np.ndarray, "S S"]) -> Repeats:
    """Chances of being shared again, over all bases and all ordered pairs of others.

    With m the number of others that share a latent, averaged over latents of all bases,
    P(l | j) = E[m (m-1)] / ((S-2) E[m]) and P(l | not j) = E[m (S-1-m)] / ((S-2) E[S-1-m]).
    Independent sharing with the same mean has binomial levels, N C(S-1, m) p^m (1-p)^(S-1-m).

    Args:
      levels: Of `Trend`.

    Raises:
      InputError: For fewer than three seeds.
    """
    S = len(levels)
    if S < 3:
        raise InputError(f"levels of {S} seeds: whether sharing repeats needs three")
    num_latents = levels[0].sum()
    m_S = np.arange(S)
    frac_S = levels.sum(axis=0) / levels.sum()
    mean, rest = frac_S @ m_S, frac_S @ (S - 1 - m_S)
    p = min(mean / (S - 1), 1.0)
    log_binomial_S = (
        gammaln(S) - gammaln(m_S + 1) - gammaln(S - m_S) + xlogy(m_S, p) + xlog1py(S - 1 - m_S, -p)
    )
    return Repeats(
        float(p),
        float(frac_S @ (m_S * (m_S - 1)) / ((S - 2) * mean)) if mean else None,
        float(frac_S @ (m_S * (S - 1 - m_S)) / ((S - 2) * rest)) if rest else None,
        num_latents * np.exp(log_binomial_S),
    )
