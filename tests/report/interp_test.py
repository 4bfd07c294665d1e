"""What a made-up results/interp.json adds to the page and to the latent browser."""

import html
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saejax.errors import InputError
from saejax.interp.summary import summaries
from saejax.report import write_report
from saejax.report.interp import interp_figures, read_interp
from saejax.report.interp_words import findings
from saejax.report.run_files import read_run
from saejax.rundir import RunDir

MakeRun = Callable[..., Path]
MakeInterp = Callable[..., dict[str, Any]]
HOSTILE = "</script><b>words & \u202e"  # in all explanations


def put(run: Path, record: object) -> Path:
    RunDir(run).result("interp").write_text(json.dumps(record))
    return run


def test_the_page_tells_who_explained_and_what_was_found(
    make_run: MakeRun, make_interp: MakeInterp
):
    run = make_run()
    assert (
        "explained"
        not in write_report(run)
        .read_text()
        .partition("</style>")[2]
        .split('id="browser-manifest"')[0]
    )
    page = write_report(put(run, make_interp())).read_text()
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


def test_a_model_that_explains_worse_than_a_list_of_tokens_is_called_so(
    make_run: MakeRun, make_interp: MakeInterp
):
    record = make_interp()
    wins = record["summaries"]["mean"]["llm_beats_token_set"]
    for interval, poor in (([0.1, 0.4], True), ([0.3, 0.6], False), (None, False)):
        wins["interval"] = interval
        said = " ".join(findings(record))
        assert ("say less than a list of tokens" in said) == poor


def test_the_browser_has_the_explanations(make_run: MakeRun, make_interp: MakeInterp):
    page = write_report(put(make_run(), make_interp())).read_text()
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


def test_embedding_scores_have_their_own_table_and_figure(
    make_run: MakeRun, make_interp: MakeInterp
):
    run = put(make_run(), make_interp(embedding=True))
    interp = read_interp(read_run(run))
    assert interp is not None
    assert interp.num_figures == 3
    assert len(interp.embedding_levels) == len(interp.levels) == 6
    for ours, mean in zip(interp.embedding_levels, interp.levels, strict=True):
        assert (ours.level, ours.source, ours.num) == (mean.level, mean.source, mean.num)
        assert ours.mean == pytest.approx(mean.mean / 2 + 0.2)
    # Names of axes are inside the pictures.
    for drawn in interp_figures(interp):
        drawn.figure.savefig(io.BytesIO(), format="png")
        for axes in drawn.figure.axes:
            box = axes.xaxis.label.get_window_extent()
            assert 0 <= box.x0 <= box.x1 <= drawn.figure.bbox.width
    page = write_report(run).read_text()
    assert "package:minilm/model turns the explanation" in page
    assert "Embedding scores of latents of seed 1" in page
    assert "mean embedding score of" in page
    assert "rank correlation of the two embedding scores is" in page
    assert (run / "figures" / "interp.embedding.layers.6.mlp.svg").stat().st_size
    said = interp.latents[1][7]["said"][0]["scores"]
    assert said.endswith("fuzzing 0.57 (0.29 to 1.00), embedding 0.49 (0.29 to 0.57)")


def test_results_from_before_embedding_scores(make_run: MakeRun, make_interp: MakeInterp):
    record = make_interp()
    assert "embedder" not in record
    assert "embedding" not in record["summaries"]
    run = put(make_run(), record)
    interp = read_interp(read_run(run))
    assert interp is not None
    assert (interp.num_figures, interp.embedding_levels) == (2, ())
    assert "mbedding score" not in write_report(run).read_text()


def test_without_a_model_there_are_the_sets_of_tokens(make_run: MakeRun, make_interp: MakeInterp):
    page = write_report(put(make_run(), make_interp(llm=False))).read_text()
    assert "No language model was asked" in page
    assert "explain: no --base_url." in page
    assert '<table class="texts">' not in page
    assert "explained on its own by sets of tokens" in page


def test_one_seed(make_run: MakeRun, make_interp: MakeInterp):
    record = make_interp()
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


def test_partners_alone_have_no_figures(make_run: MakeRun, make_interp: MakeInterp):
    record = make_interp()
    record["latents"] = [row for row in record["latents"] if row["seed"] == 2]
    record["summaries"] = summaries(record["latents"], base_seed=1, seed=0)
    interp = read_interp(read_run(put(make_run(), record)))
    assert interp is not None
    assert (interp.num_figures, list(interp_figures(interp))) == (0, [])


@pytest.mark.parametrize("broken", [[], {"summaries": {}}, {"settings": {}}])
def test_a_broken_file_is_named(make_run: MakeRun, make_interp: MakeInterp, broken: Any):
    record = {**make_interp(), **broken} if broken else []
    with pytest.raises(InputError, match=r"interp\.json does not fit .*interpret\.py --run="):
        write_report(put(make_run(), record))
