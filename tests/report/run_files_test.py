"""Good runs are read exactly; bad ones are told apart by file, place and fix."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.report.run_files import load_comparison, read_run

MakeRun = Callable[..., Path]
OVERLAP = "results/overlap.json"


def test_reads_what_was_written(make_run: MakeRun):
    path = make_run()
    run = read_run(path)
    assert run.config.init_seeds == (1, 2, 3)
    assert run.versions["jax"] == "0.10.2"
    assert run.analysis_commit == run.versions["commit"]
    np.testing.assert_array_equal(run.metrics.tokens, [1000, 2000, 3000, 4000])
    np.testing.assert_allclose(run.metrics.fvu[1], [0.601, 0.602, 0.603])
    np.testing.assert_allclose(run.metrics.lr, [4e-3, 3e-3, 2e-3, 1e-3])
    entries = json.loads((path / OVERLAP).read_text())["pairs"]
    for pair, entry in zip(run.pairs, entries, strict=True):
        assert list(pair.seeds) == entry["seeds"]
        assert pair.fractions["decoder_frac"] == entry["decoder_frac"]
        assert pair.mean_cosine == entry["mean_cosine"]
        assert load_comparison(path, pair).shared_frac(0.7) == entry["shared_frac"]


def test_a_repeated_step_counts_once_with_its_later_line(make_run: MakeRun):
    path = make_run()
    log = path / "metrics.jsonl"
    first = json.loads(log.read_text().splitlines()[1])
    first["train/fvu"] = [0.5, 0.5, 0.5]
    log.write_text(log.read_text() + json.dumps(first) + "\n")
    metrics = read_run(path).metrics
    np.testing.assert_array_equal(metrics.steps, [50, 100, 150, 200])
    np.testing.assert_array_equal(metrics.fvu[1], [0.5, 0.5, 0.5])


def test_a_run_that_is_trained_only(make_run: MakeRun):
    run = read_run(make_run(hookpoints=()))
    assert run.pairs == ()


def test_no_run_directory(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere: no such run directory"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "versions.json", "metrics.jsonl"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        (b"\xff\xfe", "cannot be read"),
        (b"{", "is not valid JSON"),
        (b"[1]", "holds list, not an object"),
    ],
    ids=["missing", "binary", "cut off", "list"],
)
def test_broken_training_files(make_run: MakeRun, name: str, content: bytes | None, message: str):
    path = make_run()
    (path / name).unlink()
    if content is not None:
        (path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_run(path)
    assert str(path / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"), [("num_latents", "many"), ("num_latents", 0), ("k", None), (None, None)]
)
def test_broken_config_values(make_run: MakeRun, field: str | None, value: object):
    path = make_run()
    config = json.loads((path / "config.json").read_text())
    if field is None:
        config["sae"] = 3
    else:
        config["sae"][field] = value
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json"):
        read_run(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("step", "x", "step='x' is not a finite number"),
        ("tokens", None, "tokens=None"),
        ("train/lr", True, "train/lr=True"),
        ("train/fvu", [1, 2], "must list one number for each of the 3 init_seeds"),
        ("train/fvu", 0.4, "must list one number"),
        ("train/fvu", [0.4, float("nan"), 0.4], "train/fvu of seed 2=nan .* diverged"),
        ("train/dead_frac", [0, 0, "0"], "train/dead_frac of seed 3='0'"),
    ],
)
def test_broken_log_lines(make_run: MakeRun, field: str, value: object, message: str):
    path = make_run()
    lines = (path / "metrics.jsonl").read_text().splitlines()
    entry = json.loads(lines[2]) | {field: value}
    (path / "metrics.jsonl").write_text("\n".join([*lines[:2], json.dumps(entry)]))
    with pytest.raises(InputError, match=message) as error:
        read_run(path)
    assert "metrics.jsonl, line 3" in str(error.value)
    assert "experiments/train.py" in str(error.value)


def test_an_empty_log(make_run: MakeRun):
    path = make_run()
    (path / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="no line yet"):
        read_run(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hookpoint", "../../etc", "hookpoint='../../etc' is not a name"),
        ("method", None, "method=None"),
        ("seeds", [1], "seeds=.* two seeds"),
        ("seeds", [1, True], "seeds=.* two seeds"),
        ("num_latents", 0, "at least 1"),
        ("shared_frac", 1.5, r"in \[0, 1\]"),
        ("decoder_frac", None, "decoder_frac=None is not a finite number"),
        ("aligned_frac", float("nan"), "aligned_frac=nan"),
        ("threshold", 7, r"in \[-1, 1\]"),
        ("mean_cosine", 0.5, "not an object"),
        ("mean_cosine", {"decoder_matched": 0.5}, "encoder_matched=None"),
        ("certified", "yes", "true, false or null"),
        ("relative_gap", "small", "relative_gap='small'"),
        ("threshold", 0.5, "cannot be averaged"),
        ("seeds", [1, 3], "two entries for layers.6.mlp exact"),
    ],
)
def test_broken_results(make_run: MakeRun, field: str, value: object, message: str):
    path = make_run()
    overlap = json.loads((path / OVERLAP).read_text())
    overlap["pairs"][2][field] = value
    (path / OVERLAP).write_text(json.dumps(overlap))
    with pytest.raises(InputError, match=message) as error:
        read_run(path)
    assert str(path / OVERLAP) in str(error.value)
    assert "experiments/seed_overlap.py" in str(error.value)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"pairs": 3}', '{"pairs": [3]}'])
def test_results_of_another_shape(make_run: MakeRun, content: str):
    path = make_run()
    (path / OVERLAP).write_text(content)
    with pytest.raises(InputError, match=r"experiments/seed_overlap\.py"):
        read_run(path)


@pytest.mark.parametrize("method", ["exact", "max_cosine"])
def test_a_missing_matching(make_run: MakeRun, method: str):
    path = make_run()
    file = path / "matchings" / "layers.6.mlp" / f"seed1-seed3.{method}.npz"
    file.unlink()
    with pytest.raises(InputError, match=r"is missing: experiments/seed_overlap\.py") as error:
        load_comparison(path, read_run(path).pairs[1])
    assert str(file) in str(error.value)


def test_results_of_other_matchings(make_run: MakeRun):
    path = make_run()
    pair = read_run(path).pairs[0]
    stale = pair._replace(fractions=pair.fractions | {"shared_frac": 0.01})
    with pytest.raises(InputError, match=r"run experiments/seed_overlap\.py again"):
        load_comparison(path, stale)
