"""Activations at a hook point: saejax against Hugging Face's transformers, time and memory.

    python experiments/benchmarks/capture.py
    python experiments/benchmarks/capture.py --dtypes=float32,bfloat16 --cores=2

A step is the packaged language model from token ids to the activations at one hook point, on
windows of the packaged text. transformers runs on torch and is cut off after the same layer. Each
solver has a process of its own, in each round and type, pinned to the same cores; a round takes
the solvers in turn, so that a drift of the machine hits all alike. Time is the median of all
steps; that of the processor alone is given too, since other work on the machine adds less to it.
Memory is the most that the process held while capturing, above what it held with its
libraries imported: weights, temporaries, and what compilation takes; the second figure is the
same while it loaded the model, where transformers reads all layers.

That all activations are those of transformers in float32 is checked to 1e-4 of their norm, to 5 %
in bfloat16; if not, the command fails after the table.

Nothing is installed. Without transformers and torch the command says so and ends. The last line is
one JSON object: ms_ours, ms_peer, ratio (ms_peer / ms_ours), peak_bytes_ours and peak_bytes_peer
compare saejax in the first of --dtypes with transformers in float32; "rows" has all figures. Takes
about two minutes.
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
from capture_rows import REFERENCE, TOLERANCES, problems, summary, table
from capture_worker import SOLVERS, Task, sample_tokens

from saejax import cli, rundir
from saejax.config import SAMPLE_LM
from saejax.errors import InputError
from saejax.lm import check_hookpoint, load_config
from saejax.progress import Progress

_HOOKPOINT = flags.DEFINE_string("hookpoint", "layers.6.mlp", "Whose output is read.")
_WINDOWS = flags.DEFINE_integer("windows", 8, "Windows in a step.", lower_bound=1)
_LENGTH = flags.DEFINE_integer("context_length", 256, "Tokens of a window.", lower_bound=2)
_DTYPES = flags.DEFINE_list("dtypes", ["float32"], "Any of float32, bfloat16.")
_STEPS = flags.DEFINE_integer("steps", 5, "Timed steps in each round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes for each solver.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 1, "Cores that a solver has.", lower_bound=1)
_SETTINGS = (_HOOKPOINT, _WINDOWS, _LENGTH, _DTYPES, _STEPS, _ROUNDS, _CORES)
_NEEDED = ("torch", "transformers")


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    del argv
    tasks = _tasks()
    found: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in tasks}
    total = _ROUNDS.value * len(tasks)
    with Progress("benchmark", total=total, unit="measurements") as progress:
        for _ in range(_ROUNDS.value):
            for key, task in tasks.items():
                progress.advance(0, solver=" ".join(key))
                figures = task.run()
                if "failed" in figures:
                    raise InputError(f"{' '.join(key)}: {figures['failed']}")
                found[key].append(figures)
                progress.advance(1)
    rows = summary(found, _WINDOWS.value * _LENGTH.value)
    print(table(rows))
    print(json.dumps(_record(rows)))
    if wrong := problems(rows):
        sys.exit("\n".join(f"error: {line}" for line in wrong))


def _tasks() -> dict[tuple[str, str], Task]:
    """What to measure, by solver and type; the reference is among them."""
    for package in _NEEDED:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise InputError(f"{package} is not installed: pip install {package}") from None
    if not hasattr(os, "sched_setaffinity"):
        raise InputError(f"{platform.system()} cannot pin a process to a core; run this on Linux")
    if _CORES.value > (there := len(os.sched_getaffinity(0))):
        raise InputError(f"--cores={_CORES.value}: this process has {there}")
    if not _DTYPES.value or not set(_DTYPES.value) <= TOLERANCES.keys():
        raise InputError(f"--dtypes={','.join(_DTYPES.value)}: any of {', '.join(TOLERANCES)}")
    check_hookpoint(load_config(SAMPLE_LM), _HOOKPOINT.value)
    tokens = sample_tokens(_WINDOWS.value, _LENGTH.value)
    keys = [(solver, dtype) for dtype in _DTYPES.value for solver in SOLVERS]
    return {
        (solver, dtype): Task(
            solver=solver,
            dtype=dtype,
            source=SAMPLE_LM,
            hookpoint=_HOOKPOINT.value,
            tokens=tokens,
            steps=_STEPS.value,
            cores=_CORES.value,
        )
        for solver, dtype in dict.fromkeys([*keys, REFERENCE])
    }


def _record(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All figures, and what made them."""
    ours = rows[0]
    [peer] = [row for row in rows if (row["solver"], row["dtype"]) == REFERENCE]
    cpu = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpu.read_text() if cpu.exists() else "")
    versions = rundir.versions() | {package: metadata.version(package) for package in _NEEDED}
    del versions["device"]  # The workers have none but the CPU.
    return {
        "benchmark": "capture",
        **{flag.name: flag.value for flag in _SETTINGS},
        "rows": rows,
        "ms_ours": ours["ms"],
        "ms_peer": peer["ms"],
        "cpu_ms_ours": ours["cpu_ms"],
        "cpu_ms_peer": peer["cpu_ms"],
        "ratio": ours["speed"],
        "peak_bytes_ours": ours["peak_bytes"],
        "peak_bytes_peer": peer["peak_bytes"],
        "cpu": model[1] if model else platform.processor(),
        "commit": versions.pop("commit"),
        "versions": versions,
    }


if __name__ == "__main__":
    cli.run(main)
