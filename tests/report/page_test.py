"""The page is whole, self-contained, well formed, escaped, and says the right numbers."""

import base64
import html
import json
import re
import statistics
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from saejax.errors import InputError
from saejax.report import write_report

MakeRun = Callable[..., Path]

_VOID = {"meta", "img", "br", "input"}


class _Page(HTMLParser):
    """Walks a page, checking that tags balance; collects text, attributes and images."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.pieces: list[str] = []
        self.style = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []
        self.text = " ".join("".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            self.style += data
        elif "script" not in self.open:
            self.pieces.append(data)

    def values(self, name: str) -> list[str]:
        return [value or "" for _, found, value in self.attributes if found == name]


def _plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def _overlap(run: Path) -> list[dict]:
    return json.loads((run / "results" / "overlap.json").read_text())["pairs"]


def test_page_and_figures_of_a_run(make_run: MakeRun):
    run = make_run()
    path = write_report(run)
    assert path == run / "report.html"
    names = {"training", "thresholds.layers.6.mlp.exact"} | {
        f"scatter.layers.6.mlp.seed{i}-seed{j}.exact" for i, j in ((1, 2), (1, 3), (2, 3))
    }
    written = {file.name for file in (run / "figures").iterdir()}
    assert written == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}
    for name in names:
        ElementTree.parse(run / "figures" / f"{name}.svg")
        with Image.open(run / "figures" / f"{name}.png") as image:
            image.verify()
    page = _Page(path)
    shared = [entry["shared_frac"] for entry in _overlap(run)]
    text = _plain(page.text)
    assert (
        f"On average {100 * statistics.fmean(shared):.1f} % (range {100 * min(shared):.1f} to "
        f"{100 * max(shared):.1f} %) of the latents of one seed have a counterpart in another"
    ) in text
    for said in (
        "all 3 pairs are proven optimal",
        "solver: lapx",
        "model.gguf",
        "32,768 latents, 32 active",
        "4,000 for each seed",
        "arXiv:2501.16615",
        "Paulo and Nora Belrose",
        "The other 2 pairs",
        "experiments/seed_overlap.py",
        "0123456789abcdef",
        "At the last logged step, 200",
        # Final FVU of seed 2.
        "0.3020",
    ):
        assert said in text
    columns = ("shared_frac", "aligned_frac", "decoder_frac", "agreement_frac", "max_cosine_frac")
    for entry in _overlap(run):
        row = " ".join(f"{100 * entry[column]:.1f}" for column in columns)
        i, j = entry["seeds"]
        cells = [f"{i} and {j}", *row.split()]
        assert "".join(cells) in text.replace(" ", "").replace(f"{i}and{j}", f"{i} and {j}")
    # The other pairs, and the command, are folded.
    assert page.tags.count("details") == 2
    assert re.findall(r"Figure (\d+)\.", text) == ["1", "2", "3", "4", "5"]


def test_page_fetches_nothing(make_run: MakeRun):
    run = make_run(seeds=(1, 2), methods=("exact", "scipy"))
    page = _Page(write_report(run))
    assert not {"link", "iframe", "object", "base", "form"} & set(page.tags)
    # Its own scripts alone, which the policy keeps from fetching.
    assert ("script", "src") not in {(tag, name) for tag, name, _ in page.attributes}
    assert "default-src 'none'" in page.values("content")[-1]
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.values("src"))
    links = {link for link in page.values("href") if not link.startswith("#")}
    assert links == {"https://arxiv.org/abs/2501.16615"}
    assert ("link", "href") not in {(tag, name) for tag, name, _ in page.attributes}
    assert "url(" not in page.style
    assert "@import" not in page.style
    assert not page.values("style")
    for source in page.values("src"):
        svg = ElementTree.fromstring(base64.b64decode(source.split(",", maxsplit=1)[1]))
        for element in svg.iter():
            for name, value in element.attrib.items():
                if name.endswith("href"):
                    assert value.startswith(("#", "data:"))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {f"#{name}" for name in ids} >= {link for link in page.values("href") if link[0] == "#"}
    alternatives = page.values("alt")
    assert len(alternatives) == page.tags.count("img")
    assert all(alternatives)


def test_an_entropic_plan_says_how_ambiguous_partners_are(make_run: MakeRun):
    run = make_run(seeds=(1, 2), methods=("exact", "sinkhorn"))
    text = _plain(_Page(write_report(run)).text)
    assert text.count("How ambiguous the partners are") == 1
    assert "epsilon 0.02" in text
    shared = round(64 * _overlap(run)[1]["shared_frac"])
    table = text.split("How ambiguous the partners are")[1]
    rows = [f"1 and 2 shared {shared} 1.00 100.0 % 0.4", f"1 and 2 unshared {64 - shared} 3.00"]
    for row in rows:
        assert row.replace(" ", "") in table.replace(" ", "")


def test_several_hook_points_and_methods(make_run: MakeRun):
    hookpoints = ("layers.6.mlp", "h.11")
    # Sinkhorn comes first in the results, and is not certified.
    run = make_run(seeds=(1, 2), hookpoints=hookpoints, methods=("sinkhorn", "exact"))
    page = _Page(write_report(run))
    text = _plain(page.text)
    exact = next(e for e in _overlap(run) if e["method"] == "exact")
    assert f"At layers.6.mlp: {100 * exact['shared_frac']:.1f} % of the latents of seed 1" in text
    headings = [
        f"What is shared at {hookpoint}, {method} matching"
        for hookpoint in hookpoints
        for method in ("exact", "sinkhorn")
    ]
    places = [text.index(heading) for heading in headings]
    assert places == sorted(places)
    assert text.count("not proven optimal (solver: sinkhorn)") == 2
    assert text.count("at most 0.2 % larger") == 2
    # One pair a section: nothing to fold but the command.
    assert page.tags.count("details") == 1
    assert page.tags.count("img") == 4 * 2 + 1
    assert "1 of 1" in text
    assert "0 of 1" in text


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ((1, 2), "2 seeds were trained; their latents have not been compared yet."),
        ((5,), "One seed was trained; a comparison needs two."),
    ],
)
def test_a_run_that_is_trained_only(make_run: MakeRun, seeds: tuple[int, ...], said: str):
    run = make_run(seeds=seeds, hookpoints=())
    page = _Page(write_report(run))
    assert said in page.text
    assert ("(results/overlap.json): run experiments/seed_overlap.py" in page.text) == (
        len(seeds) > 1
    )
    assert {file.name for file in (run / "figures").iterdir()} == {"training.svg", "training.png"}


def test_an_analysis_by_another_commit_is_named(make_run: MakeRun):
    run = make_run(seeds=(1, 2))
    overlap = run / "results" / "overlap.json"
    overlap.write_text(overlap.read_text().replace('"0123456789abcdef"', '"fedcba98"', 1))
    assert "commit of the analysisfedcba98" in _Page(write_report(run)).text


def test_everything_is_escaped(make_run: MakeRun):
    bad = "<script>alert('x')</script>\"&amp;\ud800"
    run = make_run("<b>&run", hookpoints=(), lm_source=f"dir/{bad}")
    (run / "versions.json").write_text(json.dumps({bad: bad, "commit": None}))
    path = write_report(run)
    page = _Page(path)
    assert "script" not in page.tags
    assert page.tags.count("b") == page.tags.count("figcaption")
    assert "<b>&run" in page.text
    assert bad.replace("\ud800", "?") in page.text
    assert html.escape("<script>alert('x')</script>") in path.read_text().replace("&#39;", "&#x27;")


def test_the_same_inputs_give_the_same_bytes(make_run: MakeRun):
    run = make_run(seeds=(1, 2))
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_a_broken_run_leaves_the_last_page(make_run: MakeRun):
    run = make_run(seeds=(1, 2))
    path = write_report(run)
    before = path.read_bytes()
    (run / "matchings" / "layers.6.mlp" / "seed1-seed2.exact.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"seed1-seed2\.exact\.npz"):
        write_report(run)
    assert path.read_bytes() == before
    assert not list(run.rglob("*.partial"))


def test_firing_counts_are_drawn_where_they_are(
    make_run: MakeRun, add_latents: Callable[..., Any], tiny_lm: Path
):
    run = make_run(seeds=(1, 2), lm_source=str(tiny_lm))
    assert "frequent latents" not in write_report(run).read_text()
    add_latents(run)
    page = write_report(run).read_text()
    assert "Do frequent latents share more?" in page
    assert "Latents of seed 1 by the part of 1,000 tokens" in page
    assert (run / "figures" / "firing.layers.6.mlp.exact.png").is_file()
