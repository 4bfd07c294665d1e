"""What `results/latents.json` says, as plain text."""

from typing import Any


def latents_table(found: dict[str, Any]) -> str:
    """A seed a row, then a pair and group a row.

    Args:
      found: From `saejax.analysis.latents.describe_latents`.
    """
    titles = ("dead", "> 10 %", "median", "95 %")
    lines = [
        f"{found['num_tokens']:,} tokens, from the {found['activations']}; frequencies are "
        "fractions of these",
        "seed".ljust(22) + "".join(title.rjust(12) for title in titles),
    ]
    for row in found["seeds"]:
        quantiles = row["frequency_quantiles"]
        lines.append(
            f"{row['seed']:<22}{row['dead_frac']:12.1%}{row['high_frequency_frac']:12.1%}"
            f"{quantiles['0.5']:12.2%}{quantiles['0.95']:12.2%}"
        )
    if found["pairs"]:
        titles = ("latents", "Jaccard", "correlation", "frequency")
        lines += ["", "pair".ljust(22) + "".join(title.rjust(12) for title in titles)]
    for pair in found["pairs"]:
        for group in ("shared", "unshared"):
            row = pair[group]
            means = (row[key] for key in ("jaccard", "correlation", "frequency"))
            cells = "".join(
                ("" if m is None else form.format(m["mean"])).rjust(12)
                for m, form in zip(means, ("{:.3f}", "{:.3f}", "{:.2%}"), strict=True)
            )
            name = f"{pair['seeds'][0]}, {pair['seeds'][1]} {group}"
            lines.append(f"{name:<22}{row['num_latents']:12,}{cells}")
    return "\n".join(lines)
