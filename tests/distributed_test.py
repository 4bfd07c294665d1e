"""Several real processes of a script are one run: they start, stop and fail together."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

import saejax
from saejax import run as stages
from saejax.config import MeshConfig
from saejax.config_check import check
from saejax.config_json import to_json
from saejax.rundir import RunDir, open_run

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
# Long enough for two busy cores, short enough for a test.
HEARTBEAT = "--heartbeat_seconds=8"


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cfg(cfg, tmp_path):
    """40 steps on four devices, and a file that gives it."""
    cfg.data.epochs, cfg.mesh = 10, MeshConfig(1, 4, 1)
    cfg.data.activations = "stream"
    return cfg


@pytest.fixture
def start(tmp_path):
    """Starts a script in a number of processes that have four devices together."""
    running = []

    def start(cfg, count, *arguments, script="train", workdir="run", differing=None):
        check(cfg)
        (tmp_path / "cfg.json").write_text(to_json(cfg))
        file = tmp_path / "cfg.py"
        file.write_text(
            "from pathlib import Path\nfrom saejax.config_json import from_json\n"
            f"PATH = Path({str(tmp_path / 'cfg.json')!r})\n"
            "def get_config():\n    return from_json(PATH.read_text())\n"
        )
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // count} "
            "--xla_backend_optimization_level=0",
        }
        started = []
        for i in range(count):
            home = tmp_path / f"home{i}"
            home.mkdir(exist_ok=True)
            who = (f"--coordinator_address=localhost:{port}", f"--num_processes={count}")
            command = [sys.executable, EXPERIMENTS / f"{script}.py", *arguments]
            command += [f"--config={file}", f"--workdir={tmp_path / workdir}"]
            command += [*who, f"--process_id={i}", HEARTBEAT] if count > 1 else []
            command += (differing or {}).get(i, ())
            started.append(
                subprocess.Popen(
                    command,
                    cwd=home,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        running.extend(started)
        return started

    yield start
    for process in running:
        process.kill()


def wait(processes, timeout=240):
    said = [process.communicate(timeout=timeout) for process in processes]
    return [
        Said(process.returncode, out, err)
        for process, (out, err) in zip(processes, said, strict=True)
    ]


def succeed(processes):
    said = wait(processes)
    assert [each.code for each in said] == [0] * len(said), [each.err for each in said]
    return said


def metrics(root):
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]


def wait_for_step(root, step, processes):
    """Until a step is in the metrics."""
    while all(process.poll() is None for process in processes):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if metrics(root)[-1]["step"] >= step:
                return
        time.sleep(0.02)
    raise AssertionError([process.communicate()[1] for process in processes])


def checkpoints(root):
    """Steps of the checkpoints, of which nothing is left half done."""
    names = [path.name for path in (root / "checkpoints").iterdir()]
    assert all(name.isdecimal() for name in names)
    return sorted(map(int, names))


def weights(root, cfg):
    saes = [saejax.load_sae(root, seed=seed) for seed in cfg.init_seeds]
    return [np.asarray(leaf) for sae in saes for leaf in jax.tree.leaves(sae)]


def assert_same_run(root, other, cfg):
    """Bit for bit: weights and metrics."""
    for one, two in zip(weights(root, cfg), weights(other, cfg), strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(metrics(root), metrics(other), strict=True):
        assert without_time(one) == without_time(two)


def without_time(line):
    return {name: value for name, value in line.items() if name != "tokens_per_second"}


def assert_close_run(root, other, cfg):
    """To rounding: the same batches, in the same order, and the same losses."""
    ours, theirs = metrics(root), metrics(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for name in ("train/total_variance", "train/fvu"):
        np.testing.assert_allclose(
            [line[name] for line in ours], [line[name] for line in theirs], rtol=1e-5
        )
    for one, two in zip(weights(root, cfg), weights(other, cfg), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)


def alone(cfg, root):
    """The run in this process, on four devices."""
    stages.train_run(cfg, open_run(cfg, root))
    return root


def files(root):
    """All but what a checkpoint holds, whose parts are those of the processes."""
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != "checkpoints")


def test_two_processes_stop_together_and_continue_as_one_does(cfg, start, tmp_path):
    root = tmp_path / "run"
    processes = start(cfg, 2)
    wait_for_step(root, 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    first, second = succeed(processes)
    step = checkpoints(root)[-1]
    assert f"SIGTERM: stopped at step {step} of 40" in first.err
    assert second.err == ""
    assert metrics(root)[-1]["step"] == step - 1
    assert 4 <= step < 40
    first, second = succeed(start(cfg, 2))
    assert f"seed 1: {root}/saes/layers.1.mlp/seed1" in first.out
    assert "seed" not in second.out
    assert second.err == ""
    one = alone(cfg, tmp_path / "one")
    assert_close_run(root, one, cfg)
    assert files(root) == files(one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "activations", "buffer", "order"),
    [
        (MeshConfig(1, 4, 1), "stream", 3, "shuffled"),
        (MeshConfig(1, 4, 1), "store", 0, "shuffled_tokens"),
        (MeshConfig(2, 2, 1), "store", 0, "shuffled"),
        (MeshConfig(1, 2, 2), "stream", 0, "in_order"),
        # Every process has half of the latents of all tokens.
        (MeshConfig(1, 1, 4), "stream", 0, "shuffled"),
    ],
)
def test_two_processes_equal_one(cfg, start, tmp_path, mesh, activations, buffer, order):
    cfg.mesh, cfg.data.activations, cfg.data.order = mesh, activations, order
    cfg.data.shuffle_buffer_batches, cfg.data.store_dtype = buffer, "float32"
    succeed(start(cfg, 2))
    assert_close_run(tmp_path / "run", alone(cfg, tmp_path / "one"), cfg)


@pytest.fixture(scope="module")
def straight_root(tmp_path_factory):
    return tmp_path_factory.mktemp("straight") / "run"


@pytest.fixture
def straight(cfg, start, straight_root):
    """A run of two processes without interruption, made once."""
    if not straight_root.exists():
        succeed(start(cfg, 2, workdir=straight_root))
    return straight_root


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_stops_both_and_resume_is_bitwise_the_same(
    cfg, start, straight, tmp_path, asked, signum
):
    root = tmp_path / "run"
    processes = start(cfg, 2)
    wait_for_step(root, 11, processes)
    processes[asked].send_signal(signum)
    said = wait(processes)
    assert [each.code for each in said] == [0 if signum == signal.SIGTERM else 130] * 2
    assert metrics(root)[-1]["step"] + 1 in checkpoints(root)
    succeed(start(cfg, 2))
    assert_same_run(root, straight, cfg)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_and_resume_is_bitwise_the_same(
    cfg, start, straight, tmp_path, killed
):
    root = tmp_path / "run"
    processes = start(cfg, 2)
    wait_for_step(root, 11, processes)
    processes[killed].kill()
    began = time.monotonic()
    other = wait(processes)[1 - killed]
    # Not much later than a silent process counts as dead.
    assert time.monotonic() - began < 20
    assert other.code == 1
    (line,) = (line for line in other.err.splitlines() if not line.startswith(("train", "read")))
    assert f"process {killed} ({socket.gethostname()}) is missing" in line
    assert "with the same command, to continue from the last checkpoint" in line
    succeed(start(cfg, 2))
    assert_same_run(root, straight, cfg)


@pytest.mark.slow
def test_other_numbers_of_processes_go_on_in_the_same_order(cfg, start, straight, tmp_path):
    """Four processes until step 10, two until step 20, then one, on four devices in all cases."""
    root = tmp_path / "run"
    for count, step in ((4, 11), (2, 21)):
        processes = start(cfg, count)
        wait_for_step(root, step, processes)
        for process in processes:
            process.kill()
        wait(processes)
        assert (root / "checkpoints" / str(step - 1)).is_dir()
    assert not (root / "saes").exists()
    succeed(start(cfg, 1))
    assert_close_run(root, straight, cfg)


@pytest.mark.slow
def test_checkpoints_by_the_clock_are_of_one_step(cfg, start, straight, tmp_path):
    cfg.train.checkpoint_every_steps, cfg.train.checkpoints_kept = 1000, 100
    cfg.train.checkpoint_every_minutes = 0.2 / 60
    succeed(start(cfg, 2))
    assert len(checkpoints(tmp_path / "run")) > 1
    assert_same_run(tmp_path / "run", straight, cfg)


@pytest.mark.slow
def test_other_settings_in_one_process_stop_both_and_are_named(cfg, start, tmp_path):
    said = wait(start(cfg, 2, differing={1: ["--config.sae.k=8"]}))
    for i, each in enumerate(said):
        assert each.code == 1
        (line,) = each.err.splitlines()
        assert line.startswith(f"process {i}: error: the processes are not started alike")
        assert "(--config.sae.k: 8 in process 1, 4 in process 0)" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_directory_that_is_not_shared_is_told(cfg, start, tmp_path):
    """Each process has another folder of this name, below its own current directory."""
    said = wait(
        start(
            cfg,
            2,
            "--barrier_seconds=10",
            workdir="run",
            differing={i: ["--workdir=here"] for i in range(2)},
        )
    )
    for i, each in enumerate(said):
        assert each.code == 1
        (line,) = each.err.splitlines()
        assert line.startswith(f"process {i}: error: process 1 does not see what process 0 writes")
        assert "on a file system that all processes share" in line


@pytest.mark.slow
def test_bad_input_is_told_by_each_and_ends_both(cfg, start):
    cfg.data.source = "/no/such/text.txt"
    for i, each in enumerate(wait(start(cfg, 2))):
        assert each.code == 1
        (line,) = each.err.splitlines()
        assert line.startswith(f"process {i}: error: ")
        assert "/no/such/text.txt" in line


@pytest.mark.slow
def test_main_job_of_two_processes_equals_that_of_one(cfg, start, tmp_path):
    """From the same autoencoders: every result, by both methods, written by process 0 alone."""
    cfg.match.methods, cfg.match.epsilon = ("exact", "sinkhorn"), 0.1
    alone(cfg, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "one")
    two = succeed(start(cfg, 2, script="seed_overlap"))
    one = succeed(start(cfg, 1, script="seed_overlap", workdir="one"))
    assert "report:" not in two[1].out
    assert two[1].err == ""
    tables = [
        [line for line in said[0].out.splitlines() if not line.startswith(("report", "[Gloo"))]
        for said in (one, two)
    ]
    assert tables[0] == tables[1]
    runs = [RunDir(tmp_path / name) for name in ("one", "run")]
    assert files(runs[0].root) == files(runs[1].root)
    for method in cfg.match.methods:
        for side in ("decoder", "encoder"):
            ours, theirs = (
                saejax.Matching.load(run.matching(cfg.hookpoint, (1, 2), method), side)
                for run in runs
            )
            np.testing.assert_array_equal(ours.target, theirs.target)
            np.testing.assert_allclose(ours.cosine, theirs.cosine, atol=1e-6)


def script(name, *arguments):
    return subprocess.run(
        [sys.executable, EXPERIMENTS / f"{name}.py", *arguments],
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )


CONFIG = f"--config={EXPERIMENTS.parent / 'configs' / 'quickstart.py'}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--num_processes=2"], "--coordinator_address, --process_id missing"),
        pytest.param(["--multihost"], "JAX finds no Slurm", marks=pytest.mark.slow),
        pytest.param(["--multihost", "--process_id=1"], "leave one out", marks=pytest.mark.slow),
        pytest.param(
            ["--coordinator_address=localhost:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2: numbers of 2 processes are 0 to 1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--coordinator_address=localhost", "--num_processes=2", "--process_id=1"],
            "write host:port",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [
                "--coordinator_address=localhost:1",
                "--num_processes=2",
                "--process_id=1",
                "--initialization_seconds=1",
            ],
            "coordinator localhost:1 could not be reached within 1 s",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_bad_start_is_one_line(tmp_path, arguments, says):
    done = script("train", CONFIG, f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "error: " in line
    assert says in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_script_for_one_process_says_so(tmp_path):
    done = script("report", f"--run={tmp_path}", "--multihost")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --multihost: this script is for one process")
    for flag in ("multihost", "coordinator_address", "process_id", "heartbeat_seconds"):
        assert f"--{flag}" in script("train", "--help").stdout.replace("[no]", "")
