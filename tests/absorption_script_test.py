"""`experiments/absorption.py` from the shell, on a tiny model that has words; and bad input."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

import saejax
from saejax.formats.load import save_sae
from saejax.run import overlap_run
from saejax.rundir import open_run

SCRIPT = Path(__file__).parents[1] / "experiments" / "absorption.py"


@pytest.fixture(scope="session")
def run(run_script):
    return functools.partial(run_script, SCRIPT)


@pytest.fixture
def words_lm(tiny_lm, tmp_path):
    """The tiny model with 50 words of a and of b, whose embeddings say which."""
    path = tmp_path / "lm"
    shutil.copytree(tiny_lm, path)
    words = [f" {first}{i // 26:c}{i % 26 + 97:c}" for first in "ab" for i in range(2600, 2650)]
    backend = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    backend.add_tokens([tokenizers.AddedToken(word, normalized=False) for word in words])
    backend.save(str(path / "tokenizer.json"))
    config = json.loads((path / "config.json").read_text())
    config |= {"vocab_size": config["vocab_size"] + 100, "max_position_embeddings": 1024}
    (path / "config.json").write_text(json.dumps(config))
    tensors = load_file(path / "model.safetensors")
    rows = np.random.default_rng(0).normal(size=(100, 16)).astype(np.float32)
    rows[:50, 0] += 8
    rows[50:, 1] += 8
    embedding = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = np.concatenate([embedding, rows])
    save_file(tensors, path / "model.safetensors")
    return path


@pytest.mark.slow
def test_a_run_of_two_seeds(cfg, words_lm, tmp_path, run):
    cfg.lm.source, cfg.hookpoint, cfg.match.methods = str(words_lm), "layers.0", ("scipy",)
    opened = open_run(cfg, tmp_path / "run")
    saes = {}
    for seed in cfg.init_seeds:
        rng = np.random.default_rng(seed)
        rows = np.concatenate([np.eye(2, 16), rng.normal(size=(10, 16)) / 4]).astype(np.float32)
        zeros = np.zeros(12, np.float32), np.zeros(16, np.float32)
        saes[seed] = saejax.Sae(rows.T, zeros[0], rows, zeros[1], k=12)
        save_sae(saes[seed], opened.sae(cfg.hookpoint, seed))
    missing = run(tmp_path, f"--run={opened.root}")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ")
    assert "is missing: match the seeds with experiments/seed_overlap.py" in missing.stderr
    overlap_run(cfg, opened, saes)
    done = run(tmp_path, f"--run={opened.root}", "--words_per_letter=45")
    assert done.returncode == 0, done.stderr
    assert "mean of 2" in done.stdout
    record = json.loads(opened.result("absorption").read_text())
    assert [probe["letter"] for probe in record["probes"]] == ["a", "b"]
    assert [probe["train_words"] for probe in record["probes"]] == [36, 36]
    assert min(probe["f1"] for probe in record["probes"]) > 0.8
    assert [seed["seed"] for seed in record["seeds"]] == [1, 2]
    assert {seed["letters"][0]["latents"][0] for seed in record["seeds"]} == {0}
    assert record["pairs"][0]["first_matched_frac"] == 1
    assert record["config"]["hookpoint"] == "layers.0"
    assert record["versions"]["jax"]


def test_a_model_without_words(cfg, tmp_path, run):
    cfg.init_seeds = (1,)
    opened = open_run(cfg, tmp_path / "run")
    rows = np.eye(16, dtype=np.float32)
    sae = saejax.Sae(rows, rows[0], rows, rows[0], k=4)
    save_sae(sae, opened.sae(cfg.hookpoint, 1))
    done = run(tmp_path, f"--run={opened.root}")
    assert done.returncode == 1
    assert "this tokenizer has 0 such words" in done.stderr
    assert not opened.result("absorption").exists()
