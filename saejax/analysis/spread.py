"""How sure a fraction is: over the latents of a pair, and over seeds. S seeds, P pairs."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy.special import ndtri, stdtrit

from saejax.analysis.seeds import CONFIDENCE
from saejax.errors import InputError

# The fractions of an entry of `results/overlap.json`.
FRACTIONS = ("shared_frac", "aligned_frac", "decoder_frac", "agreement_frac", "max_cosine_frac")


def wilson(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a fraction of latents, by Wilson's score.

    With p = count / n and z the normal quantile, the fractions q with
    |p - q| <= z sqrt(q (1 - q) / n):

        (p + z^2/2n +- z sqrt(p (1 - p) / n + z^2/4n^2)) / (1 + z^2/n)

    It takes latents for independent draws, as a bootstrap over latents does, whose limit it is
    for large n; 0 and n hits keep an interval. One-to-one partners compete, and latents of one
    dictionary share its training, so it is about the latents of this pair, not about other seeds.

    Example:
      >>> [round(end, 3) for end in wilson(50, 100)]
      [0.404, 0.596]

    Args:
      count: Latents that are shared.
      total: Latents, n.

    Raises:
      InputError: Unless 0 <= count <= total and total > 0.

    References:
      Wilson 1927, Probable inference, the law of succession, and statistical inference, Journal
      of the American Statistical Association 22.
    """
    if not 0 <= count <= total or total < 1:
        raise InputError(f"{count} of {total} latents are no fraction: give 0 to {total} of them")
    p, z = count / total, float(ndtri((1 + CONFIDENCE) / 2))
    middle = p + z * z / (2 * total)
    reach = z * math.sqrt(p * (1 - p) / total + (z / (2 * total)) ** 2)
    scale = 1 + z * z / total
    # Rounding may leave [0, 1] at its ends.
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def jackknife(values: Sequence[float], seeds: Sequence[tuple[int, ...]]) -> float | None:
    """Standard error over seeds of a mean over pairs (or over single seeds), by the jackknife.

    sqrt((S - 1) / S sum_s (f_s - f)^2) with f_s the mean of the values in which seed s has no part
    and f the mean of all f_s. It estimates how far the mean would move with other seeds, all else
    the same, although pairs with a common seed are not independent; its square is on average not
    below the true variance. The spread over pairs says nothing of that sort: it does not shrink
    with more seeds.

    Args:
      values: One a pair, in any unit.
      seeds: The seeds of each.

    Returns:
      The standard error, or None where leaving out a seed leaves no pair: it takes three seeds.

    References:
      Efron & Stein 1981, The jackknife estimate of variance, Annals of Statistics 9.

    Example:
      >>> round(jackknife([0.4, 0.5, 0.6], [(1, 2), (1, 3), (2, 3)]), 4)
      0.1155
    """
    left_out = [
        [value for value, some in zip(values, seeds, strict=True) if seed not in some]
        for seed in sorted(set(itertools.chain(*seeds)))
    ]
    if not all(left_out):
        return None
    means = [statistics.fmean(rest) for rest in left_out]
    return math.sqrt(len(means) - 1) * statistics.pstdev(means)


class Spread(NamedTuple):
    """The mean of a fraction over pairs of seeds, and what other seeds could have given."""

    mean: float
    lowest: float
    highest: float
    standard_error: float | None  # by the jackknife over seeds; None for two seeds
    low: float | None  # 95 % interval
    high: float | None


def over_seeds(values: Mapping[tuple[Any, Any], float]) -> Spread:
    """Mean over all pairs of S seeds, with its error by the jackknife over seeds.

    Pairs that have a seed in common are not independent, so that the standard deviation over
    P = S (S - 1) / 2 pairs divided by sqrt(P) is too small: the standard error is that of
    `jackknife`. The interval is the mean plus and minus it times the quantile of Student's t with
    S - 1 degrees of freedom, within [0, 1].
    It takes seeds for independent draws; the data are the same in all.

    Example:
      >>> spread = over_seeds({(1, 2): 0.5, (1, 3): 0.5, (2, 3): 0.2})
      >>> round(spread.mean, 3), round(spread.standard_error, 3)
      (0.4, 0.2)

    Args:
      values: A fraction for every pair of seeds, in either order.

    Raises:
      InputError: If there is no pair, or one is missing or there twice.
    """
    seeds = list(dict.fromkeys(itertools.chain(*values)))
    found = {frozenset(pair) for pair in values}
    wanted = {frozenset(pair) for pair in itertools.combinations(seeds, 2)}
    if not values or found != wanted or len(values) != len(wanted):
        raise InputError(
            f"pairs {list(values)}: the spread over seeds needs each pair of them, once"
        )
    mean = statistics.fmean(values.values())
    ends = min(values.values()), max(values.values())
    error = jackknife(list(values.values()), list(values))
    if error is None:
        return Spread(mean, *ends, None, None, None)
    reach = error * float(stdtrit(len(seeds) - 1, (1 + CONFIDENCE) / 2))
    return Spread(mean, *ends, error, max(0.0, mean - reach), min(1.0, mean + reach))


def spread_record(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The spread of every fraction of a run, as in `results/spread.json`.

    Args:
      pairs: Entries of `results/overlap.json`, of all pairs of the seeds by each method.

    Returns:
      confidence;
      pairs: seeds, method, num_latents, and by definition the ends of its interval over latents,
      see `wilson`;
      methods: by method and definition the fields of `Spread`;
      missing: why, for the jackknife of two seeds.

    Raises:
      InputError: As `over_seeds`.
    """
    rows = [
        {name: pair[name] for name in ("seeds", "method", "num_latents")}
        | {
            name: wilson(round(pair[name] * pair["num_latents"]), pair["num_latents"])
            for name in FRACTIONS
        }
        for pair in pairs
    ]
    methods = {}
    for method in dict.fromkeys(pair["method"] for pair in pairs):
        own = [pair for pair in pairs if pair["method"] == method]
        methods[method] = {
            name: over_seeds({tuple(pair["seeds"]): pair[name] for pair in own})._asdict()
            for name in FRACTIONS
        }
    few = any(
        spread["standard_error"] is None for each in methods.values() for spread in each.values()
    )
    missing = {"jackknife": "2 seeds: needs three"} if few else {}
    return {"confidence": CONFIDENCE, "pairs": rows, "methods": methods, "missing": missing}
