"""Sentences say what the numbers say; the command gives the same configuration again."""

import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from saejax.config import Config
from saejax.config_check import check
from saejax.report import wording
from saejax.report.run_files import Pair


def _pair(*, certified: bool, relative_gap: float | None, solver: str = "scipy") -> Pair:
    return Pair("h", "m", (1, 2), 8, 0.7, {}, {}, solver, certified, relative_gap, None)


def test_percent():
    assert wording.percent(0.4756).replace("\N{NO-BREAK SPACE}", " ") == "47.6 %"
    assert wording.percent_range([0.5, 0.25, 1]).replace("\N{NO-BREAK SPACE}", " ") == (
        "25.0 to 100.0 %"
    )


@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        (
            [_pair(certified=True, relative_gap=2e-12)],
            "are proven optimal (largest relative gap 2e",
        ),
        ([_pair(certified=True, relative_gap=0.0)] * 3, "of all 3 pairs are proven optimal"),
        (
            [_pair(certified=True, relative_gap=0.0), _pair(certified=False, relative_gap=0.0123)],
            "1 of 2 pairs are proven optimal (solver: scipy); the total cosine of the best "
            "one-to-one pairing is at most 1.2 % larger",
        ),
        ([_pair(certified=False, relative_gap=None, solver="x")], "no bound"),
    ],
)
def test_certainty(pairs: list[Pair], wanted: str):
    assert wanted in wording.certainty(pairs).replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("seeds", [(7,), (1, 2, 3)])
def test_the_command_gives_the_same_configuration(
    seeds: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    config = Config(init_seeds=seeds)
    config.lm.source = "my model's $HOME/x.gguf"
    config.match.methods = ("exact", "scipy")
    config.train.adam_eps = 1.5e-9
    config.mesh.data = 4
    check(config)
    text = wording.command(config, "0123456789abcdef", "a run")
    checkout, rest = text.split("\n", maxsplit=1)
    assert checkout == "git checkout 0123456789abcdef"
    # The shell, asked to print the words instead of running them.
    shown = ["sh", "-c", rest.replace("python ", "printf '%s\\0' ", 1)]
    words = subprocess.run(shown, capture_output=True, check=True, text=True).stdout.split("\0")
    script, base, workdir, *overrides = words[:-1]
    assert Path(script).name == "seed_overlap.py"
    assert base.startswith("--config=configs/")
    assert workdir == "--workdir=runs/a run-again"
    # The flags are defined from those that sys.argv names.
    monkeypatch.setattr(sys, "argv", ["main", *overrides])
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_dataclass("config", Config(), flag_values=values)
    values(sys.argv)
    assert holder.value == config
    assert config != Config()


@pytest.mark.parametrize("commit", ["unknown", "0123456789abcdef-dirty", "", "$(rm x)"])
def test_only_a_commit_is_checked_out(commit: str):
    assert wording.command(Config(), commit, "r").startswith("python ")
