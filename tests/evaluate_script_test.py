"""`experiments/evaluate.py` from the shell: a run, one autoencoder, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import saejax
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


def test_a_run_and_one_of_its_autoencoders_by_itself(cfg, run, text, environment, tmp_path):
    done = evaluate(environment, f"--run={run.root}", "--tokens=330")
    assert done.returncode == 0, done.stderr
    assert "layers.1.mlp on 10 windows (310 tokens) of" in done.stdout
    assert "that training did not use" in done.stdout
    found = json.loads(run.result("evaluate").read_text())
    assert [sae["seed"] for sae in found["saes"]] == [1, 2]
    assert found["num_predictions"] == 300
    assert found["config"]["hookpoint"] == cfg.hookpoint
    assert found["versions"]["saejax"] == saejax.__version__
    for sae in found["saes"]:
        assert f"{sae['fvu']['value']:.4f} +-" in done.stdout
        assert sae["spliced"]["kl"]["value"] > 0
    assert "evaluate: 320/320 tokens" in done.stderr

    # The same from a text of the run's own and from the autoencoder alone.
    given = [f"--text={text}", "--tokens=320"]
    out = [tmp_path / "run.json", tmp_path / "sae.json"]
    done = evaluate(environment, f"--run={run.root}", *given, f"--out={out[0]}")
    assert done.returncode == 0, done.stderr
    done = evaluate(
        environment,
        f"--sae={run.sae(cfg.hookpoint, 2)}",
        f"--lm={cfg.lm.source}",
        f"--hookpoint={cfg.hookpoint}",
        "--context_length=32",
        *given,
        f"--out={out[1]}",
    )
    assert done.returncode == 0, done.stderr
    of_run, alone = (json.loads(path.read_text()) for path in out)
    [sae] = alone["saes"]
    assert sae["seed"] == 2
    for name in ("fvu", "l0"):
        assert sae[name] == pytest.approx(of_run["saes"][1][name])
    assert alone["cross_entropy"] == pytest.approx(of_run["cross_entropy"])
    assert alone["text"] == str(text)


def test_what_it_refuses_is_one_line(run, environment):
    text = run.config.read_text()
    assert '"num_tokens": 1536' in text
    run.config.write_text(text.replace('"num_tokens": 1536', '"num_tokens": 0'))
    for argument, says in (
        ("--lm=gpt2", "--lm=gpt2: --run brings its own; leave it out"),
        ("--tokens=60", "--tokens=60 must be at least 64, two windows of 32 tokens"),
        ("--tokens=64", "training uses all "),
    ):
        done = evaluate(environment, f"--run={run.root}", argument)
        assert done.returncode == 1
        line = done.stderr.strip().splitlines()[-1]
        assert line.startswith("error: ")
        assert says in line
        assert "Traceback" not in done.stderr
    assert not run.result("evaluate").exists()
