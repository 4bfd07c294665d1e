"""What the results of a run say, in a few lines of plain text for each."""

import statistics
from typing import Any

from saejax.analysis.latent_table import latents_table
from saejax.analysis.overlap import overlap_table

_SHOWN_THRESHOLDS = (0.5, 0.7, 0.9)


def summary(stage: str, record: dict[str, Any]) -> str:
    """The lines of one stage of `saejax.analyses`.

    Args:
      stage: Its name.
      record: What `results/<stage>.json` holds.
    """
    match stage:
        case "overlap":
            return overlap_table(record["pairs"])
        case "thresholds":
            return _thresholds(record)
        case "spread":
            return _spread(record)
        case "null":
            return _null(record)
        case "seeds":
            return _seeds(record)
        case _:
            return latents_table(record)


def _thresholds(record: dict[str, Any]) -> str:
    lines = []
    for method in dict.fromkeys(pair["method"] for pair in record["pairs"]):
        means = []
        for threshold in _SHOWN_THRESHOLDS:
            place = record["thresholds"].index(threshold)
            mean = statistics.fmean(
                pair["counts"]["shared_frac"][place] / pair["num_latents"]
                for pair in record["pairs"]
                if pair["method"] == method
            )
            means.append(f"{mean:.1%} from {threshold:g}")
        lines.append(f"shared ({method}), by the threshold: {', '.join(means)}")
    return "\n".join(lines)


def _spread(record: dict[str, Any]) -> str:
    lines = []
    for method, spreads in record["methods"].items():
        spread = spreads["shared_frac"]
        text = f"shared ({method}): mean {spread['mean']:.1%}"
        if spread["standard_error"] is not None:
            text += (
                f" +- {spread['standard_error']:.1%} over seeds "
                f"({record['confidence']:.0%} interval {spread['low']:.1%} to {spread['high']:.1%})"
            )
        own = [pair["shared_frac"] for pair in record["pairs"] if pair["method"] == method]
        widest = max((high - low) / 2 for low, high in own)
        lines.append(f"{text}; over the latents of a pair at most +- {widest:.1%}")
    return _with_missing(lines, record)


def _null(record: dict[str, Any]) -> str:
    chance = record["directions"]
    lines = [
        f"chance: the best of {record['num_latents']:,} random directions has cosine "
        f"{chance['best_cosine']:.3f}, above {record['threshold']:g} with probability "
        f"{chance['above_frac']:.2g}; {chance['matched_rows']:,} "
        f"matched ones {chance['matched_cosine']:.3f}"
    ]
    for name in ("untrained", "rotated"):
        if (found := record[name]) is not None:
            lines.append(
                f"{name}: {found['shared_frac']:.1%} shared, {found['agreement_frac']:.1%} "
                f"agreement, decoder cosine {found['mean_cosine']['decoder_matched']:.3f} "
                f"({found['matched_rows']:,} rows)"
            )
    return _with_missing(lines, record)


def _seeds(record: dict[str, Any]) -> str:
    trend = ", ".join(
        f"{row['only_in_base_frac']:.1%} of {row['num_saes']}" for row in record["trend"]
    )
    lines = [f"latents of a seed that no other of k autoencoders has: {trend}"]
    if (repeats := record["repeats"]) is not None and repeats["after_shared_frac"] is not None:
        lines.append(
            f"shared again by another seed: {repeats['after_shared_frac']:.1%} after being shared"
            + (
                ""
                if repeats["after_unshared_frac"] is None
                else f", {repeats['after_unshared_frac']:.1%} after not"
            )
        )
    if (cycles := record["cycles"]) is not None:
        lines.append(f"the same in all {len(record['seeds'])} seeds: {cycles['core_frac']:.1%}")
    return _with_missing(lines, record)


def _with_missing(lines: list[str], record: dict[str, Any]) -> str:
    return "\n".join(lines + [f"no {name}: {why}" for name, why in record["missing"].items()])
