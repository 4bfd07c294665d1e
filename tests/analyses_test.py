"""The stages of a run's analyses: what is made, kept, missing, and when it is made again."""

import json

import pytest

from saejax.analyses import QUICK_STAGES, STAGES, analyze
from saejax.errors import InputError
from saejax.run import overlap_run, train_run
from saejax.rundir import open_run


@pytest.fixture
def trained(cfg, tmp_path):
    def make(*seeds):
        cfg.init_seeds = seeds
        run = open_run(cfg, tmp_path / "run")
        return cfg, run, train_run(cfg, run)

    return make


def statuses(cfg, run, saes, stages=("overlap", *QUICK_STAGES)):
    return {outcome.stage: outcome.status for outcome in analyze(cfg, run, saes, stages)}


def test_results_are_made_once_for_the_same_inputs(trained):
    cfg, run, saes = trained(1, 2)
    # In the order of the stages, whatever is asked for.
    assert statuses(cfg, run, saes, ["spread", "overlap"]) == {"overlap": "made", "spread": "made"}
    assert set(statuses(cfg, run, saes).items()) == {
        ("overlap", "kept"),
        ("thresholds", "made"),
        ("spread", "kept"),
        ("null", "made"),
        ("seeds", "made"),
    }
    paths = sorted(run.result("*").parent.glob("*.json"))
    assert [path.stem for path in paths] == sorted(["overlap", *QUICK_STAGES])
    before = [path.read_bytes() for path in paths]
    assert set(statuses(cfg, run, saes).values()) == {"kept"}
    assert [path.read_bytes() for path in paths] == before
    record = json.loads(run.result("seeds").read_text())
    assert record["missing"]["jackknife"] == "2 seeds: needs three"
    assert record["config"]["init_seeds"] == [1, 2]
    # A file that is broken is made again, as is all that has another input.
    run.result("null").write_text("{")
    cfg.match.threshold = 0.5
    assert set(statuses(cfg, run, saes).values()) == {"made"}
    pair = json.loads(run.result("thresholds").read_text())["pairs"][0]
    shared = json.loads(run.result("overlap").read_text())["pairs"][0]["shared_frac"]
    assert pair["counts"]["shared_frac"][50] == round(shared * 32)


def test_one_seed_has_chance_alone(trained):
    assert statuses(*trained(1)) == {
        "overlap": "missing",
        "thresholds": "missing",
        "spread": "missing",
        "null": "made",
        "seeds": "missing",
    }


def test_what_fails_keeps_nothing_else_from_going_on(trained):
    cfg, run, saes = trained(1, 2)
    outcomes = list(analyze(cfg, run, saes, QUICK_STAGES))
    assert [(outcome.stage, outcome.status) for outcome in outcomes] == [
        ("thresholds", "failed"),
        ("spread", "failed"),
        ("null", "made"),
        ("seeds", "failed"),
    ]
    for outcome in outcomes:
        if outcome.status == "failed":
            assert outcome.reason.endswith("is missing: the stage overlap makes it")
    overlap_run(cfg, run, saes)
    matched = run.matching(cfg.hookpoint, (1, 2), "exact")
    matched.write_bytes(matched.read_bytes()[:100])
    assert statuses(cfg, run, saes, ["thresholds", "spread"]) == {
        "thresholds": "failed",
        "spread": "made",
    }
    assert not run.result("thresholds").exists()


def test_unknown_stage(cfg, tmp_path):
    with pytest.raises(InputError, match=f"no nothing; choose of {', '.join(STAGES)}"):
        list(analyze(cfg, open_run(cfg, tmp_path / "run"), {}, ["null", "nothing"]))
