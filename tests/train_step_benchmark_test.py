"""`experiments/benchmarks/train_step.py`: from the shell in a tiny size, and its rows."""

import importlib
import json
import math
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "experiments" / "benchmarks"
PEERS = {
    "sparsify": "eai-sparsify",
    "saelens": "sae-lens",
    "dictionary_learning": "dictionary-learning",
}
TINY = ("--d_model=16", "--num_latents=64", "--k=4", "--batch_tokens=32", "--steps=3")

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="only Linux can pin a process to a core"
)


def run(home, *arguments):
    hidden = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    environment = {**kept, "XDG_CACHE_HOME": str(home / "cache"), "JAX_PLATFORMS": "cpu"}
    script = BENCHMARKS / "train_step.py"
    return subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, env=environment
    )


def is_installed(peer):
    try:
        return bool(metadata.version(PEERS[peer]))
    except metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """One round of saejax, two seeds of it, and the peers that are there."""
    return run(tmp_path_factory.mktemp("home"), *TINY, "--rounds=1", "--seeds=2")


@pytest.fixture
def rows_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("train_step_rows")


@pytest.mark.slow
def test_a_tiny_run(everything):
    assert everything.returncode == 0, everything.stderr
    record = json.loads(everything.stdout.splitlines()[-1])
    assert (record["d_model"], record["num_latents"], record["k"]) == (16, 64, 4)
    assert (record["batch_tokens"], record["steps"], record["rounds"]) == (32, 3, 1)
    assert record["versions"]["jax"]
    assert record["commit"]
    single, double = record["rows"][:2]
    assert [single["solver"], double["solver"]] == ["saejax", "saejax, 2 seeds"]
    assert record["ms_ours"] == single["ms"] > 0
    assert record["peak_bytes_ours"] == single["peak_bytes"] > 0
    assert 0 < single["last_fvu"] < single["first_fvu"]
    # The first of two seeds is trained as if it were alone.
    assert double["first_fvu"] == single["first_fvu"]
    assert double["last_fvu"] == single["last_fvu"]
    assert math.isclose(double["time"], double["ms"] / (2 * single["ms"]))
    assert single["busy_cores"] < 1.2
    for row in record["rows"]:
        assert row["solver"] in everything.stdout
        assert f"{row['ms']:,.1f}" in everything.stdout


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.slow
def test_a_peer_takes_the_same_first_step(everything, peer):
    if not is_installed(peer):
        pytest.skip(f"{peer} is not installed")
    record = json.loads(everything.stdout.splitlines()[-1])
    rows = [row for row in record["rows"] if row["solver"].startswith(peer)]
    assert len(rows) == (3 if peer == "sparsify" else 1)
    for row in rows:
        assert row["last_fvu"] < row["first_fvu"]
        assert row["time"] == row["ms"] / record["ms_ours"]
        assert abs(row["first_difference"]) < 1e-5
        # Signum takes other steps.
        assert abs(row["last_difference"]) < (1 if row["solver"].endswith("signum") else 0.02)
    assert record["versions"][PEERS[peer]]


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.slow
def test_a_missing_peer_is_one_line(everything, peer):
    if is_installed(peer):
        pytest.skip(f"{peer} is installed")
    line = f"{peer} is not installed: pip install {PEERS[peer]}=="
    assert sum(found.startswith(line) for found in everything.stdout.splitlines()) == 1


@pytest.mark.skipif(is_installed("sparsify"), reason="sparsify is installed")
def test_a_named_peer_must_be_there(tmp_path):
    done = run(tmp_path, *TINY, "--peer=sparsify")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: sparsify is not installed: pip install eai-sparsify==")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--k=65", "error: --k=65: must not exceed --num_latents=64"),
        ("--peer=torch", "should be one of <sparsify|saelens|dictionary_learning|all>"),
    ],
)
def test_bad_input_is_told(tmp_path, argument, message):
    done = run(tmp_path, *TINY, argument)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def figures(*milliseconds, peak, last=0.5):
    return {
        "milliseconds": list(milliseconds),
        "peak_bytes": peak,
        "busy_cores": 1.0,
        "first_fvu": 0.8,
        "last_fvu": last,
        "versions": {},
    }


def test_rounds_are_put_together_and_compared(rows_module):
    found = {
        "saejax": [figures(10, 11, 12, peak=100), figures(10, 30, 11, peak=120)],
        "saejax, 4 seeds": [figures(40, 44, 48, peak=480)],
        "sparsify adam": [figures(22, 22, 23, peak=240)],
        "sparsify signum": [figures(5, 6, 7, peak=60, last=0.7)],
    }
    rows = rows_module.summary(found, {"saejax, 4 seeds": 4})
    assert [row["ms"] for row in rows] == [11, 44, 22, 6]
    assert rows[0]["ms_rounds"] == [11, 11]
    assert [row["peak_bytes"] for row in rows] == [120, 480, 240, 60]
    assert [row["time"] for row in rows] == [1, 1, 2, 6 / 11]
    assert [row["memory"] for row in rows] == [1, 4, 2, 0.5]
    # Signum is another optimizer: it is shown, and neither compared nor called the peer.
    assert rows_module.fastest_peer(rows)["solver"] == "sparsify adam"
    assert rows_module.problems(rows) == []
    lines = rows_module.table(rows).splitlines()
    assert lines[1].split() == ["saejax", "11.0", "0.0%", "0", "1.00", "1.00", "0.50000", "0.0e+00"]
    assert lines[-1].startswith("sparsify signum: another optimizer")


@pytest.mark.parametrize(("last", "differs"), [(0.5, False), (0.503, True), (math.nan, True)])
def test_other_work_is_told(rows_module, last, differs):
    rounds = {
        "saejax": [figures(1, peak=1)],
        "sparsify fused adam": [figures(1, peak=1, last=last)],
    }
    told = rows_module.problems(rows_module.summary(rounds, {}))
    assert len(told) == differs
    if differs:
        assert told[0].startswith("sparsify fused adam: the work differs: the FVU of the last step")


def test_a_solver_that_failed_is_a_row_and_a_problem(rows_module):
    rounds = {"saejax": [figures(1, peak=1)], "saelens": [{"failed": "exit code 1: no"}]}
    rows = rows_module.summary(rounds, {})
    assert "saelens" in rows_module.table(rows)
    assert rows_module.problems(rows) == ["saelens: exit code 1: no"]
    assert rows_module.fastest_peer(rows) == {}
