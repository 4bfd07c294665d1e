"""The latent browser in a headless Chromium: what it lists, finds and shows, by keyboard alone."""

import functools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saejax.analysis.compare import Comparison
from saejax.report import write_report
from saejax.report.browser import latent_browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

MakeRun = Callable[..., Path]
AddLatents = Callable[..., dict[str, dict[str, np.ndarray]]]
SECONDS = 60
KEYS = {"Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowDown": 40}


class Chromium:
    """One tab, driven over pipes by the DevTools protocol; remembers errors and requests."""

    def __init__(self, profile: Path):
        assert CHROMIUM is not None
        theirs, self._write = os.pipe()
        self._read, theirs_too = os.pipe()
        # The protocol speaks on descriptors 3 and 4.
        become = (
            "import os, sys; a, b = map(int, sys.argv[1:3]); a, b = os.dup(a), os.dup(b); "
            "os.dup2(a, 13); os.dup2(b, 14); os.dup2(13, 3); os.dup2(14, 4); "
            "os.execv(sys.argv[3], sys.argv[3:])"
        )
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
        options += ("--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}")
        pipes = (str(theirs), str(theirs_too))
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", become, *pipes, CHROMIUM, *options],
            pass_fds=(theirs, theirs_too),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(theirs_too)
        self._buffer, self._count, self._session = b"", 0, None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _message(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], deadline - time.monotonic())
            data = os.read(self._read, 1 << 20) if ready else b""
            assert data, "Chromium does not answer"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                self.errors.append(str(params["args"]))
            case "Log.entryAdded":
                self.errors.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Page.loadEventFired":
                self._loaded = True
        return message

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path: Path) -> None:
        self._loaded = False
        self.call("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._message()

    def run(self, script: str) -> Any:
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not self.run(condition):
            assert time.monotonic() < deadline, f"never: {condition}; {self.errors}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        event: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        if key == "Enter":
            event["text"] = "\r"
        self.call("Input.dispatchKeyEvent", type="keyDown", **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def close(self) -> None:
        self._session = None
        try:
            self.call("Browser.close")
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._read)
            os.close(self._write)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    made = Chromium(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def tab(chromium: Chromium) -> Iterator[Chromium]:
    chromium.errors.clear()
    chromium.requests.clear()
    yield chromium
    assert chromium.errors == []
    # The page itself, and pictures that are in it: nothing is fetched.
    assert {url.partition(":")[0] for url in chromium.requests} <= {"file", "data"}
    assert sum(url.startswith("file:") for url in chromium.requests) == 1


STATUS = "document.getElementById('browser-status').textContent"
# 25 tokens, a byte each; the value is largest at the 17th, the start of the é.
HOSTILE = "</script>\u202e\0<b>é漢🙂"


def open_browser(tab: Chromium, page: Path) -> None:
    tab.open(page)
    tab.run("document.getElementById('browser-open').click()")
    tab.wait(f"/latents, by .*\\.$/.test({STATUS})")


def put(tab: Chromium, name: str, value: str) -> None:
    """Sets a control as typing or choosing does, and waits for the list."""
    field = f"document.getElementById('browser-{name}')"
    tab.run(f"{STATUS} = ''; {field}.value = {json.dumps(value)}")
    tab.run(f"for (const kind of ['input', 'change']) {field}.dispatchEvent(new Event(kind))")
    tab.wait(f"{STATUS} !== ''")


def listed(tab: Chromium) -> list[list[str]]:
    """The rows that are drawn, as texts of their cells."""
    return tab.run(
        "[...document.querySelectorAll('#browser-body tr:not(.space)')]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))"
    )


def count(tab: Chromium) -> int:
    return int(tab.run(STATUS).split(" of ")[0])


def comparison_of(run: Path) -> Comparison:
    folder = run / "matchings" / "layers.6.mlp"
    return Comparison.load(folder / "seed1-seed2.exact.npz", folder / "seed1-seed2.max_cosine.npz")


def test_list_filters_search_and_one_latent(
    tab: Chromium, make_run: MakeRun, add_latents: AddLatents, tiny_lm: Path
):
    run = make_run(seeds=(1, 2), methods=("exact", "sinkhorn"), lm_source=str(tiny_lm))
    comparison = comparison_of(run)
    target = comparison.decoder.target
    partner = int(target[9])
    files = add_latents(run, phrases={(1, 5): HOSTILE, (2, partner): "zebra"})
    open_browser(tab, write_report(run))

    order = np.lexsort((np.arange(64), -np.rint(1e4 * comparison.decoder.cosine)))
    rows = listed(tab)
    # A window of the list, not all of it.
    assert 20 < len(rows) < 64
    assert [int(row[0]) for row in rows] == order[: len(rows)].tolist()
    for row in rows:
        latent = int(row[0])
        assert int(row[1]) == target[latent]
        assert float(row[2]) == pytest.approx(comparison.decoder.cosine[latent], abs=6e-4)
        assert float(row[3]) == pytest.approx(comparison.encoder.cosine[latent], abs=6e-4)
        assert (row[4] == "shared") == comparison.shared(0.7)[latent]
    falling = "document.querySelector('[aria-sort=descending]').textContent"
    assert tab.run(falling) == "Decoder cosine ↓"

    put(tab, "show", "2")
    assert count(tab) == comparison.shared(0.7).sum()
    put(tab, "show", "0")
    assert count(tab) == (~comparison.agree).sum()
    put(tab, "show", "all")
    put(tab, "rate-from", "50")
    assert count(tab) == (files["seed1"]["firings_N"] >= 500).sum()
    put(tab, "rate-from", "")
    # Both ends of a range are in it; the list knows four decimals.
    edge = round(float(comparison.encoder.cosine[7]), 4)
    put(tab, "encoder-from", str(edge))
    put(tab, "encoder-to", str(edge))
    assert [row[0] for row in listed(tab)] == ["7"]
    tab.run("document.getElementById('browser-reset').click()")
    put(tab, "query", "ZEBRA")
    assert [row[0] for row in listed(tab)] == ["9"]
    put(tab, "query", "é漢🙂")
    assert [row[0] for row in listed(tab)] == ["5"]

    # By keyboard: from the list into the latent and back.
    tab.run("document.querySelector('#browser-body [tabindex=\"0\"]').focus()")
    tab.press("Enter")
    assert tab.run("document.activeElement.id") == "browser-detail"
    detail = tab.run("document.activeElement.innerText")
    assert f"Latent 5 of seed 1 and latent {target[5]} of seed 2" in detail
    assert "</script>[U+202E][U+0000]<b>é漢🙂" in detail
    assert f"Fires on {files['seed1']['firings_N'][5] / 10:g}\xa0% of 1,000 tokens" in detail
    assert "Entropic plan (epsilon 0.02)" in detail
    peaks = tab.run(
        "[...document.querySelectorAll('.snippets')].map((list) =>"
        " [...list.children].map((text) => text.querySelectorAll('.v4 strong').length))"
    )
    # Peaks of 4, 3.6, 3.2, 2.8, ...: those above three quarters of the largest are strongest.
    assert peaks == [[1, 1, 1, 0, 0, 0]] * (1 + (target[5] != 0))
    neighbour = files["seed1-seed2"]["neighbour_NR"][5]
    shown = tab.run(
        "[...document.querySelectorAll('#browser-detail tbody th')].map((c) => c.textContent)"
    )
    assert shown == [str(number) for number in neighbour]
    tab.run("document.querySelector('#browser-detail tbody button').click()")
    assert tab.run("document.activeElement.querySelector('h3').textContent").endswith(
        f"and latent {neighbour[0]} of seed 2"
    )
    tab.press("Escape")
    assert tab.run("document.activeElement.textContent") == "5"

    tab.run("document.getElementById('browser-reset').click()")
    assert count(tab) == 64
    tab.run("document.querySelector('#browser-body [tabindex=\"0\"]').focus()")
    tab.press("End")
    assert tab.run("document.activeElement.textContent") == str(order[-1])
    tab.press("Home")
    tab.press("ArrowDown")
    assert tab.run("document.activeElement.textContent") == str(order[1])
    tab.run("document.querySelector('[data-column=latent]').click()")
    assert [int(row[0]) for row in listed(tab)][:3] == [0, 1, 2]
    tab.run("document.querySelector('#browser-body button').click()")
    assert "Never fires on 1,000 tokens." in tab.run("document.activeElement.innerText")


def test_matchings_alone(tab: Chromium, make_run: MakeRun):
    run = make_run(seeds=(1, 2, 3))
    open_browser(tab, write_report(run))
    options = tab.run("[...document.querySelectorAll('#browser-pair option')].map((o) => o.text)")
    assert options == [f"layers.6.mlp: {i} and {j} (exact)" for i, j in ((1, 2), (1, 3), (2, 3))]
    put(tab, "pair", "2")
    tab.wait(f"{STATUS}.endsWith('falling.')")
    assert len(listed(tab)[0]) == 5
    tab.run("document.querySelector('#browser-body button').click()")
    detail = tab.run("document.activeElement.innerText")
    assert "of seed 2 and latent" in detail
    assert "not in this page; see above" in detail
    notes = tab.run("[...document.querySelectorAll('#browser .note')].map((n) => n.textContent)")
    assert any("experiments/analyze.py --run=runs/run" in note for note in notes)


def test_a_pair_without_its_files(
    tab: Chromium, make_run: MakeRun, add_latents: AddLatents, tiny_lm: Path
):
    run = make_run(seeds=(1, 2, 3), lm_source=str(tiny_lm))
    add_latents(run, seeds=(1, 2))
    open_browser(tab, write_report(run))
    tab.run("document.querySelector('[data-column=jaccard]').click()")
    assert "by fire together" in tab.run(STATUS)
    put(tab, "pair", "1")
    tab.wait(f"{STATUS}.endsWith('by decoder cosine, falling.')")
    tab.run("document.querySelector('#browser-body button').click()")
    assert tab.run("document.querySelectorAll('.snippets').length") == 1
    assert "not in this page; see above" in tab.run("document.activeElement.innerText")


def test_latents_that_were_left_out(
    tab: Chromium,
    make_run: MakeRun,
    add_latents: AddLatents,
    tiny_lm: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    run = make_run(seeds=(1, 2), lm_source=str(tiny_lm))
    target = comparison_of(run).decoder.target
    add_latents(run, phrases={(1, 1): "zebra", (2, int(target[2])): "zebra", (1, 63): "zebra"})
    small = functools.partial(latent_browser, budget_bytes=5000)
    monkeypatch.setattr("saejax.report.page.latent_browser", small)
    open_browser(tab, write_report(run))
    put(tab, "query", "zebra")
    assert sorted(row[0] for row in listed(tab)) == ["1", "2"]
    put(tab, "query", "")
    tab.run("document.querySelector('[data-column=latent]').click()")
    tab.run("document.querySelector('#browser-body [tabindex=\"0\"]').focus()")
    tab.press("End")
    tab.press("Enter")
    detail = tab.run("document.activeElement.innerText")
    assert "Latent 63 of seed 1" in detail
    assert "left out to keep this page small" in detail


def test_explanations_are_listed_found_and_shown(
    tab: Chromium,
    make_run: MakeRun,
    add_latents: AddLatents,
    make_interp: Callable[..., dict[str, Any]],
    tiny_lm: Path,
):
    run = make_run(seeds=(1, 2), lm_source=str(tiny_lm))
    add_latents(run)
    (run / "results" / "interp.json").write_text(json.dumps(make_interp()))
    open_browser(tab, write_report(run))
    tab.run("document.querySelector('[data-column=score]').click()")
    # Latent 29 was refused; of the others higher numbers score higher.
    best = listed(tab)[:2]
    assert [row[0] for row in best] == ["28", "27"]
    assert "0.781" in best[0]
    put(tab, "where", "explanations")
    put(tab, "query", "ExplanatioN 7 of seed 1")
    assert [row[0] for row in listed(tab)] == ["7"]
    tab.run("document.querySelector('#browser-body tr:not(.space) button').click()")
    shown = tab.run("document.getElementById('browser-detail').textContent")
    assert "Explained by wise: detection 0.57 (0.29 to 1.00), fuzzing 0.57" in shown
    assert "explanation 7 of seed 1 </script><b>words" in shown
    assert "Explained by the set of tokens" in shown
