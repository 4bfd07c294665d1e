"""Serves the packaged SmolLM2-135M behind an OpenAI-compatible API on this machine.

    pip install xllamacpp==2026.10.11549    # llama.cpp, a wheel of 34 MB without dependencies
    python experiments/serve_sample_lm.py --port=8080

Then, in another terminal, http://localhost:8080/v1 is the endpoint, with any name as the model. It
holds answers to a JSON schema, as larger servers do. Ctrl-C ends it.

It is there to try the client, the prompts and the parsing on a machine without a network. What so
small a model says about latents is worth nothing: vLLM, llama.cpp's own llama-server, Ollama or a
hosted API serve models that can explain, and the client takes them all.

On two busy cores it made 50 tokens a second and read 70, with one thread. A thread more than there
are free cores makes it 40 times slower, since llama.cpp's threads wait for each other in a loop.
"""

import signal
import threading
from collections.abc import Sequence

from absl import flags

from saejax import cli
from saejax.config import SAMPLE_LM
from saejax.errors import InputError
from saejax.sources import resolve

_PORT = flags.DEFINE_integer("port", 8080, "Port on localhost.", lower_bound=1, upper_bound=65535)
_THREADS = flags.DEFINE_integer("threads", 1, "Threads; no more than free cores.", lower_bound=1)
_MODEL = flags.DEFINE_string("model", SAMPLE_LM, "A .gguf file, or package:<module>/<file>.")
_CONTEXT = flags.DEFINE_integer(
    "context", 8192, "Tokens of a prompt and its answer together.", lower_bound=1
)


def main(argv: Sequence[str]) -> None:
    """Serves until it is interrupted."""
    del argv
    try:
        from xllamacpp import CommonParams, Server  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            "the package xllamacpp is not installed: run `pip install xllamacpp==2026.10.11549`"
        ) from None
    params = CommonParams()
    params.model.path = str(resolve(_MODEL.value))
    params.hostnames = ["127.0.0.1"]
    params.port = _PORT.value
    params.n_ctx = _CONTEXT.value
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _THREADS.value
    try:
        server = Server(params)
    except RuntimeError:
        raise InputError(
            f"cannot serve {params.model.path} on port {params.port}: is the port free, and is it "
            "a GGUF file? llama.cpp's lines above say more"
        ) from None
    print(f"serving at {server.listening_address}/v1; Ctrl-C ends it", flush=True)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


if __name__ == "__main__":
    cli.run(main)
