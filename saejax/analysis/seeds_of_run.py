"""What many seeds have in common, as the record of `results/seeds.json`. N latents, S seeds."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from saejax.analysis.compare import Comparison
from saejax.analysis.cycles import core, cycles
from saejax.analysis.power_law import Fit, compare_fits, fit_offset_power_law, fit_power_law
from saejax.analysis.repeats import repeats
from saejax.analysis.seeds import Trend, seen_from_other, trend
from saejax.errors import InputError
from saejax.rundir import RunDir

# [S][S], for each pair of places in the list of seeds.
_Square = list[list[np.ndarray | None]]


class PairTargets(NamedTuple):
    """Partners of the latents of one seed in a later one, and which of them are shared."""

    decoder: Int[np.ndarray, " N"]
    encoder: Int[np.ndarray, " N"]
    shared: Bool[np.ndarray, " N"]  # only where both name the same partner


def seeds_of_run(run: RunDir, *, method: str) -> dict[str, Any]:
    """Reads the matchings of all pairs of a run, and counts.

    Args:
      run: A run with two seeds or more, whose pairs are matched.
      method: Of its matchings, as in "exact".

    Returns:
      As `seeds_record`, with `hookpoint`, `method` and `threshold`.

    Raises:
      InputError: If a matching is missing or broken, or the run has one seed.
    """
    cfg = run.read_config()
    threshold = cfg.match.threshold
    pairs = {}
    for pair in itertools.combinations(cfg.init_seeds, 2):
        matched = run.matching(cfg.hookpoint, pair, method)
        if not matched.exists():
            raise InputError(
                f"{matched} is missing: experiments/seed_overlap.py matches all pairs of a run, "
                "by the methods of --config.match.methods"
            )
        comparison = Comparison.load(matched, run.matching(cfg.hookpoint, pair, "max_cosine"))
        pairs[pair] = PairTargets(
            comparison.decoder.target, comparison.encoder.target, comparison.shared(threshold)
        )
    record = seeds_record(cfg.init_seeds, pairs)
    about = {"hookpoint": cfg.hookpoint, "method": method, "threshold": threshold}
    return about | record


def seeds_record(
    seeds: Sequence[int], pairs: Mapping[tuple[int, int], PairTargets]
) -> dict[str, Any]:
    """Everything that follows from the matchings of all pairs of S seeds of N latents.

    Args:
      seeds: In the order of the pairs.
      pairs: (i, j) for every i before j in `seeds`.

    Returns:
      An object for JSON:
      seeds, num_latents;
      shared_frac: mean, lowest and highest of all pairs; pairs: seeds and shared_frac of each;
      trend: a row for each number k of autoencoders: num_saes, only_in_base_frac; lowest and
      highest of all bases; standard_error, low and high by the jackknife over seeds, None at S;
      levels: [S][S], see `Trend`;
      repeats: see `Repeats`;
      fits: power_law and offset_power_law with parameters, interval, rss, aic, aicc, and from six
      seeds on c_without_a_seed, the lowest and highest asymptote when one seed is left out;
      comparison, see `FitComparison`;
      cycles: chance, means, and a row for each triple, by the decoder's matchings, the encoder's,
      and of latents shared in all three; core_frac, of latents that are the same in all S;
      missing: why, for each part that more seeds would give.

    Raises:
      InputError: For fewer than two seeds, a missing pair, or sizes that differ.
    """
    S = len(seeds)
    if S < 2:
        raise InputError(f"seeds={list(seeds)}: what seeds share needs two of them")
    if set(pairs) != (wanted := set(itertools.combinations(seeds, 2))):
        raise InputError(
            f"seeds={list(seeds)}: pairs must be all of these and no others, not without "
            f"{sorted(wanted - set(pairs))} and with {sorted(set(pairs) - wanted)}"
        )
    num_latents = pairs[seeds[0], seeds[1]].shared.size
    for (one, other), pair in pairs.items():
        sizes = {array.size for array in pair}
        if (
            sizes != {num_latents}
            or max(pair.decoder.max(initial=0), pair.encoder.max(initial=0)) >= num_latents
        ):
            raise InputError(
                f"seeds {one} and {other} are not matched among {num_latents} latents each, as "
                f"seeds {seeds[0]} and {seeds[1]} are"
            )
    hits, decoder, encoder = _square(S), _square(S), _square(S)
    for (i, one), (j, other) in itertools.combinations(enumerate(seeds), 2):
        pair = pairs[one, other]
        decoder[i][j], encoder[i][j] = pair.decoder, pair.encoder
        hits[i][j] = pair.shared
        hits[j][i] = seen_from_other(pair.shared, pair.decoder)
    found = trend(hits)
    shared_fracs = [float(pair.shared.mean()) for pair in pairs.values()]
    missing: dict[str, str] = {}
    few = f"{S} seeds: needs three"
    if S < 3:
        missing = {"jackknife": few, "repeats": few, "cycles": few}
    return {
        "seeds": list(seeds),
        "num_latents": num_latents,
        "shared_frac": {
            "mean": statistics.fmean(shared_fracs),
            "lowest": min(shared_fracs),
            "highest": max(shared_fracs),
        },
        "pairs": [
            {"seeds": list(names), "shared_frac": frac}
            for names, frac in zip(pairs, shared_fracs, strict=True)
        ],
        "trend": _trend_rows(found),
        "levels": found.levels.tolist(),
        "repeats": None if S < 3 else _repeats_row(found),
        "fits": _fits(found, missing),
        "cycles": None if S < 3 else _cycles_record(seeds, decoder, encoder, hits),
        "missing": missing,
    }


def _square(S: int) -> _Square:
    return [[None] * S for _ in range(S)]


def _trend_rows(found: Trend) -> list[dict[str, Any]]:
    rows = []
    interval, standard_error = found.interval, found.standard_error
    for k, frac in found.only_in_base_frac.items():
        low, high = interval.get(k, (None, None))
        rows.append(
            {
                "num_saes": k,
                "only_in_base_frac": frac,
                "lowest_base": float(found.by_base[:, k - 2].min()),
                "highest_base": float(found.by_base[:, k - 2].max()),
                "standard_error": standard_error.get(k),
                "low": low,
                "high": high,
            }
        )
    return rows


def _repeats_row(found: Trend) -> dict[str, Any]:
    row = repeats(found.levels)._asdict()
    return row | {"independent_levels": row["independent_levels"].tolist()}


def fits_record(fractions: Mapping[int, float]) -> tuple[dict[str, Any], dict[str, str]]:
    """Both fits and their comparison, for JSON; and why one of them is missing.

    Args:
      fractions: {k: fraction}, as `Trend.only_in_base_frac`.

    Returns:
      `fits` of `seeds_record` without what leaves out a seed, and a part of its `missing`.
    """
    fits: dict[str, Fit] = {}
    missing: dict[str, str] = {}
    for name, fit in (("power_law", fit_power_law), ("offset_power_law", fit_offset_power_law)):
        try:
            fits[name] = fit(fractions)
        except InputError as error:
            missing[f"fits.{name}"] = str(error)
    record: dict[str, Any] = {
        name: {
            "parameters": fit.parameters,
            "interval": {key: reach and list(reach) for key, reach in fit.interval.items()},
            "rss": fit.rss,
            "num_points": fit.num_points,
            "aic": fit.aic,
            "aicc": fit.aicc,
        }
        for name, fit in fits.items()
    }
    if len(fits) == 2:
        record["comparison"] = compare_fits(*fits.values())._asdict()
    return record, missing


def _fits(found: Trend, missing: dict[str, str]) -> dict[str, Any]:
    record, why = fits_record(found.only_in_base_frac)
    missing |= why
    if "offset_power_law" in record:
        try:
            # Points of the same seeds err together, which the fit's own intervals do not know.
            without = [
                fit_offset_power_law(dict(enumerate(row_k.tolist(), start=2))).parameters["c"]
                for row_k in found.leave_one_out
            ]
            record["offset_power_law"]["c_without_a_seed"] = [min(without), max(without)]
        except InputError as error:
            missing["fits.offset_power_law.c_without_a_seed"] = f"without a seed: {error}"
    return record


def _cycles_record(
    seeds: Sequence[int], decoder: _Square, encoder: _Square, hits: _Square
) -> dict[str, Any]:
    kinds = {
        "decoder": cycles(decoder),
        "encoder": cycles(encoder),
        # Where both name the same partner, either way round is the same.
        "shared": cycles(decoder, hits),
    }
    first = kinds["decoder"]
    rows = []
    for t, places in enumerate(first.triples):
        rows.append({"seeds": [seeds[place] for place in places]})
        for name, kind in kinds.items():
            rows[-1][f"{name}_followed"] = int(kind.followed[t])
            rows[-1][f"{name}_frac"] = kind.frac[t]
    return {
        "chance": first.chance,
        "core_frac": float(core(decoder, hits).mean()),
        **{f"mean_{name}_frac": kind.mean_frac for name, kind in kinds.items()},
        "triples": rows,
    }
