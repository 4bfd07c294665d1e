"""The script that serves the sample model, with a stand-in for the package that does it."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "serve_sample_lm.py"

STAND_IN = """
from types import SimpleNamespace

def CommonParams():
    return SimpleNamespace(**{name: SimpleNamespace() for name in PARTS})

PARTS = ("model", "cpuparams", "cpuparams_batch")

def Server(params):
    print(params)
    raise RuntimeError("Failed to init server")
"""


@pytest.fixture
def serve(run_script, tmp_path, monkeypatch):
    def run(stand_in, *arguments):
        (tmp_path / "xllamacpp.py").write_text(stand_in)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{SCRIPT.parents[1]}")
        return run_script(SCRIPT, tmp_path, *arguments)

    return run


def test_what_the_server_gets_and_how_it_fails(serve, tmp_path):
    (tmp_path / "x.gguf").touch()
    done = serve(STAND_IN, f"--model={tmp_path}/x.gguf", "--port=81", "--threads=2")
    assert done.returncode == 1
    for part in ("x.gguf", "port=81", "hostnames=['127.0.0.1']", "n_ctx=8192"):
        assert part in done.stdout
    assert done.stdout.count("n_threads=2") == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("lines above say more")
    assert "x.gguf on port 81: is the port free" in line


def test_without_the_package(serve):
    done = serve("raise ImportError")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the package xllamacpp is not installed: run `pip install")
