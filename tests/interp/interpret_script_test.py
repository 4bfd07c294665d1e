"""`experiments/interpret.py` from the shell: end to end, stopped and resumed, and what it says."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import saejax
from saejax.config_json import to_json
from saejax.run import overlap_run
from saejax.rundir import RunDir, open_run

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "interpret.py"
N, D = 32, 16
FEW = ("--latents=4", "--num_explain=3", "--num_activating=4", "--num_non_activating=3")
CONCURRENT = 4
FEW += (f"--max_concurrent={CONCURRENT}",)


@pytest.fixture
def run(cfg, tmp_path):
    """Three seeds that share half of their rows, matched; as training leaves it."""
    cfg.init_seeds, cfg.match.methods = (1, 2, 3), ("scipy",)
    cfg.data.num_tokens, cfg.data.activations = 150 * 32, "stream"
    run = open_run(cfg, tmp_path / "run")
    rng = np.random.default_rng(0)
    base_ND, saes = rng.normal(size=(N, D)), {}
    for seed in cfg.init_seeds:
        row_ND = np.where(np.arange(N)[:, None] < N // 2, base_ND, rng.normal(size=(N, D)))
        row_ND = (row_ND / np.linalg.norm(row_ND, axis=1)[:, None]).astype(np.float32)
        biases = np.zeros(N, np.float32), np.zeros(D, np.float32)
        sae = saejax.Sae(row_ND.T, biases[0], row_ND, biases[1], k=1)
        saes[seed] = sae.replace(metadata=(("hookpoint", cfg.hookpoint), ("seed", seed)))
        saejax.save_sae(saes[seed], run.sae(cfg.hookpoint, seed))
    overlap_run(cfg, run, saes)
    line = {"step": 1, "tokens": 10, "train/lr": 0.1}
    line |= {f"train/{name}": [0.5] * 3 for name in ("fvu", "dead_frac", "l0")}
    run.metrics.write_text(json.dumps(line) + "\n")
    return run


def honest(body):
    """Explains by the mark of the first window, and says yes to every other window."""
    text = body["messages"][-1]["content"]
    if not text.startswith("Description"):
        return f"[EXPLANATION]: like {re.search('<<(.*?)>>', text)[1]!r}"
    count = len(re.findall(r"^Window \d+: ", text, re.MULTILINE))
    return json.dumps({"answers": [n % 2 for n in range(count)]})


@pytest.fixture
def interpret(run, tmp_path, run_script, stub):
    stub.answer = lambda body, _: stub.completion(honest(body))

    def call(*arguments):
        return run_script(SCRIPT, tmp_path, f"--run={run.root}", *FEW, *arguments)

    return call


def test_end_to_end_and_nothing_is_asked_twice(run, interpret, stub, tmp_path):
    endpoint = (f"--base_url={stub.url}", "--model=wise")
    # Ctrl-C, once some calls are answered.
    process = None

    def slow(body, number):
        if number == 12:
            process.send_signal(signal.SIGINT)
        return stub.completion(honest(body))._replace(seconds=0.2 if number >= 12 else 0)

    stub.answer = slow
    hidden = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, SCRIPT, f"--run={run.root}", *FEW, *endpoint]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, **piped)
    output, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    planned = int(re.search(r"^in all +([\d,]+)", output, re.MULTILINE)[1])
    assert planned == 8 + 2 * 8 * 2
    before = len(stub.bodies)
    assert before < planned

    stub.answer = lambda body, _: stub.completion(honest(body))
    done = interpret(*endpoint)
    assert done.returncode == 0, done.stderr
    # Those that were under way are the only ones that are made again.
    again = len(stub.bodies) - planned
    assert 0 < again <= CONCURRENT
    assert len({json.dumps(body, sort_keys=True) for body in stub.bodies}) == planned
    calls = len(stub.bodies)
    first = run.read_result("interp")
    assert interpret(*endpoint).returncode == 0
    assert len(stub.bodies) == calls
    second = run.read_result("interp")
    assert {**first, "usage": 0} == {**second, "usage": 0}
    assert first["usage"]["scorer"]["num_calls"] > 0 == second["usage"]["scorer"]["num_calls"]

    assert (second["explainer"], second["scorer"]) == ("wise", "wise")
    assert second["missing"] == {}
    for row in second["latents"]:
        assert row["llm"]["explanation"].startswith("like")
        for source in ("llm", "token_set"):
            assert set(row[source]) >= {"detection", "fuzzing"}
    page = run.report.read_text()
    assert "Can the latents be explained?" in page
    assert "wise saw 3 windows of each latent" in page
    figures = {path.stem for path in (run.root / "figures").iterdir()}
    assert {"interp.levels.layers.1.mlp", "interp.pairs.layers.1.mlp"} < figures

    kept = interpret()
    assert kept.returncode == 0, kept.stderr
    assert "has explanations by wise" in kept.stdout
    assert run.read_result("interp") == second


def test_an_encoder_scores_both_explanations(run, interpret, stub, tiny_bert):
    encoder = f"--embedder={tiny_bert()}"
    alone = interpret(encoder)
    assert alone.returncode == 0, alone.stderr
    assert "embedding, AUROC of the cosine" in alone.stdout
    record = run.read_result("interp")
    assert record["embedder"] == encoder.partition("=")[2]
    for row in record["latents"]:
        assert row["token_set"]["embedding"]["num_activating"] == 4
        assert row["token_set"]["embedding"]["num_non_activating"] == 3
    both = interpret(encoder, f"--base_url={stub.url}", "--model=wise")
    assert both.returncode == 0, both.stderr
    second = run.read_result("interp")
    for before, after in zip(record["latents"], second["latents"], strict=True):
        assert after["token_set"] == before["token_set"]
        assert 0 <= after["llm"]["embedding"]["auroc"] <= 1
    assert set(second["summaries"]["embedding"]["by_level"]) == {"llm", "token_set"}
    # Windows are embedded once.
    assert len(list((run.root / "interp" / "embeddings").iterdir())) == len(record["latents"])
    page = run.report.read_text()
    assert "Embedding scores of latents of seed 1" in page
    assert (run.root / "figures" / "interp.embedding.layers.1.mlp.svg").exists()


def test_what_is_missing_is_told(run, interpret, stub, cfg):
    for path in (run.root / "matchings").rglob("*.npz"):
        path.unlink()
    run.result("overlap").unlink()
    # Every second explanation is refused.
    stub.answer = lambda body, number: (
        stub.completion(None, refusal="no") if number % 2 else stub.completion(honest(body))
    )
    done = interpret(f"--base_url={stub.url}", "--model=wise", "--max_concurrent=1")
    assert done.returncode == 0, done.stderr
    assert "scipy.npz is missing" in done.stdout
    assert "2 refused" in done.stdout
    record = run.read_result("interp")
    assert [row["level"] for row in record["latents"]] == [None] * 4
    assert record["summaries"]["mean"]["by_level"] == {"llm": [], "token_set": []}
    assert "refused" in run.report.read_text()

    # One seed of the three, and an endpoint that is down.
    cfg.init_seeds = (1,)
    run.config.write_text(to_json(cfg))
    line = json.loads(run.metrics.read_text())
    line |= {name: [0.5] for name in line if isinstance(line[name], list)}
    run.metrics.write_text(json.dumps(line) + "\n")
    run.result("interp").unlink()
    done = interpret("--base_url=http://127.0.0.1:9/v1", "--model=other")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: explain: http://127.0.0.1:9/v1 cannot be reached")
    assert "Traceback" not in done.stderr
    record = RunDir(run.root).read_result("interp")
    assert set(record["missing"]) == {"levels", "explain"}
    assert record["explainer"] is None
    assert "cannot be reached" in run.report.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model=x",), "--model without --base_url"),
        (("--base_url=nowhere", "--model=x"), "base_url='nowhere' is no address"),
        (("--embedder=package:no_such_encoder/model",), "'no_such_encoder' is not installed"),
    ],
)
def test_errors_are_one_line(tmp_path, run_script, arguments, said):
    done = run_script(SCRIPT, tmp_path, f"--run={tmp_path}/none", *arguments)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert said in done.stderr
