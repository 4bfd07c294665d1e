"""`experiments/analyze.py` from the shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from saejax.analyses import STAGES
from saejax.run import train_run
from saejax.rundir import open_run

ROOT = Path(__file__).parents[1]


def analyze(run, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, ROOT / "experiments" / "analyze.py", f"--run={run}", *arguments],
        env=environment | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_everything_from_a_trained_run_and_nothing_twice(cfg, tmp_path):
    run = open_run(cfg, tmp_path / "run")
    train_run(cfg, run)
    first = analyze(run.root, "--tokens=1000")
    assert first.returncode == 0, first.stderr
    assert [f"{stage}: made\n" in first.stdout for stage in STAGES] == [True] * len(STAGES)
    for line in (
        "mean (exact)",
        "shared (exact), by the threshold: ",
        "no jackknife: 2 seeds: needs three",
        "chance: the best of 32 random directions has cosine 0.",
        "untrained: ",
        "latents of a seed that no other of k autoencoders has: ",
        "no cycles: 2 seeds: needs three",
        "992 tokens, from the store",
    ):
        assert line in first.stdout
    assert "read latents" in first.stderr
    second = analyze(run.root, "--tokens=1000")
    assert second.stdout == first.stdout.replace(": made", ": kept")
    assert second.returncode == 0
    assert "read latents" not in second.stderr
    # Without the text, what needs it fails, and says so; the rest does not.
    Path(cfg.data.source).rename(tmp_path / "elsewhere")
    try:
        third = analyze(run.root, "--stages=latents,null")
    finally:
        (tmp_path / "elsewhere").rename(cfg.data.source)
    assert third.returncode == 1
    assert "null: kept" in third.stdout
    assert "latents: failed, " in third.stdout
    assert third.stderr.endswith("error: not done: latents; the reasons are above\n")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--stages=null,all", "stages: no all; choose of overlap, thresholds"),
        ("--stages=null", "has no trained autoencoder of seed 1: finish it with"),
    ],
)
def test_bad_input_is_one_line(cfg, tmp_path, argument, message):
    done = analyze(open_run(cfg, tmp_path / "run").root, argument)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_no_run_is_one_line(tmp_path):
    done = analyze(tmp_path / "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "no config.json, so this is not a run" in done.stderr
    assert done.stderr.count("\n") == 1
