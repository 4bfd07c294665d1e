"""The results of a sweep: its finished runs as one record, with those that other machines made."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from saejax.analysis.factors import NO_MATTER
from saejax.config import Config
from saejax.config_json import flatten
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.rundir import RunDir, commit, versions

# Of each pair of seeds, from results/overlap.json of the run.
_OF_PAIRS = (
    "seeds",
    "method",
    "threshold",
    "shared_frac",
    "aligned_frac",
    "decoder_frac",
    "agreement_frac",
    "max_cosine_frac",
    "mean_cosine",
    "certified",
)
# Last part of a training that its final metrics are a mean of, since a step sees few tokens.
_FINAL_FRAC = 0.1
# Of a run's versions.json: which code made it, and where.
_OF_MACHINE = ("commit", "platform", "device")


def read_results(path: Path) -> dict[str, Any]:
    """What `collect` wrote, here or on another machine.

    Raises:
      InputError: If the file cannot be read, or is something else.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict) or not {"varied", "common", "runs"} <= found.keys():
        raise InputError(f"{path} is no results/sweep.json of a sweep")
    return found


def still_to_run(configs: Mapping[str, Config], known: Mapping[str, Any]) -> dict[str, Config]:
    """The runs of a sweep that results do not have.

    Args:
      configs: All runs by name.
      known: Of `collect`.

    Raises:
      InputError: If the results have a run of the same name and another configuration.
    """
    fields = {run["name"]: _fields(run, known) for run in known["runs"]}
    for name, cfg in configs.items():
        if name not in fields:
            continue
        here = json.loads(json.dumps(flatten(cfg)))
        different = [
            f"{path}: {fields[name].get(path)!r} there, {value!r} here"
            for path, value in here.items()
            if fields[name].get(path) != value and not path.startswith(NO_MATTER)
        ]
        if different:
            raise InputError(
                f"known results have another run {name}: {'; '.join(different)}. Leave them out, "
                "or give the run another name"
            )
    return {name: cfg for name, cfg in configs.items() if name not in fields}


def collect(root: Path, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All finished runs of a sweep's directory, and writes them to `results/sweep.json`.

    Args:
      root: The directory.
      known: Results of another directory, whose runs are added; of one name, this one's counts.

    Returns:
      `varied`, the fields in which the runs differ; `common`, the values of all others; and
      `runs`: for each its name, the values of the varied fields, and by seed the means over the
      last tenth of training of FVU, L0 and dead fraction; `pairs`, the fractions of each pair of
      seeds by the first matching method, and `shared_frac`, their mean, or None; `made_by`, the
      commit and the machine.
    """
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    if known is not None:
        for run in known["runs"]:
            fields = _fields(run, known)
            numbers = {name: x for name, x in run.items() if name not in {"name", *fields}}
            found[run["name"]] = fields, numbers
    for path in root.iterdir() if root.is_dir() else ():
        run = RunDir(path)
        if run.config.exists() and run.metrics.exists():
            cfg = run.read_config()
            if all((run.sae(cfg.hookpoint, seed) / "cfg.json").exists() for seed in cfg.init_seeds):
                found[path.name] = json.loads(json.dumps(flatten(cfg))), _numbers(run)
    found = dict(sorted(found.items()))
    every = [fields for fields, _ in found.values()]
    paths = dict.fromkeys(path for fields in every for path in fields)
    varied = [path for path in paths if _differ(fields.get(path) for fields in every)]
    record = {
        "varied": varied,
        "common": {path: every[0][path] for path in paths if path not in varied},
        "runs": [
            {"name": name, **{path: fields.get(path) for path in varied}, **numbers}
            for name, (fields, numbers) in found.items()
        ],
        "commit": commit(),
        "versions": versions(),
    }
    with atomic_write(root / "results" / "sweep.json") as file:
        file.write(json.dumps(record, indent=2).encode() + b"\n")
    return record


def _fields(run: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run, by dotted path."""
    return {**result["common"], **{path: run[path] for path in result["varied"]}}


def _differ(values: Iterable[Any]) -> bool:
    first, *others = values
    return any(value != first for value in others)


def _numbers(run: RunDir) -> dict[str, Any]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    start = (1 - _FINAL_FRAC) * lines[-1]["step"]
    last = [line for line in lines if line["step"] >= start]

    def mean(metric: str) -> list[float]:
        return np.mean([line[metric] for line in last], axis=0).tolist()

    pairs: list[dict[str, Any]] = []
    if run.result("overlap").exists():
        found = json.loads(run.result("overlap").read_text())["pairs"]
        pairs = [
            {name: pair[name] for name in _OF_PAIRS}
            for pair in found
            if pair["method"] == found[0]["method"]
        ]
    made_by = json.loads(run.versions.read_text())
    return {
        "fvu": mean("train/fvu"),
        "l0": mean("train/l0"),
        "dead_frac": mean("train/dead_frac"),
        "tokens": lines[-1]["tokens"],
        "pairs": pairs,
        "shared_frac": float(np.mean([p["shared_frac"] for p in pairs])) if pairs else None,
        "made_by": {name: made_by[name] for name in _OF_MACHINE},
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
