"""Exact matching: time and memory of saejax, SciPy, lapx and optax on the same instances.

    python experiments/benchmarks/matching.py --out=benchmark

For every size and solver, each in a fresh process: seconds of the first solve (saejax and optax
compile in it), the median of warm ones, and the most memory held above the two inputs. A solve
goes from float32 unit rows to partners: SciPy and lapx get the dense float64 matrix, optax a
float32 one, and making it counts. The sums of matched cosines and the partners are compared
with SciPy's, or with saejax's where SciPy did not run; if saejax's sum is off by more than 1e-9
of SciPy's, the command fails after printing. Speed is SciPy's warm seconds over the solver's,
memory the solver's peak over SciPy's. A solver that needs too much memory or time says so in
its row. Rows come from `planted_pair` in instances.py; N counts those of b.

The last line is one JSON object, with all figures in "rows" and, for the largest "plain" size
that both saejax and SciPy solved, ms_ours, ms_peer, ratio (ms_peer / ms_ours), peak_bytes_ours
and peak_bytes_peer.

The default takes a quarter of an hour on two CPU cores, most of it SciPy and optax, and
9 GB, most of it SciPy's matrix; up to 4,096 (--sizes=1024,2048,4096) two minutes and 1 GB; for
saejax alone at 131,072 ten minutes and 4 GB.
"""

import dataclasses
import itertools
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from absl import flags
from matching_worker import SHARES, SOLVERS, Task
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from saejax import cli, rundir
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.matching.match import PASS_DTYPES
from saejax.progress import Progress
from saejax.report import style

_SIZES = flags.DEFINE_list(
    "sizes", ["1024", "2048", "4096", "8192", "16384", "32768"], "Numbers of rows N."
)
_WIDTH = flags.DEFINE_integer("width", 768, "Width of the rows.", lower_bound=1)
_KINDS = flags.DEFINE_list(
    "kinds", ["plain"], "plain, wide (3/4 N rows against N), or hub0.5: a common mean of that size."
)
_SOLVERS = flags.DEFINE_list("solvers", list(SOLVERS), f"Any of {', '.join(SOLVERS)}.")
_MAX_SECONDS = flags.DEFINE_float(
    "max_seconds",
    600.0,
    "A solver that took more than an eighth of this is not run at the next size.",
    lower_bound=0.0,
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 3, "Warm solves to take the median of; above 20 s it is one.", lower_bound=1
)
_DTYPE = flags.DEFINE_enum("dtype", "auto", PASS_DTYPES, "Of saejax's streamed products.")
_SHARES = flags.DEFINE_bool("shares", False, "Also measure where saejax's time goes.")
_OUT = flags.DEFINE_string(
    "out", None, "Folder for matching.json, .svg and .png; nothing is written without it."
)

# Relative difference of two exact sums of cosines that rounding does not explain.
_TOLERANCE = 1e-9
# Smaller sizes say more about constants than about growth.
_FIT_FROM = 4096
# Title, key of a row, format, unit.
_COLUMNS = (
    ("cold s", "cold_seconds", ".3f", 1),
    ("warm s", "warm_seconds", ".3f", 1),
    ("peak GiB", "peak_bytes", ".3f", 2**30),
    ("passes", "passes", ".2f", 1),
    ("difference", "objective_difference", ".1e", 1),
    ("partners", "equal_partners", ".3%", 1),
    ("speed", "speed", ".3g", 1),
    ("memory", "memory", ".3g", 1),
)
_STYLES = {
    "saejax": (style.BLUE, "o", "-"),
    "scipy": (style.VERMILLION, "s", "--"),
    "lapx": (style.GREEN, "^", ":"),
    "optax": (style.PURPLE, "D", "-."),
}


def main(argv: Sequence[str]) -> None:
    """Measures, prints, saves."""
    del argv
    kinds, sizes, solvers = _choices()
    rows: list[dict[str, Any]] = []
    total = len(kinds) * len(sizes) * len(solvers)
    try:
        with Progress("benchmark", total=total, unit="measurements") as progress:
            for kind, size in itertools.product(kinds, sizes):
                rows += _measure_size(kind, size, solvers, rows, progress)
    except KeyboardInterrupt:
        print(_table(rows))
        raise
    record = _record(rows, kinds, solvers)
    print(_table(rows), _about(record), sep="\n\n")
    print(json.dumps(record))
    if _OUT.value:
        _save(record, kinds[0], Path(_OUT.value))
    for row in rows:
        if row["solver"] == "saejax" and (problem := _problem(row)):
            sys.exit(f"error: saejax, {row['kind']}, N = {row['size']:,}: {problem}")


def _choices() -> tuple[list[str], list[int], list[str]]:
    """Kinds, sizes and solvers, checked."""
    for kind in _KINDS.value:
        if not re.fullmatch(r"plain|wide|hub\d+(\.\d+)?", kind):
            raise InputError(f"--kinds={kind}: choose plain, wide, or hub and a size, as in hub0.5")
    for size in _SIZES.value:
        # What smaller ones take cannot be told from the noise of a process's memory.
        if not (size.isdecimal() and int(size) >= 512):
            raise InputError(f"--sizes={size}: needs whole numbers from 512 on, as in 1024,2048")
    for solver in _SOLVERS.value:
        if solver not in SOLVERS:
            raise InputError(f"--solvers={solver}: choose from {', '.join(SOLVERS)}")
    if not (_KINDS.value and _SIZES.value and _SOLVERS.value):
        raise InputError("--kinds, --sizes and --solvers need at least one value each")
    if _SHARES.value and "saejax" not in _SOLVERS.value:
        raise InputError("--shares: needs saejax among --solvers")
    sizes = sorted({int(size) for size in _SIZES.value})
    return list(dict.fromkeys(_KINDS.value)), sizes, [s for s in SOLVERS if s in _SOLVERS.value]


def _problem(row: dict[str, Any]) -> str:
    """Why a row of saejax is wrong, or empty."""
    if "failed" in row:
        return row["failed"]
    if not row.get("certified", True):
        return "not proven to be optimal"
    off = row.get("objective_difference", 0.0)
    return "" if abs(off) <= _TOLERANCE else f"the sum of cosines differs from SciPy's by {off:.1e}"


def _measure_size(
    kind: str, size: int, solvers: list[str], earlier: list[dict[str, Any]], progress: Progress
) -> list[dict[str, Any]]:
    """A row for each solver, compared with each other."""
    rows: dict[str, dict[str, Any]] = {}
    targets: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for solver in solvers:
            progress.advance(0, kind=kind, N=str(size), solver=solver)
            row = rows[solver] = {"kind": kind, "size": size, "solver": solver}
            smaller = [r for r in earlier if (r["kind"], r["solver"]) == (kind, solver)]
            limit = _MAX_SECONDS.value / 8  # Doubling N costs every solver less than this.
            if any("failed" in r or r.get("warm_seconds", 0) > limit for r in smaller):
                row["note"] = "not run: failed or took too long at a smaller size"
            else:
                path = str(Path(folder) / f"{solver}.npy")
                task = Task(kind, size, _WIDTH.value, solver, _DTYPE.value, _REPEATS.value, path)
                row |= task.run()
                if "objective" in row:
                    targets[solver] = np.load(path)
                    if _SHARES.value and solver == "saejax":
                        row |= dataclasses.replace(task, solver=SHARES).run()
            progress.advance(1)
    for solver, target_N in targets.items():
        peer = "scipy" if "scipy" in targets else next(iter(targets))
        row, best = rows[solver], rows[peer]
        row["compared_with"] = peer
        row["objective_difference"] = row["objective"] / best["objective"] - 1
        row["equal_partners"] = float((target_N == targets[peer]).mean())
        if peer == "scipy":
            row["speed"] = best["warm_seconds"] / row["warm_seconds"]
            if "peak_bytes" in row and "peak_bytes" in best:
                row["memory"] = row["peak_bytes"] / best["peak_bytes"]
    return list(rows.values())


def _table(rows: list[dict[str, Any]]) -> str:
    titles = "".join(title.rjust(11) for title, *_ in _COLUMNS)
    lines = [f"{'kind':<8}{'N':>8}  {'solver':<8}{titles}"]
    for row in rows:
        cells = [f"{row['kind']:<8}{row['size']:>8,}  {row['solver']:<8}"]
        for _, key, spec, unit in _COLUMNS:
            cells.append((format(row[key] / unit, spec) if key in row else "-").rjust(11))
        note = row.get("failed") or row.get("note")
        lines.append(f"{cells[0]}   {note}" if note else "".join(cells))
    return "\n".join(lines + (["", *_shares(rows)] if _SHARES.value else []))


def _shares(rows: list[dict[str, Any]]) -> list[str]:
    """Where the warm seconds of saejax go: passes are counted, and the rest is what is left."""
    titles = ("warm s", "matmul", "top-k", "rest")
    lines = [f"{'saejax':<8}{'N':>8}" + "".join(title.rjust(18) for title in titles)]
    for row in rows:
        if "pass_seconds" in row:
            total, passes = row["warm_seconds"], row["passes"]
            matmul, whole = passes * row["matmul_seconds"], passes * row["pass_seconds"]
            parts = (f"{s:.3f} s {s / total:6.1%}" for s in (matmul, whole - matmul, total - whole))
            cells = "".join(part.rjust(18) for part in (f"{total:.3f}", *parts))
            lines.append(f"{row['kind']:<8}{row['size']:>8,}{cells}")
    return lines


def _measured(rows: list[dict[str, Any]], kind: str, solver: str) -> list[dict[str, Any]]:
    return [r for r in rows if (r["kind"], r["solver"]) == (kind, solver) and "warm_seconds" in r]


def _exponent(rows: list[dict[str, Any]]) -> float | None:
    """The p of seconds ~ N^p, by least squares of logarithms; None for fewer than two sizes."""
    large = [row for row in rows if row["size"] >= _FIT_FROM]
    rows = large if len(large) > 1 else rows
    if len(rows) < 2:
        return None
    seconds = [row["warm_seconds"] for row in rows]
    return float(np.polyfit(np.log([row["size"] for row in rows]), np.log(seconds), 1)[0])


def _record(rows: list[dict[str, Any]], kinds: list[str], solvers: list[str]) -> dict[str, Any]:
    """All figures, and what made them."""
    exponents = {k: {s: _exponent(_measured(rows, k, s)) for s in solvers} for k in kinds}
    ours, peers = ({r["size"]: r for r in _measured(rows, "plain", s)} for s in ("saejax", "scipy"))
    both = ours.keys() & peers.keys()
    our, peer = (ours[max(both)], peers[max(both)]) if both else ({}, {})
    versions = rundir.versions()
    versions |= {row["solver"]: row["version"] for row in rows if "version" in row}
    cpu = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpu.read_text() if cpu.exists() else "")
    return {
        "benchmark": "matching",
        "width": _WIDTH.value,
        "rows": rows,
        "exponents": exponents,
        "ms_ours": 1e3 * our["warm_seconds"] if our else None,
        "ms_peer": 1e3 * peer["warm_seconds"] if peer else None,
        "ratio": our.get("speed"),
        "peak_bytes_ours": our.get("peak_bytes"),
        "peak_bytes_peer": peer.get("peak_bytes"),
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "device": versions.pop("device"),
        "commit": versions.pop("commit"),
        "versions": versions,
    }


def _about(record: dict[str, Any]) -> str:
    """Growth, machine and versions, a line each."""
    lines = []
    for kind, exponents in record["exponents"].items():
        fits = (f"{s} N^{p:.2f}" for s, p in exponents.items() if p is not None)
        lines.append(f"warm seconds grow as ({kind}): {', '.join(fits) or 'needs two sizes'}")
    lines.append(f"machine: {record['cpu']}, {record['cores']} cores; {record['device']}")
    lines.append("versions: " + ", ".join(f"{k} {v}" for k, v in record["versions"].items()))
    return "\n".join([*lines, f"commit: {record['commit']}"])


def _save(record: dict[str, Any], kind: str, folder: Path) -> None:
    figure = _figure(record, kind)
    with atomic_write(folder / "matching.json") as file:
        file.write(json.dumps(record, indent=2).encode() + b"\n")
    for suffix in ("svg", "png"):
        path = folder / f"matching.{suffix}"
        with atomic_write(path) as file, matplotlib.rc_context({"svg.fonttype": "none"}):
            figure.savefig(file, format=suffix, dpi=200)


def _figure(record: dict[str, Any], kind: str) -> Figure:
    """Seconds and memory against N, a line for each solver."""
    figure = style.new_figure(3.6, f"Exact matching, width {record['width']}, {kind}")
    seconds = style.add_axes(figure, 0.6, 1.15, 2.1, 2.0)
    memory = style.add_axes(figure, 3.35, 1.15, 2.1, 2.0)
    for solver, exponent in record["exponents"][kind].items():
        colour, marker, dash = _STYLES[solver]
        label = solver if exponent is None else f"{solver}: seconds ∝ $N^{{{exponent:.2f}}}$"
        rows = _measured(record["rows"], kind, solver)
        for axes, key, unit in ((seconds, "warm_seconds", 1), (memory, "peak_bytes", 2**30)):
            if points := [(row["size"], row[key] / unit) for row in rows if key in row]:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, dash, color=colour, marker=marker, ms=4, label=label)
    sizes = sorted({row["size"] for row in record["rows"]})
    labels = [f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in sizes]
    for axes, title in ((seconds, "warm seconds"), (memory, "peak GiB above inputs")):
        scale = "log" if axes.lines else "linear"  # Nothing has no logarithm.
        axes.set(xscale=scale, yscale=scale, xlabel="latents N (k = 1,024)", ylabel=title)
        axes.set_xticks(sizes, labels)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    style.add_legend(figure, seconds.get_lines(), 0.6, 0.55, columns=2)
    return figure


if __name__ == "__main__":
    cli.run(main)
