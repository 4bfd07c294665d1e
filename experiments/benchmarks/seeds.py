"""Several seeds from text: saejax at once against sparsify once for each, tokens/s times seeds.

    python experiments/benchmarks/seeds.py --seeds=4 --num_latents=8192

A step is the language model up to the hook point on some windows of the packaged text, and a
training step of every autoencoder on its activations (TopK, Adam, unit-norm decoder, float32).
saejax runs the model once for all seeds; sparsify is run once for each seed, so that the model
runs as often: Hugging Face's transformers on torch, cut off after the layer. Since 1.3.3 sparsify
can also train several seeds on one pass: the last row of the table, from the same measurements.

Each solver has a process of its own and all cores; rounds take the solvers in turn; times are
medians of all steps. That both read the same activations is checked to 1 % of their norm.

Needs transformers, torch and eai-sparsify, and says so if one is missing. The last line is one
JSON object. Takes about four minutes.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from capture_worker import sample_tokens
from seeds_worker import Task

from saejax import cli, rundir
from saejax.errors import InputError
from saejax.progress import Progress

_SEEDS = flags.DEFINE_integer("seeds", 4, "Autoencoders S.", lower_bound=1)
_NUM_LATENTS = flags.DEFINE_integer("num_latents", 8192, "Latents N.", lower_bound=1)
_K = flags.DEFINE_integer("k", 32, "Active latents per token.", lower_bound=1)
_HOOKPOINT = flags.DEFINE_string("hookpoint", "layers.6.mlp", "Where: the output of an MLP.")
_WINDOWS = flags.DEFINE_integer("windows", 8, "Windows of 256 tokens in a step.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 5, "Timed steps in each round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 2, "Processes for each solver.", lower_bound=1)
_LENGTH = 256
_NEEDED = ("torch", "transformers", "eai-sparsify")
# Relative difference of the activations that float32 in another order does not explain.
_SAME = 0.01


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    del argv
    for package in _NEEDED:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise InputError(f"{package} is not installed: pip install {package}") from None
    tasks = {
        solver: Task(
            solver=solver,
            tokens=sample_tokens(_WINDOWS.value, _LENGTH),
            seeds=_SEEDS.value if solver == "saejax" else 1,
            num_latents=_NUM_LATENTS.value,
            k=_K.value,
            hookpoint=_HOOKPOINT.value,
            steps=_STEPS.value,
        )
        for solver in ("saejax", "sparsify")
    }
    found: dict[str, list[dict[str, Any]]] = {solver: [] for solver in tasks}
    with Progress("benchmark", total=2 * _ROUNDS.value, unit="measurements") as progress:
        for _ in range(_ROUNDS.value):
            for solver, task in tasks.items():
                progress.advance(0, solver=solver)
                found[solver].append(_run(task))
                progress.advance(1)
    times = {
        solver: {
            part: statistics.median(ms for figures in rounds for ms in figures[part])
            for part in ("lm_ms", "step_ms")
        }
        for solver, rounds in found.items()
    }
    ours, theirs = (np.asarray(found[solver][0]["sample"]) for solver in tasks)
    difference = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    record = _record(times) | {"activations_differ_by": difference}
    print(_table(record))
    print(json.dumps(record))
    if not difference < _SAME:
        sys.exit(f"error: the activations differ by {difference:.1%}, so the work is not the same")


def _run(task: Task) -> dict[str, Any]:
    worker = Path(__file__).with_name("seeds_worker.py")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, worker],
        input=json.dumps(dataclasses.asdict(task)),
        env=environment | {"SPARSIFY_DISABLE_TRITON": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise InputError(f"{task.solver}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _record(times: dict[str, dict[str, float]]) -> dict[str, Any]:
    seeds, tokens = _SEEDS.value, _WINDOWS.value * _LENGTH
    ours, theirs = times["saejax"], times["sparsify"]
    # Milliseconds for a step of all seeds.
    total = {
        "ours": ours["lm_ms"] + ours["step_ms"],
        "peer": seeds * (theirs["lm_ms"] + theirs["step_ms"]),
        "peer_shared": theirs["lm_ms"] + seeds * theirs["step_ms"],
    }
    names = ("seeds", "num_latents", "k", "hookpoint", "windows", "steps", "rounds")
    versions = rundir.versions() | {package: metadata.version(package) for package in _NEEDED}
    return {
        "benchmark": "seeds",
        **{name: flags.FLAGS[name].value for name in names},
        "times": times,
        **{f"ms_{name}": ms for name, ms in total.items()},
        **{f"seed_tokens_per_second_{n}": 1e3 * seeds * tokens / ms for n, ms in total.items()},
        "ratio": total["peer"] / total["ours"],
        "ratio_shared": total["peer_shared"] / total["ours"],
        "versions": versions,
    }


def _table(record: dict[str, Any]) -> str:
    """A row for each way to train the seeds."""
    seeds, times = record["seeds"], record["times"]
    lines = [f"{'':<28}{'LM, ms':>14}{'training, ms':>16}{'tokens/s x seeds':>18}{'time':>8}"]
    for name, key, solver, runs in (
        (f"saejax, {seeds} seeds at once", "ours", "saejax", 1),
        (f"sparsify, {seeds} runs", "peer", "sparsify", seeds),
        (f"sparsify, {seeds} seeds, shared", "peer_shared", "sparsify", seeds),
    ):
        lm_runs = 1 if key == "peer_shared" else runs
        cells = (
            f"{lm_runs} x {times[solver]['lm_ms']:,.0f}",
            f"{runs} x {times[solver]['step_ms']:,.0f}",
            f"{record[f'seed_tokens_per_second_{key}']:,.0f}",
            f"{record[f'ms_{key}'] / record['ms_ours']:.2f}",
        )
        widths = (14, 16, 18, 8)
        lines.append(
            f"{name:<28}" + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
