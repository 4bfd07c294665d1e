"""experiments/convert.py: a run into another format, with a card; what cannot be done."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

import saejax
from saejax.config_json import to_json

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "convert.py"


@pytest.fixture(scope="session")
def run(run_script):
    return functools.partial(run_script, SCRIPT)


@pytest.fixture
def home(tmp_path, cfg):
    """A finished run of two seeds, as far as a conversion looks at it."""
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        sae = saejax.Sae(
            w_enc=rng.normal(size=(6, 20)).astype(np.float32),
            b_enc=rng.normal(size=20).astype(np.float32),
            w_dec=rng.normal(size=(20, 6)).astype(np.float32),
            b_dec=rng.normal(size=6).astype(np.float32),
            k=4,
            metadata=(("hookpoint", "layers.1.mlp"), ("model_name", "org/tiny"), ("seed", seed)),
        )
        saejax.save_sae(sae, tmp_path / "run" / "saes" / "layers.1.mlp" / f"seed{seed}")
    (tmp_path / "run" / "config.json").write_text(to_json(cfg))
    pair = dict.fromkeys(
        ("aligned_frac", "agreement_frac", "max_cosine_frac", "decoder_frac"), 0.5
    ) | {"seeds": [1, 2], "method": "exact", "shared_frac": 0.125, "threshold": 0.7}
    (tmp_path / "run" / "results").mkdir()
    (tmp_path / "run" / "results" / "overlap.json").write_text(json.dumps({"pairs": [pair]}))
    (tmp_path / "run" / "figures").mkdir()
    (tmp_path / "run" / "figures" / "donut.layers.1.mlp.exact.png").write_bytes(b"png")
    return tmp_path


def test_a_run_with_its_card(home, run):
    source, out = home / "run", home / "out"
    done = run(home, f"--source={source}", f"--out={out}", "--format=sparsify", "--card_of=o/n")
    assert done.returncode == 0, done.stderr
    for seed in (1, 2):
        found = saejax.load_sae(out, hookpoint="layers.1.mlp", seed=seed)
        own = saejax.load_sae(source, seed=seed)
        np.testing.assert_array_equal(found.w_enc, own.w_enc)
        assert f"saes/layers.1.mlp/seed{seed} -> {out}/layers.1.mlp/seed{seed}" in done.stdout
    assert done.stdout.count("the same bits") == 2
    card = (out / "README.md").read_text()
    assert "base_model: org/tiny" in card
    assert '"hub:o/n", hookpoint="layers.1.mlp/seed1"' in card
    assert "| 1, 2 (exact) | 12.5% |" in card
    assert (out / "figures" / "donut.layers.1.mlp.exact.png").read_bytes() == b"png"


def test_one_autoencoder_goes_into_the_folder_itself(home, run):
    arguments = (f"--source={home / 'run'}", "--seed=2", "--format=sparsify")
    done = run(home, *arguments, f"--out={home / 'out'}")
    assert done.returncode == 0, done.stderr
    assert (home / "out" / "cfg.json").is_file()
    done = run(home, *arguments, f"--out={home / 'out'}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "is not empty; name a new folder" in done.stderr


def test_no_token_is_one_line(home, run):
    arguments = (f"--source={home / 'run'}", "--push_to_hub=name", f"--out={home / 'out'}")
    done = run(home, *arguments)
    assert done.returncode == 1
    assert "owner/name" in done.stderr
    assert not (home / "out").exists()
