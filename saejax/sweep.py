"""Ablations: runs that differ in some fields of the configuration and share one pass of the model.

A sweep is a directory of runs, each complete in itself, and `results/sweep.json` over all of them.
"""

import copy
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saejax.config import HOOKPOINT_WILDCARDS, Config
from saejax.config_check import check
from saejax.config_json import flatten
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.lm import expand_hookpoints, load_config
from saejax.rundir import RunDir, commit, versions

# What a step of all runs has in common: tokens, activations, devices.
_SHARED = ("lm.", "data.", "data_seed", "mesh.", "train.batch_tokens")
# Last part of a training that its final metrics are a mean of, since a step sees few tokens.
_FINAL_FRAC = 0.1


def vary(cfg: Config, axes: Sequence[str]) -> dict[str, Config]:
    """Every combination of the values of some fields.

    Args:
      cfg: All other fields.
      axes: As `sae.k=16,32,64`, one field each; fields of the model, the data, the mesh and
        `train.batch_tokens` cannot vary. A hook point may be a pattern, as
        `hookpoint=layers.*.mlp` (see `saejax.lm.expand_hookpoints`).

    Returns:
      Checked configurations by name, as `k=16,num_latents=1024`.

    Raises:
      InputError: If an axis is not of this form, or a combination is no valid run.

    Example:
      >>> from saejax.config import Config
      >>> sorted(vary(Config(), ["sae.k=16,32", "train.lr_scale=1"]))
      ['k=16,lr_scale=1.0', 'k=32,lr_scale=1.0']
    """
    fields = flatten(cfg)
    choices: list[list[tuple[str, Any]]] = []
    for axis in axes:
        path, equals, values = axis.partition("=")
        if not equals or path not in fields:
            raise InputError(
                f"--vary={axis}: write a field of the configuration and its values, as sae.k=16,32"
            )
        if path.startswith(_SHARED):
            raise InputError(
                f"--vary={axis}: all runs of a sweep have the same {path}; make a sweep for each"
            )
        parsed = [_parse(axis, value, fields[path]) for value in values.split(",")]
        if path in ("hookpoint", "target_hookpoint") and HOOKPOINT_WILDCARDS.intersection(values):
            lm_config = load_config(cfg.lm.source)
            parsed = [name for value in parsed for name in expand_hookpoints(lm_config, value)]
        choices.append([(path, value) for value in parsed])
    made: dict[str, Config] = {}
    for combination in itertools.product(*choices):
        each = copy.deepcopy(cfg)
        for path, value in combination:
            *parents, last = path.split(".")
            target: Any = each
            for parent in parents:
                target = getattr(target, parent)
            setattr(target, last, value)
        name = ",".join(f"{path.rpartition('.')[2]}={value}" for path, value in combination)
        try:
            check(each)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        if name in made:
            raise InputError(f"--vary names {name} twice")
        made[name] = each
    return made


def _parse(axis: str, text: str, like: Any) -> Any:
    """A value of the type that the field has now."""
    kind = type(like)
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind in (int, float, str):
        try:
            return kind(text)
        except ValueError:
            pass
    raise InputError(f"--vary={axis}: {text!r} is not a value of type {kind.__name__}")


def collect(root: Path) -> dict[str, Any]:
    """All finished runs of a sweep's directory, and writes them to `results/sweep.json`.

    Returns:
      `varied`, the fields in which the runs differ, and `runs`: for each its name, the values of
      these fields, and by seed the means over the last tenth of training of FVU, L0 and dead
      fraction; `shared_frac`, the mean over pairs and the first matching method, or None.
    """
    found: list[tuple[RunDir, Config]] = []
    for path in sorted(root.iterdir()):
        run = RunDir(path)
        if run.config.exists() and run.metrics.exists():
            cfg = run.read_config()
            if all((run.sae(cfg.hookpoint, seed) / "cfg.json").exists() for seed in cfg.init_seeds):
                found.append((run, cfg))
    flat = [flatten(cfg) for _, cfg in found]
    varied = [path for path in (flat[0] if flat else {}) if _differ(f[path] for f in flat)]
    runs = [
        {"name": run.root.name, **{path: values[path] for path in varied}, **_numbers(run)}
        for (run, _), values in zip(found, flat, strict=True)
    ]
    text = json.dumps(
        {"varied": varied, "runs": runs, "commit": commit(), "versions": versions()}, indent=2
    )
    with atomic_write(root / "results" / "sweep.json") as file:
        file.write(text.encode() + b"\n")
    return json.loads(text)


def _differ(values: Iterable[Any]) -> bool:
    first, *others = values
    return any(value != first for value in others)


def _numbers(run: RunDir) -> dict[str, Any]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    start = (1 - _FINAL_FRAC) * lines[-1]["step"]
    last = [line for line in lines if line["step"] >= start]

    def mean(metric: str) -> list[float]:
        return np.mean([line[metric] for line in last], axis=0).tolist()

    shared = None
    if run.result("overlap").exists():
        pairs = json.loads(run.result("overlap").read_text())["pairs"]
        first = [pair for pair in pairs if pair["method"] == pairs[0]["method"]]
        shared = float(np.mean([pair["shared_frac"] for pair in first]))
    return {
        "fvu": mean("train/fvu"),
        "l0": mean("train/l0"),
        "dead_frac": mean("train/dead_frac"),
        "tokens": lines[-1]["tokens"],
        "shared_frac": shared,
    }


def sweep_table(result: dict[str, Any]) -> str:
    """The results as plain text: a run a row, means over its seeds."""
    names = [run["name"] for run in result["runs"]]
    width = max(map(len, [*names, "run"])) + 2
    lines = ["run".ljust(width) + "".join(t.rjust(10) for t in ("FVU", "L0", "dead", "shared"))]
    for run in result["runs"]:
        shared = "" if run["shared_frac"] is None else f"{run['shared_frac']:.1%}"
        fvu, l0, dead = (float(np.mean(run[key])) for key in ("fvu", "l0", "dead_frac"))
        row = f"{fvu:10.3f}{l0:10.1f}{dead:10.1%}{shared:>10}"
        lines.append(run["name"].ljust(width) + row)
    return "\n".join(lines)
