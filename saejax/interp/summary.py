"""What the scores of many latents say, and how sure that is. A row is a latent of a record.

Dimension letters: n latents, B bootstrap draws.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.stats import rankdata

from saejax.analysis.spread import wilson

# Who explains: the language model, or the set of tokens.
SOURCES = ("llm", "token_set")
# Balanced accuracies of verdicts on windows.
_JUDGED = ("detection", "fuzzing")
# "mean" is that of detection and fuzzing; "embedding" is an AUROC, and no part of it.
SCORES = ("mean", *_JUDGED, "embedding")
_DRAWS = 1000

Row = Mapping[str, Any]
_Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


def score_of(row: Row, source: str, kind: str) -> float | None:
    """The score of a latent's explanation; None if it has none.

    Args:
      row: The latent.
      source: Of `SOURCES`.
      kind: Of `SCORES`; "mean" needs detection and fuzzing, and is theirs alone.
    """
    found = row[source]
    kinds = _JUDGED if kind == "mean" else (kind,)
    if found is None or any(name not in found for name in kinds):
        return None
    field = "auroc" if kind == "embedding" else "balanced_accuracy"
    values = [found[name][field] for name in kinds]
    return None if None in values else statistics.fmean(values)


def summaries(rows: Sequence[Row], *, base_seed: int, seed: int) -> dict[str, Any]:
    """Everything that is said of the latents together.

    Levels have fewer latents in some ranges of cosines than in others, of which about as many are
    drawn: means and medians weight each latent by how many of its stratum stand behind it, so that
    they are those of all latents that could have been drawn. Intervals hold 95 % of 1,000 bootstrap
    draws of latents within a level, and are None for a single latent. They are about the latents of
    the base seed, not about other seeds.

    Args:
      rows: Latents of the base seed and their partners.
      base_seed: Which one that is.
      seed: Of the bootstrap.

    Returns:
      By score (`SCORES`; "embedding" only where some latent has it):
      by_level: by source a row for each level with num, mean, median and their intervals;
      difference: by source the mean of the latents that another seed shares minus that of those
      that none does, with its interval; None if one kind is missing;
      llm_beats_token_set: won, tied, lost, frac (won and half of the ties), interval of the latents
      won among those not tied;
      pairs: by source num, correlation of the two scores of a pair, and of their mean and their
      distance with the cosine of the pair; Spearman's, None below three pairs.
      And counts: explained, scored, problems, unparsable_windows.
    """
    base = [row for row in rows if row["seed"] == base_seed]
    found: dict[str, Any] = {}
    embedded = any(score_of(row, s, "embedding") is not None for row in rows for s in SOURCES)
    for kind in SCORES if embedded else SCORES[:-1]:
        rng = np.random.default_rng(seed)
        found[kind] = {
            "by_level": {source: _by_level(base, source, kind, rng) for source in SOURCES},
            "difference": {source: _difference(base, source, kind, rng) for source in SOURCES},
            "llm_beats_token_set": _wins(rows, kind),
            "pairs": {
                source: _pairs(paired(rows, source, kind, base_seed=base_seed))
                for source in SOURCES
            },
        }
    return found | {"counts": _counts(rows)}


def paired(
    rows: Sequence[Row], source: str, kind: str, *, base_seed: int
) -> list[tuple[float, float, Row]]:
    """(score, score of its partner, row) of each latent of the base seed where both are scored."""
    partners = {row["partner"]: row for row in rows if row["seed"] != base_seed}
    found = []
    for row in rows:
        if row["seed"] == base_seed and row["latent"] in partners:
            own = score_of(row, source, kind)
            other = score_of(partners[row["latent"]], source, kind)
            if own is not None and other is not None:
                found.append((own, other, row))
    return found


def weighted(
    rows: Sequence[Row], source: str, kind: str
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Scores of those that have one, and how many latents of the stratum each stands for."""
    known = [(row, value) for row in rows if (value := score_of(row, source, kind)) is not None]
    drawn = Counter(tuple(row["stratum"]) for row, _ in known)
    weight_n = [row["stratum_size"] / drawn[tuple(row["stratum"])] for row, _ in known]
    return np.array([value for _, value in known], float), np.array(weight_n, float)


def _by_level(
    base: Sequence[Row], source: str, kind: str, rng: np.random.Generator
) -> list[dict[str, Any]]:
    levels = sorted({row["level"] for row in base if row["level"] is not None})
    made = []
    for level in levels:
        value_n, weight_n = weighted([r for r in base if r["level"] == level], source, kind)
        if not len(value_n):
            continue
        of_level: dict[str, Any] = {"level": level, "num": len(value_n)}
        statistics_of: dict[str, _Statistic] = {"mean": _mean, "median": _median}
        for name, statistic in statistics_of.items():
            drawn_B = _bootstrap(value_n, weight_n, statistic, rng)
            of_level[name] = float(statistic(value_n[None], weight_n[None])[0])
            of_level[f"{name}_interval"] = _interval(drawn_B, len(value_n))
        made.append(of_level)
    return made


def _difference(
    base: Sequence[Row], source: str, kind: str, rng: np.random.Generator
) -> dict[str, Any] | None:
    known = [row for row in base if row["level"] is not None]
    groups = [
        weighted([row for row in known if (row["level"] > 0) == wanted], source, kind)
        for wanted in (True, False)
    ]
    if any(not len(value_n) for value_n, _ in groups):
        return None
    shared_B, unshared_B = (_bootstrap(*group, _mean, rng) for group in groups)
    shared, unshared = (float(_mean(v_n[None], w_n[None])[0]) for v_n, w_n in groups)
    return {
        "shared": shared,
        "unshared": unshared,
        "difference": shared - unshared,
        "interval": _interval(shared_B - unshared_B, min(len(value_n) for value_n, _ in groups)),
    }


def _wins(rows: Sequence[Row], kind: str) -> dict[str, Any] | None:
    both = [(score_of(row, "llm", kind), score_of(row, "token_set", kind)) for row in rows]
    known = [(a, b) for a, b in both if a is not None and b is not None]
    if not known:
        return None
    won, lost = sum(a > b for a, b in known), sum(a < b for a, b in known)
    tied = len(known) - won - lost
    return {
        "won": won,
        "tied": tied,
        "lost": lost,
        "frac": (won + tied / 2) / len(known),
        "interval": list(wilson(won, won + lost)) if won + lost else None,
    }


def _pairs(pairs: Sequence[tuple[float, float, Row]]) -> dict[str, Any]:
    one_n, other_n = (np.array([pair[i] for pair in pairs], float) for i in (0, 1))
    cosine_n = np.array([row["cosine"] for *_, row in pairs], float)
    return {
        "num": len(pairs),
        "correlation": _spearman(one_n, other_n),
        "mean_with_cosine": _spearman((one_n + other_n) / 2, cosine_n),
        "distance_with_cosine": _spearman(np.abs(one_n - other_n), cosine_n),
    }


def _counts(rows: Sequence[Row]) -> dict[str, Any]:
    asked = [row["llm"] for row in rows if row["llm"] is not None]
    # "failed: what the server said" of different calls are one problem.
    problems = Counter(each["problem"].partition(":")[0] for each in asked if each["problem"])
    judged = [each[kind] for each in asked for kind in _JUDGED if kind in each]
    return {
        "latents": len(rows),
        "explained": sum(each["explanation"] is not None for each in asked),
        "scored": sum(score_of(row, "llm", "mean") is not None for row in rows),
        "problems": dict(problems),
        "unparsable_windows": sum(each["unparsable"] for each in judged),
    }


def _mean(value_Bn: np.ndarray, weight_Bn: np.ndarray) -> np.ndarray:
    return (value_Bn * weight_Bn).sum(axis=1) / weight_Bn.sum(axis=1)


def _median(value_Bn: np.ndarray, weight_Bn: np.ndarray) -> np.ndarray:
    """The mean of the lowest value with half of the weight at or below it, and the highest."""
    order_Bn = np.argsort(value_Bn, axis=1, kind="stable")
    value_Bn, weight_Bn = (np.take_along_axis(x, order_Bn, axis=1) for x in (value_Bn, weight_Bn))
    share_Bn = np.cumsum(weight_Bn, axis=1) / weight_Bn.sum(axis=1)[:, None]
    # A share of one half may miss it by a rounding.
    low_B = np.argmax(share_Bn >= 0.5 - 1e-9, axis=1)
    high_B = np.argmax(share_Bn > 0.5 + 1e-9, axis=1)
    ends = [np.take_along_axis(value_Bn, end_B[:, None], axis=1)[:, 0] for end_B in (low_B, high_B)]
    return (ends[0] + ends[1]) / 2


def _bootstrap(
    value_n: np.ndarray, weight_n: np.ndarray, statistic: _Statistic, rng: np.random.Generator
) -> Float64[np.ndarray, " B"]:
    drawn_Bn = rng.integers(len(value_n), size=(_DRAWS, len(value_n)))
    return statistic(value_n[drawn_Bn], weight_n[drawn_Bn])


def _interval(drawn_B: Float64[np.ndarray, " B"], num: int) -> list[float] | None:
    """Of a statistic of so many latents; one says nothing of others."""
    if num < 2:
        return None
    return [float(end) for end in np.quantile(drawn_B, [0.025, 0.975])]


def _spearman(a_n: np.ndarray, b_n: np.ndarray) -> float | None:
    """Correlation of ranks; None for fewer than three points, or if one of the two is constant."""
    if len(a_n) < 3 or not np.ptp(a_n) or not np.ptp(b_n):
        return None
    found = float(np.corrcoef(rankdata(a_n), rankdata(b_n))[0, 1])
    return found if math.isfinite(found) else None
