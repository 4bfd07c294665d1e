"""What a run directory holds for its report: each file read once, checked, and typed.

Dimension letters: T logged steps, S seeds.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from saejax.analysis.compare import Comparison
from saejax.config import Config
from saejax.config_check import check
from saejax.config_json import from_json
from saejax.errors import InputError
from saejax.rundir import RunDir

# The scripts that make the inputs, named in every message about a missing or broken file.
_TRAIN = "experiments/train.py writes it"
_OVERLAP = "experiments/seed_overlap.py writes it"

_SEED_METRICS = ("train/fvu", "train/dead_frac", "train/l0")
_FRACTIONS = ("shared_frac", "aligned_frac", "decoder_frac", "agreement_frac", "max_cosine_frac")
_MEAN_COSINES = ("decoder_matched", "encoder_matched", "decoder_max", "encoder_max")

# Hook points and methods become parts of file names.
_FILE_NAME_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


class Metrics(NamedTuple):
    """The training log: one row for each logged step, later rows replacing repeated steps."""

    seeds: tuple[int, ...]
    steps: Int[np.ndarray, " T"]
    tokens: Int[np.ndarray, " T"]  # tokens each SAE has seen
    fvu: Float[np.ndarray, "T S"]  # >= 0
    dead_frac: Float[np.ndarray, "T S"]  # in [0, 1]
    l0: Float[np.ndarray, "T S"]  # active latents a token
    lr: Float[np.ndarray, " T"]


class Pair(NamedTuple):
    """One pair of seeds under one matching method: an entry of `results/overlap.json`."""

    hookpoint: str
    method: str
    seeds: tuple[int, int]
    num_latents: int
    threshold: float
    fractions: dict[str, float]  # shared_frac, aligned_frac, ..., each in [0, 1]
    mean_cosine: dict[str, float]  # decoder_matched, encoder_matched, decoder_max, encoder_max
    solver: str
    certified: bool
    relative_gap: float | None  # None: the method gives no certificate
    seconds: float | None


class Run(NamedTuple):
    """A run directory, as far as its report needs it."""

    path: Path
    config: Config
    versions: dict[str, str]
    metrics: Metrics
    pairs: tuple[Pair, ...]  # empty before the matching
    analysis_commit: str | None  # None before the matching


def read_run(path: Path) -> Run:
    """Reads everything but the matchings, which `load_comparison` reads one at a time.

    Raises:
      InputError: For a missing or broken file, naming it and the script that writes it.
        Only `results/overlap.json` may be missing.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such run directory; experiments/train.py makes one")
    files = RunDir(path)
    config = _read_config(files.config)
    versions = _read_object(files.versions, _TRAIN)
    metrics = _read_metrics(files.metrics, config.init_seeds)
    overlap_path = files.result("overlap")
    pairs, commit = _read_overlap(overlap_path) if overlap_path.exists() else ((), None)
    return Run(
        path,
        config,
        {
            name: "unknown" if version is None else str(version)
            for name, version in versions.items()
        },
        metrics,
        pairs,
        commit,
    )


def load_comparison(run_path: Path, pair: Pair) -> Comparison:
    """Reads the matchings of a pair, and checks that `results/overlap.json` was made from them.

    Raises:
      InputError: For a missing or broken file, or when the shared fraction differs.
    """
    matched, nearest = (
        RunDir(run_path).matching(pair.hookpoint, pair.seeds, method)
        for method in (pair.method, "max_cosine")
    )
    for file in (matched, nearest):
        if not file.is_file():
            raise InputError(f"{file} is missing: {_OVERLAP}")
    comparison = Comparison.load(matched, nearest)
    found = comparison.shared_frac(pair.threshold)
    # Half a latent: the fractions are counts over num_latents, so any real change is larger.
    if abs(found - pair.fractions["shared_frac"]) > 0.5 / pair.num_latents:
        raise InputError(
            f"{matched} gives shared_frac={found:.6f}, results/overlap.json says "
            f"{pair.fractions['shared_frac']:.6f}: run experiments/seed_overlap.py again"
        )
    return comparison


def _read_text(path: Path, origin: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {origin}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): {origin}") from None


def _parse_object(text: str, where: str, origin: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not valid JSON ({error}): {origin}") from None
    if not isinstance(value, dict):
        raise InputError(f"{where} holds {type(value).__name__}, not an object: {origin}")
    return value


def _read_object(path: Path, origin: str) -> dict[str, Any]:
    return _parse_object(_read_text(path, origin), str(path), origin)


def _read_config(path: Path) -> Config:
    text = _read_text(path, _TRAIN)
    _parse_object(text, str(path), _TRAIN)
    try:
        config = from_json(text)
        check(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (AttributeError, TypeError) as error:
        # A value of another type than its field's.
        raise InputError(f"{path} is not a configuration ({error}): {_TRAIN}") from None
    return config


def _number(entry: dict[str, Any], name: str, where: str, origin: str) -> float:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: {name}={value!r} is not a finite number; {origin}")
    return float(value)


def _numbers(
    entry: dict[str, Any], name: str, seeds: tuple[int, ...], where: str, origin: str
) -> list[float]:
    values = entry.get(name)
    if not isinstance(values, list) or len(values) != len(seeds):
        raise InputError(
            f"{where}: {name}={values!r} must list one number for each of the {len(seeds)} "
            f"init_seeds of config.json; {origin}"
        )
    by_seed = {f"{name} of seed {seed}": value for seed, value in zip(seeds, values, strict=True)}
    return [_number(by_seed, label, where, origin) for label in by_seed]


def _read_metrics(path: Path, seeds: tuple[int, ...]) -> Metrics:
    entries: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(_read_text(path, _TRAIN).splitlines(), start=1):
        where = f"{path}, line {number}"
        entry = _parse_object(line, where, f"{_TRAIN}; delete the line if a run was cut off in it")
        # A resumed run repeats the steps after its last checkpoint; the later line counts.
        entries[int(_number(entry, "step", where, _TRAIN))] = entry
        _number(entry, "tokens", where, _TRAIN)
        _number(entry, "train/lr", where, _TRAIN)
        for name in _SEED_METRICS:
            _numbers(entry, name, seeds, where, f"{_TRAIN}; a NaN means that training diverged")
    if not entries:
        raise InputError(f"{path} has no line yet: {_TRAIN} while it trains")
    ordered = [entries[step] for step in sorted(entries)]
    fvu_TS, dead_frac_TS, l0_TS = (
        np.array([entry[name] for entry in ordered], np.float64) for name in _SEED_METRICS
    )
    return Metrics(
        seeds,
        np.array(sorted(entries), np.int64),
        np.array([entry["tokens"] for entry in ordered], np.int64),
        fvu_TS,
        dead_frac_TS,
        l0_TS,
        np.array([entry["train/lr"] for entry in ordered], np.float64),
    )


def _read_pair(entry: Any, where: str) -> Pair:
    def fail(name: str, value: Any, wanted: str) -> InputError:
        return InputError(f"{where}: {name}={value!r} is not {wanted}; {_OVERLAP}")

    def optional(name: str) -> float | None:
        return None if entry.get(name) is None else _number(entry, name, where, _OVERLAP)

    if not isinstance(entry, dict):
        raise fail("entry", entry, "an object")
    for name in ("hookpoint", "method"):
        value = entry.get(name)
        if not isinstance(value, str) or not _FILE_NAME_PART.fullmatch(value):
            raise fail(name, value, "a name of letters, digits, dots, dashes and underscores")
    seeds = entry.get("seeds")
    if not isinstance(seeds, list) or [type(seed) for seed in seeds] != [int, int]:
        raise fail("seeds", seeds, "a list of two seeds")
    num_latents = _number(entry, "num_latents", where, _OVERLAP)
    if num_latents < 1:
        raise fail("num_latents", num_latents, "at least 1")
    fractions = {name: _number(entry, name, where, _OVERLAP) for name in _FRACTIONS}
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise fail(name, value, "in [0, 1]")
    threshold = _number(entry, "threshold", where, _OVERLAP)
    if not -1 <= threshold <= 1:
        raise fail("threshold", threshold, "in [-1, 1]")
    means = entry.get("mean_cosine")
    if not isinstance(means, dict):
        raise fail("mean_cosine", means, "an object")
    if not isinstance(entry.get("certified"), bool | None):
        raise fail("certified", entry["certified"], "true, false or null")
    return Pair(
        entry["hookpoint"],
        entry["method"],
        (seeds[0], seeds[1]),
        int(num_latents),
        threshold,
        fractions,
        {name: _number(means, name, f"{where}.mean_cosine", _OVERLAP) for name in _MEAN_COSINES},
        str(entry.get("solver") or entry["method"]),
        bool(entry.get("certified")),
        optional("relative_gap"),
        optional("seconds"),
    )


def _read_overlap(path: Path) -> tuple[tuple[Pair, ...], str | None]:
    overlap = _read_object(path, _OVERLAP)
    entries = overlap.get("pairs")
    if not isinstance(entries, list):
        raise InputError(f"{path}: pairs={entries!r} is not a list; {_OVERLAP}")
    pairs = tuple(
        _read_pair(entry, f"{path}: pairs[{index}]") for index, entry in enumerate(entries)
    )
    seen: dict[tuple[str, str, tuple[int, int]], Pair] = {}
    for pair in pairs:
        key = (pair.hookpoint, pair.method, pair.seeds)
        if key in seen:
            raise InputError(f"{path}: two entries for {' '.join(map(str, key))}; {_OVERLAP}")
        if pair.threshold != pairs[0].threshold:
            raise InputError(
                f"{path}: thresholds {pairs[0].threshold} and {pair.threshold} in one file cannot "
                f"be averaged; {_OVERLAP}"
            )
        seen[key] = pair
    commit = overlap.get("commit")
    return pairs, None if commit is None else str(commit)
