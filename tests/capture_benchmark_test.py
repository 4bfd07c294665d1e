"""The capture benchmark: a measurement of a tiny model, what is missing, and the rows."""

import importlib
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "experiments" / "benchmarks"
HAS_TORCH = importlib.util.find_spec("torch") is not None

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="only Linux can pin a process to a core"
)


@pytest.fixture
def module(monkeypatch):
    """Imports a file of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def task(module, tiny_lm):
    """Makes a measurement of 2 windows of 9 tokens."""
    tokens = np.random.default_rng(0).integers(0, 256, (2, 9)).tolist()
    shape = {"source": str(tiny_lm), "tokens": tokens, "steps": 3, "cores": 1}
    make = module("capture_worker").Task
    return lambda solver, hookpoint, dtype="float32": make(
        solver=solver, dtype=dtype, hookpoint=hookpoint, **shape
    )


def test_a_measurement(task):
    found = task("saejax", "layers.1.mlp").run()
    assert len(found["milliseconds"]) == 3
    assert min(found["milliseconds"]) > 0
    assert 0 < found["peak_bytes"] < 2**30
    assert 0 < sum(found["cpu_milliseconds"]) < 1.2 * sum(found["milliseconds"])
    assert np.shape(found["sample"]) == (8, 16)


def test_a_failure_is_one_line(task):
    failed = task("saejax", "layers.2.mlp").run()["failed"]
    assert failed.startswith("exit code 1: ")
    assert "layers.2.mlp" in failed


@pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")
@pytest.mark.parametrize("hookpoint", ["layers.1.mlp", "layers.0.self_attn", "layers.0"])
def test_both_solvers_give_the_same(module, task, hookpoint):
    rows = module("capture_rows")
    keys = [("saejax", "float32"), ("transformers", "float32"), ("saejax", "bfloat16")]
    found = {(solver, dtype): [task(solver, hookpoint, dtype).run()] for solver, dtype in keys}
    summary = rows.summary(found, tokens=18)
    assert summary[0]["difference"] < 1e-5
    assert 1e-4 < summary[2]["difference"] < 0.05
    assert rows.problems(summary) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            (),
            "error: torch is not installed: pip install torch",
            marks=pytest.mark.skipif(HAS_TORCH, reason="torch is installed"),
        ),
        pytest.param(
            ("--dtypes=float16",),
            "error: --dtypes=float16: any of float32, bfloat16",
            marks=pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed"),
        ),
        pytest.param(
            ("--cores=9999",),
            "error: --cores=9999: this process has ",
            marks=pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed"),
        ),
    ],
)
def test_what_cannot_be_measured_is_said(arguments, message):
    script = BENCHMARKS / "capture.py"
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def figures(*milliseconds, peak, sample=((3.0, 4.0),)):
    return {
        "milliseconds": list(milliseconds),
        "peak_bytes": peak,
        "load_peak_bytes": 2 * peak,
        "cpu_milliseconds": [ms / 2 for ms in milliseconds],
        "sample": sample,
    }


def test_rounds_are_put_together_and_compared(module):
    rows = module("capture_rows")
    found = {
        ("saejax", "float32"): [figures(10, 11, 12, peak=100), figures(10, 30, 11, peak=120)],
        ("transformers", "float32"): [figures(22, 22, 23, peak=240)],
        ("saejax", "bfloat16"): [figures(44, peak=60, sample=((3.0, 4.1),))],
    }
    ours, peer, rough = rows.summary(found, tokens=22)
    assert (ours["ms"], ours["ms_rounds"], ours["peak_bytes"]) == (11, [11, 11], 120)
    assert (ours["speed"], peer["speed"], rough["speed"]) == (2, 1, 0.5)
    assert ours["tokens_per_second"] == 2000
    assert (ours["difference"], peer["difference"]) == (0, 0)
    assert math.isclose(rough["difference"], 0.1 / 5)
    assert rows.problems([ours, peer, rough]) == []
    assert rows.table([ours]).splitlines()[1].split() == [
        *("saejax", "float32", "11.0", "0.0%", "5.5", "2,000", "2.00", "0", "0", "0.0e+00")
    ]


@pytest.mark.parametrize("value", [4.001, math.nan])
def test_other_activations_are_told(module, value):
    rows = module("capture_rows")
    found = {
        ("saejax", "float32"): [figures(1, peak=1, sample=((3.0, value),))],
        ("transformers", "float32"): [figures(1, peak=1)],
    }
    [told] = rows.problems(rows.summary(found, tokens=1))
    assert told.startswith("saejax float32: the activations differ by ")
