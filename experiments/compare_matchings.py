"""Exact against entropic matching: what Sinkhorn gets right at each epsilon, and what it costs.

    python experiments/compare_matchings.py --a=runs/quickstart --seed_a=1 \
        --b=runs/quickstart --seed_b=2 --out=comparison

or, on a synthetic pair of which half is shared (width 768, decoder side):

    python experiments/compare_matchings.py --synthetic=32768 --out=comparison

Prints a row for each epsilon, how every definition of "shared" changes, and a conclusion;
--out gets comparison.json with all figures and what made them, comparison.txt with what is
printed, and comparison.svg and .png. Seconds include compilation where the cache has none, so
the second run of a small pair is the one to read. Memory is the most held above the inputs.

Two cores: the quickstart's pair takes under a minute, 32,768 latents about three minutes an
epsilon and side.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from benchmarks.instances import planted_pair

import saejax
from saejax import cli, rundir
from saejax.analysis.ladder import (
    against_exact,
    conclusion,
    definitions,
    definitions_table,
    ladder_table,
)
from saejax.config import MatchConfig
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.matching.matching import SIDES
from saejax.memory import PeakMemory
from saejax.report.ladder import ladder_figure
from saejax.report.style import write_figure

_A = flags.DEFINE_string("a", None, "First autoencoder.")
_B = flags.DEFINE_string("b", None, "Second autoencoder.")
_SEED_A = flags.DEFINE_integer("seed_a", None, "Seed of the first, where --a is a run.")
_SEED_B = flags.DEFINE_integer("seed_b", None, "Seed of the second, where --b is a run.")
_HOOKPOINT = flags.DEFINE_string("hookpoint", None, "Hook point, where a run has several.")
_SYNTHETIC = flags.DEFINE_integer(
    "synthetic", None, "Latents of a synthetic pair, in place of --a and --b.", lower_bound=64
)
_SIDE = flags.DEFINE_enum("side", "both", ("both", *SIDES), "Which weights to match.")
_EPSILONS = flags.DEFINE_list(
    "epsilons", ["0.1", "0.03", "0.01", "0.003", "0.001"], "Regularisations, in units of cosine."
)
_STARTS = flags.DEFINE_list(
    "starts", ["cold"], "From nothing (cold), from the exact duals (exact), or both."
)
_TOLERANCE = flags.DEFINE_float(
    "tolerance", MatchConfig().tolerance, "Error of the marginals at which Sinkhorn stops."
)
_THRESHOLD = flags.DEFINE_float("threshold", 0.7, "Cosine from which a latent is a hit.")
_OUT = flags.DEFINE_string("out", None, "Folder for the results; nothing is written without it.")


def main(argv: Sequence[str]) -> None:
    """Matches, compares, prints, saves."""
    del argv
    epsilons = _epsilons()
    pair, sides, about = _pair()
    threshold = _THRESHOLD.value
    exact, costs, rungs = {}, {}, []
    matchings: dict[tuple[Any, str], dict[str, saejax.Matching]] = {}
    for side in sides:
        exact[side], costs[side] = _measured(pair, side)
        for start in _STARTS.value:
            for epsilon in epsilons:
                found, cost = _measured(
                    pair, side, epsilon, exact[side] if start == "exact" else None
                )
                rungs.append(
                    against_exact(found, exact[side], threshold=threshold)
                    | {"start": start, "peak_bytes": cost["peak_bytes"]}
                )
                matchings.setdefault((epsilon, start), {})[side] = found
    rows = []
    if sides == SIDES:
        maxima = {side: saejax.match(*pair, method="max_cosine", side=side) for side in sides}
        for (epsilon, start), found in {("exact", ""): exact, **matchings}.items():
            comparison = saejax.Comparison(
                **found, decoder_max=maxima["decoder"], encoder_max=maxima["encoder"]
            )
            rows.append(
                {"epsilon": epsilon, "start": start} | definitions(comparison, threshold=threshold)
            )
    text = [ladder_table(costs, rungs, threshold=threshold)]
    text += [definitions_table(rows)] if rows else []
    text += [conclusion(costs, rungs, rows, threshold=threshold)]
    print(*text, sep="\n\n")
    if _OUT.value:
        record = about | {
            "threshold": threshold,
            "tolerance": _TOLERANCE.value,
            "exact": costs,
            "rungs": rungs,
            "definitions": rows,
            "conclusion": text[-1],
            "versions": rundir.versions(),
        }
        drawn = [r for r in rungs if (r["side"], r["start"]) == (sides[0], _STARTS.value[0])]
        _save(record, text, drawn, Path(_OUT.value))


def _epsilons() -> list[float]:
    """The largest first; and checks the flags that go with them."""
    try:
        epsilons = sorted({float(text) for text in _EPSILONS.value}, reverse=True)
    except ValueError:
        raise InputError(
            f"--epsilons={','.join(_EPSILONS.value)}: needs numbers, as in 0.1,0.01"
        ) from None
    if not (epsilons and epsilons[-1] > 0 and math.isfinite(epsilons[0])):
        raise InputError(f"--epsilons={','.join(_EPSILONS.value)}: each must be above 0")
    if not -1 <= _THRESHOLD.value <= 1:
        raise InputError(f"--threshold={_THRESHOLD.value}: a cosine is in [-1, 1]")
    if not _STARTS.value or set(_STARTS.value) - {"cold", "exact"}:
        raise InputError(f"--starts={','.join(_STARTS.value)}: choose cold, exact, or both")
    return epsilons


def _pair() -> tuple[tuple[Any, Any], tuple[str, ...], dict[str, Any]]:
    """What to match, on which sides, and what to call it."""
    if _SYNTHETIC.value is not None:
        if _A.value or _B.value:
            raise InputError("--synthetic: stands in place of --a and --b; give one or the other")
        num = _SYNTHETIC.value
        pair = planted_pair(num, 768, common_mean=0.0, seed=0)
        about = {"title": f"Synthetic, {num:,} latents", "synthetic": num, "width": 768, "seed": 0}
        return pair, ("decoder",), about
    if not (_A.value and _B.value):
        raise InputError("--a and --b: name two autoencoders, or give --synthetic=4096")
    a = saejax.load_sae(_A.value, _HOOKPOINT.value, _SEED_A.value)
    b = saejax.load_sae(_B.value, _HOOKPOINT.value, _SEED_B.value)
    sides = SIDES if _SIDE.value == "both" else (_SIDE.value,)
    about = {
        "title": f"{a.w_dec.shape[0]:,} latents",
        "a": dict(a.metadata),
        "b": dict(b.metadata),
    }
    return (a, b), sides, about


def _measured(
    pair: tuple[Any, Any],
    side: str,
    epsilon: float | None = None,
    start: saejax.Matching | None = None,
) -> tuple[saejax.Matching, dict[str, Any]]:
    """The exact matching, or with an epsilon the entropic one; and what it cost."""
    memory = PeakMemory()
    found = saejax.match(
        *pair,
        method="exact" if epsilon is None else "sinkhorn",
        side=side,
        epsilon=epsilon,
        tolerance=None if epsilon is None else _TOLERANCE.value,
        start=start,
    )
    assert found.certificate is not None  # Both methods give one.
    return found, {
        "seconds": found.certificate.seconds,
        "passes": found.certificate.passes,
        "peak_bytes": memory.host_bytes() + memory.device_bytes(),
    }


def _save(
    record: dict[str, Any], text: list[str], rungs: list[dict[str, Any]], folder: Path
) -> None:
    with atomic_write(folder / "comparison.json") as file:
        file.write(json.dumps(record, indent=2).encode() + b"\n")
    with atomic_write(folder / "comparison.txt") as file:
        file.write("\n\n".join(text).encode() + b"\n")
    title = f"Entropic against exact matching: {record['title']}"
    figure = ladder_figure(rungs, threshold=record["threshold"], title=title)
    write_figure(figure, folder, "comparison")


if __name__ == "__main__":
    cli.run(main)
