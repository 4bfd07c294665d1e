"""Summaries of made-up scores against naive numpy, SciPy and counts by hand."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from saejax.interp.summary import paired, score_of, summaries


def scored(value):
    """A record of a Score with that balanced accuracy."""
    return {"balanced_accuracy": value, "unparsable": 1}


def explained(detection, fuzzing):
    found = {"explanation": "x", "problem": ""}
    return found | {"detection": scored(detection), "fuzzing": scored(fuzzing)}


def row(
    seed, latent, partner, *, llm=(0.5, 0.5), token_set=(0.5, 0.5), level=0, size=1, cosine=0.5
):
    return {
        "seed": seed,
        "latent": latent,
        "partner": partner,
        "level": level,
        "cosine": cosine,
        "stratum": [level, size],
        "stratum_size": size,
        "llm": llm and explained(*llm),
        "token_set": explained(*token_set),
    }


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    made = []
    for latent in range(40):
        cosine, level = float(rng.random()), latent % 3
        # Shared ones score 0.2 more, and partners alike.
        own = float(np.clip(0.55 + 0.2 * (level > 0) + rng.normal(0, 0.05), 0, 1))
        other = float(np.clip(own + rng.normal(0, 0.02), 0, 1))
        about = {"level": level, "size": 3 + latent % 2, "cosine": cosine}
        made.append(row(1, latent, 100 + latent, llm=(own, own), token_set=(0.6, 0.62), **about))
        made.append(row(2, 100 + latent, latent, llm=(other, other), **about))
    return made


def test_levels_difference_and_pairs(rows):
    found = json.loads(json.dumps(summaries(rows, base_seed=1, seed=0)))["mean"]
    base = [each for each in rows if each["seed"] == 1]
    for level in found["by_level"]["llm"]:
        own = [each for each in base if each["level"] == level["level"]]
        assert level["num"] == len(own)
        score_n = np.array([each["llm"]["detection"]["balanced_accuracy"] for each in own])
        drawn = {size: sum(e["stratum_size"] == size for e in own) for size in (3, 4)}
        weight_n = np.array([e["stratum_size"] / drawn[e["stratum_size"]] for e in own])
        assert weight_n.sum() == pytest.approx(7)
        assert level["mean"] == pytest.approx(np.average(score_n, weights=weight_n))
        low, high = level["mean_interval"]
        # About two standard errors to either side.
        assert low < level["mean"] < high
        error = score_n.std() / np.sqrt(len(own))
        assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.35)
    difference = found["difference"]["llm"]
    low, high = difference["interval"]
    assert 0.1 < low < difference["difference"] < high < 0.3
    assert found["difference"]["token_set"]["interval"] == pytest.approx([0, 0])
    pairs = found["pairs"]["llm"]
    values = [pair[:2] for pair in paired(rows, "llm", "mean", base_seed=1)]
    assert pairs["num"] == len(values) == 40
    assert pairs["correlation"] == pytest.approx(spearmanr(*zip(*values, strict=True))[0])
    # A constant has no correlation.
    assert found["pairs"]["token_set"]["correlation"] is None


@pytest.mark.parametrize("weights", [[1, 1, 1], [1, 1, 1, 1], [5, 1, 2], [1, 1, 2], [3, 3, 1, 1]])
def test_a_weighted_median_is_that_of_copies(weights):
    score_n = np.linspace(0.9, 0.3, len(weights))
    # Strata of one latent each, of that size.
    made = [
        row(1, i, None, llm=(s, s), size=w) | {"stratum": [0, i]}
        for i, (s, w) in enumerate(zip(score_n.tolist(), weights, strict=True))
    ]
    (level,) = summaries(made, base_seed=1, seed=0)["mean"]["by_level"]["llm"]
    assert level["median"] == pytest.approx(np.median(np.repeat(score_n, weights)))


def test_embedding_scores_are_summed_up_like_the_others_and_no_part_of_the_mean(rows):
    before = summaries(rows, base_seed=1, seed=0)
    assert "embedding" not in before
    for each in rows:
        for source in ("llm", "token_set"):
            area = 1 - each[source]["detection"]["balanced_accuracy"]
            each[source]["embedding"] = {"auroc": area}
    found = summaries(rows, base_seed=1, seed=0)
    area = found.pop("embedding")
    assert found == before
    assert score_of(rows[0], "llm", "embedding") == pytest.approx(
        1 - score_of(rows[0], "llm", "detection")
    )
    detection = found["detection"]
    for ours, theirs in zip(area["by_level"]["llm"], detection["by_level"]["llm"], strict=True):
        assert ours["mean"] == pytest.approx(1 - theirs["mean"])
        assert ours["mean_interval"] == pytest.approx(
            [1 - e for e in theirs["mean_interval"]][::-1]
        )
    difference = area["difference"]["llm"]["difference"]
    assert difference == pytest.approx(-detection["difference"]["llm"]["difference"])
    # Partners go together as before.
    assert area["pairs"]["llm"]["correlation"] == pytest.approx(
        detection["pairs"]["llm"]["correlation"]
    )
    wins, losses = area["llm_beats_token_set"], detection["llm_beats_token_set"]
    assert (wins["won"], wins["lost"]) == (losses["lost"], losses["won"])


def test_one_latent_with_an_embedding_score_is_enough():
    made = [row(1, i, None) for i in range(3)]
    made[1]["token_set"]["embedding"] = {"auroc": 0.75}
    found = summaries(made, base_seed=1, seed=0)["embedding"]
    assert found["by_level"]["llm"] == []
    (level,) = found["by_level"]["token_set"]
    assert (level["num"], level["mean"], level["mean_interval"]) == (1, 0.75, None)


def test_wins_are_counted():
    made = [
        row(1, 0, 5, llm=(0.8, 0.8), token_set=(0.7, 0.7)),
        row(1, 1, 6, llm=(0.7, 0.7), token_set=(0.7, 0.7)),
        row(2, 5, 0, llm=(0.6, 0.6), token_set=(0.7, 0.7)),
        row(2, 6, 1, llm=(0.9, 0.9), token_set=(0.7, 0.7)),
        row(2, 7, 2, llm=None),
    ]
    wins = summaries(made, base_seed=1, seed=0)["mean"]["llm_beats_token_set"]
    assert (wins["won"], wins["tied"], wins["lost"], wins["frac"]) == (2, 1, 1, 0.625)


def test_what_is_missing_counts_for_nothing():
    refused = {"explanation": None, "problem": "refused"}
    failed = {"explanation": None, "problem": "failed: status 500: oops"}
    half = {"explanation": "x", "problem": "", "detection": scored(0.9)}
    unread = explained(None, 0.5)
    made = [row(1, i, None) | {"llm": llm} for i, llm in enumerate((refused, failed, half, unread))]
    assert score_of(made[2], "llm", "detection") == 0.9
    assert score_of(made[2], "llm", "mean") is None
    found = summaries(made, base_seed=1, seed=0)
    assert found["counts"] == {
        "latents": 4,
        "explained": 2,
        "scored": 0,
        "problems": {"refused": 1, "failed": 1},
        "unparsable_windows": 3,
    }
    assert found["mean"]["by_level"]["llm"] == []
    assert found["detection"]["by_level"]["llm"][0]["mean_interval"] is None
    assert found["mean"]["llm_beats_token_set"] is found["mean"]["difference"]["llm"] is None
