"""The launch recipes, with stand-ins for Slurm, gcloud and xpk that record what they are given."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "experiments" / "launch"
RECIPES = sorted(LAUNCH.iterdir())
# What a recipe hands on, with all that a shell could take apart.
GIVEN = ("--config=configs/paper.py", "--workdir=/a b/c", "--config.match.methods=('exact','x')")
STAND_IN = """#!/bin/bash
printf '%s\\0' "$(basename "$0")" "$@" >>"$RECORD"
printf '\\n' >>"$RECORD"
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


@pytest.fixture
def launch(tmp_path):
    """Runs a recipe; gives what is printed, and the calls of the stand-ins."""
    record, tools = tmp_path / "record", tmp_path / "bin"
    tools.mkdir()
    for name in ("srun", "gcloud", "xpk", "stand_in_python"):
        (tools / name).write_text(STAND_IN)
        (tools / name).chmod(0o755)

    def run(name, *arguments, **variables):
        record.unlink(missing_ok=True)
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "XLA"))},
            **{"PATH": f"{tools}:{os.environ['PATH']}", "RECORD": str(record)},
            **variables,
        }
        done = subprocess.run(
            ["bash", LAUNCH / name, *arguments],
            **{"cwd": ROOT, "env": environment, "capture_output": True, "text": True},
        )
        lines = record.read_text().split("\0\n")[:-1] if record.exists() else []
        return done, [line.split("\0") for line in lines]

    return run


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_are_bash_and_say_how_they_are_called(path):
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    assert text.startswith("#!/bin/bash\n# Trains, matches and reports ")
    assert os.access(path, os.X_OK)
    assert f"experiments/launch/{path.name}" in text.partition("set -euo pipefail")[0]
    for config in re.findall(r"--config=(\S+)", text.partition("set -euo")[0]):
        assert (ROOT / config).is_file() or config == "..."


def test_slurm_starts_a_process_a_gpu(launch):
    done, ((*call,),) = launch("slurm.sbatch", *GIVEN, SLURM_SUBMIT_DIR=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert call == [
        *("srun", "--kill-on-bad-exit=1", ".venv/bin/python"),
        *("experiments/seed_overlap.py", "--multihost", *GIVEN),
    ]
    text = (LAUNCH / "slurm.sbatch").read_text()
    tasks, gpus = (
        re.search(rf"^#SBATCH --{name}-per-node=(\d+)$", text, re.MULTILINE)[1]
        for name in ("ntasks", "gpus")
    )
    assert tasks == gpus
    # Slurm reads options up to the first command.
    assert "#SBATCH" not in text.partition("set -euo pipefail")[2]


def test_one_machine_has_one_process(launch):
    done, ((*call,),) = launch("gpu.sh", *GIVEN, PYTHON="stand_in_python", SCRIPT="x.py")
    assert done.returncode == 0, done.stderr
    assert call == ["stand_in_python", "x.py", *GIVEN]


def test_a_slice_of_tpus(launch):
    where = {"TPU": "my-tpu", "ZONE": "z"}
    done, calls = launch("tpu_vm.sh", "install", **where)
    assert done.returncode == 0, done.stderr
    start = ["gcloud", "compute", "tpus", "tpu-vm"]
    copy, prepare = calls
    assert copy[:5] == [*start, "scp"]
    assert copy[6:] == ["my-tpu:saejax.tgz", "--zone=z", "--worker=all"]
    assert prepare[:8] == [*start, "ssh", "my-tpu", "--zone=z", "--worker=all"]
    subprocess.run(
        ["bash", "-n"], input=prepare[8].removeprefix("--command="), text=True, check=True
    )

    _, ((*call,),) = launch("tpu_vm.sh", "start", *GIVEN, **where)
    assert call[7] == "--worker=all"
    assert "nohup .venv/bin/python experiments/seed_overlap.py --multihost" in call[8]
    _, ((*call,),) = launch("tpu_vm.sh", "watch", **where)
    assert call[7:] == ["--worker=0", "--command=tail -n 20 -f saejax/log"]


def test_what_runs_on_a_machine_of_a_slice(launch, tmp_path):
    """The command there: it goes on in the background, with arguments as given, and stops."""
    where = {"TPU": "my-tpu", "ZONE": "z"}
    _, ((*start,),) = launch("tpu_vm.sh", "start", *GIVEN, SCRIPT="there.py", **where)
    _, ((*stop,),) = launch("tpu_vm.sh", "stop", **where)
    there = tmp_path / "saejax"
    (there / ".venv" / "bin").mkdir(parents=True)
    (there / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (there / "there.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('saved'))\n"
        "print(sys.argv[1:], flush=True)\n"
        "time.sleep(60)\n"
    )
    subprocess.run(["bash", "-c", start[8].removeprefix("--command=")], cwd=tmp_path, check=True)
    process = int((there / "pid").read_text())
    try:
        wait_for(lambda: (there / "log").exists() and "multihost" in (there / "log").read_text())
        assert (there / "log").read_text().splitlines() == [str(["--multihost", *GIVEN])]
        subprocess.run(["bash", "-c", stop[8].removeprefix("--command=")], cwd=tmp_path, check=True)
        wait_for(lambda: "saved" in (there / "log").read_text())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def wait_for(happened, seconds=20.0):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_cluster_of_gke(launch):
    where = {"CLUSTER": "c", "PROJECT": "p", "ZONE": "z", "NAME": "n"}
    done, ((*call,),) = launch("gke.sh", *GIVEN, TPU_TYPE="v6e-256", **where)
    assert done.returncode == 0, done.stderr
    assert call[:3] == ["xpk", "workload", "create"]
    flags = dict(word.removeprefix("--").split("=", 1) for word in call[3:])
    assert (flags["cluster"], flags["project"], flags["zone"]) == ("c", "p", "z")
    assert (flags["workload"], flags["tpu-type"], flags["num-slices"]) == ("n", "v6e-256", "1")
    # The folder is gone with the script that made it.
    assert not Path(flags["script-dir"]).exists()
    words = subprocess.run(
        ["bash", "-c", f"exec() {{ printf '%s\\n' \"$@\"; }}; {flags['command'].split('&& ')[1]}"],
        **{"capture_output": True, "text": True, "check": True},
    ).stdout.splitlines()
    assert words == ["python", "experiments/seed_overlap.py", "--multihost", *GIVEN]


@pytest.mark.parametrize(
    ("name", "variables", "said"),
    [
        ("tpu_vm.sh", {}, "TPU is missing"),
        ("tpu_vm.sh", {"TPU": "t"}, "ZONE is missing"),
        ("tpu_vm.sh", {"TPU": "t", "ZONE": "z"}, "choose install, start, watch or stop"),
        ("gke.sh", {"CLUSTER": "c", "PROJECT": "p", "ZONE": "z"}, "NAME is missing"),
    ],
)
def test_what_is_missing_is_said_in_one_line(launch, name, variables, said):
    done, calls = launch(name, **variables)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert said in line
    assert not calls


@pytest.mark.slow
def test_one_machine_for_real(launch, tiny_lm, text, tmp_path):
    done, _ = launch(
        "gpu.sh",
        *("--config=configs/quickstart.py", f"--workdir={tmp_path}/run"),
        *(f"--config.lm.source={tiny_lm}", f"--config.data.source={text}"),
        *("--config.data.text_field=text", "--config.data.documents=packed"),
        *("--config.hookpoint=layers.1.mlp", "--config.init_seeds=1,2", "--config.data.epochs=1"),
        *("--config.data.context_length=32", "--config.train.batch_tokens=384"),
        *("--config.sae.num_latents=32", "--config.sae.k=4"),
        **{"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
