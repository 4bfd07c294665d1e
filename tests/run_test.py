"""A run from text to report on a tiny model: complete, resumable, and honest about bad input."""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import saejax
from saejax import run as stages
from saejax.config import MeshConfig
from saejax.config_check import check
from saejax.errors import InputError
from saejax.report import write_report
from saejax.rundir import RunDir, open_run
from saejax.train import checkpoint, loop
from saejax.train.interrupt import Interrupted
from saejax.train.metrics import NonFiniteError


def train(cfg, root):
    return stages.train_run(cfg, open_run(cfg, root))


def assert_equal_saes(a, b):
    assert a.keys() == b.keys()
    for seed in a:
        for one, other in zip(jax.tree.leaves(a[seed]), jax.tree.leaves(b[seed]), strict=True):
            np.testing.assert_array_equal(one, other)


def metrics(root):
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """Results of uninterrupted runs by configuration, so that each is trained once."""
    cache = {}

    def result(cfg):
        key = json.dumps(dataclasses.asdict(cfg))
        if key not in cache:
            root = tmp_path_factory.mktemp("straight") / "run"
            cache[key] = train(cfg, root), root
        return cache[key]

    return result


def test_all_stages_and_their_files(cfg, straight):
    saes, root = straight(cfg)
    run = open_run(cfg, root)
    overlap = stages.overlap_run(cfg, run, saes)
    report = write_report(root)
    for name in (
        "config.json",
        "versions.json",
        "metrics.jsonl",
        "saes/layers.1.mlp/seed1/cfg.json",
        "saes/layers.1.mlp/seed2/sae_weights.safetensors",
        "matchings/layers.1.mlp/seed1-seed2.exact.npz",
        "matchings/layers.1.mlp/seed1-seed2.max_cosine.npz",
        "results/overlap.json",
    ):
        assert (root / name).is_file(), name
    assert report == root / "report.html"
    assert not list(root.rglob("*.partial"))
    history = metrics(root)
    assert [m["step"] for m in history] == list(range(12))
    assert history[-1]["tokens"] == 12 * 12 * 31
    assert np.mean(history[-1]["train/fvu"]) < np.mean(history[0]["train/fvu"])
    (pair,) = overlap["pairs"]
    assert pair["certified"]
    assert 0 <= pair["shared_frac"] <= pair["aligned_frac"] <= pair["decoder_frac"] <= 1
    assert json.loads((root / "results" / "overlap.json").read_text())["pairs"] == [pair]
    loaded = saejax.load_sae(root, seed=2)
    np.testing.assert_array_equal(loaded.w_enc, saes[2].w_enc)
    assert dict(loaded.metadata)["seed"] == 2


def test_finished_run_is_not_trained_again(cfg, straight, monkeypatch):
    saes, root = straight(cfg)
    monkeypatch.setattr(stages, "train", None)
    monkeypatch.setattr(stages, "open_activations", None)
    assert_equal_saes(train(cfg, root), saes)


@pytest.fixture
def at_step(monkeypatch):
    """A context in which something happens when a training step is called."""

    @contextlib.contextmanager
    def context(step, happens):
        make_step = stages.make_step

        def spoiled(*args):
            real = make_step(*args)
            calls = itertools.count(1)

            def call(state, *given):
                if next(calls) == step:
                    happens()
                return real(state, *given)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(stages, "make_step", spoiled)
            yield

    return context


@pytest.mark.parametrize("activations", ["store", "stream"])
@pytest.mark.parametrize("stop_at", [3, pytest.param(7, marks=pytest.mark.slow)])
def test_interrupted_and_resumed_is_bitwise_the_same(
    cfg, straight, tmp_path, at_step, stop_at, activations
):
    cfg.data.activations = activations
    saes, straight_root = straight(cfg)
    with (
        at_step(stop_at, lambda: os.kill(os.getpid(), signal.SIGINT)),
        pytest.raises(Interrupted, match=f"stopped at step {stop_at} of 12"),
    ):
        train(cfg, tmp_path / "run")
    assert not (tmp_path / "run" / "saes").exists()
    assert_equal_saes(train(cfg, tmp_path / "run"), saes)
    compared = ("step", "tokens", "train/fvu", "train/dead_frac", "train/grad_norm", "train/lr")
    for ours, theirs in zip(metrics(tmp_path / "run"), metrics(straight_root), strict=True):
        assert {k: ours[k] for k in compared} == {k: theirs[k] for k in compared}


@pytest.mark.slow
def test_goes_on_inside_a_block_of_the_shuffle_buffer(cfg, straight, tmp_path, at_step):
    cfg.data.activations, cfg.data.shuffle_buffer_batches = "stream", 4
    cfg.data.exclude_special_tokens, cfg.data.max_norm_multiple = True, 1.5
    check(cfg)
    saes, root = straight(cfg)
    assert crash_at(cfg, tmp_path / "run", at_step, 9) == [5]
    assert_equal_saes(train(cfg, tmp_path / "run"), saes)
    replaced = [line["data/replaced_frac"] for line in metrics(tmp_path / "run")]
    assert replaced == [line["data/replaced_frac"] for line in metrics(root)]
    assert 0 < min(replaced) < max(replaced) < 0.5
    cfg.data.shuffle_buffer_batches = 0
    unmixed, _ = straight(cfg)
    assert not np.allclose(unmixed[1].w_dec, saes[1].w_dec, atol=1e-3)


def test_crash_between_checkpoints_resumes_from_the_last(cfg, straight, tmp_path, at_step):
    saes, _ = straight(cfg)
    with at_step(9, lambda: 1 / 0), pytest.raises(ZeroDivisionError):
        train(cfg, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["5"]
    assert metrics(tmp_path / "run")[-1]["step"] > 5
    assert_equal_saes(train(cfg, tmp_path / "run"), saes)
    assert [m["step"] for m in metrics(tmp_path / "run")] == list(range(12))


@pytest.mark.parametrize("optimizer", ["signum", pytest.param("muon", marks=pytest.mark.slow)])
def test_other_optimizers_resume_bitwise_and_log_their_rate(
    cfg, straight, tmp_path, at_step, optimizer
):
    cfg.train.optimizer, cfg.train.lr_scale, cfg.init_seeds = optimizer, 0.5, (1,)
    cfg.train.warmup_steps, cfg.train.grad_clip = 0, 0.0
    check(cfg)
    saes, root = straight(cfg)
    peak = 0.5 * (5e-3 / np.sqrt(32 / 2**14) if optimizer == "signum" else 2e-3)
    decay = 1 - np.arange(12) / 12 if optimizer == "muon" else np.ones(12)
    rates = [line["train/lr"] for line in metrics(root)]
    np.testing.assert_allclose(rates, peak * decay, rtol=1e-5)
    crash_at(cfg, tmp_path / "run", at_step, 7)
    assert_equal_saes(train(cfg, tmp_path / "run"), saes)


def crash_at(cfg, root, at_step, step):
    """Checkpoints of a run that crashed in the call of a step."""
    with at_step(step, lambda: 1 / 0), pytest.raises(ZeroDivisionError):
        train(cfg, root)
    return sorted(int(p.name) for p in (root / "checkpoints").iterdir())


def test_checkpoints_by_minutes_come_besides_those_by_steps(cfg, tmp_path, at_step):
    cfg.train.checkpoint_every_minutes = 0.0
    assert crash_at(cfg, tmp_path / "steps", at_step, 9) == [5]
    cfg.train.checkpoint_every_minutes = 1e-9
    assert crash_at(cfg, tmp_path / "minutes", at_step, 9) == [7, 8]
    for wrong in (-1.0, float("nan"), float("inf")):
        cfg.train.checkpoint_every_minutes = wrong
        with pytest.raises(InputError, match=r"train\.checkpoint_every_minutes=.*0 for never"):
            check(cfg)


def test_every_nth_checkpoint_is_kept_for_good(cfg, tmp_path, at_step):
    cfg.train.checkpoint_keep_every_steps, cfg.train.checkpoints_kept = 4, 1
    assert crash_at(cfg, tmp_path / "run", at_step, 12) == [4, 8, 10]


def test_damaged_checkpoint_falls_back_and_the_result_is_the_same(cfg, straight, tmp_path, at_step):
    saes, straight_root = straight(cfg)
    root = tmp_path / "run"
    assert crash_at(cfg, root, at_step, 12) == [5, 10]
    largest = max((root / "checkpoints/10/state").rglob("*"), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size - 1)
    with pytest.warns(UserWarning, match=r"checkpoints/10: .* goes back to step 5"):
        assert_equal_saes(train(cfg, root), saes)
    assert sorted(p.name for p in (root / "checkpoints").iterdir()) == ["10", "10.broken", "12"]
    without_rate = [
        [{k: v for k, v in m.items() if k != "tokens_per_second"} for m in metrics(path)]
        for path in (root, straight_root)
    ]
    assert without_rate[0] == without_rate[1]


def test_run_without_a_readable_checkpoint_says_how_to_start_anew(cfg, straight, tmp_path, at_step):
    saes, _ = straight(cfg)
    root = tmp_path / "run"
    assert crash_at(cfg, root, at_step, 9) == [5]
    shutil.rmtree(root / "checkpoints/5/batches")
    before = metrics(root)
    with pytest.raises(InputError, match=r"no checkpoint in .*batches/\S+ is missing.*delete that"):
        train(cfg, root)
    assert metrics(root) == before
    shutil.rmtree(root / "checkpoints")
    assert_equal_saes(train(cfg, root), saes)


def test_goes_on_on_another_mesh(cfg, straight, tmp_path, at_step):
    saes, _ = straight(cfg)
    assert crash_at(cfg, tmp_path / "run", at_step, 7) == [5]
    cfg.mesh = MeshConfig(2, 2, 2)
    other = stages.train_run(cfg, RunDir(tmp_path / "run"))
    for seed in saes:
        np.testing.assert_allclose(other[seed].w_dec, saes[seed].w_dec, atol=1e-5)
        np.testing.assert_allclose(other[seed].w_enc, saes[seed].w_enc, atol=1e-5)


def test_stored_and_streamed_activations_train_alike(cfg, straight):
    cfg.data.store_dtype = "float32"
    stored, _ = straight(cfg)
    cfg.data.activations, cfg.data.store_dtype = "stream", "float16"
    streamed, _ = straight(cfg)
    for seed in stored:
        np.testing.assert_allclose(stored[seed].w_dec, streamed[seed].w_dec, atol=1e-4)


def test_one_device_equals_eight(cfg, straight):
    one, _ = straight(cfg)
    cfg.train.batch_tokens, cfg.mesh = 12 * 32, MeshConfig(2, 4, 1)
    eight, _ = straight(cfg)
    for seed in one:
        np.testing.assert_allclose(one[seed].w_dec, eight[seed].w_dec, atol=1e-4)


@pytest.mark.parametrize("spoiled", ["activations", "loss"])
def test_non_finite_stops_and_keeps_the_last_good_checkpoint(cfg, tmp_path, monkeypatch, spoiled):
    real = loop.check_finite

    def spoil(record, *, step, **rest):
        name = "train/total_variance" if spoiled == "activations" else "train/fvu"
        if step == 7:
            value = float("nan")
            record[name] = value if spoiled == "activations" else [record[name][0], value]
        real(record, step=step, **rest)

    monkeypatch.setattr(loop, "check_finite", spoil)
    says = {"activations": "the activations are not finite", "loss": "train/fvu of seed 2 is nan"}
    with pytest.raises(NonFiniteError) as error:
        train(cfg, tmp_path / "run")
    assert f"step 7: {says[spoiled]}" in str(error.value)
    assert "last good checkpoint is step 5" in str(error.value)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["5"]
    assert metrics(tmp_path / "run")[-1]["step"] == 6
    assert not (tmp_path / "run" / "saes").exists()


def test_infinite_weights_are_noticed_for_real(cfg, tmp_path):
    cfg.train.lr_scale = 1e30
    with pytest.raises(NonFiniteError, match=r"of seed 1 is (nan|inf); lower train.lr_scale"):
        train(cfg, tmp_path / "run")


def test_other_configuration_is_refused(cfg, straight):
    _, root = straight(cfg)
    cfg.sae.k = 5
    with pytest.raises(InputError, match=r"another configuration .*sae\.k: 4 != 5.*--workdir"):
        open_run(cfg, root)


def test_a_run_goes_on_with_another_mesh_and_other_intervals(cfg, straight):
    _, root = straight(cfg)
    cfg.mesh.data, cfg.train.checkpoint_every_steps, cfg.train.log_every_steps = 1, 7, 9
    assert open_run(cfg, root).root == root


def test_a_finished_run_takes_other_settings_of_the_matching(cfg, straight, tmp_path, monkeypatch):
    _, root = straight(cfg)
    run = RunDir(tmp_path / "run")
    # Another test may have matched it already.
    shutil.copytree(root, run.root, ignore=shutil.ignore_patterns("matchings"))
    monkeypatch.setattr(stages, "train", None)
    computed, real = [], stages.compare

    def counted(*saes, method, **options):
        computed.append(method)
        return real(*saes, method=method, **options)

    monkeypatch.setattr(stages, "compare", counted)

    def matched(**settings):
        """Which methods were computed, and what was found by each."""
        computed.clear()
        for name, value in settings.items():
            setattr(cfg.match, name, value)
        assert open_run(cfg, run.root) == run
        stages.overlap_run(cfg, run, stages.train_run(cfg, run))
        assert run.read_config() == cfg
        pairs = json.loads(run.result("overlap").read_text())["pairs"]
        return computed, {pair["method"]: pair for pair in pairs}

    assert matched()[0] == ["exact"]
    _, strict = matched(threshold=0.9)
    again, loose = matched(threshold=0.2)
    assert again == []
    assert loose["exact"]["shared_frac"] > strict["exact"]["shared_frac"]
    methods, both = matched(methods=("exact", "sinkhorn"), epsilon=0.2)
    assert methods == ["sinkhorn"]
    assert list(both) == ["exact", "sinkhorn"]
    assert matched()[0] == []
    assert matched(epsilon=0.1)[0] == ["sinkhorn"]
    file = run.matching(cfg.hookpoint, (1, 2), "sinkhorn")
    assert saejax.Matching.load(file, "encoder").soft.epsilon == 0.1
    methods, one = matched(methods=("sinkhorn",))
    assert methods == []
    assert list(one) == ["sinkhorn"]
    write_report(run.root)


def test_run_that_computed_nothing_takes_the_corrected_configuration(cfg, tmp_path):
    cfg.hookpoint = "layers.9.mlp"
    with pytest.raises(InputError, match="layers 0 to 1"):
        train(cfg, tmp_path / "run")
    cfg.hookpoint = "layers.1.mlp"
    assert open_run(cfg, tmp_path / "run").read_config() == cfg


def test_foreign_directory_is_refused(cfg, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="exists and is not a run"):
        open_run(cfg, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("hookpoint", "layers.2.mlp", "layers 0 to 1"),
        ("hookpoint", "blocks.1.hook_mlp_out", "layers.<i>.mlp"),
        ("lm.source", "/no/such/model", "/no/such/model"),
        ("data.source", "/no/such/text.txt", "/no/such/text.txt"),
        ("train.batch_tokens", 32 * 999, "144 windows|48 in 3 epochs"),
        ("mesh.data", 8, "windows_per_batch=12 must divide by the 8 devices"),
    ],
)
def test_bad_input_is_refused_before_anything_long(cfg, tmp_path, path, value, says):
    *parents, name = path.split(".")
    holder = cfg
    for parent in parents:
        holder = getattr(holder, parent)
    setattr(holder, name, value)
    with pytest.raises(InputError, match=says) as error:
        train(cfg, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not list((tmp_path / "run").rglob("*.npy"))


@pytest.mark.parametrize("full", ["activations", "metrics.jsonl", "saes", "checkpoints"])
def test_full_disk_is_one_line_and_the_run_goes_on_later(
    cfg, straight, tmp_path, monkeypatch, full
):
    saes, _ = straight(cfg)
    root = tmp_path / "run"
    run = open_run(cfg, root)
    real_fsync = os.fsync

    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fsync(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        return no_space() if f"/{full}" in name else real_fsync(descriptor)

    with monkeypatch.context() as patch:
        if full == "checkpoints":
            patch.setattr(checkpoint.ocp, "save_checkpointables", no_space)
        else:
            patch.setattr(os, "fsync", fsync)
        with pytest.raises(InputError, match=f"no space left on the disk while writing .*{full}"):
            stages.train_run(cfg, run)
    assert not list(root.rglob("*.partial"))
    assert_equal_saes(stages.train_run(cfg, run), saes)


def start(run):
    """A process that trains, with the compiled code of these tests."""
    code = (
        "import sys; from pathlib import Path; from saejax import run; "
        "from saejax.rundir import RunDir; r = RunDir(Path(sys.argv[1])); "
        "run.train_run(r.read_config(), r)"
    )
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    environment["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
    return subprocess.Popen([sys.executable, "-c", code, run.root], env=environment)


def kill_when(process, happened, *, after=0.0):
    """Ends the process with SIGKILL some seconds after something has happened."""
    while not happened() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(after)
    process.kill()
    process.wait()


def being_written(run):
    """The folders of unfinished checkpoints, orbax's own among them."""
    return list(run.checkpoints.glob("*.partial*"))


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.2, 0.5, 1.0, 2.0])
def test_kill_9_at_any_moment_and_resume_is_bitwise_the_same(cfg, straight, tmp_path, delay):
    """The process dies `delay` seconds after its first metrics, in the middle of anything."""
    cfg.train.checkpoint_every_steps, cfg.data.epochs = 2, 30
    saes, _ = straight(cfg)
    run = open_run(cfg, tmp_path / "run")
    kill_when(start(run), lambda: run.metrics.exists() and run.metrics.stat().st_size, after=delay)
    assert_equal_saes(stages.train_run(cfg, run), saes)


def test_kill_9_while_saving_and_resume_is_bitwise_the_same(cfg, straight, tmp_path):
    saes, _ = straight(cfg)
    run = open_run(cfg, tmp_path / "run")
    kill_when(start(run), lambda: being_written(run))
    assert being_written(run), "the process died after it had saved"
    assert not run.sae(cfg.hookpoint, 1).exists()
    assert_equal_saes(stages.train_run(cfg, run), saes)
    assert not being_written(run)


@pytest.mark.slow
def test_kill_9_in_save_after_save_and_resume_is_bitwise_the_same(cfg, straight, tmp_path):
    """Every process dies at another moment of its second save: writing, summing, deleting."""
    cfg.train.checkpoint_every_steps, cfg.data.epochs = 2, 30
    saes, _ = straight(cfg)
    run = open_run(cfg, tmp_path / "run")
    inside = 0
    for after in (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07):
        before = {p.name for p in run.checkpoints.glob("*") if p.name.isdecimal()}

        def second_save(before=before):
            return any(p.name.partition(".")[0] not in before for p in being_written(run)) and any(
                p.name.isdecimal() and p.name not in before for p in run.checkpoints.glob("*")
            )

        kill_when(start(run), second_save, after=after)
        inside += bool(being_written(run))
    assert inside >= 2
    assert not run.sae(cfg.hookpoint, 1).exists()
    assert_equal_saes(stages.train_run(cfg, run), saes)
