"""experiments/plan.py from the shell: a plan for 256 devices, errors in one line, with libtpu."""

import importlib.util
import re
import resource
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "plan.py"
SMALL = (
    "--config=configs/quickstart.py",
    "--lm_shape=smollm2-135m",
    "--config.sae.num_latents=256",
    "--config.hookpoint=layers.0.mlp",
)


@pytest.fixture
def plan(run_script, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    return lambda *arguments: run_script(SCRIPT, tmp_path, *arguments)


def test_a_small_plan(plan):
    done = plan(*SMALL, "--devices=4", "--device_type=h100", "--config.mesh.data=4")
    assert done.returncode == 0, done.stderr
    assert "4 devices of type h100, mesh seed 1 x data 4 x latent 1" in done.stdout
    assert re.search(r"training: \d+\.\d\d GB at most, .*: fits", done.stdout)
    assert "tokens/s expected" in done.stdout
    assert "40% of these rates" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device_type=h300"], "device_type='h300': choose one of a100, h100"),
        (["--devices=3"], "windows_per_batch=4 must divide by the 3 devices on axis 'data'"),
        (["--compiler=tpu"], "compiler=tpu with device_type=h100"),
        (["--devices=4", "--config.hookpoint=layers.40"], "this model has layers 0 to 29"),
    ],
)
def test_errors_are_one_line(plan, arguments, said):
    done = plan(*SMALL, *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "mesh", "fits"),
    [
        ("paper", (32, 8), True),
        ("llama3_8b", (16, 16), True),
        ("llama3_8b", (32, 8), False),
    ],
)
def test_256_devices(plan, config, mesh, fits):
    data, latent = mesh
    done = plan(
        f"--config=configs/{config}.py",
        *("--devices=256", "--device_type=v5e", "--compiler=cpu"),
        *(f"--config.mesh.data={data}", f"--config.mesh.latent={latent}"),
    )
    assert done.returncode == 0, done.stderr
    assert ("DOES NOT FIT" in done.stdout) != fits
    assert ("try --config.mesh" in done.stdout) != fits
    # Kilobytes, the most of any child so far.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4e6


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_compiler_of_tpus(plan):
    done = plan(*SMALL, "--devices=4", "--device_type=v5e", "--config.mesh.latent=2")
    assert done.returncode == 0, done.stderr
    assert "compiled by libtpu" in done.stdout
