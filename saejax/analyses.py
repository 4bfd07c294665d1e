"""The analyses of a trained run: each writes one file of results, once for the same inputs."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from saejax.analysis.compare import Comparison
from saejax.analysis.latents import NUM_TOKENS, describe_latents
from saejax.analysis.null import null_record
from saejax.analysis.seeds_of_run import seeds_of_run
from saejax.analysis.spread import spread_record
from saejax.analysis.thresholds import thresholds_record
from saejax.config import Config
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.processes import all_succeed, first_finds, is_first
from saejax.run import overlap_run
from saejax.rundir import RunDir, commit, versions
from saejax.sae.sae import Sae

# In the order in which they are made; those after "overlap" but "latents" take seconds, and
# "latents" alone needs the text and the language model.
STAGES = ("overlap", "thresholds", "spread", "null", "seeds", "latents")
QUICK_STAGES = ("thresholds", "spread", "null", "seeds")
# Of several processes all match and share the work, in these stages; the others are host work.
_SHARED_STAGES = ("overlap", "null")
# Of the results; changes with what is computed.
_FORMAT = "saejax analyses 1"


class Outcome(NamedTuple):
    """What became of one stage."""

    stage: str
    status: str  # "made", "kept" (it was there), "missing" (it needs more), "failed"
    reason: str  # why it is missing or failed
    record: dict[str, Any] | None  # what `results/<stage>.json` holds, where made or kept


def check_stages(stages: Collection[str]) -> None:
    """Raises `InputError` for a name that is no stage."""
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise InputError(f"stages: no {', '.join(unknown)}; choose of {', '.join(STAGES)}")


def analyze(
    cfg: Config,
    run: RunDir,
    saes: dict[int, Sae],
    stages: Collection[str],
    *,
    num_tokens: int = NUM_TOKENS,
) -> Iterator[Outcome]:
    """Makes the results of a run, one stage after the other, or keeps those that are there.

    A result is kept where the checksum of its inputs, which it carries, is still theirs:
    the bytes of the matchings (thresholds, seeds), the rows of the overlap (spread), the
    bytes of the autoencoders (null), with the seeds, the threshold and the version of what is
    computed. "overlap" reads all matchings and writes only what changed; "latents" has a checksum
    of its own, see `describe_latents`.

    Several processes, which all call this, share the work of "overlap" and "null"; process 0 does
    the others but "latents", for which one process has to be called, and writes all results.

    Args:
      cfg: The run.
      run: Its directory.
      saes: The autoencoder of each seed.
      stages: Which of `STAGES`; their order is always that one.
      num_tokens: Of "latents".

    Yields:
      The outcome of each stage. A stage that fails by its input does not keep others from going on.

    Raises:
      InputError: For an unknown stage.
      Interrupted: After Ctrl-C or SIGTERM, with the work saved.
    """
    check_stages(stages)
    for stage in STAGES:
        if stage not in stages:
            continue
        if len(saes) < 2 and stage in ("overlap", "thresholds", "spread", "seeds"):
            yield Outcome(stage, "missing", "one seed: needs a pair", None)
            continue
        if stage == "latents" and jax.process_count() > 1:
            yield Outcome(stage, "missing", "is for one process: run analyze.py without", None)
            continue
        before = run.read_result(stage)
        try:
            with all_succeed(f"the analysis {stage}"):
                if stage in _SHARED_STAGES or is_first():
                    _made(stage, cfg, run, saes, num_tokens)
        except InputError as error:
            yield Outcome(stage, "failed", str(error), None)
            continue
        record = run.read_result(stage)
        yield Outcome(stage, "kept" if record == before else "made", "", record)


def _made(
    stage: str, cfg: Config, run: RunDir, saes: dict[int, Sae], num_tokens: int
) -> dict[str, Any]:
    about = [cfg.hookpoint, list(saes), cfg.match.threshold, list(cfg.match.methods)]
    match stage:
        case "overlap":
            return overlap_run(cfg, run, saes)
        case "thresholds":
            files = [file for pair in _matchings(cfg, run).values() for file in pair]

            def thresholds() -> dict[str, Any]:
                pairs = _matchings(cfg, run).items()
                return thresholds_record({key: Comparison.load(*files) for key, files in pairs})

            return _written(run, stage, [about, _checksums(files)], thresholds, indent=None)
        case "spread":
            overlap = run.read_result("overlap")
            if overlap is None:
                raise InputError(f"{run.result('overlap')} is missing: the stage overlap makes it")
            pairs = overlap["pairs"]
            return _written(run, stage, [pairs], lambda: spread_record(pairs))
        case "null":
            # One seed has itself, rotated, to be compared with.
            first, second = (*saes, *saes)[:2]
            files = [
                run.sae(cfg.hookpoint, seed) / "sae_weights.safetensors" for seed in (first, second)
            ]

            def null() -> dict[str, Any]:
                return {"rotated_seeds": [first, second]} | null_record(
                    saes[first], saes[second], threshold=cfg.match.threshold, used_seeds=list(saes)
                )

            return _written(run, stage, [about, _checksums(files)], null)
        case "seeds":
            method = cfg.match.methods[0]
            files = [
                file
                for key, pair in _matchings(cfg, run).items()
                for file in pair
                if key[2] == method
            ]
            return _written(
                run,
                stage,
                [about, method, _checksums(files)],
                lambda: seeds_of_run(run, method=method),
            )
        case _:
            return describe_latents(cfg, run, saes, num_tokens=num_tokens)


def _matchings(cfg: Config, run: RunDir) -> dict[tuple[int, int, str], tuple[Path, Path]]:
    """Files of the one-to-one matchings and row maxima, by pair and method."""
    found = {
        (*pair, method): (
            run.matching(cfg.hookpoint, pair, method),
            run.matching(cfg.hookpoint, pair, "max_cosine"),
        )
        for pair in itertools.combinations(cfg.init_seeds, 2)
        for method in cfg.match.methods
    }
    for file in itertools.chain(*found.values()):
        if not file.exists():
            raise InputError(f"{file} is missing: the stage overlap makes it")
    return found


def _checksums(files: list[Path]) -> list[str]:
    sums = []
    for path in files:
        with path.open("rb") as file:
            sums.append(hashlib.file_digest(file, "sha256").hexdigest())
    return sums


def _written(
    run: RunDir,
    name: str,
    inputs: list[Any],
    make: Callable[[], dict[str, Any]],
    *,
    indent: int | None = 2,
) -> dict[str, Any]:
    """The result of these inputs: the one that is there, or a new one."""
    checksum = hashlib.sha256(json.dumps([_FORMAT, name, inputs]).encode()).hexdigest()
    known = run.read_result(name)
    is_known = known is not None and known.get("inputs") == checksum
    if (first_finds(is_known) if name in _SHARED_STAGES else is_known) and known is not None:
        return known
    record = make() | {
        "inputs": checksum,
        "config": dataclasses.asdict(run.read_config()),
        "commit": commit(),
        "versions": versions(),
    }
    text = json.dumps(record, indent=indent)
    if is_first():
        with atomic_write(run.result(name)) as file:
            file.write(text.encode() + b"\n")
    return json.loads(text)
