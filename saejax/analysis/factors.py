"""One factor at a time: how what seeds share moves with each setting that a sweep varies alone."""

import itertools
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from saejax.analysis.spread import FRACTIONS, jackknife
from saejax.errors import InputError

Run = Mapping[str, Any]

_MEAN_COSINES = ("decoder_matched", "encoder_matched", "decoder_max", "encoder_max")
_OF_SEEDS = ("fvu", "l0", "dead_frac")

# What each factor is called, in this order. Any other field that runs vary alone is a factor by
# its own name.
LABELS = {
    "latents": "number of latents",
    "k": "k, active latents per token",
    "tokens": "tokens seen in training",
    "layer": "layer",
    "kind": "hook point",
    "model": "language model",
    "architecture": "architecture",
}
# Of runs that differ in one of these alone: the factor.
_FIELDS = {
    "sae.num_latents": "latents",
    "sae.k": "k",
    "data.num_tokens": "tokens",
    "data.epochs": "tokens",
    "hookpoint": "place",
    "lm.source": "model",
    "sae.arch": "architecture",
}
# What a factor may take along: another model has other names of hook points and another width;
# an architecture has its own settings.
_ALONG = {
    "tokens": {"data.num_tokens", "data.epochs"},
    "model": {"lm.dtype", "lm.batch_windows", "hookpoint", "sae.num_latents"},
    "architecture": {
        "sae.k",
        "sae.unit_decoder",
        "sae.auxk_alpha",
        "sae.multi_topk",
        "sae.prefixes",
        "sae.sparsity_coefficient",
        "sae.sparsity_warmup_steps",
        "sae.gated_auxiliary",
        "sae.bandwidth",
        "train.input_scaling",
    },
}
# What a figure of one factor says of the others.
_HELD = ("lm.source", "hookpoint", "sae.arch", "sae.num_latents", "sae.k", "tokens")
# Fields that do not decide what a run finds, and those that are no factor.
NO_MATTER = ("mesh.", "train.checkpoint", "train.log_every_steps")
_NO_FACTOR = ("init_seeds", *NO_MATTER)
_BLOCK = re.compile(r"(?:layers|h)\.(\d+)(?:\.(.+))?")


def factors(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep says about each factor, around the run that most others differ from in one.

    A run differs in one factor if its configuration differs in that field alone, or in fields that
    go with it: those of an architecture with `sae.arch`; hook point and number of latents with
    `lm.source`; `data.num_tokens` and `data.epochs` with each other, as tokens seen. `init_seeds`,
    the mesh and the intervals of checkpoints and logs never count. The base is the run from which
    most runs differ in one factor, of several the one with the most seeds, of those the first by
    name. Where runs have the same value, as ReLU with several penalties, the one counts that
    differs in the fewest other fields, of these the one whose L0 is closest to the base's.

    Args:
      result: Of `saejax.sweep_results.collect`.

    Returns:
      For `results/factors.json`:
      base, its name; threshold of the cosines, None where runs differ in it or have no pairs;
      others, the runs in no factor; commit; versions;
      factors: for each its factor, a name in `LABELS` or a field; series, the kind of hook point
      where the factor is "layer" or "model", else None; numeric; held, settings that all its runs
      have in common; points, ascending where values are numbers; steps of the shared fraction from
      each value that has pairs to the next: from, to, change, pairs (of the one with fewer),
      ranges_overlap, and shared, "rises", "falls" or, where the ranges over pairs overlap, "no
      clear change"; trend, what the clear steps say, None for names.
      A point is value, run, seeds and pairs (how many); for each fraction and mean cosine the mean,
      low and high over pairs and standard_error over seeds, see `jackknife`, or None without pairs;
      for fvu, l0 and dead_frac the same over seeds.

    Raises:
      InputError: For no runs.
    """
    runs: list[Run] = [{**result["common"], **run} for run in result["runs"]]
    if not runs:
        raise InputError("the sweep has no finished run to compare")
    fields = [path for path in result["varied"] if not path.startswith(_NO_FACTOR)]
    base = max(
        runs, key=lambda one: (sum(_factor(one, r, fields) is not None for r in runs), _seeds(one))
    )
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if (factor := _factor(base, run, fields)) is not None:
            groups.setdefault(factor, [base]).append(run)
    found = [made for name, group in groups.items() for made in _tables(name, group, fields)]
    order = [*LABELS, *fields]
    found.sort(key=lambda table: order.index(table["factor"]))
    used = {point["run"] for table in found for point in table["points"]} | {base["name"]}
    thresholds = {pair["threshold"] for run in runs for pair in run["pairs"]}
    return {
        "base": base["name"],
        "threshold": thresholds.pop() if len(thresholds) == 1 else None,
        "factors": found,
        "others": [run["name"] for run in runs if run["name"] not in used],
        "commit": result["commit"],
        "versions": result["versions"],
    }


def _seeds(run: Run) -> int:
    return len(run["fvu"])


def _factor(one: Run, other: Run, fields: Sequence[str]) -> str | None:
    """The factor in which two runs differ, if it is one."""
    differ = {path for path in fields if one[path] != other[path]}
    for lead in ("lm.source", "sae.arch", *sorted(differ)):
        name = _FIELDS.get(lead, lead)
        if lead in differ and differ - {lead} <= _ALONG.get(name, set()):
            same_kind = _place(one["hookpoint"])[1] == _place(other["hookpoint"])[1]
            return name if name != "model" or same_kind else None
    return None


def _place(hookpoint: str) -> tuple[int | None, str]:
    """Layer and kind: (6, "mlp") of `layers.6.mlp`, (6, "residual") of `layers.6`."""
    match = _BLOCK.fullmatch(hookpoint)
    return (int(match[1]), match[2] or "residual") if match else (None, hookpoint)


def _tables(name: str, group: Sequence[Run], fields: Sequence[str]) -> list[dict[str, Any]]:
    """A factor's record; of hook points one by layer for each kind, and one by kind."""
    base = group[0]
    if name == "place":
        places = [(*_place(run["hookpoint"]), run) for run in group]
        made = []
        for kind in dict.fromkeys(kind for _, kind, _ in places):
            layers = [(at, run) for at, own, run in places if own == kind and at is not None]
            made += _table("layer", kind, layers, base, fields)
        same = [(kind, run) for at, kind, run in places if at == places[0][0]]
        return made + _table("kind", None, same, base, fields)
    kind = _place(base["hookpoint"])[1] if name == "model" else None
    path = next((path for path, factor in _FIELDS.items() if factor == name), name)
    values = [(run["tokens"] if name == "tokens" else run[path], run) for run in group]
    # A list, as of `sae.prefixes`, is a name.
    values = [(str(x) if isinstance(x, list) else x, run) for x, run in values]
    return _table(name, kind, values, base, fields)


def _table(
    name: str,
    series: str | None,
    values: Sequence[tuple[Any, Run]],
    base: Run,
    fields: Sequence[str],
) -> list[dict[str, Any]]:
    """The record of a factor, or none where it has one value."""
    l0 = statistics.fmean(base["l0"])
    own = _ALONG["architecture"] if name == "architecture" else set()

    def distance(run: Run) -> tuple[int, float]:
        changed = sum(run[path] != base[path] for path in fields if path not in own)
        return changed, abs(statistics.fmean(run["l0"]) - l0)

    chosen: dict[Any, Run] = {}
    for value, run in values:
        if value not in chosen or distance(run) < distance(chosen[value]):
            chosen[value] = run
    if len(chosen) < 2:
        return []
    numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x in chosen)
    ordered = sorted(chosen.items()) if numeric else chosen.items()
    points = [_point(value, run) for value, run in ordered]
    steps = _steps(points) if numeric else []
    clear = {step["shared"] for step in steps} - {"no clear change"}
    held = [
        path
        for path in _HELD
        if path not in own and all(run[path] == base[path] for run in chosen.values())
    ]
    return [
        {
            "factor": name,
            "series": series,
            "numeric": numeric,
            "held": {path: base[path] for path in held},
            "points": points,
            "steps": steps,
            "trend": " and ".join(sorted(clear)) or ("no clear change" if steps else None),
        }
    ]


def _point(value: Any, run: Run) -> dict[str, Any]:
    pairs = run["pairs"]
    seeds = [tuple(pair["seeds"]) for pair in pairs]
    of_pairs = {name: _summary([p[name] for p in pairs], seeds) for name in FRACTIONS}
    cosines = {
        name: _summary([p["mean_cosine"][name] for p in pairs], seeds) for name in _MEAN_COSINES
    }
    single = [(seed,) for seed in range(_seeds(run))]
    return (
        {"value": value, "run": run["name"], "seeds": _seeds(run), "pairs": len(pairs)}
        | of_pairs
        | {"mean_cosine": cosines}
        | {name: _summary(run[name], single) for name in _OF_SEEDS}
    )


def _summary(
    values: Sequence[float], seeds: Sequence[tuple[int, ...]]
) -> dict[str, float | None] | None:
    if not values:
        return None
    return {
        "mean": statistics.fmean(values),
        "low": min(values),
        "high": max(values),
        "standard_error": jackknife(values, seeds),
    }


def _steps(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether the shared fraction rises or falls; the range of one pair is a point."""
    steps = []
    for one, other in itertools.pairwise(p for p in points if p["pairs"]):
        a, b = one["shared_frac"], other["shared_frac"]
        overlap = a["low"] <= b["high"] and b["low"] <= a["high"]
        change = b["mean"] - a["mean"]
        direction = "rises" if change > 0 else "falls"
        steps.append(
            {
                "from": one["value"],
                "to": other["value"],
                "change": change,
                "ranges_overlap": overlap,
                "shared": "no clear change" if overlap else direction,
                "pairs": min(one["pairs"], other["pairs"]),
            }
        )
    return steps
