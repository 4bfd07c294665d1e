"""`experiments/analyze.py` from the shell."""

import os
import subprocess
import sys
from pathlib import Path

from saejax.run import overlap_run, train_run
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


def test_summary_is_printed_and_the_second_call_reads_nothing(cfg, tmp_path):
    run = open_run(cfg, tmp_path / "run")
    overlap_run(cfg, run, train_run(cfg, run))
    first = analyze(run.root, "--tokens=1000")
    assert first.returncode == 0, first.stderr
    assert "992 tokens, from the store" in first.stdout
    assert "read latents" in first.stderr
    second = analyze(run.root, "--tokens=1000")
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert "read latents" not in second.stderr


def test_what_is_no_run_is_one_line(tmp_path):
    done = analyze(tmp_path / "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "no config.json, so this is not a run" in done.stderr
    assert done.stderr.count("\n") == 1
