"""`experiments/paper_matchings.py` from the shell, on small matchings in the paper's format."""

import functools
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "paper_matchings.py"
N = 60


@pytest.fixture(scope="session")
def run(run_script):
    return functools.partial(run_script, SCRIPT)


def matchings(num_seeds, agreeing=45):
    """Latents below `agreeing` of a hidden numbering agree in every pair, the others in none."""
    rng = np.random.default_rng(0)
    label = [rng.permutation(N) for _ in range(num_seeds)]
    arrays = {}
    for i, j in itertools.combinations(range(num_seeds), 2):
        decoder = np.argsort(label[j])[label[i]]
        encoder = decoder.copy()
        others = np.flatnonzero(label[i] >= agreeing)
        encoder[others] = decoder[np.roll(others, 1)]
        for side, target in (("decoder", decoder), ("encoder", encoder)):
            arrays[f"tiny/seed{i + 1}-seed{j + 1}/{side}"] = target.astype(np.uint16)
    return arrays


def test_small_matchings(tmp_path, run):
    np.savez(tmp_path / "m.npz", **matchings(4))
    out = tmp_path / "out"
    done = run(tmp_path, f"--matchings={tmp_path / 'm.npz'}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "4 seeds, 6 pairs, 60 latents: shared 75.0% (75.0% to 75.0%)" in done.stdout
    text = (out / "paper_matchings.json").read_text()
    assert str(tmp_path) not in text
    record = json.loads(text)
    assert record["levels"] == [[15, 0, 0, 45]] * 4
    assert record["seeds"] == [1, 2, 3, 4]
    assert record["repeats"]["after_shared_frac"] == 1
    assert record["cycles"]["mean_decoder_frac"] == record["cycles"]["mean_shared_frac"] == 1
    assert record["cycles"]["chance"] == 0.0166667
    assert record["cycles"]["core_frac"] == 0.75
    assert record["figure_a1_fits"]["comparison"]["rss_ratio"] > 100
    assert record["source"].startswith("tiny, released with")
    assert record["versions"]["numpy"] == np.__version__
    assert record["commit"] == record["versions"]["commit"]
    for kind in ("trend", "levels", "donut"):
        assert (out / "figures" / f"paper_matchings.{kind}.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "no such file"),
        (b"no archive", "not a readable .npz archive"),
        ({"tiny/seed1-seed2/decoder": np.zeros(N, np.uint16)}, "is not a permutation"),
    ],
    ids=["missing", "foreign", "not one to one"],
)
def test_bad_input_is_one_line(tmp_path, change, message, run):
    file = tmp_path / "m.npz"
    if isinstance(change, bytes):
        file.write_bytes(change)
    elif change is not None:
        np.savez(file, **{**matchings(2), **change})
    done = run(tmp_path, f"--matchings={file}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --matchings=")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
