"""Results of a sweep: numbers of its runs, and runs that another machine made."""

import copy
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from saejax import run as stages
from saejax.errors import InputError
from saejax.rundir import open_run
from saejax.sweep import points
from saejax.sweep_results import collect, read_results, still_to_run, sweep_table


@pytest.fixture
def configs(cfg):
    """One run with a seed, and one with two."""
    return points(cfg, {"k=4": {"init_seeds": (1,)}, "two": {"sae.k": 2}})


def train(configs, root):
    """Trains runs and matches their seeds."""
    jobs = [(cfg, open_run(cfg, root / name)) for name, cfg in configs.items()]
    trained = stages.train_together(jobs, root / "activations")
    for (cfg, run), saes in zip(jobs, trained, strict=True):
        if len(saes) > 1:
            stages.overlap_run(cfg, run, saes)


def test_numbers_and_table(configs, tmp_path):
    train(configs, tmp_path)
    result = collect(tmp_path)
    assert read_results(tmp_path / "results" / "sweep.json") == result
    assert result["varied"] == ["init_seeds", "sae.k"]
    assert result["common"]["sae.num_latents"] == 32
    assert not result["common"].keys() & set(result["varied"])
    one, pair = result["runs"]
    assert (one["sae.k"], pair["sae.k"]) == (4, 2)
    lines = [json.loads(x) for x in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    # The last tenth of steps 0 to 11.
    expected = np.mean([line["train/fvu"] for line in lines[10:]], axis=0)
    np.testing.assert_allclose(pair["fvu"], expected)
    assert one["shared_frac"] is None
    assert 0 <= pair["shared_frac"] <= 1
    assert one["made_by"].keys() == {"commit", "platform", "device"}
    table = sweep_table(result).splitlines()
    assert table[1].startswith("k=4")
    assert f"{pair['shared_frac']:.1%}" in table[2]


def test_two_machines_give_what_one_gives(configs, tmp_path):
    train(configs, tmp_path / "one")
    for name in configs:
        train({name: configs[name]}, tmp_path / name)
    alone = collect(tmp_path / "one")
    first = collect(tmp_path / "two")
    assert first["varied"] == []
    assert list(still_to_run(configs, first)) == ["k=4"]
    both = collect(tmp_path / "k=4", first)
    assert both == alone
    # Results that know everything need no directory.
    assert still_to_run(configs, both) == {}
    assert collect(tmp_path / "none", both) == alone


def test_own_runs_count_more_than_known_ones(configs, tmp_path):
    train({"two": configs["two"]}, tmp_path)
    own = collect(tmp_path)
    known = copy.deepcopy(own)
    known["runs"][0]["fvu"] = [0.0, 0.0]
    assert collect(tmp_path, known) == own


def test_known_runs_of_another_configuration(configs, cfg, tmp_path):
    train({"two": configs["two"]}, tmp_path)
    known = collect(tmp_path)
    changed = points(cfg, {"two": {"sae.k": 3}})
    with pytest.raises(InputError, match=r"another run two: sae\.k: 2 there, 3 here"):
        still_to_run(changed, known)
    elsewhere = copy.deepcopy(configs)
    elsewhere["two"].mesh.data = -1
    elsewhere["two"].train.checkpoint_every_steps = 7
    assert list(still_to_run(elsewhere, known)) == ["k=4"]


def test_committed_results_are_those_of_their_configuration():
    """Otherwise `--known` would refuse them."""
    root = Path(__file__).parents[1]
    config = runpy.run_path(str(root / "configs" / "replication.py"))
    runs = points(config["get_config"](), config["get_sweep"]())
    known = read_results(root / "results" / "replication.json")
    left = still_to_run(runs, known)
    assert len(left) + len(known["runs"]) == len(runs)
    assert "base" not in left


@pytest.mark.parametrize("text", ["", "{", "[]", '{"runs": []}'])
def test_files_that_are_no_results(tmp_path, text):
    path = tmp_path / "sweep.json"
    with pytest.raises(InputError, match="cannot be read"):
        read_results(path)
    path.write_text(text)
    with pytest.raises(InputError, match=r"sweep\.json"):
        read_results(path)
