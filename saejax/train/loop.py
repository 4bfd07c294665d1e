"""The training loop, for one run or several that see the same tokens in the same order.

Dimension letters: S seeds, B tokens, D activation width.
"""

import dataclasses
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from saejax.config import Config, tokens_per_batch
from saejax.data.exclude import REPLACED
from saejax.data.loader import Batch
from saejax.processes import is_first
from saejax.progress import Progress
from saejax.train import optim
from saejax.train.checkpoint import Checkpoints
from saejax.train.interrupt import Interrupted, SignalFlag
from saejax.train.loggers import WandbLogger
from saejax.train.metrics import MetricsLog, NonFiniteError, Record, check_finite
from saejax.train.state import TrainState
from saejax.train.step import Metrics, Step
from saejax.train.together import Together, Wish

# A batch from the loader to activations [B, D] on the mesh, by hook point, and where tokens are
# excluded to the metric `REPLACED`.
Activations = Callable[[Batch], Mapping[str, jax.Array]]


@dataclasses.dataclass
class Member:
    """A run in training.

    Attributes:
      name: For messages, where there are several.
      cfg: The run.
      state: Where it is; the loop takes it on.
      step: From `saejax.train.step`.
      checkpoints: Where to save.
      metrics_path: JSONL file for the metrics.
      logger: Gets the same records.
      failed: What ended this run before the others.
    """

    name: str
    cfg: Config
    state: TrainState
    step: Step
    checkpoints: Checkpoints
    metrics_path: Path
    logger: WandbLogger | None = None
    failed: NonFiniteError | None = None


def train(
    members: Sequence[Member],
    *,
    batches: grain.DatasetIterator[Batch],
    activations: Activations,
    num_steps: int,
    mesh: Mesh,
) -> None:
    """Trains every member from its step to `num_steps`, with checkpoints on the way and at the end.

    Members share each batch and its activations, which are captured once. One that is ahead, as
    it can be when the process was killed between two checkpoints, waits for the others.

    Several processes train together, each with its part of every batch. They save and stop at the
    same step, whichever of them gets a signal; process 0 writes the metrics.

    Args:
      members: Runs whose configurations agree in the data, the model and the tokens of a step.
      batches: Positioned at the least of the members' steps.
      activations: Turns a batch into activations on the mesh.
      num_steps: Steps of each whole run.
      mesh: Devices.

    Raises:
      Interrupted: After Ctrl-C or SIGTERM, with the work saved.
      NonFiniteError: If the activations, the loss or a gradient are not finite; the last good
        checkpoint stays. Of several members the one concerned is left behind with a warning, and
        the error is raised when there is no other.
    """
    followers = [_Follower(member, num_steps) for member in members]
    first = min(follower.first for follower in followers)
    tokens_per_step = tokens_per_batch(members[0].cfg)
    together = Together(mesh)
    started = saved = time.monotonic()

    def settle(done: int) -> None:
        """Reads, checks, shows and logs the metrics of step `done - 1`, if not done yet."""
        together.read()
        rate = (done - first) * tokens_per_step / (time.monotonic() - started)
        settled: list[Record] = []
        for follower in _alive(followers):
            if follower.pending is None:
                continue
            try:
                settled.append(follower.settle(done, rate))
            except NonFiniteError as error:
                if len(_alive(followers)) == 1:
                    raise
                follower.member.failed = error
                warnings.warn(f"{follower.member.name}: {error} The others go on.", stacklevel=2)
        if settled:
            progress.advance(
                tokens_per_step,
                fvu=float(np.mean([np.mean(record["train/fvu"]) for record in settled])),
                dead=float(np.mean([np.mean(record["train/dead_frac"]) for record in settled])),
            )

    def wish(stop: SignalFlag) -> Wish:
        seconds = time.monotonic() - saved
        return Wish(stop.signum or 0, any(_is_late(m.cfg, seconds) for m in members))

    num_saes = sum(len(member.cfg.init_seeds) for member in members)
    bar = Progress(
        f"train {num_saes} seeds" if len(members) == 1 else f"train {num_saes} SAEs",
        total=num_steps * tokens_per_step,
        initial=first * tokens_per_step,
        unit="tokens",
    )
    with SignalFlag() as stop, bar as progress:
        for now in range(first, num_steps):
            # Save before the iterator advances, so that state and position belong together.
            together.ask(wish(stop))
            due = any(_is_due(m.cfg, now) for m in members) or together.agreed.save
            if (due and now > first) or together.agreed.signum:
                settle(now)
                for follower in _alive(followers, now):
                    follower.member.checkpoints.save(follower.member.state, batches)
                saved = time.monotonic()
                together.saved()
            if signum := together.agreed.signum:
                places = ", ".join(str(m.checkpoints.directory) for m in members)
                raise Interrupted(
                    f"{signal.Signals(signum).name}: stopped at step {now} of {num_steps}, "
                    f"saved in {places}; run the same command again to continue",
                    signum,
                )
            # Dispatch this step before reading the previous one's metrics: the device never waits.
            given = activations(next(batches))
            stepping = _alive(followers, now)
            shared = together.share([f.step(given) for f in stepping], wish(stop))
            settle(now)
            for follower, metrics in zip(stepping, shared, strict=True):
                follower.pending = metrics
        settle(num_steps)
        for follower in _alive(followers):
            follower.member.checkpoints.save(follower.member.state, batches)


class _Follower:
    """A member with its log, and the metrics of its last step while they are not read."""

    def __init__(self, member: Member, num_steps: int):
        self.member = member
        self.first = int(member.state.step)
        self.pending: Metrics | None = None
        self._num_steps = num_steps
        self._schedule = optim.schedule(member.cfg, num_steps)
        self._log = None
        if is_first():
            self._log = MetricsLog(member.metrics_path, first_step=self.first)

    def step(self, given: Mapping[str, jax.Array]) -> Metrics:
        member = self.member
        x_BD, target_BE = given[member.cfg.hookpoint], given.get(member.cfg.target_hookpoint)
        member.state, metrics = member.step(member.state, x_BD, target_BE)
        return {**metrics, REPLACED: given[REPLACED]} if REPLACED in given else metrics

    def settle(self, done: int, tokens_per_second: float) -> Record:
        """Reads, checks and logs the pending metrics, which are of step `done - 1`."""
        assert self.pending is not None
        cfg = self.member.cfg
        read = jax.device_get(self.pending)
        record: Record = {name: np.asarray(value).tolist() for name, value in read.items()}
        self.pending = None
        check_finite(record, step=done - 1, seeds=cfg.init_seeds, kept=self.member.checkpoints.kept)
        if (done - 1) % cfg.train.log_every_steps == 0 or done == self._num_steps:
            line = {
                "step": done - 1,
                "tokens": done * tokens_per_batch(cfg),
                **record,
                "train/lr": float(np.asarray(self._schedule(done - 1))),
                "tokens_per_second": tokens_per_second,
            }
            if self._log is not None:
                self._log.write(line)
            if self.member.logger is not None:
                self.member.logger.write(line)
        return record


def _alive(followers: list[_Follower], step: int | None = None) -> list[_Follower]:
    """Those that have not failed and, given a step, are not ahead of it."""
    return [
        follower
        for follower in followers
        if follower.member.failed is None and (step is None or follower.first <= step)
    ]


def _is_due(cfg: Config, step: int) -> bool:
    """Is there to be a checkpoint of this step?"""
    every, keep_every = cfg.train.checkpoint_every_steps, cfg.train.checkpoint_keep_every_steps
    return step % every == 0 or (keep_every > 0 and step % keep_every == 0)


def _is_late(cfg: Config, seconds: float) -> bool:
    """Is it time for a checkpoint, so long after the last one?"""
    return 0 < cfg.train.checkpoint_every_minutes * 60 <= seconds
