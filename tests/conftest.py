"""Eight fake CPU devices, strict ranks, repeatable hypothesis, no skipped parity tests in CI."""

import json
import os
import random
import socket
import subprocess
import sys
import tempfile

# Read when JAX is imported and when its CPU client starts, so before the imports below. What
# the user has set wins, as in `JAX_PLATFORMS=cuda make test`; of a repeated flag, the last counts.
os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count=8 {os.environ.get('XLA_FLAGS', '')}".strip()
)

from collections.abc import Callable, Generator
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from saejax.config import Config, DataConfig, LmConfig, MeshConfig, SaeConfig, TrainConfig
from saejax.config_check import check

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests of whole runs compile the same step many times over: once is enough.
_COMPILED = tempfile.TemporaryDirectory(prefix="saejax-tests-")
jax.config.update("jax_compilation_cache_dir", _COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
# Nor do tests leave tokens in the user's cache, or find them there.
os.environ["XDG_CACHE_HOME"] = _COMPILED.name

# The first example of a test compiles, which no deadline survives.
hypothesis.settings.register_profile(
    "saejax", deadline=None, derandomize=bool(os.environ.get("CI"))
)
hypothesis.settings.load_profile("saejax")


def _must_run(path: Path | None) -> bool:
    """Is this a parity test, where the packages it compares with have to be there?"""
    required = os.environ.get("SAEJAX_REQUIRE_PEERS") == "1"
    return required and path is not None and path.name.endswith("_peers_test.py")


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"SAEJAX_REQUIRE_PEERS=1, but this parity test did not run: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A parity test that skips itself has failed, where SAEJAX_REQUIRE_PEERS=1."""
    report = yield
    if _must_run(item.path):
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """So has a file of them that skips as a whole, as with `pytest.importorskip` at its top."""
    report = yield
    if _must_run(getattr(collector, "path", None)):
        _fail_if_skipped(report)
    return report


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, a token a byte, as a Hugging Face directory."""
    path = tmp_path_factory.mktemp("tiny_lm")
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(path / "tokenizer.json"))
    D, heads, kv_heads, mlp = 16, 4, 2, 32
    config = {
        "model_type": "llama",
        "hidden_size": D,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": mlp,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 64,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "eos_token_id": vocabulary["<|endoftext|>"],
    }
    (path / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": (len(vocabulary), D), "model.norm.weight": (D,)}
    for layer in range(2):
        block = f"model.layers.{layer}"
        shapes |= {
            f"{block}.input_layernorm.weight": (D,),
            f"{block}.post_attention_layernorm.weight": (D,),
            f"{block}.self_attn.q_proj.weight": (D, D),
            f"{block}.self_attn.k_proj.weight": (D * kv_heads // heads, D),
            f"{block}.self_attn.v_proj.weight": (D * kv_heads // heads, D),
            f"{block}.self_attn.o_proj.weight": (D, D),
            f"{block}.mlp.gate_proj.weight": (mlp, D),
            f"{block}.mlp.up_proj.weight": (mlp, D),
            f"{block}.mlp.down_proj.weight": (D, mlp),
        }
    rng = np.random.default_rng(0)
    tensors = {
        name: (rng.normal(size=shape) / (2.0 if len(shape) == 2 else 1.0)).astype(np.float32)
        for name, shape in shapes.items()
    }
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    return path


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of a small vocabulary, as JSON lines."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    rng = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "dogs", "run"]
    lines = [json.dumps({"text": " ".join(rng.choices(words, k=30))}) for _ in range(60)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def cfg(tiny_lm: Path, text: Path) -> Config:
    """48 windows, 3 epochs, 12 windows a step: 12 steps."""
    made = Config(
        init_seeds=(1, 2),
        hookpoint="layers.1.mlp",
        lm=LmConfig(source=str(tiny_lm), batch_windows=8),
        data=DataConfig(source=str(text), context_length=32, num_tokens=48 * 32, epochs=3),
        sae=SaeConfig(num_latents=32, k=4),
        train=TrainConfig(
            batch_tokens=12 * 32,
            warmup_steps=2,
            lr_scale=5.0,
            checkpoint_every_steps=5,
            log_every_steps=1,
        ),
        mesh=MeshConfig(1, 1, 1),
    )
    made.data.activations = "store"
    check(made)
    return made


def _run_two(program: str, *arguments: str) -> list[str]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COMPILATION_CACHE_DIR": _COMPILED.name,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(i), port, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        said = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, error) in zip(processes, said, strict=True):
        assert process.returncode == 0, error
    return [
        " ".join(line for line in output.splitlines() if not line.startswith("[Gloo]"))
        for output, _ in said
    ]


@pytest.fixture(scope="session")
def run_two() -> Callable[..., list[str]]:
    """Runs a program in two processes with two devices each; gives what each of them prints.

    The program's arguments are the number of its process, a port of `jax.distributed`, and those
    that are given.
    """
    return _run_two
