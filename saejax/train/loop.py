"""The training loop.

Dimension letters: S seeds, B tokens, D activation width, E width of a transcoder's target.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import grain
import jax
import numpy as np

from saejax.config import Config, tokens_per_batch
from saejax.progress import Progress
from saejax.train import optim
from saejax.train.checkpoint import Checkpoints
from saejax.train.interrupt import Interrupted, SignalFlag
from saejax.train.loggers import WandbLogger
from saejax.train.metrics import MetricsLog, Record, check_finite
from saejax.train.state import TrainState
from saejax.train.step import Metrics, Step

# A batch from the loader to activations [B, D] on the mesh, and the targets [B, E] of a transcoder.
Activations = Callable[[np.ndarray], tuple[jax.Array, ...]]


def train(
    cfg: Config,
    *,
    state: TrainState,
    step: Step,
    batches: grain.DatasetIterator[np.ndarray],
    activations: Activations,
    checkpoints: Checkpoints,
    num_steps: int,
    metrics_path: Path,
    logger: WandbLogger | None = None,
) -> TrainState:
    """Trains from the state's step to `num_steps`, saving a checkpoint on the way and at the end.

    Args:
      cfg: The run.
      state: Where to start; consumed.
      step: From `saejax.train.step`.
      batches: Positioned at the state's step.
      activations: Turns a batch into activations on the mesh.
      checkpoints: Where to save.
      num_steps: Steps of the whole run.
      metrics_path: JSONL file for the metrics.
      logger: Gets the same records.

    Returns:
      The state after the last step.

    Raises:
      Interrupted: After Ctrl-C or SIGTERM, with the work saved.
      NonFiniteError: If the activations, the loss or a gradient are not finite; the last good
        checkpoint stays.
    """
    first = int(state.step)
    log = MetricsLog(metrics_path, first_step=first)
    schedule = optim.schedule(cfg, num_steps)
    started = time.monotonic()
    tokens_per_step = tokens_per_batch(cfg)
    pending: Metrics | None = None

    def settle(done: int) -> None:
        """Reads, checks, shows and logs the metrics of step `done - 1`, if not done yet."""
        nonlocal pending
        if pending is None:
            return
        record: Record = {k: np.asarray(v).tolist() for k, v in jax.device_get(pending).items()}
        pending = None
        check_finite(record, step=done - 1, seeds=cfg.init_seeds, kept=checkpoints.kept)
        progress.advance(
            tokens_per_step,
            fvu=float(np.mean(record["train/fvu"])),
            dead=float(np.mean(record["train/dead_frac"])),
        )
        if (done - 1) % cfg.train.log_every_steps == 0 or done == num_steps:
            rate = (done - first) * tokens_per_step / (time.monotonic() - started)
            line = {
                "step": done - 1,
                "tokens": done * tokens_per_step,
                **record,
                "train/lr": float(np.asarray(schedule(done - 1))),
                "tokens_per_second": rate,
            }
            log.write(line)
            if logger is not None:
                logger.write(line)

    bar = Progress(
        f"train {len(cfg.init_seeds)} seeds",
        total=num_steps * tokens_per_step,
        initial=first * tokens_per_step,
        unit="tokens",
    )
    saved = time.monotonic()
    with SignalFlag() as stop, bar as progress:
        for now in range(first, num_steps):
            # Save before the iterator advances, so that state and position belong together.
            due = now > first and _is_due(cfg, now, seconds=time.monotonic() - saved)
            if due or stop.signum is not None:
                settle(now)
                checkpoints.save(state, batches)
                saved = time.monotonic()
            if stop.signum is not None:
                name = signal.Signals(stop.signum).name
                raise Interrupted(
                    f"{name}: stopped at step {now} of {num_steps}, saved in "
                    f"{checkpoints.directory}; run the same command again to continue",
                    stop.signum,
                )
            # Dispatch this step before reading the previous one's metrics: the device never waits.
            state, metrics = step(state, *activations(next(batches)))
            settle(now)
            pending = metrics
        settle(num_steps)
        checkpoints.save(state, batches)
    return state


def _is_due(cfg: Config, step: int, *, seconds: float) -> bool:
    """Is it time for a checkpoint, `seconds` after the last one?"""
    train = cfg.train
    return (
        step % train.checkpoint_every_steps == 0
        or (train.checkpoint_keep_every_steps and step % train.checkpoint_keep_every_steps == 0)
        or (0 < train.checkpoint_every_minutes * 60 <= seconds)
    )
