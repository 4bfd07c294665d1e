"""The stages of a run, each of which can be called again and does only what is missing.

train: text -> activations -> autoencoders; overlap: autoencoders -> matchings -> results.
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain

from saejax import mesh as mesh_lib
from saejax.activations import open_activations
from saejax.analysis.compare import Comparison, compare
from saejax.analysis.overlap import pair_result
from saejax.config import Config, MatchConfig, tokens_per_batch, windows_per_batch
from saejax.data.loader import Batch, make_batches, num_steps
from saejax.files import atomic_write
from saejax.formats.load import load_sae, save_sae
from saejax.processes import all_succeed, first_finds, is_first
from saejax.progress import Progress
from saejax.rundir import RunDir, commit, versions
from saejax.sae.sae import Sae
from saejax.train import optim
from saejax.train.checkpoint import Checkpoints
from saejax.train.loggers import WandbLogger
from saejax.train.loop import Member, train
from saejax.train.state import TrainState, init_state, to_saes
from saejax.train.step import make_step


def train_run(cfg: Config, run: RunDir, logger: WandbLogger | None = None) -> dict[int, Sae]:
    """Trains the autoencoders of a run, or what is left of it, and exports them.

    Args:
      cfg: The run.
      run: Its directory.
      logger: Gets the metrics, besides metrics.jsonl.

    Returns:
      The autoencoder of each seed.

    Raises:
      InputError: For anything in the input that cannot work, before long stages where
        possible.
      Interrupted: After Ctrl-C or SIGTERM, with the work saved.
    """
    (saes,) = train_together([(cfg, run)], run.activations, logger)
    assert saes is not None
    return saes


def train_together(
    jobs: Sequence[tuple[Config, RunDir]],
    store: Path,
    logger: WandbLogger | None = None,
    *,
    norms_of: str = "",
) -> list[dict[int, Sae] | None]:
    """Trains several runs on one pass of the language model, or what is left of them.

    Each step captures the activations once, at all hook points that the runs read, and then takes
    a step of every run. The states of all runs are held at once.

    Args:
      jobs: Configurations and directories. The configurations agree in model, data, mesh and
        `train.batch_tokens`.
      store: Folder for the activations, with `data.activations=store`.
      logger: Gets the metrics; for a single run.
      norms_of: Hook point of the norms that `data.max_norm_multiple` is about; "" for the first
        one of the first run.

    Returns:
      The autoencoder of each seed for each run; None for a run that became non-finite while
      others went on.

    Raises:
      InputError: As `train_run`.
      Interrupted: As `train_run`.
    """
    results = {run.root: _exported(cfg, run) for cfg, run in jobs}
    # The same whichever runs are left to do, since their tokens must be.
    norms_of = norms_of or jobs[0][0].hookpoint
    todo = [(cfg, run) for cfg, run in jobs if results[run.root] is None]
    if todo:
        members = _train(todo, store, norms_of, logger)
        for member, (cfg, run) in zip(members, todo, strict=True):
            if member.failed is None:
                results[run.root] = _export(cfg, run, member.state)
    return [results[run.root] for _, run in jobs]


def capture_store(jobs: Sequence[tuple[Config, RunDir]], store: Path, *, norms_of: str) -> None:
    """Writes the activations that runs of the same `stored` data have still to read, in one pass.

    Args:
      jobs: Configurations and directories; finished runs read nothing.
      store: Folder for the activations.
      norms_of: As for `train_together`.

    Raises:
      InputError: As `open_activations`.
    """
    todo = [cfg for cfg, run in jobs if not _is_exported(cfg, run)]
    if todo:
        mesh = mesh_lib.make_mesh(todo[0].mesh)
        open_activations(todo[0], _hookpoints(todo), store, mesh, norms_of=norms_of)


def _hookpoints(cfgs: Sequence[Config]) -> tuple[str, ...]:
    """All that runs read, once each."""
    places = (name for cfg in cfgs for name in (cfg.hookpoint, cfg.target_hookpoint))
    return tuple(dict.fromkeys(name for name in places if name))


def _train(
    jobs: Sequence[tuple[Config, RunDir]], store: Path, norms_of: str, logger: WandbLogger | None
) -> list[Member]:
    cfg = jobs[0][0]
    mesh = mesh_lib.make_mesh(cfg.mesh)
    mesh_lib.check_divides(mesh, mesh_lib.DATA, windows_per_batch=windows_per_batch(cfg))
    for each, _ in jobs:
        mesh_lib.check_divides(mesh, mesh_lib.SEED, init_seeds=len(each.init_seeds))
        mesh_lib.check_divides(mesh, mesh_lib.LATENT, num_latents=each.sae.num_latents)
    hookpoints = _hookpoints([each for each, _ in jobs])
    part, parts = mesh_lib.batch_part(mesh)
    source, activations = open_activations(cfg, hookpoints, store, mesh, norms_of=norms_of)
    total = num_steps(cfg, len(source))

    def batches() -> grain.DatasetIterator[Batch]:
        return make_batches(cfg, source, process_index=part, process_count=parts)

    first = activations(next(batches()))
    members: list[Member] = []
    positions: list[grain.DatasetIterator[Batch]] = []
    for each, run in jobs:
        checkpoints = Checkpoints(
            run.checkpoints,
            keep=each.train.checkpoints_kept,
            keep_every_steps=each.train.checkpoint_keep_every_steps,
        )
        optimizer = optim.make_optimizer(each, total, latent_axis=mesh_lib.LATENT)
        first_BD, first_target_BE = first[each.hookpoint], first.get(each.target_hookpoint)
        state = init_state(each, first_BD, optimizer, mesh, first_target_BE)
        positions.append(batches())
        if checkpoints.latest is not None:
            state = checkpoints.restore(state, positions[-1])
        step = make_step(each, optimizer, state, mesh)
        members.append(Member(run.root.name, each, state, step, checkpoints, run.metrics, logger))
    # Where the one that is furthest behind goes on.
    behind = min(range(len(members)), key=lambda i: int(members[i].state.step))
    with contextlib.nullcontext() if logger is None else logger:
        train(
            members, batches=positions[behind], activations=activations, num_steps=total, mesh=mesh
        )
    return members


def _exported(cfg: Config, run: RunDir) -> dict[int, Sae] | None:
    """The autoencoders of a run that is finished."""
    if not _is_exported(cfg, run):
        return None
    return {seed: load_sae(run.sae(cfg.hookpoint, seed)) for seed in cfg.init_seeds}


def _is_exported(cfg: Config, run: RunDir) -> bool:
    folders = (run.sae(cfg.hookpoint, seed) for seed in cfg.init_seeds)
    return first_finds(all((folder / "cfg.json").exists() for folder in folders))


def _export(cfg: Config, run: RunDir, state: TrainState) -> dict[int, Sae]:
    """Writes the autoencoders, one after the other; every process reads them back from there."""
    made = to_saes(
        state,
        cfg,
        {
            "model_name": cfg.lm.source,
            "hookpoint": cfg.hookpoint,
            "dataset_path": cfg.data.source,
            "context_size": cfg.data.context_length,
            "data_seed": cfg.data_seed,
            "training_tokens": int(state.step) * tokens_per_batch(cfg),
        },
    )
    for seed, sae in made:
        with all_succeed("writing an autoencoder"):
            if is_first():
                save_sae(sae, run.sae(cfg.hookpoint, seed))
    return {seed: load_sae(run.sae(cfg.hookpoint, seed)) for seed in cfg.init_seeds}


def _made_with(match: MatchConfig, comparison: Comparison) -> bool:
    """Whether one-to-one matchings have these settings; only entropic ones have any."""
    softs = [matching.soft for matching in (comparison.decoder, comparison.encoder)]
    settings = match.epsilon, match.tolerance
    return all(soft is None or (soft.epsilon, soft.tolerance) == settings for soft in softs)


def overlap_run(cfg: Config, run: RunDir, saes: dict[int, Sae]) -> dict[str, Any]:
    """Matches every pair of seeds by every method, and writes `results/overlap.json`.

    Matchings that are there already, made with the same settings, are read, not computed again,
    and results that say the same are left as they are. Several processes share the work of each
    matching, and process 0 writes.

    Returns:
      What was written: `pairs` (see `saejax.analysis.overlap`), config, commit, versions.
    """
    jobs = [
        (pair, method)
        for pair in itertools.combinations(cfg.init_seeds, 2)
        for method in cfg.match.methods
    ]
    results: list[dict[str, Any]] = []
    last: tuple[Any, Comparison] | None = None
    with Progress("match", total=len(jobs), unit="pairs") as progress:
        for pair, method in jobs:
            matched = run.matching(cfg.hookpoint, pair, method)
            maxima = run.matching(cfg.hookpoint, pair, "max_cosine")
            same_pair = last[1] if last is not None and last[0] == pair else None
            comparison = None
            if first_finds(matched.exists() and maxima.exists()):
                same_pair = comparison = Comparison.load(matched, maxima)
            if comparison is None or not _made_with(cfg.match, comparison):
                comparison = compare(
                    saes[pair[0]],
                    saes[pair[1]],
                    method=method,
                    maxima_of=same_pair,
                    epsilon=cfg.match.epsilon,
                    tolerance=cfg.match.tolerance,
                )
                with all_succeed("writing a matching"):
                    if is_first():
                        comparison.save(matched, maxima)
            last = pair, comparison
            results.append(
                pair_result(
                    pair,
                    method,
                    comparison,
                    hookpoint=cfg.hookpoint,
                    threshold=cfg.match.threshold,
                )
            )
            progress.advance(1, shared=results[-1]["shared_frac"])
    overlap = {
        "pairs": results,
        "config": dataclasses.asdict(cfg),
        "commit": commit(),
        "versions": versions(),
    }
    overlap = json.loads(json.dumps(overlap))
    known = run.read_result("overlap")
    if known is not None and all(known.get(name) == overlap[name] for name in ("pairs", "config")):
        return known
    if is_first():
        with atomic_write(run.result("overlap")) as file:
            file.write(json.dumps(overlap, indent=2).encode() + b"\n")
    return overlap
