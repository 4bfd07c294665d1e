"""One measurement of the capture benchmark, in a process of its own.

capture.py starts it for every `Task`, so that no solver inherits the memory or the threads of
another. seeds_worker.py runs the same two models before its training steps.

Dimension letters: W windows, L tokens of a window, D activation width.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from worker import run_worker

from saejax.config import SAMPLE_LM, SAMPLE_TEXT, DataConfig
from saejax.data.corpus import read_windows
from saejax.lm import layers_needed, load_config, load_lm, load_tokenizer, make_capture
from saejax.memory import PeakMemory, keep_pages
from saejax.sources import resolve

# The first call compiles or allocates, and the second may still.
_WARM = 2

Capture = Callable[[], Float32[np.ndarray, "W L D"]]


@dataclasses.dataclass(frozen=True)
class Task:
    """What to measure.

    Attributes:
      solver: One of `SOLVERS`.
      dtype: Of weights and products, "float32" or "bfloat16".
      source: As for `saejax.lm.load.load_lm`.
      hookpoint: Whose output to read, as `layers.6.mlp`.
      tokens: Ids [W, L], the same in every step: what they say does not change the time.
      steps: Steps to time.
      cores: Cores to run on.
    """

    solver: str
    dtype: str
    source: str
    hookpoint: str
    tokens: list[list[int]]
    steps: int
    cores: int

    def run(self) -> dict[str, Any]:
        """What a new process measures, or under "failed" why it could not."""
        return run_worker(
            __file__,
            json.dumps(dataclasses.asdict(self)),
            JAX_PLATFORMS="cpu",
            CUDA_VISIBLE_DEVICES="",
        )


def sample_tokens(windows: int, length: int) -> list[list[int]]:
    """Windows [W, L] of the packaged text, in the packaged model's token ids."""
    tokenizer = load_tokenizer(SAMPLE_LM)
    data = DataConfig(
        source=SAMPLE_TEXT,
        text_field="extract",
        context_length=length,
        num_tokens=windows * length,
    )
    return read_windows(data, tokenizer, vocab_size=tokenizer.vocab_size)[:].tolist()


def saejax(source: str, hookpoint: str, tokens: list[list[int]], dtype: str) -> Capture:
    """A pass of our model to the hook point."""
    import jax.numpy as jnp

    layers = layers_needed(load_config(source), hookpoint)
    capture = make_capture(load_lm(source, dtype=dtype, num_layers=layers), [hookpoint])
    tokens_WL: Int[Any, "W L"] = jnp.asarray(tokens, jnp.int32)
    return lambda: np.asarray(capture(tokens_WL)[hookpoint], np.float32)


def transformers(source: str, hookpoint: str, tokens: list[list[int]], dtype: str) -> Capture:
    """A pass of Hugging Face's model on torch, cut off after the layer of the hook point."""
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM

    path = resolve(source)
    file = {} if path.is_dir() else {"gguf_file": path.name}
    lm: Any = AutoModelForCausalLM.from_pretrained(
        path if path.is_dir() else path.parent, **file, dtype=getattr(torch, dtype)
    )
    model = lm.model
    model.layers = model.layers[: layers_needed(load_config(source), hookpoint)]
    seen: list[Any] = []
    model.get_submodule(hookpoint).register_forward_hook(lambda *args: seen.append(args[2]))
    tokens_WL = torch.tensor(tokens)

    def run() -> Float32[np.ndarray, "W L D"]:
        with torch.inference_mode():
            model(tokens_WL, use_cache=False)
        output = seen.pop()
        # Attention gives its weights as well.
        return (output[0] if isinstance(output, tuple) else output).float().numpy()

    return run


SOLVERS = {"saejax": saejax, "transformers": transformers}


def timed(call: Callable[[], Any], steps: int) -> list[float]:
    """Milliseconds of calls, after those that compile and allocate."""
    return [wall for wall, _ in _timed(call, steps)]


def _timed(call: Callable[[], Any], steps: int) -> list[tuple[float, float]]:
    """Milliseconds of calls, and those that processors worked on them."""
    milliseconds = []
    for _ in range(_WARM + steps):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        milliseconds.append((1e3 * wall, 1e3 * cpu))
    return milliseconds[_WARM:]


def _measure(task: Task) -> dict[str, Any]:
    keep_pages()
    # jaxlib and torch make a thread for each core of this set, when they first compute.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.cores])
    # Libraries, which are left out of the memory.
    if task.solver == "transformers":
        import torch  # noqa: F401  # pyright: ignore[reportMissingImports]
        from transformers.models.llama import modeling_llama  # noqa: F401
    else:
        import jax

        jax.devices()
    memory = PeakMemory()
    capture = SOLVERS[task.solver](task.source, task.hookpoint, task.tokens, task.dtype)
    load_bytes = memory.host_bytes()
    PeakMemory()  # Restarts the count: what loading took and gave back is left out from here on.
    milliseconds = _timed(capture, task.steps)
    return {
        "milliseconds": [wall for wall, _ in milliseconds],
        # What a machine without other work takes, on one core.
        "cpu_milliseconds": [cpu for _, cpu in milliseconds],
        # Above what the libraries hold: weights, temporaries, compilation.
        "peak_bytes": memory.host_bytes(),
        "load_peak_bytes": load_bytes,
        # Without the first token, whose activations can be a hundred times the others'.
        "sample": capture()[0, 1:].tolist(),
    }


if __name__ == "__main__":
    print(json.dumps(_measure(Task(**json.loads(sys.stdin.read())))))
