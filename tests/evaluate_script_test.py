"""`experiments/evaluate.py` from the shell: a run, one autoencoder, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import saejax
from saejax.config import DataConfig
from saejax.data.corpus import read_windows
from saejax.lm import load_lm, load_tokenizer, token_losses
from saejax.rundir import open_run

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(cfg, tmp_path):
    """A run as training leaves it, with autoencoders that nobody trained."""
    run = open_run(cfg, tmp_path / "run")
    for seed in cfg.init_seeds:
        rng = np.random.default_rng(seed)
        w_dec = rng.normal(size=(32, 16)).astype(np.float32) / 4
        sae = saejax.Sae(
            w_enc=w_dec.T,
            b_enc=np.zeros(32, np.float32),
            w_dec=w_dec,
            b_dec=np.zeros(16, np.float32),
            k=4,
            metadata=(("hookpoint", cfg.hookpoint), ("seed", seed)),
        )
        saejax.save_sae(sae, run.sae(cfg.hookpoint, seed))
    return run


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    hidden = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    cache = str(tmp_path_factory.mktemp("cache"))
    return {**kept, "XDG_CACHE_HOME": cache, "JAX_PLATFORMS": "cpu"}


def evaluate(environment, *arguments):
    return subprocess.run(
        [sys.executable, ROOT / "experiments" / "evaluate.py", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_every_seed_of_a_run_on_what_it_left_out(cfg, run, environment):
    done = evaluate(environment, f"--run={run.root}", "--tokens=330")
    assert done.returncode == 0, done.stderr
    assert "layers.1.mlp on 10 windows (310 tokens) of" in done.stdout
    assert "that training did not use" in done.stdout
    assert "evaluate: 320/320 tokens" in done.stderr
    found = json.loads(run.result("evaluate").read_text())
    assert [sae["seed"] for sae in found["saes"]] == [1, 2]
    assert found["num_predictions"] == 300
    assert found["config"]["hookpoint"] == cfg.hookpoint
    assert found["versions"]["saejax"] == saejax.__version__
    for sae in found["saes"]:
        assert f"{sae['fvu']['value']:.4f} +-" in done.stdout
        assert sae["spliced"]["kl"]["value"] > 0


@pytest.mark.slow
def test_one_autoencoder_on_another_text(cfg, run, text, environment, tmp_path):
    out = tmp_path / "evaluate.json"
    done = evaluate(
        environment,
        f"--sae={run.sae(cfg.hookpoint, 2)}",
        f"--lm={cfg.lm.source}",
        f"--hookpoint={cfg.hookpoint}",
        f"--text={text}",
        "--tokens=320",
        "--context_length=32",
        "--skip_tokens=3",
        f"--out={out}",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert [sae["seed"] for sae in found["saes"]] == [2]
    assert found["text"] == str(text)
    assert found["num_tokens"] == 10 * 29
    lm = load_lm(cfg.lm.source)
    data = DataConfig(source=str(text), context_length=32, num_tokens=320, order="in_order")
    windows = read_windows(data, load_tokenizer(cfg.lm.source), vocab_size=lm.config.vocab_size)
    expected = float(token_losses(lm, windows[:])[:, 3:].mean())
    assert found["cross_entropy"]["value"] == pytest.approx(expected, rel=1e-5)


def test_what_it_refuses_is_one_line(run, environment):
    config = run.config.read_text()
    assert '"num_tokens": 1536' in config
    run.config.write_text(config.replace('"num_tokens": 1536', '"num_tokens": 0'))
    for argument, says in (
        ("--lm=gpt2", "--lm=gpt2: --run brings its own; leave it out"),
        ("--tokens=64", "training uses all "),
    ):
        done = evaluate(environment, f"--run={run.root}", argument)
        assert done.returncode == 1
        assert done.stderr.strip().splitlines()[-1].startswith("error: ")
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    assert not run.result("evaluate").exists()
