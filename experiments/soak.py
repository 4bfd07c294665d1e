r"""Does a training that is killed again and again end where an undisturbed one does? Does it leak?

    python experiments/soak.py --config=configs/quickstart.py --workdir=runs/soak \
        --config.data.epochs=60 --kills=20

Runs experiments/train.py twice with the same configuration: `steady/` in one go, while its memory,
open files and threads are read every few seconds; and `killed/`, which gets SIGKILL after random
times, in whatever it is doing, and is started again by the same command until it is done. Then the
files of all autoencoders have to be equal, byte for byte.

Writes soak.json and figures/soak.svg. Exit code: 0, or 1 where weights differ. Choose epochs so
that one run takes as long as is to be seen; needs /proc, as Linux has it. Not to be resumed.
"""

import dataclasses
import hashlib
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from matplotlib.figure import Figure

from saejax import cli
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.report.style import BLUE, GREY, ORANGE, add_axes, new_figure, write_figure
from saejax.rundir import RunDir, commit, versions

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for both runs.", required=True)
_KILLS = flags.DEFINE_integer("kills", 20, "How often to kill.", lower_bound=0)
_MEAN = flags.DEFINE_float(
    "mean_seconds", 60.0, "Between a start and a kill: uniform from 0 to twice this.", lower_bound=0
)
_EVERY = flags.DEFINE_float("sample_seconds", 5.0, "Between two readings.", lower_bound=0.1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the times.")


class Sample(NamedTuple):
    """What /proc says of a process.

    Attributes:
      seconds: Since the start of the first process of the run.
      rss_bytes: Memory held.
      files: Open file handles.
      threads: Threads.
      training: Whether a line of metrics is written.
    """

    seconds: float
    rss_bytes: int
    files: int
    threads: int
    training: bool


def main(argv: Sequence[str]) -> None:
    """Trains twice, compares, writes."""
    del argv
    cfg = cli.config(_CONFIG)
    root = Path(_WORKDIR.value)
    steady, killed = RunDir(root / "steady"), RunDir(root / "killed")
    for run in (steady, killed):
        if run.root.exists():
            raise InputError(f"{run.root} exists: name a new --workdir, or delete that folder")
    samples, _ = _train(steady, [])
    rng = random.Random(_SEED.value)
    lives = [rng.uniform(0, 2 * _MEAN.value) for _ in range(_KILLS.value)]
    disturbed, kills = _train(killed, lives)
    same = {
        seed: _digest(steady.sae(cfg.hookpoint, seed)) == _digest(killed.sae(cfg.hookpoint, seed))
        for seed in cfg.init_seeds
    }
    training = [sample for sample in samples if sample.training]
    record = {
        "equal": all(same.values()),
        "seeds": same,
        "kills": kills,
        "seconds": {"steady": samples[-1].seconds, "killed": disturbed[-1].seconds},
        "growth": _growth(training),
        "samples": [sample._asdict() for sample in samples],
        "config": dataclasses.asdict(cfg),
        "commit": commit(),
        "versions": versions(),
    }
    with atomic_write(root / "soak.json") as file:
        file.write(json.dumps(record, indent=1).encode() + b"\n")
    write_figure(_figure(samples, kills), root / "figures", "soak")
    minutes = (training[-1].seconds - training[0].seconds) / 60
    print(f"{minutes:.0f} minutes of training; medians of its second and of its last quarter:")
    for name, (before, after) in record["growth"].items():
        print(f"  {name}: {before:,.0f}, {after:,.0f}")
    stages = ", ".join(f"{kill['seconds']:.0f} s" for kill in kills)
    print(f"killed {len(kills)} times, after {stages}" if kills else "never killed")
    print(f"results: {root / 'soak.json'}, {root / 'figures' / 'soak.svg'}")
    if not record["equal"]:
        different = [seed for seed, equal in same.items() if not equal]
        sys.exit(f"error: weights differ from those of the undisturbed run: seeds {different}")
    print("weights: equal to the undisturbed run's, byte for byte")


def _train(run: RunDir, lives: Sequence[float]) -> tuple[list[Sample], list[dict[str, Any]]]:
    """Trains a run to its end; readings, and when each kill came and what was there by then."""
    given = [word for word in sys.argv[1:] if word.startswith(("--config", "-config"))]
    script = Path(__file__).with_name("train.py")
    command = [sys.executable, str(script), *given, f"--workdir={run.root}"]
    run.root.parent.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    kills: list[dict[str, Any]] = []
    started = time.monotonic()
    with (run.root.parent / f"{run.root.name}.log").open("ab") as log:
        for life in [*lives, None]:
            begun = time.monotonic()
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                while process.poll() is None:
                    left = float("inf") if life is None else begun + life - time.monotonic()
                    if left <= 0:
                        process.kill()
                        seconds = time.monotonic() - started
                        kills.append({"seconds": seconds, "metrics": run.metrics.exists()})
                        break
                    if (sample := _read(process.pid, started, run)) is not None:
                        samples.append(sample)
                    time.sleep(min(_EVERY.value, left))
            finally:
                process.kill()
                process.wait()
            if process.returncode == 0:
                break
            if life is None or process.returncode > 0:
                raise InputError(
                    f"training ended with exit code {process.returncode}: see {log.name}"
                )
    return samples, kills


def _read(pid: int, started: float, run: RunDir) -> Sample | None:
    """A reading; None of a process that has ended."""
    proc = Path("/proc") / str(pid)
    try:
        lines = (proc / "status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return Sample(
            time.monotonic() - started,
            1024 * int(fields["VmRSS"].split()[0]),
            len(list((proc / "fd").iterdir())),
            int(fields["Threads"]),
            run.metrics.exists(),
        )
    except (OSError, KeyError):
        return None


def _growth(training: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """Of each quantity the medians of the second and of the last quarter of the readings."""
    quarter = len(training) // 4
    if not quarter:
        raise InputError(
            f"{len(training)} readings while it trained: lower --sample_seconds or train longer"
        )
    found = {}
    for name in ("rss_bytes", "files", "threads"):
        values = [getattr(sample, name) for sample in training]
        second, last = values[quarter : 2 * quarter], values[-quarter:]
        found[name] = (statistics.median(second), statistics.median(last))
    return found


def _digest(folder: Path) -> dict[str, str]:
    """SHA-256 of each file."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def _figure(samples: Sequence[Sample], kills: Sequence[dict[str, Any]]) -> Figure:
    """The undisturbed run's memory, files and threads; the other's kills as ticks on the axis."""
    figure = new_figure(4.4, "Training in one go: memory, files, threads")
    minutes = [sample.seconds / 60 for sample in samples]
    panels = (
        ("memory, GiB", [sample.rss_bytes / 2**30 for sample in samples]),
        ("open files", [sample.files for sample in samples]),
        ("threads", [sample.threads for sample in samples]),
    )
    first = None
    for row, (label, values) in enumerate(panels):
        axes = add_axes(figure, 0.7, 3.05 - 1.2 * row, 4.7, 0.95, sharex=first)
        first = first or axes
        axes.plot(minutes, values, color=BLUE, linewidth=1.2)
        axes.set_ylim(0, 1.15 * max(values))
        axes.set_ylabel(label)
        begins = [m for m, sample in zip(minutes, samples, strict=True) if sample.training]
        if begins:
            axes.axvline(begins[0], color=GREY, linewidth=0.8, linestyle="--")
        if row == len(panels) - 1:
            ticks = [kill["seconds"] / 60 for kill in kills]
            axes.plot(ticks, [0] * len(ticks), "|", color=ORANGE, markersize=9, clip_on=False)
            axes.set_xlabel("minutes (dashed: training begins; ticks: kills of the other run)")
    return figure


if __name__ == "__main__":
    cli.run(main)
