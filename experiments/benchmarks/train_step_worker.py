"""One measurement of the training-step benchmark, in a process of its own on one core.

train_step.py starts it for every `Task`, so that no solver inherits the memory or the threads of
another, and one that dies takes nothing with it.

Dimension letters: S seeds, n batches, B tokens in a batch, D activation width, N latents.
"""

import dataclasses
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import train_step_peers as peers
from jaxtyping import Float32
from train_step_peers import Start
from worker import run_worker

from saejax.config import Config, SaeConfig, TrainConfig
from saejax.memory import PeakMemory, keep_pages

# The first step compiles or allocates, and the second may still.
WARM_STEPS = 2
# Batches that take turns, so that a step does not find the rows of the last one in a cache.
_BATCHES = 2
# Above any gradient norm here: sparsify does not clip. saejax still computes the norm.
_NO_CLIP = 1e9


def _saejax() -> Start:
    import train_step_ours  # It starts JAX.

    return train_step_ours.start


# Imports a solver's libraries. What makes its state comes after, and is measured.
SOLVERS: dict[str, Callable[[], Start]] = {
    "saejax": _saejax,
    "sparsify adam": lambda: peers.sparsify("adam"),
    "sparsify fused adam": lambda: peers.sparsify("fused adam"),
    "sparsify signum": lambda: peers.sparsify("signum"),
    "saelens": peers.saelens,
    "dictionary_learning": peers.dictionary_learning,
}


@dataclasses.dataclass(frozen=True)
class Task:
    """What to measure.

    Attributes:
      solver: One of `SOLVERS`.
      d_model: D.
      num_latents: N.
      k: Active latents per token.
      batch_tokens: B.
      steps: Steps to time.
      seeds: S autoencoders, trained on the same batch in every step. Peers train one.
      keep_pages: Whether freed memory stays with the process, as in saejax's scripts.
    """

    solver: str
    d_model: int
    num_latents: int
    k: int
    batch_tokens: int
    steps: int
    seeds: int = 1
    keep_pages: bool = True

    def config(self) -> Config:
        """The paper's recipe, but for the warm-up, whose first step changes nothing."""
        return Config(
            init_seeds=tuple(range(self.seeds)),
            sae=SaeConfig(num_latents=self.num_latents, k=self.k),
            train=TrainConfig(warmup_steps=0, decoder_bias_init="mean", grad_clip=_NO_CLIP),
        )

    def batches(self) -> Float32[np.ndarray, "n B D"]:
        """Gaussian activations with covariance eigenvalues i^-0.5 around a common mean."""
        rng = np.random.default_rng(0)
        spread_D = np.arange(1, self.d_model + 1, dtype=np.float32) ** -0.25
        shape = (_BATCHES, self.batch_tokens, self.d_model)
        mean_D = rng.standard_normal(self.d_model, dtype=np.float32) * spread_D
        return mean_D + rng.standard_normal(shape, dtype=np.float32) * spread_D

    def encoder_rows(self) -> Float32[np.ndarray, "S N D"]:
        """Initial weights, uniform in +-1/sqrt(D); the decoder's rows are these at norm 1."""
        rows_SND = np.empty((self.seeds, self.num_latents, self.d_model), np.float32)
        for seed in range(self.seeds):
            np.random.default_rng(seed).random(dtype=np.float32, out=rows_SND[seed])
        rows_SND -= 0.5
        rows_SND *= 2 / np.sqrt(np.float32(self.d_model))
        return rows_SND

    def run(self) -> dict[str, Any]:
        """What a new process measures, or under "failed" why it could not."""
        # All on the CPU, where sparsify's Triton kernel cannot run.
        return run_worker(
            __file__,
            json.dumps(dataclasses.asdict(self)),
            JAX_PLATFORMS="cpu",
            CUDA_VISIBLE_DEVICES="",
            SPARSIFY_DISABLE_TRITON="1",
        )


def _measure(task: Task) -> dict[str, Any]:
    """Milliseconds and FVU of the steps, peak bytes, and cores that were busy."""
    if task.keep_pages:
        keep_pages()
    # jaxlib and torch make a thread for each core of this set, when they first compute.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    start = SOLVERS[task.solver]()
    x_nBD, rows_SND = task.batches(), task.encoder_rows()
    memory = PeakMemory()
    step = start(task.config(), x_nBD, rows_SND)
    fvus = [step(i % _BATCHES) for i in range(WARM_STEPS)]
    milliseconds = []
    wall, cpu = time.perf_counter(), time.process_time()
    for i in range(WARM_STEPS, WARM_STEPS + task.steps):
        begin = time.perf_counter()
        fvus.append(step(i % _BATCHES))
        milliseconds.append(1e3 * (time.perf_counter() - begin))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "milliseconds": milliseconds,
        "peak_bytes": memory.host_bytes(),
        # Less than 1 where the machine had other work.
        "busy_cores": cpu / wall,
        # Of the same batch, before the first step and before the last one on it.
        "first_fvu": fvus[0],
        "last_fvu": fvus[::_BATCHES][-1],
        "versions": {name: importlib.metadata.version(name) for name in _packages(task.solver)},
    }


def _packages(solver: str) -> tuple[str, ...]:
    package = next((p for peer, p in peers.PACKAGES.items() if solver.startswith(peer)), None)
    return (package.partition("==")[0], "torch") if package else ()


if __name__ == "__main__":
    print(json.dumps(_measure(Task(**json.loads(sys.stdin.read())))))
