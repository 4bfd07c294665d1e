"""Every definition of "shared" at a threshold, and at all thresholds from 0 to 1. N latents."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from saejax.analysis.compare import Comparison

# 0 to 1 by 0.01, as whole hundredths, so that 0.7 is the same number as the configuration's.
THRESHOLDS = tuple(hundredths / 100 for hundredths in range(101))


def fractions(comparison: Comparison, threshold: float) -> dict[str, float]:
    """Fractions of the latents of a that count as shared, by definition.

    Args:
      comparison: Of two autoencoders.
      threshold: Cosine above which a pair counts, in [-1, 1].

    Returns:
      shared_frac, aligned_frac, decoder_frac, agreement_frac (the same at any threshold),
      max_cosine_frac: see `Comparison`.

    Raises:
      InputError: If the threshold is no cosine.
    """
    return {
        "shared_frac": comparison.shared_frac(threshold),
        "aligned_frac": comparison.aligned_frac(threshold),
        "decoder_frac": comparison.decoder_frac(threshold),
        "agreement_frac": comparison.agreement_frac,
        "max_cosine_frac": comparison.max_cosine_frac(threshold),
    }


def thresholds_record(comparisons: Mapping[tuple[Any, Any, str], Comparison]) -> dict[str, Any]:
    """Latents that are shared at each threshold, of each pair, as in `results/thresholds.json`.

    Args:
      comparisons: By the names of the two autoencoders (their seeds) and the method.

    Returns:
      thresholds: 0 to 1 by 0.01;
      pairs: a row each: seeds, method, num_latents (N), and `counts`, the number of latents at
      each threshold by definition (see `fractions`); a fraction is a count / num_latents.
    """
    rows = []
    for (one, other, method), comparison in comparisons.items():
        N = comparison.num_latents
        at = [fractions(comparison, threshold) for threshold in THRESHOLDS]
        counts = {name: np.rint([N * each[name] for each in at]).astype(int) for name in at[0]}
        rows.append(
            {
                "seeds": [one, other],
                "method": method,
                "num_latents": N,
                "counts": {name: count_T.tolist() for name, count_T in counts.items()},
            }
        )
    return {"thresholds": list(THRESHOLDS), "pairs": rows}
