"""Eight fake CPU devices, strict ranks, repeatable hypothesis, no skipped parity tests in CI."""

import itertools
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
# Tests compile far longer than they compute: without LLVM's optimisations they take a third less.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    + os.environ.get("XLA_FLAGS", "")
).strip()

from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from saejax.config import Config, DataConfig, LmConfig, MeshConfig, SaeConfig, TrainConfig
from saejax.config_check import check
from saejax.config_json import flatten
from saejax.sweep import points

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
        "XLA_FLAGS": (
            "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
        ),
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


def _run_script(script: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    hidden = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    environment = {**kept, "XDG_CACHE_HOME": str(home / "cache"), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, env=environment
    )


@pytest.fixture(scope="session")
def run_script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script with some arguments, as a user does who has no cache but that in a folder."""
    return _run_script


@pytest.fixture(scope="session")
def make_sweep() -> Callable[[Mapping[str, Mapping[str, Any]]], dict[str, Any]]:
    """Results of a sweep as `saejax.sweep_results.collect` gives them, made up but likely.

    Called with the fields that each run changes in a base of 4,096 latents, k=32, a million tokens.
    Each seed has an effect of its own, so that a pair's fractions depend on both.
    """
    base = Config(init_seeds=(1, 2, 3))
    base.data.num_tokens, base.sae.num_latents = 1_000_000, 4096

    def run(name: str, cfg: Config) -> dict[str, Any]:
        rng = np.random.default_rng(list(name.encode()))
        tokens = cfg.data.num_tokens * cfg.data.epochs * 255 // 256
        layer = int(cfg.hookpoint.split(".")[1])
        shared = 0.5 - 0.06 * np.log2(cfg.sae.num_latents / 4096) - 0.07 * np.log2(cfg.sae.k / 32)
        shared += 0.1 * np.log2(tokens / 1e6) - 0.0008 * (layer - 14) ** 2
        shared += {"topk": 0, "relu": 0.1, "gated": 0.15}[cfg.sae.arch]
        shared = np.clip(shared, 0.03, 0.9)
        effect = dict(zip(cfg.init_seeds, rng.normal(0, 0.01, 9), strict=False))
        pairs = []
        for i, j in itertools.combinations(cfg.init_seeds, 2):
            frac = float(np.clip(shared + effect[i] + effect[j], 0, 1))
            pairs.append(
                {
                    "seeds": [i, j],
                    "method": "exact",
                    "threshold": 0.7,
                    "shared_frac": frac,
                    "aligned_frac": min(1.0, 1.02 * frac),
                    "decoder_frac": frac + 0.15 * (1 - frac),
                    "agreement_frac": frac + 0.6 * (1 - frac),
                    "max_cosine_frac": min(1.0, 1.06 * frac),
                    "mean_cosine": {
                        "decoder_matched": 0.4 + frac / 2,
                        "encoder_matched": 0.35 + frac / 2,
                        "decoder_max": 0.45 + frac / 2,
                        "encoder_max": 0.4 + frac / 2,
                    },
                    "certified": True,
                }
            )
        shared_frac = float(np.mean([p["shared_frac"] for p in pairs])) if pairs else None
        of_seeds = [0.4 + 0.3 * (1 - shared) + 0.1 * effect[seed] for seed in cfg.init_seeds]
        return {
            "name": name,
            "fvu": [float(x) for x in of_seeds],
            "l0": [float(cfg.sae.k)] * len(of_seeds),
            "dead_frac": [0.02] * len(of_seeds),
            "tokens": tokens,
            "pairs": pairs,
            "shared_frac": shared_frac,
        }

    def make(changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        configs = dict(sorted(points(base, changes).items()))
        flat = [flatten(cfg) for cfg in configs.values()]
        varied = [path for path in flat[0] if any(f[path] != flat[0][path] for f in flat)]
        runs = [
            {**run(name, cfg), **{path: each[path] for path in varied}}
            for (name, cfg), each in zip(configs.items(), flat, strict=True)
        ]
        common = {path: value for path, value in flat[0].items() if path not in varied}
        made = {"varied": varied, "common": common, "runs": runs}
        return json.loads(json.dumps(made | {"commit": "c", "versions": {}}))

    return make


@pytest.fixture(scope="session")
def replication() -> dict[str, dict[str, Any]]:
    """The runs of configs/replication.py, two other models, and one that changes two things."""
    free = {"sae.unit_decoder": False, "train.input_scaling": "sqrt_width"}
    return {
        "base": {"init_seeds": tuple(range(1, 10))},
        **{f"latents={n}": {"sae.num_latents": n} for n in (256, 1024, 16_384)},
        **{f"k={k}": {"sae.k": k} for k in (8, 16, 64, 128)},
        "tokens=0.1M": {"data.num_tokens": 100_000},
        "tokens=0.3M": {"data.num_tokens": 300_000},
        **{f"epochs={n}": {"data.epochs": n} for n in (3, 10)},
        **{
            f"hookpoint=layers.{layer}{part}": {"hookpoint": f"layers.{layer}{part}"}
            for part in (".mlp", "")
            for layer in (2, 6, 14, 25)
            if (layer, part) != (6, ".mlp")
        },
        "relu": {"sae.arch": "relu", "sae.sparsity_coefficient": 3.0, **free},
        "gated": {
            "sae.arch": "gated",
            "sae.sparsity_coefficient": 6.0,
            "sae.gated_auxiliary": "attached",
            **free,
        },
        "gpt2": {"lm.source": "openai-community/gpt2", "hookpoint": "h.6.mlp"},
        "pythia": {"lm.source": "EleutherAI/pythia-160m", "sae.num_latents": 8192},
        "k=64, 1024 latents": {"sae.k": 64, "sae.num_latents": 1024},
    }
