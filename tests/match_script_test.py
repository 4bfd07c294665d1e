"""`experiments/match.py` from the shell: match, verify, be stopped, and find its compiled code."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import saejax
from saejax.formats.load import save_sae

ROOT = Path(__file__).parents[1]


def make_sae(num_latents, seed):
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(0).normal(size=(2, num_latents, 8))
    enc, dec = (
        shared + rng.normal(size=shared.shape) * np.linspace(0, 2, num_latents)[None, :, None]
    )
    return saejax.Sae(
        w_enc=np.float32(enc.T),
        b_enc=np.zeros(num_latents, np.float32),
        w_dec=np.float32(dec),
        b_dec=np.zeros(8, np.float32),
        k=4,
        metadata=(("hookpoint", "layers.0.mlp"), ("seed", seed)),
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user's cache folder, shared by the runs of this file, and SAEs of three sizes."""
    path = tmp_path_factory.mktemp("home")
    for size in (300, 310, 3000):
        for seed in (1, 2):
            save_sae(make_sae(size, seed), path / f"{size}-{seed}")
    return path


def environment(home):
    hidden = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "XDG_CACHE_HOME": str(home / "cache"), "JAX_PLATFORMS": "cpu"}


def command(home, size, *arguments):
    script = ROOT / "experiments" / "match.py"
    return [
        sys.executable,
        script,
        f"--a={home / f'{size}-1'}",
        f"--b={home / f'{size}-2'}",
        *arguments,
    ]


def run(home, size, *arguments):
    return subprocess.run(
        command(home, size, *arguments),
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=300,
    )


def compiled(home):
    return {path.name for path in (home / "cache" / "saejax").rglob("*-cache")}


def test_match_save_verify_and_compile_once(home, tmp_path):
    done = run(home, 300, f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["exact.npz", "max_cosine.npz"]
    decoder, encoder = (
        line for line in done.stdout.splitlines() if line.startswith(("decoder (", "encoder ("))
    )
    assert decoder.endswith("yes")
    assert encoder.endswith("yes")
    assert "shared" in done.stdout
    assert "passes" in done.stderr

    verified = run(home, 300, f"--verify={tmp_path / 'exact.npz'}")
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.count("verified, optimal: 300 pairs") == 2

    # Another number of latents of the same size class finds all of its code compiled.
    before = compiled(home)
    assert before
    done = run(home, 310, "--side=decoder", f"--out={tmp_path / 'one'}")
    assert done.returncode == 0, done.stderr
    assert compiled(home) == before
    assert saejax.Matching.load(tmp_path / "one" / "exact.npz").side == "decoder"

    other = run(home, 310, f"--verify={tmp_path / 'exact.npz'}")
    assert other.returncode == 1
    (line,) = [x for x in other.stderr.splitlines() if x.startswith("error: ")]
    assert "not proven: target, cosine, u and v have shapes" in line


def test_a_forged_matching_is_told(home, tmp_path):
    sae_a, sae_b = (saejax.load_sae(home / f"300-{seed}") for seed in (1, 2))
    matching = saejax.match(sae_a, sae_b)
    matching.target[:2] = matching.target[1::-1]
    matching.save(tmp_path / "forged.npz")
    done = run(home, 300, f"--verify={tmp_path / 'forged.npz'}")
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "decoder: not proven: latent 0 has cosine" in done.stderr
    assert "Traceback" not in done.stderr


def test_stopping_it_leaves_no_file(home, tmp_path):
    process = subprocess.Popen(
        command(home, 3000, f"--out={tmp_path / 'out'}"),
        env=environment(home),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    assert "0/12,000 latents" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


def test_an_unknown_method_is_one_line(home):
    done = run(home, 300, "--methods=hungarian")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "error: --methods=hungarian: choose from exact, sinkhorn, scipy"
    ]
