"""The stages of a run, each of which can be called again and does only what is missing.

train: text -> activations -> autoencoders; overlap: autoencoders -> matchings -> results.
"""

import contextlib
import dataclasses
import itertools
import json
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from saejax import mesh as mesh_lib
from saejax.analysis.compare import Comparison, compare
from saejax.analysis.overlap import pair_result
from saejax.config import Config, tokens_per_batch, windows_per_batch
from saejax.data.corpus import read_windows
from saejax.data.loader import WindowSource, make_batches, num_steps
from saejax.data.store import ActivationStore, is_complete, write_store
from saejax.files import atomic_write
from saejax.formats.load import load_sae, save_sae
from saejax.lm import (
    check_hookpoint,
    check_tokens,
    hook_width,
    layers_needed,
    load_config,
    load_lm,
    load_tokenizer,
    make_capture,
)
from saejax.progress import Progress
from saejax.rundir import RunDir, commit, versions
from saejax.sae.sae import Sae
from saejax.train import optim
from saejax.train.checkpoint import Checkpoints
from saejax.train.loggers import WandbLogger
from saejax.train.loop import Activations, train
from saejax.train.state import init_state, to_saes
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
    folders = {seed: run.sae(cfg.hookpoint, seed) for seed in cfg.init_seeds}
    if all((folder / "cfg.json").exists() for folder in folders.values()):
        return {seed: load_sae(folder) for seed, folder in folders.items()}
    mesh = mesh_lib.make_mesh(cfg.mesh)
    mesh_lib.check_divides(mesh, mesh_lib.SEED, init_seeds=len(cfg.init_seeds))
    mesh_lib.check_divides(mesh, mesh_lib.LATENT, num_latents=cfg.sae.num_latents)
    mesh_lib.check_divides(mesh, mesh_lib.DATA, windows_per_batch=windows_per_batch(cfg))
    source, activations = _activations(cfg, run, mesh)
    total = num_steps(cfg, len(source))
    checkpoints = Checkpoints(
        run.checkpoints,
        keep=cfg.train.checkpoints_kept,
        keep_every_steps=cfg.train.checkpoint_keep_every_steps,
    )
    batches = make_batches(cfg, source)
    optimizer = optim.make_optimizer(cfg, total, latent_axis=mesh_lib.LATENT)
    first_BD, *first_target = activations(next(make_batches(cfg, source)))
    state = init_state(cfg, first_BD, optimizer, mesh, *first_target)
    if checkpoints.latest is not None:
        state = checkpoints.restore(state, batches)
    with contextlib.nullcontext() if logger is None else logger:
        state = train(
            cfg,
            state=state,
            step=make_step(cfg, optimizer, state, mesh),
            batches=batches,
            activations=activations,
            checkpoints=checkpoints,
            num_steps=total,
            metrics_path=run.metrics,
            logger=logger,
        )
    saes = to_saes(
        state,
        cfg,
        {
            "model_name": cfg.lm.source,
            "hookpoint": cfg.hookpoint,
            "dataset_path": cfg.data.source,
            "context_size": cfg.data.context_length,
            "data_seed": cfg.data_seed,
            "training_tokens": total * tokens_per_batch(cfg),
        },
    )
    for seed, sae in saes.items():
        save_sae(sae, folders[seed])
    return saes


def _activations(cfg: Config, run: RunDir, mesh: Mesh) -> tuple[WindowSource, Activations]:
    """What the loader reads, and how a batch of it becomes activations [B, D] on the mesh."""
    on_data = NamedSharding(mesh, mesh_lib.BATCH)

    def flatten(x: jax.Array) -> tuple[jax.Array, ...]:
        return (x.reshape(-1, x.shape[-1]),)

    if cfg.data.activations == "store" and is_complete(run.activations):
        return ActivationStore(run.activations), lambda x: flatten(jax.device_put(x, on_data))
    lm_config = load_config(cfg.lm.source)
    check_hookpoint(lm_config, cfg.hookpoint)
    tokenizer = load_tokenizer(cfg.lm.source)
    windows_WL = read_windows(cfg.data, tokenizer.encode_batch, tokenizer.end_of_text)
    check_tokens(lm_config, windows_WL)
    num_steps(cfg, len(windows_WL))
    lm = load_lm(
        cfg.lm.source,
        dtype=cfg.lm.dtype,
        num_layers=layers_needed(lm_config, cfg.hookpoint),
    )
    capture_on_mesh = make_capture(lm, cfg.hookpoint, mesh=mesh)

    def capture(tokens_WL: np.ndarray) -> jax.Array:
        return capture_on_mesh(jax.device_put(tokens_WL, on_data))

    if cfg.data.activations == "stream":
        return windows_WL, lambda x: flatten(capture(x)[:, cfg.data.skip_tokens :])
    mesh_lib.check_divides(mesh, mesh_lib.DATA, **{"lm.batch_windows": cfg.lm.batch_windows})
    write_store(
        run.activations,
        windows_WL,
        capture,
        width=hook_width(lm_config, cfg.hookpoint),
        skip_tokens=cfg.data.skip_tokens,
        dtype=cfg.data.store_dtype,
        batch_windows=cfg.lm.batch_windows,
        describes={
            "lm": {**dataclasses.asdict(cfg.lm), "fingerprint": lm.fingerprint},
            "hookpoint": cfg.hookpoint,
            "data": dataclasses.asdict(cfg.data),
        },
    )
    return ActivationStore(run.activations), lambda x: flatten(jax.device_put(x, on_data))


def overlap_run(cfg: Config, run: RunDir, saes: dict[int, Sae]) -> dict[str, Any]:
    """Matches every pair of seeds by every method, and writes `results/overlap.json`.

    Matchings that are there already are read, not computed again.

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
            if matched.exists() and maxima.exists():
                comparison = Comparison.load(matched, maxima)
            else:
                same_pair = last[1] if last is not None and last[0] == pair else None
                comparison = compare(
                    saes[pair[0]],
                    saes[pair[1]],
                    method=method,
                    maxima_of=same_pair,
                    epsilon=cfg.match.epsilon,
                    tolerance=cfg.match.tolerance,
                )
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
    with atomic_write(run.result("overlap")) as file:
        file.write(json.dumps(overlap, indent=2).encode() + b"\n")
    return overlap
