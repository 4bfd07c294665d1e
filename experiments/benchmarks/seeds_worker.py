"""One measurement of the benchmark of several seeds, in a process of its own.

Dimension letters: W windows, L tokens of a window, B all their tokens, D activation width, S seeds,
N latents.
"""

import dataclasses
import json
import sys
from typing import Any

import capture_worker
import numpy as np
import train_step_peers as peers
from capture_worker import timed

from saejax.config import SAMPLE_LM, Config, SaeConfig, TrainConfig
from saejax.memory import keep_pages


@dataclasses.dataclass(frozen=True)
class Task:
    """What to measure.

    Attributes:
      solver: "saejax" or "sparsify".
      tokens: Ids [W, L].
      seeds: S autoencoders in a step.
      num_latents: N.
      k: Active latents per token.
      hookpoint: `layers.<i>.mlp`.
      steps: Steps to time.
    """

    solver: str
    tokens: list[list[int]]
    seeds: int
    num_latents: int
    k: int
    hookpoint: str
    steps: int

    def config(self) -> Config:
        """Sparsify's recipe: nothing is clipped."""
        return Config(
            init_seeds=tuple(range(self.seeds)),
            sae=SaeConfig(num_latents=self.num_latents, k=self.k),
            train=TrainConfig(warmup_steps=0, decoder_bias_init="mean", grad_clip=0.0),
        )


def _measure(task: Task) -> dict[str, Any]:
    keep_pages()
    if task.solver == "saejax":
        import train_step_ours

        load, start = capture_worker.saejax, train_step_ours.start
    else:
        load, start = capture_worker.transformers, peers.sparsify("adam")
    model = load(SAMPLE_LM, task.hookpoint, task.tokens, "float32")
    lm_ms = timed(model, task.steps)
    x_WLD = model()
    D = x_WLD.shape[-1]
    rows_SND = np.random.default_rng(0).uniform(-1, 1, (task.seeds, task.num_latents, D))
    rows_SND = (rows_SND / np.sqrt(D)).astype(np.float32)
    # Without the first token of each window, as in the runs.
    step = start(task.config(), x_WLD[:, 1:].reshape(1, -1, D), rows_SND)
    return {
        "lm_ms": lm_ms,
        "step_ms": timed(lambda: step(0), task.steps),
        "sample": x_WLD[0, 1:].tolist(),
    }


if __name__ == "__main__":
    print(json.dumps(_measure(Task(**json.loads(sys.stdin.read())))))
