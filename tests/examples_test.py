"""The examples from the shell, as a user runs them."""

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import saejax

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="session")
def run(run_script):
    return lambda home, script, *arguments: run_script(EXAMPLES / script, home, *arguments)


def sae(seed, num_latents=60, width=16):
    """Half of the latents are those of every seed, in another order."""
    rng = np.random.default_rng(seed)
    same = np.random.default_rng(99).normal(size=(num_latents // 2, width))
    own = rng.normal(size=(num_latents - num_latents // 2, width))
    w_dec = rng.permutation(np.float32(np.concatenate([same, own])))
    zeros = np.zeros(num_latents, np.float32)
    return saejax.Sae(w_dec.T, zeros, w_dec, np.zeros(width, np.float32), k=4)


def test_compare_two_saes(tmp_path, run):
    a, b = sae(1), sae(2)
    saejax.save_sae(a, tmp_path / "a")
    saejax.save_sae(b, tmp_path / "b")
    figure = tmp_path / "cosines.svg"
    done = run(tmp_path, "compare_two_saes.py", tmp_path / "a", tmp_path / "b", figure)
    assert done.returncode == 0, done.stderr

    unit_a, unit_b = (w / np.linalg.norm(w, axis=1, keepdims=True) for w in (a.w_dec, b.w_dec))
    cosine = unit_a @ unit_b.T
    rows, target = linear_sum_assignment(cosine, maximize=True)
    share = (cosine[rows, target] >= 0.7).mean()
    assert 0.5 <= share < 1
    assert f"shared at a cosine of 0.7: {share:.1%}\n" in done.stdout
    # Decoder and encoder are the same directions.
    assert "same partner in both matchings: 100.0%\n" in done.stdout
    assert f"sum of cosines {cosine[rows, target].sum():.4f}" in done.stdout
    assert str(list(enumerate(target[:5].tolist())))[1:-1].replace("), (", ") (") in done.stdout
    assert figure.read_text().count("<svg") == 1


@pytest.mark.slow
def test_train_two_seeds(tmp_path, run):
    done = run(tmp_path, "train_two_seeds.py", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("shared at a cosine of 0.7: ")
    saes = [saejax.load_sae(tmp_path / "run", seed=seed) for seed in (1, 2)]
    assert all(np.isfinite(np.asarray(each.w_dec)).all() for each in saes)
    # The first seed alone would not do: they have to differ.
    assert not np.array_equal(saes[0].w_dec, saes[1].w_dec)
