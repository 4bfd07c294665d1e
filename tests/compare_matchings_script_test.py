"""`experiments/compare_matchings.py` from the shell: two runs' worth of results, and bad input."""

import functools
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import saejax
from saejax.formats.load import save_sae

SCRIPT = Path(__file__).parents[1] / "experiments" / "compare_matchings.py"


@pytest.fixture(scope="session")
def run(run_script):
    return functools.partial(run_script, SCRIPT)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two autoencoders of 100 latents, half of them alike; and the scripts' cache."""
    path = tmp_path_factory.mktemp("home")
    shared = np.random.default_rng(0).normal(size=(100, 12))
    for seed in (1, 2):
        own = np.random.default_rng(seed).normal(size=(100, 12))
        rows = np.where(np.arange(100)[:, None] < 50, shared + own / 10, own).astype(np.float32)
        sae = saejax.Sae(
            w_enc=rows.T,
            b_enc=np.zeros(100, np.float32),
            w_dec=rows,
            b_dec=np.zeros(12, np.float32),
            k=4,
            metadata=(("hookpoint", "layers.0.mlp"), ("seed", seed)),
        )
        save_sae(sae, path / f"seed{seed}")
    return path


def test_two_autoencoders(home, tmp_path, run):
    done = run(
        home,
        f"--a={home / 'seed1'}",
        f"--b={home / 'seed2'}",
        "--epsilons=0.01,0.1",
        "--starts=cold,exact",
        f"--out={tmp_path / 'out'}",
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert (tmp_path / "out" / "comparison.txt").read_text() == done.stdout
    assert record["conclusion"] in done.stdout
    rungs = record["rungs"]
    asked = list(itertools.product(("decoder", "encoder"), ("cold", "exact"), (0.1, 0.01)))
    assert [(r["side"], r["start"], r["epsilon"]) for r in rungs] == asked
    assert all(rung["likeliest_hits_frac"] >= 0.9 for rung in rungs)
    assert all(rung["below"] >= -1e-12 <= rung["above"] for rung in rungs)
    assert [row["epsilon"] for row in record["definitions"]] == ["exact", 0.1, 0.01, 0.1, 0.01]
    assert record["definitions"][0]["shared_frac"] >= 0.5
    assert record["versions"]["ott-jax"]
    for kind in ("svg", "png"):
        assert (tmp_path / "out" / f"comparison.{kind}").stat().st_size > 1000


def test_a_synthetic_pair(home, run):
    done = run(home, "--synthetic=200", "--epsilons=0.01")
    assert done.returncode == 0, done.stderr
    assert "For epsilon from 0.01 to 0.01" in done.stdout
    assert "agreement" not in done.stdout.split("iterations:")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--a and --b: name two autoencoders"),
        (["--synthetic=100", "--a=x"], "--synthetic: stands in place of --a and --b"),
        (["--synthetic=100", "--epsilons=small"], "--epsilons=small: needs numbers"),
        (["--synthetic=100", "--epsilons=0.1,0"], "--epsilons=0.1,0: each must be above 0"),
        (["--synthetic=100", "--starts=warm"], "--starts=warm: choose cold, exact"),
        (["--synthetic=100", "--threshold=7"], "--threshold=7.0"),
    ],
)
def test_bad_input_is_one_line(home, arguments, message, run):
    done = run(home, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
