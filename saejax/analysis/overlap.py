"""What a comparison of two seeds says in numbers: a record for results, and a table to print."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from saejax.analysis.compare import Comparison
from saejax.errors import InputError
from saejax.matching import Matching

# The fractions of an entry of `results/overlap.json`, as tables call them.
COLUMNS = {
    "shared_frac": "shared",
    "aligned_frac": "aligned",
    "agreement_frac": "agreement",
    "max_cosine_frac": "max cosine",
    "decoder_frac": "decoder",
}


def pair_result(
    names: tuple[Any, Any],
    method: str,
    comparison: Comparison,
    *,
    hookpoint: str | None,
    threshold: float,
) -> dict[str, Any]:
    """An entry of `results/overlap.json`: every definition of "shared", and how sure it is.

    Args:
      names: What the two autoencoders are called: their seeds.
      method: Of the one-to-one matchings.
      comparison: The two autoencoders.
      hookpoint: Where they read the model; None where they come from different places.
      threshold: Cosine above which a pair counts.

    Returns:
      seeds, method, num_latents, the fractions, mean_cosine, threshold, and of the two
      matchings: solver, certified (both), relative_gap (the larger), seconds (the sum).
    """
    decoder, encoder = comparison.decoder.certificate, comparison.encoder.certificate
    if decoder is None or encoder is None:
        raise InputError(f"method={method!r} gives no certificate; match one to one instead")
    return {
        "hookpoint": hookpoint,
        "seeds": list(names),
        "method": method,
        "num_latents": comparison.num_latents,
        "shared_frac": comparison.shared_frac(threshold),
        "aligned_frac": comparison.aligned_frac(threshold),
        "decoder_frac": comparison.decoder_frac(threshold),
        "agreement_frac": comparison.agreement_frac,
        "max_cosine_frac": comparison.max_cosine_frac(threshold),
        "mean_cosine": comparison.mean_cosine,
        "threshold": threshold,
        "solver": decoder.solver,
        "certified": decoder.certified and encoder.certified,
        "relative_gap": max(decoder.relative_gap, encoder.relative_gap),
        "seconds": decoder.seconds + encoder.seconds,
    }


def overlap_table(pairs: Sequence[dict[str, Any]]) -> str:
    """The results as plain text: a pair a row, fractions in percent, the mean of each method."""
    lines = ["pair".ljust(22) + "".join(t.rjust(12) for t in COLUMNS.values()) + "   certified"]
    for method in dict.fromkeys(pair["method"] for pair in pairs):
        rows = [pair for pair in pairs if pair["method"] == method]
        for row in rows:
            name = f"{row['seeds'][0]}, {row['seeds'][1]} ({method})"
            cells = "".join(f"{row[column]:12.1%}" for column in COLUMNS)
            lines.append(f"{name:<22}{cells}{'yes' if row['certified'] else 'no':>12}")
        means = (sum(row[column] for row in rows) / len(rows) for column in COLUMNS)
        lines.append(f"{f'mean ({method})':<22}" + "".join(f"{mean:12.1%}" for mean in means))
    return "\n".join(lines)


def certificate_table(matchings: Sequence[Matching], *, threshold: float) -> str:
    """What each one-to-one matching found and proved, a row each, as plain text."""
    titles = ("matched", "cosine", f"> {threshold:g}", "sum", "gap", "passes", "seconds", "memory")
    lines = ["matching".ljust(22) + "".join(t.rjust(12) for t in titles) + "   certified"]
    for m in matchings:
        if (c := m.certificate) is None:
            raise InputError(f"method={m.method!r} gives no certificate; match one to one instead")
        cosine = m.cosine[m.matched]
        cells = (
            f"{m.num_matched:,}",
            f"{cosine.mean(dtype=np.float64):.4f}",
            f"{(cosine > threshold).mean():.1%}",
            f"{c.primal:.4f}",
            f"{c.gap:.1e}",
            f"{c.passes:.2f}",
            f"{c.seconds:.1f}",
            f"{c.peak_bytes / 2**30:.2f} GiB",
        )
        name = f"{m.side} ({m.method})"
        lines.append(
            name.ljust(22)
            + "".join(cell.rjust(12) for cell in cells)
            + ("yes" if c.certified else "no").rjust(12)
        )
    return "\n".join(lines)
