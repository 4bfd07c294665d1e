"""The payload decoded again gives the files' numbers, within its rounding and its budget."""

import base64
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saejax.analysis.compare import Comparison
from saejax.lm.tokenizer import load_tokenizer
from saejax.report.browser import Browser, latent_browser
from saejax.report.run_files import read_run

MakeRun = Callable[..., Path]
AddLatents = Callable[..., dict[str, dict[str, np.ndarray]]]
N = 64
TYPES = {
    "Float64Array": "<f8",
    "Float32Array": "<f4",
    "Int32Array": "<i4",
    "Int16Array": "<i2",
    "Uint16Array": "<u2",
    "Int8Array": "i1",
    "Uint8Array": "u1",
}


def decode(browser: Browser, name: str) -> dict[str, np.ndarray]:
    data = zlib.decompress(base64.b64decode(browser.blocks[name], validate=True))
    arrays, offset = {}, 0
    for array, kind, length in browser.manifest["blocks"][name]:
        dtype = np.dtype(TYPES[kind])
        assert offset % dtype.itemsize == 0
        arrays[array] = np.frombuffer(data, dtype, length, offset)
        offset += length * dtype.itemsize
    assert offset == len(data)
    return arrays


def numbers(browser: Browser, planes: np.ndarray) -> np.ndarray:
    planes_X = planes.reshape(browser.manifest["planes"], -1).astype(np.int64)
    return sum(plane << 8 * x for x, plane in enumerate(planes_X))


def token_texts(browser: Browser) -> list[bytes]:
    tokens = decode(browser, browser.manifest["tokens"])
    ends = np.cumsum(tokens["size"].astype(np.int64))
    data = tokens["byte"].tobytes()
    return [data[end - size : end] for end, size in zip(ends, tokens["size"], strict=True)]


def payload(run: Path, **options: Any) -> Browser:
    record = read_run(run)
    return latent_browser(record, record.pairs, **options)


@pytest.fixture
def run(make_run: MakeRun, tiny_lm: Path) -> Path:
    return make_run(seeds=(1, 2), lm_source=str(tiny_lm))


def comparison_of(run: Path) -> Comparison:
    folder = run / "matchings" / "layers.6.mlp"
    return Comparison.load(folder / "seed1-seed2.exact.npz", folder / "seed1-seed2.max_cosine.npz")


def test_the_payload_is_what_the_files_say(run: Path, add_latents: AddLatents, tiny_lm: Path):
    files = add_latents(run, phrases={(1, 5): "né漢 </script>"})
    browser = payload(run)
    assert browser.notes == ()
    (place,), (view,) = browser.manifest["places"], browser.manifest["views"]
    comparison = comparison_of(run)
    core = decode(browser, view["core"])
    np.testing.assert_array_equal(core["target"], comparison.decoder.target)
    np.testing.assert_array_equal(core["encoder_target"], comparison.encoder.target)
    np.testing.assert_allclose(core["decoder"] / 1e4, comparison.decoder.cosine, atol=5.1e-5)
    np.testing.assert_array_equal(core["kind"] == 2, comparison.shared(0.7))
    np.testing.assert_array_equal(core["kind"] > 0, comparison.agree)
    pair = files["seed1-seed2"]
    np.testing.assert_allclose(core["jaccard"] / 1e4, pair["jaccard_N"], atol=5.1e-5)
    details = decode(browser, view["details"])
    np.testing.assert_array_equal(details["neighbour"], pair["neighbour_NR"].ravel())
    np.testing.assert_array_equal(details["both"], pair["both_N"])

    texts = token_texts(browser)
    tokenizer = load_tokenizer(str(tiny_lm))
    ranks = [decode(browser, name) for name in place["snippets"]]
    table = np.concatenate([numbers(browser, rank["token"]) for rank in ranks]).reshape(-1, 25)
    # Every distinct text is there once.
    everything = {
        row.tobytes()
        for s in (1, 2)
        for row in files[f"seed{s}"]["context_tokens_NCW"].reshape(-1, 25)
    }
    assert len(table) == len(everything)
    for seed in (1, 2):
        file = files[f"seed{seed}"]
        rates = decode(browser, place["seeds"][seed]["core"])["rate"]
        np.testing.assert_allclose(rates, file["firings_N"] / 1000, rtol=1e-6)
        lens = decode(browser, place["seeds"][seed]["lens"])
        logit_NP = lens["logit"].reshape(N, 16) * lens["scale"][:, None] / 127
        both_NP = np.concatenate([file["promoted_logit_NP"], file["suppressed_logit_NP"]], axis=1)
        np.testing.assert_allclose(logit_NP, both_NP, atol=3 / 250)
        ids_NP = np.concatenate([file["promoted_NP"], file["suppressed_NP"]], axis=1)
        shown = [texts[t] for t in numbers(browser, lens["token"])]
        alphabet = {number: symbol for symbol, number in tokenizer.backend.get_vocab().items()}
        plain = [i for i, t in enumerate(ids_NP.ravel()) if alphabet[int(t)].isascii()]
        assert [shown[i].decode() for i in plain] == [alphabet[int(ids_NP.flat[i])] for i in plain]
        for rank, arrays in enumerate(ranks):
            values = arrays[f"value{seed}"].reshape(N, 25) / 255 * file["max_N"][:, None]
            np.testing.assert_allclose(values, file["context_values_NCW"][:, rank], atol=0.02)
            for latent, text in enumerate(arrays[f"text{seed}"]):
                ids = file["context_tokens_NCW"][latent, rank]
                ids = ids[ids >= 0].tolist()
                if not ids:
                    assert text == -1
                    continue
                found = b"".join(texts[t] for t in table[text])
                assert found.decode(errors="replace") == tokenizer.decode(ids)


def test_the_plan_is_shown_whichever_method_is(
    make_run: MakeRun, add_latents: AddLatents, tiny_lm: Path
):
    run = make_run(seeds=(1, 2), methods=("exact", "sinkhorn"), lm_source=str(tiny_lm))
    add_latents(run)
    record = read_run(run)
    browser = latent_browser(record, [pair for pair in record.pairs if pair.method == "exact"])
    (view,) = browser.manifest["views"]
    assert (view["method"], view["epsilon"]) == ("exact", 0.02)
    entropy_N = decode(browser, view["details"])["entropy"]
    assert {round(float(e), 4) for e in entropy_N} == {0.0, round(float(np.log(3)), 4)}


def test_hook_points_share_their_tokens_alone(
    make_run: MakeRun, add_latents: AddLatents, tiny_lm: Path
):
    run = make_run(
        seeds=(1, 2, 3), hookpoints=("layers.6.mlp", "layers.7.mlp"), lm_source=str(tiny_lm)
    )
    add_latents(run, seeds=(1, 2), hookpoint="layers.7.mlp")
    browser = payload(run)
    first, second = browser.manifest["places"]
    assert (first["hookpoint"], list(first["seeds"]), first["snippets"]) == ("layers.6.mlp", [], [])
    assert (second["hookpoint"], list(second["seeds"])) == ("layers.7.mlp", [1, 2])
    assert [view["place"] for view in browser.manifest["views"]] == [0, 0, 0, 1, 1, 1]
    has_firings = ["jaccard" in decode(browser, v["core"]) for v in browser.manifest["views"]]
    assert has_firings == [False] * 3 + [True, False, False]
    (note,) = browser.notes
    assert "latents/layers.6.mlp/seed1.npz" in note
    assert "and 6 more" in note


def test_what_is_missing_is_named(run: Path):
    browser = payload(run)
    (note,) = browser.notes
    assert "latents/layers.6.mlp/seed1.npz" in note
    assert "seed1-seed2.npz" in note
    assert "python experiments/analyze.py --run=runs/run;" in note
    (place,), (view,) = browser.manifest["places"], browser.manifest["views"]
    assert (place["seeds"], place["snippets"]) == ({}, [])
    assert "target" in decode(browser, view["core"])


def test_a_model_that_is_gone_leaves_numbers_of_tokens(make_run: MakeRun, add_latents: AddLatents):
    run = make_run(seeds=(1, 2), lm_source="/nowhere/model.gguf")
    add_latents(run)
    browser = payload(run)
    (note,) = browser.notes
    assert note.startswith("Tokens are shown by their numbers")
    assert "/nowhere/model.gguf" in note
    assert all(text == b"" or int(text) < 300 for text in token_texts(browser))


def test_a_budget_takes_snippets_first_and_then_latents(run: Path, add_latents: AddLatents):
    add_latents(run)
    whole = payload(run)

    def described_bytes(browser: Browser) -> int:
        (place,), (view,) = browser.manifest["places"], browser.manifest["views"]
        names = [*place["snippets"], view["details"]]
        names += [seed["lens"] for seed in place["seeds"].values()]
        return sum(len(browser.blocks[name]) for name in names)

    total = described_bytes(whole)
    fewer = payload(run, budget_bytes=total - 1)
    assert described_bytes(fewer) < total
    (place,) = fewer.manifest["places"]
    assert (len(place["snippets"]), place["described"]) == (5, None)
    assert "the 5 strongest of 6 snippets" in fewer.notes[0]

    budget = total // 10
    least = payload(run, budget_bytes=budget)
    assert described_bytes(least) <= budget
    (place,) = least.manifest["places"]
    described = decode(least, place["described"])
    num = len(described["seed1"])
    assert 1 < num < N
    np.testing.assert_array_equal(described["seed1"], np.arange(num))
    partners = comparison_of(run).decoder.target[:num]
    np.testing.assert_array_equal(described["seed2"], np.sort(partners))
    assert f"the first {num} of 64 latents of seed 1" in least.notes[0]
    (view,) = least.manifest["views"]
    assert len(decode(least, view["core"])["target"]) == N
    assert len(decode(least, view["details"])["both"]) == num
