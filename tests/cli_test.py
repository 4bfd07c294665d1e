"""The scripts from the shell: one line for an error, exit codes, a config on the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAINING = ("seed_overlap", "train")


def script(name, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, ROOT / "experiments" / f"{name}.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config.sae.num_latent=9"], "did you mean sae.num_latents"),
        (["--config.sae.k=many"], "--config.sae.k=many"),
        (["--config.sae.k=2000"], "sae.k=2000: must not exceed sae.num_latents=1024"),
        (["--config=no_such_file.py"], "no_such_file.py"),
        (["--confg=x"], "confg"),
        (["stray"], "unexpected argument 'stray'"),
        (["--config.hookpoint=layers.30.mlp"], "layers 0 to 29"),
        (["--config.hookpoint=layers.*.mlp"], "sweep.py --vary=hookpoint=layers.*.mlp"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_1(tmp_path, arguments, says):
    if not arguments[0].startswith("--config="):
        arguments = ["--config=configs/quickstart.py", *arguments]
    done = script("train", f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("name", TRAINING)
def test_hook_points_of_the_model(name, tiny_lm):
    config = "--config=configs/quickstart.py", f"--config.lm.source={tiny_lm}"
    done = script(name, *config, "--list_hookpoints")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == ["embed_tokens", "layers.0", "layers.0.mlp"]
    assert len(lines) == 1 + 2 * 5
    none = script(name, *config)
    assert none.returncode == 1
    assert "--workdir is missing" in none.stderr


@pytest.mark.parametrize("name", ["seed_overlap", "train", "match", "report"])
def test_help_tells_how_to_call(name):
    done = script(name, "--help")
    assert f"python experiments/{name}.py" in done.stdout
    assert ("--workdir" in done.stdout) == ("--config:" in done.stdout) == (name in TRAINING)
    assert "Traceback" not in done.stderr
