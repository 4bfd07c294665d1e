"""Sweeps: runs trained together are the runs trained alone, whatever happens on the way."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from saejax import activations as activations_lib
from saejax import run as stages
from saejax.config import Config
from saejax.config_json import to_json
from saejax.errors import InputError
from saejax.rundir import open_run
from saejax.sweep import points, train_sweep, vary
from saejax.sweep_results import collect
from saejax.train import loop
from saejax.train.checkpoint import Checkpoints

ROOT = Path(__file__).parents[1]


@pytest.fixture
def configs(cfg):
    """Runs that differ in k, learning rate, size and architecture."""
    cfg.init_seeds = (1,)
    cfg.train.checkpoint_every_steps = 4
    relu = copy.deepcopy(cfg)
    relu.sae.arch, relu.sae.sparsity_coefficient = "relu", 0.1
    return {
        **vary(cfg, ["sae.k=2,4"]),
        **vary(cfg, ["sae.num_latents=48", "train.lr_scale=2"]),
        "relu": relu,
    }


def jobs_of(configs, root):
    return [(cfg, open_run(cfg, root / name)) for name, cfg in configs.items()]


def train_all(configs, root):
    trained = stages.train_together(jobs_of(configs, root), root / "activations")
    return dict(zip(configs, trained, strict=True))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].keys() == expected[name].keys()
        for seed in expected[name]:
            pair = jax.tree.leaves(found[name][seed]), jax.tree.leaves(expected[name][seed])
            for one, other in zip(*pair, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Every run on its own, trained once for all tests."""
    results = {}

    def train(configs):
        for name, cfg in configs.items():
            key = json.dumps([name, cfg.data.activations])
            if key not in results:
                root = tmp_path_factory.mktemp("alone")
                results[key] = stages.train_run(cfg, open_run(cfg, root / "run"))
        return {
            name: results[json.dumps([name, c.data.activations])] for name, c in configs.items()
        }

    return train


@pytest.mark.parametrize("activations", [pytest.param("store", marks=pytest.mark.slow), "stream"])
def test_together_is_bitwise_as_alone(configs, alone, tmp_path, activations, monkeypatch):
    if activations == "stream":
        configs = {"k=2": configs["k=2"], "k=4": configs["k=4"]}
    for cfg in configs.values():
        cfg.data.activations = activations
    captured = []
    real = loop.train

    def counted(members, *, activations, **rest):
        def count(batch):
            captured.append(batch)
            return activations(batch)

        return real(members, activations=count, **rest)

    monkeypatch.setattr(stages, "train", counted)
    found = train_all(configs, tmp_path)
    assert len(captured) == 12
    assert_same(found, alone(configs))


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["store", "stream"])
def test_several_hook_points_in_one_pass(cfg, alone, tmp_path, activations):
    """Up to rounding, since a pass to two hook points is another program than one to each."""
    cfg.data.activations = activations
    configs = vary(cfg, ["hookpoint=layers.0,layers.1.mlp"])
    found = train_all(configs, tmp_path)
    for name, expected in alone(configs).items():
        np.testing.assert_allclose(found[name][1].w_dec, expected[1].w_dec, atol=2e-3)


@pytest.mark.parametrize(
    "at", [pytest.param(0, marks=pytest.mark.slow), 2, pytest.param(5, marks=pytest.mark.slow)]
)
def test_stopped_between_two_checkpoints_and_resumed(configs, alone, tmp_path, monkeypatch, at):
    """The first members have saved a step that the others have not."""
    real, calls = Checkpoints.save, iter(range(100))

    def save(self, state, batches):
        if next(calls) == at:
            raise KeyboardInterrupt
        real(self, state, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(KeyboardInterrupt):
            train_all(configs, tmp_path)
    assert_same(train_all(configs, tmp_path), alone(configs))
    for name in configs:
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(12)), name


def test_runs_added_later_leave_the_others_alone(configs, alone, tmp_path, monkeypatch):
    first, *_ = configs
    train_all({first: configs[first]}, tmp_path)
    before = (tmp_path / first / "metrics.jsonl").stat().st_mtime_ns
    assert_same(train_all(configs, tmp_path), alone(configs))
    assert (tmp_path / first / "metrics.jsonl").stat().st_mtime_ns == before
    monkeypatch.setattr(stages, "open_activations", None)
    assert_same(train_all(configs, tmp_path), alone(configs))


def test_a_run_that_diverges_does_not_take_others_along(configs, alone, tmp_path):
    first, second, *_ = configs
    some = {first: configs[first], second: configs[second]}
    wild = copy.deepcopy(configs[first])
    wild.train.lr_scale = 1e30
    with pytest.warns(UserWarning, match="wild: step .* lower train.lr_scale.*others go on"):
        found = train_all({"wild": wild} | some, tmp_path)
    assert found.pop("wild") is None
    assert_same(found, alone(some))
    result = collect(tmp_path)
    assert [run["name"] for run in result["runs"]] == sorted(some)


def test_store_of_other_text_is_refused(configs, tmp_path):
    name, cfg = next(iter(configs.items()))
    train_all({name: cfg}, tmp_path)
    other = copy.deepcopy(cfg)
    other.data.num_tokens //= 2
    with pytest.raises(InputError, match=r"else \(data\.num_tokens, num_windows, tokens_sha256 "):
        train_all({"other": other}, tmp_path)


@pytest.mark.parametrize("activations", ["store", pytest.param("stream", marks=pytest.mark.slow)])
def test_sweep_captures_each_text_once_and_equals_runs_alone(
    cfg, tmp_path, activations, monkeypatch
):
    cfg.init_seeds, cfg.data.activations = (1,), activations
    changes = {
        "base": {},
        "k=4": {"sae.k": 4},
        "epochs=1": {"data.epochs": 1},
        "half": {"data.num_tokens": cfg.data.num_tokens // 2},
        "hookpoint=layers.0": {"hookpoint": "layers.0"},
    }
    configs = points(cfg, changes)
    alone = {
        name: stages.train_run(each, open_run(each, tmp_path / "alone" / name))
        for name, each in configs.items()
        if name != "hookpoint=layers.0"
    }
    loaded = []
    real = activations_lib.load_lm
    monkeypatch.setattr(
        activations_lib, "load_lm", lambda *args, **rest: loaded.append(args) or real(*args, **rest)
    )
    jobs = jobs_of(configs, tmp_path)
    found = {run.root.name: saes for _, run, saes in train_sweep(jobs, tmp_path)}
    # Two texts; in streams also another number of epochs.
    assert len(loaded) == {"store": 2, "stream": 3}[activations]
    assert found.keys() == configs.keys()
    for name, saes in alone.items():
        # Up to rounding, since a pass to two hook points is another program than one to each.
        np.testing.assert_allclose(found[name][1].w_dec, saes[1].w_dec, atol=2e-3)
    again = {run.root.name: saes for _, run, saes in train_sweep(jobs, tmp_path)}
    assert len(loaded) == {"store": 2, "stream": 3}[activations]
    assert_same(again, found)


def test_sweep_goes_on_after_a_run_that_diverges(cfg, tmp_path):
    cfg.init_seeds = (1,)
    configs = points(cfg, {"wild": {"train.lr_scale": 1e30}, "k=4": {"sae.k": 4}})
    with pytest.warns(UserWarning, match="wild: step .* lower train.lr_scale.*others go on"):
        found = list(train_sweep(jobs_of(configs, tmp_path), tmp_path))
    assert [run.root.name for _, run, _ in found] == ["k=4"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sae.kk": 1}, r"p: sae\.kk is no field"),
        ({"sae.k": 0}, r"p: sae\.k=0: must be at least 1"),
        ({"sae.k": "many"}, r"p: sae\.k='many' is not of type int"),
    ],
)
def test_points_that_make_no_sense(change, says):
    with pytest.raises(InputError, match=says):
        points(Config(), {"p": change})


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        (["sae.k"], "write a field of the configuration and its values"),
        (["sae.kk=1"], "write a field of the configuration"),
        (["sae.k=2.5"], "'2.5' is not a value of type int"),
        (["init_seeds=1,2"], "'1' is not a value of type tuple"),
        (["sae.multi_topk=maybe"], "not a value of type bool"),
        (["sae.k=0"], r"k=0: sae\.k=0: must be at least 1"),
        (["sae.k=3,3"], "k=3 twice"),
    ],
)
def test_axes_that_make_no_sense(axes, says):
    with pytest.raises(InputError, match=says):
        vary(Config(), axes)


def test_every_combination():
    made = vary(Config(), ["sae.k=8,16", "sae.multi_topk=true,false", "hookpoint=layers.3"])
    assert len(made) == 4
    cfg = made["k=16,multi_topk=True,hookpoint=layers.3"]
    assert (cfg.sae.k, cfg.sae.multi_topk, cfg.hookpoint) == (16, True, "layers.3")
    assert Config().sae.k == 32


def test_patterns_of_hook_points(cfg):
    made = vary(cfg, ["hookpoint=layers.*.mlp,layers.1", "sae.k=2"])
    assert list(made) == [
        f"hookpoint={p},k=2" for p in ("layers.0.mlp", "layers.1.mlp", "layers.1")
    ]
    assert made["hookpoint=layers.0.mlp,k=2"].hookpoint == "layers.0.mlp"
    with pytest.raises(InputError, match=r"'h\.\*' matches nothing"):
        vary(cfg, ["hookpoint=h.*"])
    with pytest.raises(InputError, match=r"hookpoint=layers\.1 twice"):
        vary(cfg, ["hookpoint=layers.1,layers.?"])


def test_script(cfg, tmp_path):
    config = tmp_path / "tiny.py"
    config.write_text(
        "from saejax.config_json import from_json\n"
        f"def get_config():\n    return from_json({to_json(cfg)!r})\n"
    )
    command = [
        sys.executable,
        ROOT / "experiments" / "sweep.py",
        f"--config={config}",
        f"--workdir={tmp_path / 'sweep'}",
    ]
    none = subprocess.run(command, capture_output=True, text=True)
    assert none.returncode == 1
    assert none.stderr.startswith(
        "error: --vary is missing, and the configuration has no get_sweep"
    )
    with config.open("a") as file:
        file.write("def get_sweep():\n    return {'few': {'sae.k': 2}}\n")
    written = subprocess.run(command, capture_output=True, text=True)
    assert written.returncode == 0, written.stderr
    assert [line.split()[0] for line in written.stdout.splitlines()[:2]] == ["run", "few"]
    (tmp_path / "sweep").rename(tmp_path / "written")
    done = subprocess.run([*command, "--vary=sae.k=2,4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[:3]] == ["run", "k=2", "k=4"]
    assert "k, active latents per token: shared" in done.stdout
    # Another machine needs no run of its own for the same points.
    known = tmp_path / "sweep" / "results" / "sweep.json"
    command[-1] = f"--workdir={tmp_path / 'other'}"
    other = subprocess.run(
        [*command, "--vary=sae.k=2,4", f"--known={known}"], capture_output=True, text=True
    )
    assert other.returncode == 0, other.stderr
    assert other.stdout.splitlines()[:-1] == done.stdout.splitlines()[:-1]
    assert [path.name for path in sorted((tmp_path / "other").iterdir())] == ["figures", "results"]
    for name in (
        *("results/sweep.json", "figures/pareto.svg", "k=2/report.html"),
        *("results/factors.json", "figures/factor.k.svg", "figures/factor.k.png"),
    ):
        assert (tmp_path / "sweep" / name).is_file(), name
