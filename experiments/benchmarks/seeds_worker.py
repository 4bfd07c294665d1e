"""One measurement of the benchmark of several seeds, in a process of its own.

Dimension letters: W windows, L tokens of a window, B all their tokens, D activation width, S seeds,
N latents.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import train_step_peers as peers

from saejax.config import SAMPLE_LM, Config, SaeConfig, TrainConfig
from saejax.memory import keep_pages
from saejax.sources import resolve

# The first calls compile or allocate.
_WARM = 2


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


def _our_model(task: Task) -> Callable[[], np.ndarray]:
    import jax

    from saejax.lm import layers_needed, load_config, load_lm, make_capture

    layers = layers_needed(load_config(SAMPLE_LM), task.hookpoint)
    capture = make_capture(load_lm(SAMPLE_LM, num_layers=layers), [task.hookpoint])
    tokens_WL = jax.numpy.asarray(task.tokens, jax.numpy.int32)
    return lambda: np.asarray(capture(tokens_WL)[task.hookpoint])


def _their_model(task: Task) -> Callable[[], np.ndarray]:
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM

    path = resolve(SAMPLE_LM)
    lm: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    layer = int(task.hookpoint.split(".")[1])
    model = lm.model
    model.layers = model.layers[: layer + 1]
    seen: list[np.ndarray] = []
    model.layers[layer].mlp.register_forward_hook(lambda *args: seen.append(args[2].numpy()))
    tokens_WL = torch.tensor(task.tokens)

    def run() -> np.ndarray:
        with torch.no_grad():
            model(tokens_WL, use_cache=False)
        return seen.pop()

    return run


def _timed(call: Callable[[], Any], steps: int) -> list[float]:
    milliseconds = []
    for _ in range(_WARM + steps):
        begin = time.perf_counter()
        call()
        milliseconds.append(1e3 * (time.perf_counter() - begin))
    return milliseconds[_WARM:]


def _measure(task: Task) -> dict[str, Any]:
    keep_pages()
    if task.solver == "saejax":
        import train_step_ours

        model, start = _our_model(task), train_step_ours.start
    else:
        model, start = _their_model(task), peers.sparsify("adam")
    lm_ms = _timed(model, task.steps)
    x_WLD = model()
    D = x_WLD.shape[-1]
    rows_SND = np.random.default_rng(0).uniform(-1, 1, (task.seeds, task.num_latents, D))
    rows_SND = (rows_SND / np.sqrt(D)).astype(np.float32)
    # Without the first token of each window, as in the runs.
    step = start(task.config(), x_WLD[:, 1:].reshape(1, -1, D), rows_SND)
    return {
        "lm_ms": lm_ms,
        "step_ms": _timed(lambda: step(0), task.steps),
        "sample": x_WLD[0, 1:].tolist(),
    }


if __name__ == "__main__":
    print(json.dumps(_measure(Task(**json.loads(sys.stdin.read())))))
