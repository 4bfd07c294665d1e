"""Whether matched latents fire together: a second opinion on their weights.

N latents of a, each with a partner in b; T tokens.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Bool, Float, Float32, Float64, Int64

from saejax.analysis.firing import Firing

# Variances below this part of the mean square are rounding: sums of a batch are float32.
_ROUNDING = 1e-6


class Cofiring(NamedTuple):
    """Sums over tokens of the codes f of latents of a and g of their partners.

    Attributes:
      both: [N] tokens with f > 0 and g > 0; int32 on the device, int64 in totals.
      products: [N] sum of f g; float32 on the device, float64 in totals.
    """

    both: Any
    products: Any


def cofiring(f_TN: Float[Array, "T N"], g_TN: Float[Array, "T N"]) -> Cofiring:
    """Of some tokens, on the device."""
    product_TN = f_TN * g_TN
    # Not where the product is positive: that of two small codes is 0 in float32.
    return Cofiring(((f_TN > 0) & (g_TN > 0)).sum(0, dtype=jnp.int32), product_TN.sum(0))


def no_cofiring(num_latents: int) -> Cofiring:
    """Totals of no tokens."""
    return Cofiring(np.zeros(num_latents, np.int64), np.zeros(num_latents))


def jaccard(a: Firing, b: Firing, pair: Cofiring) -> Float32[np.ndarray, " N"]:
    """Tokens on which both fire over tokens on which one of them does, in [0, 1]; 0 if neither.

    Args:
      a: Totals of the latents.
      b: Totals of their partners, in the same order.
      pair: Totals of both.
    """
    either_N = a.firings + b.firings - pair.both
    return (pair.both / np.maximum(either_N, 1)).astype(np.float32)


def correlation(a: Firing, b: Firing, pair: Cofiring, num_tokens: int) -> Float32[np.ndarray, " N"]:
    """Pearson's correlation of two codes over all tokens, zeros included; 0 where undefined.

    r = (mean(f g) - mean(f) mean(g)) / (std(f) std(g)), undefined where one never changes, as
    that of a dead latent. Arguments as for `jaccard`.
    """
    mean_a_N, mean_b_N = a.total / num_tokens, b.total / num_tokens
    variances = []
    for sums, mean_N in ((a, mean_a_N), (b, mean_b_N)):
        square_N = sums.squares / num_tokens
        variance_N = square_N - mean_N**2
        variances.append(np.where(variance_N > _ROUNDING * square_N, variance_N, 0))
    scale_N = np.sqrt(variances[0] * variances[1])
    covariance_N = pair.products / num_tokens - mean_a_N * mean_b_N
    found_N = np.divide(covariance_N, scale_N, out=np.zeros_like(scale_N), where=scale_N > 0)
    return np.clip(found_N, -1, 1).astype(np.float32)


def cofiring_summary(
    jaccard_N: Float32[np.ndarray, " N"],
    correlation_N: Float32[np.ndarray, " N"],
    *,
    frequency_N: Float64[np.ndarray, " N"],
    firings_N: Int64[np.ndarray, " N"],
    cosine_N: Float32[np.ndarray, " N"],
    shared_N: Bool[np.ndarray, " N"],
) -> dict[str, Any]:
    """Shared latents beside the others.

    Args:
      jaccard_N: Of each latent of a and its partner.
      correlation_N: Likewise.
      frequency_N: Fraction of the tokens on which the latent of a fires.
      firings_N: Number of these tokens.
      cosine_N: Matched decoder cosine.
      shared_N: Which latents are shared.

    Returns:
      Under "shared" and "unshared" `num_latents` and of `jaccard`, `correlation` and `frequency`
      the mean and the quartiles (None of no latents); `frequency_cosine_rank_correlation`,
      Spearman's of log frequency and cosine over latents that fire (None if one is constant).
    """
    found: dict[str, Any] = {}
    for name, member_N in (("shared", shared_N), ("unshared", ~shared_N)):
        found[name] = {"num_latents": int(member_N.sum())}
        for key, values_N in (
            ("jaccard", jaccard_N),
            ("correlation", correlation_N),
            ("frequency", frequency_N),
        ):
            found[name][key] = _mean_and_quartiles(values_N[member_N])
    # Ranks of frequencies are those of their logarithms.
    alive_N = firings_N > 0
    ranked = firings_N[alive_N], cosine_N[alive_N]
    rank_correlation = None
    if all(len(np.unique(values)) > 1 for values in ranked):
        ranks = [scipy.stats.rankdata(values) for values in ranked]
        rank_correlation = float(np.corrcoef(*ranks)[0, 1])
    return found | {"frequency_cosine_rank_correlation": rank_correlation}


def _mean_and_quartiles(values: np.ndarray) -> dict[str, Any] | None:
    if not len(values):
        return None
    return {
        "mean": float(values.mean(dtype=np.float64)),
        "quartiles": [float(q) for q in np.quantile(values, (0.25, 0.5, 0.75))],
    }
