"""What the analyses add to the page, and what does not belong there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from saejax.analysis.seeds_of_run import seeds_of_run
from saejax.analysis.spread import spread_record
from saejax.errors import InputError
from saejax.report import write_report
from saejax.rundir import RunDir

MakeRun = Callable[..., Path]

NULL = {
    "num_latents": 64,
    "width": 16,
    "threshold": 0.7,
    "directions": {"best_cosine": 0.5678, "above_frac": 0.0123},
    "rotated": {"shared_frac": 0.004, "agreement_frac": 0.25},
}


def analyzed(run: Path, *, method: str = "exact") -> RunDir:
    files = RunDir(run)
    pairs = json.loads(files.result("overlap").read_text())["pairs"]
    records = {
        "null": NULL,
        "seeds": seeds_of_run(files, method=method),
        "spread": spread_record(pairs),
    }
    for name, record in records.items():
        files.result(name).write_text(json.dumps(record))
    return files


def test_errors_chance_and_what_more_seeds_find(make_run: MakeRun):
    run = make_run(methods=("exact", "sinkhorn"))
    without = write_report(run).read_text()
    files = analyzed(run)
    page = write_report(run).read_text()
    assert "&plusmn;" not in without
    assert "±" not in without
    spreads = json.loads(files.result("spread").read_text())["methods"]
    for method in ("exact", "sinkhorn"):
        for spread in spreads[method].values():
            cell = f"{100 * spread['mean']:.1f} &plusmn; {100 * spread['standard_error']:.1f}</td>"
            assert cell in page
    assert page.count("has a cosine of 0.568 on average, above 0.7 with probability 0.01") == 2
    assert "dictionary rotated at random, 0.4" in page
    # The seeds are those of one method.
    assert page.count("<h3>What more seeds find</h3>") == 1
    assert page.count("<img") == without.count("<img") + 3
    seeds = json.loads(files.result("seeds").read_text())
    assert f"{100 * seeds['cycles']['core_frac']:.1f}" in page
    assert f"{100 * seeds['trend'][-1]['only_in_base_frac']:.1f}" in page
    made = {file.stem for file in (run / "figures").iterdir()}
    assert {f"{name}.layers.6.mlp.exact" for name in ("trend", "levels", "donut")} < made


def test_two_seeds_have_chance_alone(make_run: MakeRun):
    run = make_run(seeds=(1, 2))
    analyzed(run)
    page = write_report(run).read_text()
    assert "Chance: the best of 64 random directions" in page
    assert "&plusmn;" not in page
    assert "What more seeds find" not in page


@pytest.mark.parametrize("name", ["null", "seeds", "spread"])
@pytest.mark.parametrize("text", ["[1]", "{", '{"method": "exact", "methods": {"exact": 3}}'])
def test_broken_results_are_named(make_run: MakeRun, name: str, text: str):
    run = make_run()
    files = analyzed(run)
    files.result(name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}\.json does not fit .*: experiments/analyze\.py"):
        write_report(run)


def test_results_of_other_matchings_are_refused(make_run: MakeRun):
    run = make_run()
    files = analyzed(run)
    for name in ("seeds", "spread"):
        kept = files.result(name).read_text()
        record = json.loads(kept)
        if name == "seeds":
            record["pairs"][2]["shared_frac"] += 0.01
        else:
            record["methods"]["exact"]["shared_frac"]["mean"] += 0.01
        files.result(name).write_text(json.dumps(record))
        with pytest.raises(InputError, match="it is of other matchings"):
            write_report(run)
        files.result(name).write_text(kept)
    write_report(run)
