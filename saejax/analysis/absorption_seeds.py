"""Absorption in the autoencoders of several seeds: what each does, and what they have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saejax.analysis.absorption import MIN_PROBE_F1, LetterProbes, LetterResult
from saejax.analysis.compare import Comparison
from saejax.analysis.first_letter import LETTERS, Words

# Means over letters, of each seed: what a seed's record and the spread hold.
_MEANS = ("absorption_rate", "absorption_fraction", "num_latents", "f1_first", "silent_frac")


def absorption_result(
    results: Mapping[int, Sequence[LetterResult]],
    comparisons: Mapping[tuple[int, int], Comparison],
    probes: LetterProbes,
    train: Words,
    test: Words,
    *,
    threshold: float,
) -> dict[str, Any]:
    """The numbers of `results/absorption.json`.

    Args:
      results: Of `absorption.measure`, by seed.
      comparisons: By pair of seeds.
      probes: The ground truth.
      train: Words of the probes.
      test: Words of the test.
      threshold: Cosine from which a matched pair is shared.

    Returns:
      `probes`: words and F1 of each letter, and whether it counts (F1 above 0.6). `seeds`: of each
      seed the letters, with absorbed words, and means over those that count. `spread`: mean and
      standard deviation of these over the seeds (n - 1; None for one seed, or if no letter
      counts). `pairs`: see `_pair`.
    """
    letters = np.unique(train.letters)
    counted = {LETTERS[i] for i, f1 in zip(letters, probes.f1, strict=True) if f1 > MIN_PROBE_F1}
    seeds = [_seed(seed, found, counted, test) for seed, found in results.items()]
    spread: dict[str, Any] = {}
    for name in _MEANS:
        values = [record[name] for record in seeds if record[name] is not None]
        spread[name] = {
            "mean": float(np.mean(values)) if values else None,
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
    return {
        "probes": [
            {
                "letter": LETTERS[i],
                "train_words": int((train.letters == i).sum()),
                "test_words": int((test.letters == i).sum()),
                "f1": float(f1),
                "counts": LETTERS[i] in counted,
            }
            for i, f1 in zip(letters, probes.f1, strict=True)
        ],
        "seeds": seeds,
        "spread": spread,
        "pairs": [
            _pair(pair, results[pair[0]], results[pair[1]], comparison, counted, threshold)
            for pair, comparison in comparisons.items()
        ],
    }


def _seed(
    seed: int, results: Sequence[LetterResult], counted: set[str], test: Words
) -> dict[str, Any]:
    letters = [
        {
            "letter": result.letter,
            "f1_by_k": result.f1_by_k.tolist(),
            "f1_first": float(result.f1_by_k[0]),
            "latents": list(result.latents),
            "num_latents": len(result.latents),
            "true_positives": len(result.true_positives),
            "silent_frac": float(result.silent.mean()),
            "absorption_rate": result.absorption_rate,
            "absorption_fraction": result.absorption_fraction,
            "absorbed": [
                {"word": test.texts[word], "latent": int(latent)}
                for word, latent in zip(
                    result.true_positives[result.absorbed],
                    result.absorbers[result.absorbed],
                    strict=True,
                )
            ],
        }
        for result in results
    ]
    own = [record for record in letters if record["letter"] in counted]
    means = {
        name: float(np.mean([record[name] for record in own])) if own else None for name in _MEANS
    }
    return {"seed": seed, **means, "letters": letters}


def _pair(
    seeds: tuple[int, int],
    of_a: Sequence[LetterResult],
    of_b: Sequence[LetterResult],
    comparison: Comparison,
    counted: set[str],
    threshold: float,
) -> dict[str, Any]:
    """What two seeds have in common, over the letters that count.

    Returns:
      `first_matched_frac`: letters whose first latents are partners in the decoders' matching.
      `first_shared_frac`: first latents, of either seed, that are shared with any latent of the
      other; beside it `shared_frac` of all latents. `latents_jaccard`: mean overlap of the main
      latents, carried over by the matching. `absorbed_jaccard`: overlap of the absorbed words,
      None if there are none. `rate_difference`: mean |difference| of a letter's absorption rates.
      All None if no letter counts.
    """
    target_N, shared_N = comparison.decoder.target, comparison.shared(threshold)
    shared_M = set(target_N[shared_N].tolist())
    matched: list[bool] = []
    shared: list[bool] = []
    overlaps: list[float] = []
    differences: list[float] = []
    both = either = 0
    # The ground truth is the same for all seeds, and so are the letters and their true positives.
    for a, b in zip(of_a, of_b, strict=True):
        if a.letter not in counted:
            continue
        first_a, first_b = a.latents[0], b.latents[0]
        matched.append(bool(target_N[first_a] == first_b))
        shared += [bool(shared_N[first_a]), first_b in shared_M]
        carried, own = {int(target_N[latent]) for latent in a.latents}, set(b.latents)
        overlaps.append(len(carried & own) / len(carried | own))
        differences.append(abs(a.absorption_rate - b.absorption_rate))
        both += int((a.absorbed & b.absorbed).sum())
        either += int((a.absorbed | b.absorbed).sum())
    means = {
        "first_matched_frac": matched,
        "first_shared_frac": shared,
        "latents_jaccard": overlaps,
        "rate_difference": differences,
    }
    return {
        "seeds": list(seeds),
        **{name: float(np.mean(values)) if values else None for name, values in means.items()},
        "absorbed_jaccard": both / either if either else None,
        "shared_frac": comparison.shared_frac(threshold),
        "threshold": threshold,
    }


def absorption_table(result: Mapping[str, Any]) -> str:
    """A row for each letter, means over those that count, and a row for each pair of seeds."""
    seeds = result["seeds"]
    titles = "".join(f"{title:>9}" for title in ("F1, k=1", "latents", "absorbed") * len(seeds))
    lines = [
        " " * 24 + "".join(f"{'seed {}'.format(seed['seed']):>27}" for seed in seeds),
        f"{'letter':<8}{'words':>7}{'probe F1':>9}{titles}",
    ]
    by_letter = [{record["letter"]: record for record in seed["letters"]} for seed in seeds]
    for probe in result["probes"]:
        cells = [found.get(probe["letter"]) for found in by_letter]
        lines.append(
            f"{probe['letter']:<8}{probe['test_words']:>7}{probe['f1']:>9.2f}"
            + "".join(f"{'-':>9}" * 3 if cell is None else _cells(cell) for cell in cells)
            + ("" if probe["counts"] else "  (probe too weak)")
        )
    num = sum(probe["counts"] for probe in result["probes"])
    if not num:
        return "\n".join(
            [*lines, f"No probe has an F1 above {MIN_PROBE_F1}: nothing to say of absorption here."]
        )
    mean_f1 = np.mean([probe["f1"] for probe in result["probes"] if probe["counts"]])
    lines.append(
        f"{f'mean of {num}':<15}{mean_f1:>9.2f}" + "".join(_cells(seed, ".1f") for seed in seeds)
    )
    rate = result["spread"]["absorption_rate"]
    spread = "" if rate["std"] is None else f" ± {rate['std']:.1%} over seeds"
    lines.append(f"absorption rate {rate['mean']:.1%}{spread}")
    columns = {
        "first_matched_frac": "first matched",
        "first_shared_frac": "first shared",
        "shared_frac": "all shared",
        "latents_jaccard": "latents alike",
        "absorbed_jaccard": "words alike",
    }
    if result["pairs"]:
        lines += ["", "pair".ljust(10) + "".join(f"{title:>15}" for title in columns.values())]
    for pair in result["pairs"]:
        cells = (pair[name] for name in columns)
        name = f"{pair['seeds'][0]}, {pair['seeds'][1]}"
        lines.append(
            f"{name:<10}" + "".join(f"{'-' if x is None else f'{x:.1%}':>15}" for x in cells)
        )
    return "\n".join(lines)


def _cells(record: Mapping[str, Any], count: str = "d") -> str:
    return (
        f"{record['f1_first']:>9.2f}{format(record['num_latents'], count):>9}"
        f"{record['absorption_rate']:>9.1%}"
    )
