"""The record of a run's seeds, against its matchings."""

import itertools
import json

import numpy as np
import pytest

from saejax.analysis.compare import Comparison
from saejax.analysis.seeds_of_run import PairTargets, seeds_of_run, seeds_record
from saejax.config import Config
from saejax.config_json import to_json
from saejax.errors import InputError
from saejax.matching import Matching
from saejax.rundir import RunDir

N = 40


def planted(seeds, common=30):
    """Latents below `common` of a hidden numbering are found by most pairs of seeds, at random."""
    rng = np.random.default_rng(0)
    label = {seed: rng.permutation(N) for seed in seeds}
    comparisons = {}
    for i, j in itertools.combinations(seeds, 2):
        place = np.argsort(label[j])
        target = place[label[i]].astype(np.int32)
        encoder = target.copy()
        swapped = np.flatnonzero(label[i] >= common)
        encoder[swapped] = target[np.roll(swapped, 1)]
        high = (label[i] < common) & (rng.random(N) < 0.9)
        cosine = np.where(high, 0.9, 0.4).astype(np.float32)
        nearest = (target, cosine, None, None)
        comparisons[i, j] = Comparison(
            Matching(*nearest, "decoder", "exact", None),
            Matching(encoder, cosine, None, None, "encoder", "exact", None),
            Matching(*nearest, "decoder", "max_cosine", None),
            Matching(*nearest, "encoder", "max_cosine", None),
        )
    return comparisons


@pytest.fixture
def make_run(tmp_path):
    def make(*seeds):
        run = RunDir(tmp_path)
        run.config.write_text(to_json(Config(init_seeds=seeds)))
        comparisons = planted(seeds)
        for pair, comparison in comparisons.items():
            comparison.save(
                *(run.matching("layers.6.mlp", pair, method) for method in ("exact", "max_cosine"))
            )
        return run, comparisons

    return make


def test_a_run_of_seven_seeds(make_run):
    # In an order of its own, which the pairs follow.
    seeds = (3, 1, 2, 14, 15, 9, 26)
    run, comparisons = make_run(*seeds)
    record = seeds_of_run(run, method="exact")
    assert record == json.loads(json.dumps(record))
    assert record["seeds"] == list(seeds)
    assert (record["threshold"], record["num_latents"]) == (0.7, N)
    assert (record["hookpoint"], record["method"]) == ("layers.6.mlp", "exact")
    assert record["missing"] == {}
    shared = {pair: c.shared_frac(0.7) for pair, c in comparisons.items()}
    assert {tuple(row["seeds"]): row["shared_frac"] for row in record["pairs"]} == shared
    mean = sum(shared.values()) / len(shared)
    assert record["shared_frac"]["mean"] == pytest.approx(mean)
    assert record["shared_frac"]["lowest"] == min(shared.values())
    # Shared one way is shared the other way.
    assert record["trend"][0]["only_in_base_frac"] == pytest.approx(1 - mean)
    for place, seed in enumerate(seeds):
        of_seed = sum(frac for pair, frac in shared.items() if seed in pair)
        counted = np.dot(record["levels"][place], range(7)) / N
        assert counted == pytest.approx(of_seed)
    rows = record["trend"]
    assert [row["num_saes"] for row in rows] == [2, 3, 4, 5, 6, 7]
    for row in rows:
        assert row["lowest_base"] <= row["only_in_base_frac"] <= row["highest_base"]
    for row in rows[:-1]:
        assert row["low"] <= row["only_in_base_frac"] <= row["high"]
    assert rows[-1]["low"] is None
    # A fourth of the latents, plus what luck leaves out.
    assert record["fits"]["offset_power_law"]["parameters"]["c"] == pytest.approx(0.25, abs=0.01)
    assert record["fits"]["comparison"]["rss_ratio"] > 100
    assert record["repeats"]["after_shared_frac"] > record["repeats"]["shared_frac"]
    cycles = record["cycles"]
    assert len(cycles["triples"]) == 35
    assert cycles["triples"][0]["seeds"] == [3, 1, 2]
    assert cycles["mean_decoder_frac"] == cycles["mean_shared_frac"] == 1
    assert cycles["mean_encoder_frac"] < 1
    assert cycles["chance"] == 1 / N
    # Nothing but luck keeps a latent from being shared, and its partners then are the same.
    assert 0 < cycles["core_frac"] <= record["levels"][0][-1] / N


def test_two_seeds_say_what_is_missing(make_run):
    run, comparisons = make_run(1, 2)
    record = seeds_of_run(run, method="exact")
    (frac,) = (c.shared_frac(0.7) for c in comparisons.values())
    (row,) = record["trend"]
    assert row["only_in_base_frac"] == pytest.approx(1 - frac)
    assert (row["standard_error"], row["low"], row["high"]) == (None, None, None)
    assert record["levels"] == [[N - round(frac * N), round(frac * N)]] * 2
    assert record["repeats"] is record["cycles"] is None
    assert record["fits"] == {}
    needs_three = "2 seeds: needs three"
    assert record["missing"] == {
        "jackknife": needs_three,
        "repeats": needs_three,
        "cycles": needs_three,
        "fits.power_law": "1 points: this curve needs 3, which 4 seeds give",
        "fits.offset_power_law": "1 points: this curve needs 4, which 5 seeds give",
    }


def test_four_seeds_have_one_fit(make_run):
    record = seeds_of_run(make_run(1, 2, 3, 4)[0], method="exact")
    assert list(record["fits"]) == ["power_law"]
    assert list(record["missing"]) == ["fits.offset_power_law"]


def test_what_cannot_be_counted(make_run):
    run, _ = make_run(1, 2, 3)
    with pytest.raises(InputError, match=r"seed1-seed2.sinkhorn.npz is missing"):
        seeds_of_run(run, method="sinkhorn")
    run.matching("layers.6.mlp", (1, 3), "exact").unlink()
    with pytest.raises(InputError, match=r"seed1-seed3.exact.npz is missing"):
        seeds_of_run(run, method="exact")
    run, _ = make_run(1)
    with pytest.raises(InputError, match=r"seeds=\[1\]: what seeds share needs two"):
        seeds_of_run(run, method="exact")


def test_pairs_that_do_not_fit():
    def pair(size, largest=None):
        target = np.arange(size)
        target[-1] = size - 1 if largest is None else largest
        return PairTargets(target, target, np.ones(size, bool))

    with pytest.raises(InputError, match=r"not without \[\(1, 3\), \(2, 3\)\] and with \[\]"):
        seeds_record((1, 2, 3), {(1, 2): pair(4)})
    with pytest.raises(InputError, match=r"not without \[\] and with \[\(2, 1\)\]"):
        seeds_record((1, 2), {(1, 2): pair(4), (2, 1): pair(4)})
    for other in (pair(5), pair(4, 6)):
        with pytest.raises(InputError, match="seeds 1 and 3 are not matched among 4 latents"):
            seeds_record((1, 2, 3), {(1, 2): pair(4), (1, 3): other, (2, 3): pair(4)})


def test_the_same_in_all_seeds_has_no_trend():
    every = PairTargets(np.arange(4), np.arange(4), np.ones(4, bool))
    seeds = range(1, 9)
    record = seeds_record(seeds, dict.fromkeys(itertools.combinations(seeds, 2), every))
    assert record["trend"][-1]["only_in_base_frac"] == 0
    assert record["fits"] == {}
    assert "do not fall" in record["missing"]["fits.power_law"]


def test_the_asymptote_without_a_seed(make_run):
    record = seeds_of_run(make_run(*range(1, 8))[0], method="exact")
    low, high = record["fits"]["offset_power_law"]["c_without_a_seed"]
    assert 0.24 < low <= high < 0.26
    record = seeds_of_run(make_run(*range(1, 6))[0], method="exact")
    assert record["missing"] == {
        "fits.offset_power_law.c_without_a_seed": "without a seed: 3 points: this curve needs 4, "
        "which 5 seeds give"
    }
