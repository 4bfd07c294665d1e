"""What the matchings that the paper's authors released say beyond the paper. No training.

    python experiments/paper_matchings.py --matchings=matchings_32k.npz

The file holds the authors' matchings of nine autoencoders (github.com/SrGonao/sae_overlap) as an
.npz archive: for each pair i < j of seeds `<name>/seed<i>-seed<j>/decoder` and `.../encoder`, a
permutation p of the N latents, in which latent r of seed i is matched to latent p[r] of seed j.

Cosines were not released, so a latent is called shared here when the decoder and the encoder
matching name the same partner, whatever the cosines. That is more than the paper counts: 79 %
against 42 % for a pair.

--out gets paper_matchings.json and figures/paper_matchings.*.svg and .png. Takes seconds.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from saejax import cli, rundir
from saejax.analysis.seeds_of_run import PairTargets, fits_record, seeds_record
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.matching.matching import SIDES
from saejax.report import paper
from saejax.report.style import write_figure
from saejax.report.trend_figures import donut_figure, levels_figure, trend_figure

_MATCHINGS = flags.DEFINE_string("matchings", None, "The released matchings, .npz.")
_OUT = flags.DEFINE_string("out", "results", "Folder for the results.")

_KEY = re.compile(r"(?P<name>.+)/seed(?P<i>\d+)-seed(?P<j>\d+)/(?P<side>decoder|encoder)")


def main(argv: Sequence[str]) -> None:
    """Reads, counts, prints, draws."""
    del argv
    if _MATCHINGS.value is None:
        raise InputError("--matchings is missing: name the .npz file of released matchings")
    name, pairs = _read(Path(_MATCHINGS.value))
    seeds = sorted({seed for pair in pairs for seed in pair})
    record = {
        "source": f"{name}, released with Paulo & Belrose (arXiv 2501.16615)",
        "shared": "the decoder and the encoder matching name the same partner, at any cosine",
        **seeds_record(seeds, pairs),
        "figure_a1_fits": fits_record(paper.ONLY_IN_BASE_FRAC)[0],
        "commit": rundir.commit(),
        "versions": rundir.versions(),
    }
    print(_summary(record))
    out = Path(_OUT.value)
    figures = {
        "trend": trend_figure(
            record["trend"], record["fits"], title=f"{name}: decoder and encoder agree"
        ),
        "levels": levels_figure(record["levels"], title=f"{name}: decoder and encoder agree"),
        "donut": donut_figure(
            record["levels"][0], title=f"Latents of seed {seeds[0]} on which other seeds agree"
        ),
    }
    for kind, figure in figures.items():
        write_figure(figure, out / "figures", f"paper_matchings.{kind}")
    # Six digits: no count here has more that mean something.
    rounded = json.loads(json.dumps(record), parse_float=lambda text: float(f"{float(text):.6g}"))
    with atomic_write(out / "paper_matchings.json") as file:
        file.write(json.dumps(rounded, indent=1).encode() + b"\n")
    print(f"results: {out / 'paper_matchings.json'}, figures: {out / 'figures'}")


def _read(path: Path) -> tuple[str, dict[tuple[int, int], PairTargets]]:
    """The name of the autoencoders, and the matchings of all pairs of them."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
    except FileNotFoundError:
        raise InputError(f"--matchings={path}: no such file; --help says what it holds") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"--matchings={path}: not a readable .npz archive ({error})") from None
    targets: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    names = set()
    for key, target in arrays.items():
        found = _KEY.fullmatch(key)
        if found is None:
            raise InputError(
                f"--matchings={path}: {key!r} is not <name>/seed<i>-seed<j>/decoder or .../encoder"
            )
        if target.ndim != 1 or not np.array_equal(np.sort(target), np.arange(target.size)):
            raise InputError(f"--matchings={path}: {key!r} is not a permutation of 0, 1, ...")
        names.add(found["name"])
        pair = int(found["i"]), int(found["j"])
        targets.setdefault(pair, {})[found["side"]] = target.astype(np.int32)
    if len(names) != 1 or not all(len(sides) == len(SIDES) for sides in targets.values()):
        raise InputError(
            f"--matchings={path}: needs both sides of every pair, of autoencoders of one name"
        )
    return names.pop(), {
        pair: PairTargets(sides["decoder"], sides["encoder"], sides["decoder"] == sides["encoder"])
        for pair, sides in sorted(targets.items())
    }


def _summary(record: dict[str, Any]) -> str:
    """The record as plain text."""
    shared = record["shared_frac"]
    lines = [
        f"{len(record['seeds'])} seeds, {len(record['pairs'])} pairs, {record['num_latents']:,} "
        f"latents: shared {shared['mean']:.1%} ({shared['lowest']:.1%} to {shared['highest']:.1%})",
        "",
        "autoencoders  only in the base  bases             jackknife over seeds, 95 %",
    ]
    for row in record["trend"]:
        reach = "" if row["low"] is None else f"{row['low']:.2%} to {row['high']:.2%}"
        bases = f"{row['lowest_base']:.2%} to {row['highest_base']:.2%}"
        line = f"{row['num_saes']:12}{row['only_in_base_frac']:18.2%}  {bases:16}  {reach}"
        lines.append(line.rstrip())
    lines.append("")
    for key, what in (("fits", ""), ("figure_a1_fits", "figure A1 of the paper, ")):
        for name in ("power_law", "offset_power_law"):
            if name in record[key]:
                fit = record[key][name]
                values = ", ".join(f"{k} = {value:.4g}" for k, value in fit["parameters"].items())
                lines.append(f"{what}{name}: {values}, residual sum of squares {fit['rss']:.2e}")
    if (repeats := record["repeats"]) is not None:
        independent = len(record["seeds"]) * repeats["independent_levels"][0]
        lines += [
            "shared with one seed, then with another: "
            f"{_percent(repeats['after_shared_frac'])}; not with one, then with another: "
            f"{_percent(repeats['after_unshared_frac'])}",
            f"with none of the others: {sum(row[0] for row in record['levels']):,} latents of all "
            f"bases; {independent:,.1f} if pairs were independent",
        ]
    if (found := record["cycles"]) is not None:
        means = ", ".join(
            f"{name} {_percent(found[f'mean_{name}_frac'])}" for name in (*SIDES, "shared")
        )
        lines.append(
            f"back at the start after three seeds ({len(found['triples'])} triples, chance "
            f"{found['chance']:.2g}): {means}"
        )
        lines.append(
            f"in every seed, whichever way it is followed: {found['core_frac']:.2%} of the latents"
        )
    lines += [f"missing, {name}: {why}" for name, why in record["missing"].items()]
    return "\n".join(lines)


def _percent(frac: float | None) -> str:
    return "-" if frac is None else f"{frac:.2%}"


if __name__ == "__main__":
    cli.run(main)
