"""What a made-up results/interp.json adds to the page and to the latent browser."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.interp.summary import summaries
from saejax.report import write_report
from saejax.report.interp import read_interp
from saejax.report.run_files import read_run
from saejax.rundir import RunDir

MakeRun = Callable[..., Path]
HOSTILE = "</script><b>words & \u202e"


def scored(value):
    return {"balanced_accuracy": value, "interval": [value / 2, 1.0], "unparsable": 0}


def explained(text, value):
    found = {"explanation": text, "problem": "" if text else "refused"}
    return found | ({"detection": scored(value), "fuzzing": scored(value)} if text else {})


def interp_record(*, llm=True):
    rng = np.random.default_rng(0)
    rows = []
    for latent in range(30):
        level, cosine = latent % 3, float(rng.random())
        for seed, own, other in ((1, latent, 60 - latent), (2, 60 - latent, latent)):
            score = round(0.5 + latent / 100 + seed / 1000, 3)
            text = f"explanation {latent} of seed {seed} {HOSTILE}"
            rows.append(
                {
                    "seed": seed,
                    "latent": own,
                    "level": level,
                    "partner": other,
                    "cosine": cosine,
                    "shared": level > 0,
                    "stratum": [level, 0],
                    "stratum_size": 20,
                    "llm": explained(None if latent == 29 else text, score) if llm else None,
                    "token_set": explained("fires on these tokens", 0.55),
                }
            )
    return {
        "hookpoint": "layers.6.mlp",
        "base_seed": 1,
        "partner_seed": 2,
        "explainer": "wise" if llm else None,
        "scorer": "wiser" if llm else None,
        "settings": {"num_explain": 40, "num_activating": 100, "num_non_activating": 90},
        "summaries": summaries(rows, base_seed=1, seed=0),
        "missing": {} if llm else {"explain": "no --base_url"},
        "too_few": [{}, {}],
        "num_rare": 3,
        "latents": rows,
    }


def put(run: Path, record: object) -> Path:
    RunDir(run).result("interp").write_text(json.dumps(record))
    return run


def test_the_page_tells_who_explained_and_what_was_found(make_run: MakeRun):
    run = make_run()
    assert (
        "explained"
        not in write_report(run)
        .read_text()
        .partition("</style>")[2]
        .split('id="browser-manifest"')[0]
    )
    page = write_report(put(run, interp_record())).read_text()
    assert "wise saw 40 windows of each latent" in page
    assert "wiser judged" in page
    assert "The reference is the simplest explanation, the set of tokens" in page
    assert "2 refused" in page
    assert "2 chosen latents fire in too few windows" in page
    for name in ("levels", "pairs"):
        for suffix in ("svg", "png"):
            assert (run / "figures" / f"interp.{name}.layers.6.mlp.{suffix}").stat().st_size
    table = page.split('<table class="texts">')[1].split("</table>")[0]
    shown = [int(n) for n in re.findall(r"explanation (\d+) of seed 1", table)]
    # Shared pairs of the highest scores, then unshared latents: those are multiples of three.
    assert shown == [28, 26, 25, 23, 22, 27, 24, 21, 18, 15]
    assert html.escape(HOSTILE) in table
    assert HOSTILE not in page


def test_the_browser_has_the_explanations(make_run: MakeRun):
    page = write_report(put(make_run(), interp_record())).read_text()
    manifest = re.search(r'id="browser-manifest">(.*?)</script>', page, re.DOTALL)[1]
    (place,) = json.loads(manifest)["places"]
    assert set(place["explained"]) == {"1", "2"}
    latent = place["explained"]["1"]["7"]
    assert latent["score"] == pytest.approx(0.571)
    model, tokens = latent["said"]
    assert model["by"] == "wise"
    assert model["text"] == f"explanation 7 of seed 1 {HOSTILE}"
    assert model["scores"] == "detection 0.57 (0.29 to 1.00), fuzzing 0.57 (0.29 to 1.00)"
    assert (tokens["by"], tokens["text"]) == ("the set of tokens", "fires on these tokens")
    refused = place["explained"]["2"]["31"]["said"][0]
    assert (refused["text"], refused["scores"]) == ("none (refused)", "no scores")


def test_without_a_model_there_are_the_sets_of_tokens(make_run: MakeRun):
    page = write_report(put(make_run(), interp_record(llm=False))).read_text()
    assert "No language model was asked" in page
    assert "explain: no --base_url." in page
    assert '<table class="texts">' not in page
    assert "explained on its own by sets of tokens" in page


def test_one_seed(make_run: MakeRun):
    record = interp_record()
    for row in record["latents"]:
        row |= {"level": None, "partner": None, "cosine": None, "shared": None}
    record["latents"] = [row for row in record["latents"] if row["seed"] == 1]
    record["partner_seed"] = None
    record["summaries"] = summaries(record["latents"], base_seed=1, seed=0)
    run = put(make_run(seeds=(1,), hookpoints=()), record)
    interp = read_interp(read_run(run))
    assert interp is not None
    assert (interp.num_figures, interp.levels, interp.shared) == (1, (), ())
    page = write_report(run).read_text()
    assert "Can the latents be explained?" in page


@pytest.mark.parametrize("broken", [[], {"latents": 1}, {**interp_record(), "settings": {}}])
def test_a_broken_file_is_named(make_run: MakeRun, broken: object):
    with pytest.raises(InputError, match=r"interp\.json does not fit .*interpret\.py --run="):
        write_report(put(make_run(), broken))
