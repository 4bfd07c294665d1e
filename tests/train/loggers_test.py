"""Metrics to Weights & Biases: the same records, one run across restarts, clear failures."""

import sys
import types

import pytest

from saejax.config import Config
from saejax.errors import InputError
from saejax.rundir import open_run
from saejax.train import loggers


def record(step):
    return {
        "step": step,
        "tokens": 10 * step,
        "train/fvu": [0.5, 0.25],
        "train/total_variance": 3.0,
        "train/lr": 1e-4,
    }


FLAT = {
    "step": 0,
    "tokens": 0,
    "train/fvu/seed3": 0.5,
    "train/fvu/seed1": 0.25,
    "train/total_variance": 3.0,
    "train/lr": 1e-4,
}


class Error(Exception):
    """Stands for wandb.Error."""


class Server:
    """Stands for W&B: remembers runs by id, counts steps as it does."""

    def __init__(self):
        self.runs = {}
        self.settings = []
        self.exit_codes = []

    def init(self, **settings):
        self.settings.append(settings)
        history = self.runs.setdefault(settings["id"], [])
        server = self

        class Run:
            step = history[-1][0] + 1 if history else 0

            def log(self, data, *, step):
                history.append((step, data))
                self.step = step

            def finish(self, *, exit_code):
                server.exit_codes.append(exit_code)

        return Run()


@pytest.fixture
def server(monkeypatch):
    server = Server()
    fake = types.SimpleNamespace(init=server.init, Error=Error)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return server


@pytest.fixture
def cfg():
    return Config(init_seeds=(3, 1))


@pytest.fixture
def run(cfg, tmp_path):
    return open_run(cfg, tmp_path / "my-run")


def test_none_is_no_logger(cfg, run):
    assert loggers.make_logger("none", cfg, run) is None


def test_missing_package_is_one_line_with_the_command(cfg, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install wandb") as error:
        loggers.make_logger("wandb", cfg, run)
    assert "\n" not in str(error.value)


def test_folder_named_wandb_is_not_the_package(cfg, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    with pytest.raises(InputError, match="pip install wandb"):
        loggers.make_logger("wandb", cfg, run)


def test_records_arrive_with_a_number_a_seed(cfg, run, server):
    with loggers.make_logger("wandb", cfg, run) as logger:
        logger.write(record(0))
    ((history,), (settings,)) = server.runs.values(), server.settings
    assert history == [(0, FLAT)]
    assert settings["name"] == "my-run"
    assert settings["project"] == "saejax"
    assert settings["dir"] == run.root.resolve()
    assert settings["config"]["init_seeds"] == (3, 1)
    assert settings["config"]["train"]["warmup_steps"] == cfg.train.warmup_steps
    assert server.exit_codes == [0]


def test_nothing_is_sent_before_the_training(cfg, run, server):
    loggers.make_logger("wandb", cfg, run)
    assert server.settings == []
    assert not (run.root / "wandb").exists()


def test_restart_continues_the_run_without_repeated_steps(cfg, run, server):
    def crash():
        with loggers.make_logger("wandb", cfg, run) as logger:
            for step in (0, 10, 20, 30):
                logger.write(record(step))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()
    with loggers.make_logger("wandb", cfg, run) as logger:
        for step in (20, 30, 40):  # from the checkpoint of step 15, say
            logger.write(record(step))
    (history,) = server.runs.values()
    assert [step for step, _ in history] == [0, 10, 20, 30, 40]
    assert {settings["resume"] for settings in server.settings} == {"allow"}
    assert server.exit_codes == [1, 0]


def test_two_runs_are_two(cfg, tmp_path, server):
    for name in ("a", "b"):
        with loggers.make_logger("wandb", cfg, open_run(cfg, tmp_path / name)):
            pass
    assert len(server.runs) == 2


def test_project_is_the_users(cfg, run, server, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with loggers.make_logger("wandb", cfg, run):
        pass
    assert server.settings[0]["project"] == "mine"


def test_refused_by_wandb_is_one_line(cfg, run, server, monkeypatch):
    def refuse(**settings):
        raise Error("api_key not configured\nrun wandb login")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with (
        pytest.raises(InputError, match=r"api_key not configured.*WANDB_MODE=offline") as error,
        loggers.make_logger("wandb", cfg, run),
    ):
        pass
    assert "\n" not in str(error.value)


def test_real_wandb_offline(cfg, run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for step in (0, 10):
        with loggers.make_logger("wandb", cfg, run) as logger:
            logger.write(record(step))
    run_id = (run.root / "wandb" / "run_id").read_text()
    files = list((run.root / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    for file in files:
        assert run_id in file.name
        assert b"train/fvu/seed3" in file.read_bytes()
