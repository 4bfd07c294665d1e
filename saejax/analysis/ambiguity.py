"""How ambiguous the partners of shared and of other latents are, by an entropic plan."""

from typing import Any

import numpy as np

from saejax.analysis.compare import Comparison


def ambiguity(comparison: Comparison, threshold: float) -> dict[str, Any] | None:
    """What the decoders' plan says of latents that are shared, and of those that are not.

    Returns:
      None if the matchings were not made by "sinkhorn". Else epsilon, and under "shared" and
      "unshared" the number of latents and, where there are any, of their rows of the plan:
      `median_partners`, the effective number exp(entropy); `mean_weight` of the likeliest
      partner; `mean_expected_cosine`.
    """
    soft = comparison.decoder.soft
    if soft is None:
        return None
    shared_N = comparison.shared(threshold)
    found: dict[str, Any] = {"epsilon": soft.epsilon}
    for name, member_N in (("shared", shared_N), ("unshared", ~shared_N)):
        found[name] = {"num_latents": int(member_N.sum())}
        if member_N.any():
            found[name] |= {
                "median_partners": float(np.median(soft.num_partners[member_N])),
                "mean_weight": float(soft.weight[member_N].mean(dtype=np.float64)),
                "mean_expected_cosine": float(
                    soft.expected_cosine[member_N].mean(dtype=np.float64)
                ),
            }
    return found
