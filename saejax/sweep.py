"""Ablations: runs that differ in some fields of the configuration and share passes of the model.

A sweep is a directory of runs, each complete in itself; `saejax.sweep_results` is over all of them.
"""

import copy
import hashlib
import itertools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from saejax.activations import stored
from saejax.config import HOOKPOINT_WILDCARDS, Config
from saejax.config_check import check
from saejax.config_json import flatten
from saejax.errors import InputError
from saejax.lm import expand_hookpoints, load_config
from saejax.run import capture_store, train_together
from saejax.rundir import RunDir
from saejax.sae.sae import Sae
from saejax.train.metrics import NonFiniteError

# What a step of runs in lockstep has in common: tokens, activations, devices.
_SHARED = ("lm.", "data.", "data_seed", "mesh.", "train.batch_tokens")


def vary(cfg: Config, axes: Sequence[str]) -> dict[str, Config]:
    """Every combination of the values of some fields.

    Args:
      cfg: All other fields.
      axes: As `sae.k=16,32,64`, one field each. A hook point may be a pattern, as
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
        parsed = [_parse(axis, value, fields[path]) for value in values.split(",")]
        if path in ("hookpoint", "target_hookpoint") and HOOKPOINT_WILDCARDS.intersection(values):
            lm_config = load_config(cfg.lm.source)
            parsed = [name for value in parsed for name in expand_hookpoints(lm_config, value)]
        choices.append([(path, value) for value in parsed])
    made: dict[str, Config] = {}
    for combination in itertools.product(*choices):
        name = ",".join(f"{path.rpartition('.')[2]}={value}" for path, value in combination)
        if name in made:
            raise InputError(f"--vary names {name} twice")
        made[name] = _changed(cfg, name, dict(combination))
    return made


def points(cfg: Config, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Config]:
    """The runs of a sweep that is written down point by point.

    Args:
      cfg: All other fields.
      changes: For each run its name, a folder's, and the fields, any of them, that it changes.

    Returns:
      Checked configurations by name.

    Raises:
      InputError: If a field does not exist, or a point is no valid run.

    Example:
      >>> from saejax.config import Config
      >>> points(Config(), {"base": {}, "small": {"sae.num_latents": 64}})["small"].sae.num_latents
      64
    """
    fields = flatten(cfg)
    for name, change in changes.items():
        for path, value in change.items():
            if path not in fields:
                raise InputError(f"{name}: {path} is no field of the configuration")
            kind = type(fields[path])
            if type(value) is not kind and (kind, type(value)) != (float, int):
                raise InputError(f"{name}: {path}={value!r} is not of type {kind.__name__}")
    return {name: _changed(cfg, name, change) for name, change in changes.items()}


def _changed(cfg: Config, name: str, change: Mapping[str, Any]) -> Config:
    each = copy.deepcopy(cfg)
    for path, value in change.items():
        *parents, last = path.split(".")
        target: Any = each
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, value)
    try:
        check(each)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return each


def train_sweep(
    jobs: Sequence[tuple[Config, RunDir]], root: Path
) -> Iterator[tuple[Config, RunDir, dict[int, Sae]]]:
    """Trains the runs of a sweep, or what is left of them.

    Runs with `data.activations=stream` that read the same tokens train in lockstep, on one pass
    of the model; their states are in memory at once. Those with `store` train one after another:
    activations are captured once for all runs of the same model, text and windows, at all of
    their hook points, before the first of them.

    Args:
      jobs: Configurations and directories.
      root: Of the sweep; stores are in `activations/` there.

    Yields:
      Each run that has its autoencoders, once it does. One that became non-finite is left
      out with a warning.

    Raises:
      InputError: As `train_run`.
      Interrupted: As `train_run`.
    """
    groups: dict[str, list[tuple[Config, RunDir]]] = {}
    for cfg, run in jobs:
        same = {path: x for path, x in flatten(cfg).items() if path.startswith(_SHARED)}
        if cfg.data.activations == "store":
            same = stored(cfg)
        groups.setdefault(json.dumps(same, sort_keys=True), []).append((cfg, run))
    for key, group in groups.items():
        if group[0][0].data.activations == "stream":
            trained = train_together(group, root)
            for (cfg, run), saes in zip(group, trained, strict=True):
                if saes is not None:
                    yield cfg, run, saes
            continue
        store = root / "activations" / hashlib.sha256(key.encode()).hexdigest()[:8]
        norms_of = group[0][0].hookpoint
        capture_store(group, store, norms_of=norms_of)
        for cfg, run in group:
            try:
                (saes,) = train_together([(cfg, run)], store, norms_of=norms_of)
            except NonFiniteError as error:
                warnings.warn(f"{run.root.name}: {error} The others go on.", stacklevel=2)
                continue
            assert saes is not None
            yield cfg, run, saes


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
