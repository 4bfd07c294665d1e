"""How often and how strongly latents fire: sums over tokens. N latents, T tokens."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int64

# Latents that fire on more of the tokens are "dense" (Sun et al. 2025, arXiv 2506.15679).
_HIGH_FREQUENCY = 0.1
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Firing(NamedTuple):
    """Sums of each latent's codes f over tokens.

    Attributes:
      firings: [N] tokens with f > 0; int32 on the device, int64 in totals.
      total: [N] sum of f; float32 on the device, float64 in totals.
      squares: [N] sum of f^2; likewise.
    """

    firings: Any
    total: Any
    squares: Any


def firing(code_TN: Float[Array, "T N"]) -> Firing:
    """Of some tokens, on the device."""
    return Firing((code_TN > 0).sum(0, dtype=jnp.int32), code_TN.sum(0), jnp.square(code_TN).sum(0))


def no_firing(num_latents: int) -> Firing:
    """Totals of no tokens."""
    return Firing(np.zeros(num_latents, np.int64), np.zeros(num_latents), np.zeros(num_latents))


def mean_when_firing(sums: Firing) -> Float32[np.ndarray, " N"]:
    """Mean of f over the tokens with f > 0; 0 where there are none."""
    return (sums.total / np.maximum(sums.firings, 1)).astype(np.float32)


def firing_summary(firings_N: Int64[np.ndarray, " N"], num_tokens: int) -> dict[str, Any]:
    """How many latents are dead or fire often, and quantiles of the firing frequency.

    Returns:
      `dead_frac`, latents that never fire; `high_frequency_frac`, those that fire on more than
      10 % of the tokens; `mean_l0`, active latents per token; `frequency_quantiles`, by level, of
      the fraction of tokens on which a latent fires.
    """
    frequency_N: Float64[np.ndarray, " N"] = firings_N / num_tokens
    return {
        "dead_frac": float((firings_N == 0).mean()),
        "high_frequency_frac": float((frequency_N > _HIGH_FREQUENCY).mean()),
        "mean_l0": float(frequency_N.sum()),
        "frequency_quantiles": {
            str(level): float(np.quantile(frequency_N, level)) for level in _QUANTILES
        },
    }
