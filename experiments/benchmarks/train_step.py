"""One training step of a TopK autoencoder: time and memory of saejax and of its peers.

    python experiments/benchmarks/train_step.py --d_model=1024 --num_latents=16384 --k=64
    python experiments/benchmarks/train_step.py --d_model=512 --num_latents=24576 --k=48 \
        --batch_tokens=2048

A step is forward, backward, Adam and a unit-norm decoder, in float32 on the CPU, on a batch of
activations with no language model. Each solver runs on one core, pinned to the same one, in a
fresh process for each round; a round takes the solvers in turn, so that a drift of the machine
hits all alike. All start from the same weights and decoder bias and see the same two batches in
turn, with the same learning rate where they have Adam. saejax computes the norm for clipping but
has nothing to clip, since sparsify does not clip. train_step_peers.py tells the steps of the peers.

Time is the median of all steps, spread that of the rounds' medians. Memory is the most that the
process held above what it held before it made its state: weights, gradients, moments,
temporaries, and what compilation takes; libraries and batches were there before. Both are also
given relative to saejax. FVU is that of the last step; sparsify with Adam must agree with saejax
to 1e-4 there, and all in the first step to 1e-5, or the command says after the table that the
work differs, and fails.

--seeds=4 adds a step of saejax that trains four autoencoders, against four steps with one.

Nothing is installed. A peer named in --peer that is not there ends the command with exit code 1
and the line that installs it; with --peer=all the line is printed and the others are measured.

All processes keep the memory that they free, as saejax's training scripts do
(`saejax.memory.keep_pages`): it saves every solver page faults. --nokeep_pages leaves all with
what the system does by itself.

The last line is one JSON object, with all figures in "rows", and ms_ours, ms_peer, ratio
(ms_peer / ms_ours), peak_bytes_ours and peak_bytes_peer, where the peer is the fastest with Adam.

The default takes some eight minutes and 2 GB, --peer=sparsify about four minutes.
"""

import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import flags
from train_step_peers import PACKAGES
from train_step_rows import fastest_peer, problems, summary, table
from train_step_worker import SOLVERS, Task

from saejax import cli, rundir
from saejax.errors import InputError
from saejax.progress import Progress

_D_MODEL = flags.DEFINE_integer("d_model", 1024, "Width D of the activations.", lower_bound=1)
_NUM_LATENTS = flags.DEFINE_integer("num_latents", 16_384, "Latents N.", lower_bound=1)
_K = flags.DEFINE_integer("k", 64, "Active latents per token.", lower_bound=1)
_BATCH_TOKENS = flags.DEFINE_integer("batch_tokens", 1024, "Tokens in a batch.", lower_bound=2)
_PEER = flags.DEFINE_enum("peer", "all", [*PACKAGES, "all"], "Whom to compare with.")
_SEEDS = flags.DEFINE_integer(
    "seeds", 1, "Above 1: also a step of saejax with so many.", lower_bound=1
)
_STEPS = flags.DEFINE_integer("steps", 5, "Timed steps in each round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes for each solver.", lower_bound=1)
_KEEP_PAGES = flags.DEFINE_bool("keep_pages", True, "Processes keep the memory that they free.")
_SHAPE = (_D_MODEL, _NUM_LATENTS, _K, _BATCH_TOKENS)
_SETTINGS = (*_SHAPE, _PEER, _SEEDS, _STEPS, _ROUNDS, _KEEP_PAGES)


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    del argv
    tasks = _tasks()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in tasks}
    total = _ROUNDS.value * len(tasks)
    with Progress("benchmark", total=total, unit="measurements") as progress:
        for _ in range(_ROUNDS.value):
            for name, task in tasks.items():
                progress.advance(0, solver=name)
                # What went wrong once does so again.
                if not any("failed" in figures for figures in found[name]):
                    found[name].append(task.run())
                progress.advance(1)
    rows = summary(found, {name: task.seeds for name, task in tasks.items()})
    record = _record(rows)
    print(table(rows), _about(record), sep="\n\n")
    print(json.dumps(record))
    if wrong := problems(rows):
        sys.exit("\n".join(f"error: {line}" for line in wrong))


def _tasks() -> dict[str, Task]:
    """What to measure, by the name of its row; says which peers are missing."""
    if _K.value > _NUM_LATENTS.value:
        raise InputError(f"--k={_K.value}: must not exceed --num_latents={_NUM_LATENTS.value}")
    if not hasattr(os, "sched_setaffinity"):
        raise InputError(f"{platform.system()} cannot pin a process to a core; run this on Linux")
    common: dict[str, Any] = {flag.name: flag.value for flag in (*_SHAPE, _STEPS, _KEEP_PAGES)}
    tasks = {"saejax": Task("saejax", **common)}
    if _SEEDS.value > 1:
        name = f"saejax, {_SEEDS.value} seeds"
        tasks[name] = Task("saejax", **common, seeds=_SEEDS.value)
    for peer, package in PACKAGES.items():
        if _PEER.value not in (peer, "all"):
            continue
        try:
            metadata.version(package.partition("==")[0])
        except metadata.PackageNotFoundError:
            line = f"{peer} is not installed: pip install {package}"
            if _PEER.value == peer:
                raise InputError(line) from None
            print(line)
            continue
        for solver in SOLVERS:
            if solver.startswith(peer):
                tasks[solver] = Task(solver, **common)
    return tasks


def _record(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All figures, and what made them."""
    ours, peer = rows[0], fastest_peer(rows)
    versions = rundir.versions()
    del versions["device"]  # The workers have none but the CPU.
    for row in rows:
        versions |= row.pop("versions", {})
    cpu = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpu.read_text() if cpu.exists() else "")
    return {
        "benchmark": "train_step",
        **{
            flag.name: flag.value for flag in (*_SHAPE, _PEER, _SEEDS, _STEPS, _ROUNDS, _KEEP_PAGES)
        },
        "rows": rows,
        "peer_of_ratio": peer.get("solver"),
        "ms_ours": ours.get("ms"),
        "ms_peer": peer.get("ms"),
        "ratio": peer.get("time"),
        "peak_bytes_ours": ours.get("peak_bytes"),
        "peak_bytes_peer": peer.get("peak_bytes"),
        "cpu": model[1] if model else platform.processor(),
        "cores_used": 1,
        "commit": versions.pop("commit"),
        "versions": versions,
    }


def _about(record: dict[str, Any]) -> str:
    """Shape, machine and versions, a line each."""
    shape = ", ".join(f"{flag.name} {flag.value:,}" for flag in _SHAPE)
    busy = min((row["busy_cores"] for row in record["rows"] if "ms" in row), default=0.0)
    lines = [
        f"shape: {shape}; {record['rounds']} rounds of {record['steps']} steps",
        f"machine: one core of {record['cpu']}; a solver had at least {busy:.0%} of it",
        "versions: " + ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
        f"commit: {record['commit']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
