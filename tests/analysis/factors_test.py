"""Factors of a sweep: which runs belong to them, what they hold, and how sure it is."""

import itertools
import json
import math
import statistics

import numpy as np
import pytest

from saejax.analysis.factor_table import factor_table, held_text
from saejax.analysis.factors import factors, jackknife
from saejax.errors import InputError


def by_name(found):
    return {(factor["factor"], factor["series"]): factor for factor in found["factors"]}


def values(factor):
    return [point["value"] for point in factor["points"]]


def runs(factor):
    return [point["run"] for point in factor["points"]]


def test_every_factor_of_the_replication(make_sweep, replication):
    found = factors(make_sweep(replication))
    assert found["base"] == "base"
    assert found["threshold"] == 0.7
    assert found["others"] == ["k=64, 1024 latents"]
    named = by_name(found)
    assert {key: runs(factor) for key, factor in named.items()} == {
        ("latents", None): ["latents=256", "latents=1024", "base", "latents=16384"],
        ("k", None): ["k=8", "k=16", "base", "k=64", "k=128"],
        ("tokens", None): ["tokens=0.1M", "tokens=0.3M", "base", "epochs=3", "epochs=10"],
        ("layer", "mlp"): [
            "hookpoint=layers.2.mlp",
            "base",
            "hookpoint=layers.14.mlp",
            "hookpoint=layers.25.mlp",
        ],
        ("layer", "residual"): [f"hookpoint=layers.{layer}" for layer in (2, 6, 14, 25)],
        ("kind", None): ["base", "hookpoint=layers.6"],
        ("model", "mlp"): ["base", "gpt2", "pythia"],
        ("architecture", None): ["base", "gated", "relu"],
    }
    assert values(named["layer", "residual"]) == [2, 6, 14, 25]
    assert values(named["kind", None]) == ["mlp", "residual"]
    assert values(named["tokens", None]) == [t * 255 // 256 for t in (10**5, 3 * 10**5)] + [
        t * 10**6 * 255 // 256 for t in (1, 3, 10)
    ]
    held = held_text(named["latents", None])
    assert held == "SmolLM2-135M-Instruct.Q4_1, layers.6.mlp, topk, k=32, 996K tokens"
    assert held_text(named["architecture", None]).endswith(
        "layers.6.mlp, 4,096 latents, 996K tokens"
    )
    assert json.loads(json.dumps(found)) == found


def test_points_hold_means_ranges_and_errors(make_sweep, replication):
    result = make_sweep(replication)
    latents = by_name(factors(result))["latents", None]
    for point in latents["points"]:
        run = next(run for run in result["runs"] if run["name"] == point["run"])
        assert point["pairs"] == len(run["pairs"])
        for name in ("shared_frac", "agreement_frac", "max_cosine_frac"):
            fracs = np.array([pair[name] for pair in run["pairs"]])
            assert point[name]["mean"] == pytest.approx(fracs.mean())
            assert (point[name]["low"], point[name]["high"]) == (fracs.min(), fracs.max())
        cosines = [pair["mean_cosine"]["encoder_max"] for pair in run["pairs"]]
        assert point["mean_cosine"]["encoder_max"]["mean"] == pytest.approx(np.mean(cosines))
        assert point["fvu"]["standard_error"] == pytest.approx(
            np.std(run["fvu"], ddof=1) / math.sqrt(len(run["fvu"]))
        )


@pytest.mark.parametrize("num_seeds", [3, 5, 9])
def test_jackknife_of_sums_is_the_error_of_the_mean_of_their_parts(num_seeds):
    """Pairs a_i + a_j have twice the mean of a, whose standard error everyone knows."""
    a_S = np.random.default_rng(num_seeds).normal(size=num_seeds)
    pairs = list(itertools.combinations(range(num_seeds), 2))
    found = jackknife([a_S[i] + a_S[j] for i, j in pairs], pairs)
    assert found == pytest.approx(2 * np.std(a_S, ddof=1) / math.sqrt(num_seeds))


def test_jackknife_needs_a_pair_without_each_seed():
    assert jackknife([0.5], [(1, 2)]) is None
    assert jackknife([0.5], [(1,)]) is None
    assert jackknife([0.5, 0.5, 0.5], [(1, 2), (1, 3), (2, 3)]) == 0
    assert jackknife([0.4, 0.6], [(1,), (2,)]) == pytest.approx(0.1)


def test_steps_rise_fall_or_are_unclear(make_sweep):
    result = make_sweep({"a": {"sae.k": 8}, "b": {"sae.k": 16}, "c": {"sae.k": 64}, "base": {}})
    for run, fracs in zip(
        result["runs"],
        ([0.5, 0.6, 0.7], [0.6, 0.7, 0.8], [0.2, 0.3, 0.3], [0.4, 0.45, 0.5]),
        strict=True,
    ):
        for pair, frac in zip(run["pairs"], fracs, strict=True):
            pair["shared_frac"] = frac
    # Runs are by name: a, b, base, c.
    (k,) = factors(result)["factors"]
    assert [(step["from"], step["to"]) for step in k["steps"]] == [(8, 16), (16, 32), (32, 64)]
    assert [step["shared"] for step in k["steps"]] == ["no clear change", "falls", "rises"]
    assert k["steps"][0]["ranges_overlap"]
    assert k["steps"][1]["change"] == pytest.approx(statistics.fmean([0.2, 0.3, 0.3]) - 0.7)
    assert k["trend"] == "falls and rises"


def test_of_several_penalties_the_one_nearest_in_sparsity_counts(make_sweep):
    relu = {"sae.arch": "relu", "sae.unit_decoder": False}
    changes = {f"relu {c}": {**relu, "sae.sparsity_coefficient": c} for c in (1.0, 2.0, 4.0)}
    most_seeds = {"init_seeds": (1, 2, 3, 4)}
    result = make_sweep({"k=8": {"sae.k": 8}, **changes, "topk": most_seeds})
    for run, l0 in zip(result["runs"], (8.0, 200.0, 40.0, 10.0, 32.0), strict=True):
        run["l0"] = [l0] * len(run["fvu"])
    found = factors(result)
    assert found["base"] == "topk"
    assert runs(by_name(found)["architecture", None]) == ["topk", "relu 2.0"]
    assert found["others"] == ["relu 1.0", "relu 4.0"]


def test_any_field_varied_alone_is_a_factor(make_sweep):
    changes = {
        "base": {},
        "lr=2": {"train.lr_scale": 2.0},
        "order": {"data.order": "in_order"},
        "multi": {"sae.multi_topk": True},
        "nested": {"sae.prefixes": (256, 1024)},
        "seeds": {"init_seeds": (4, 5)},
        "logs": {"train.log_every_steps": 7, "sae.k": 16},
    }
    found = factors(make_sweep(changes))
    assert found["base"] == "base"
    assert found["others"] == ["seeds"]
    named = {factor["factor"]: factor for factor in found["factors"]}
    assert values(named["train.lr_scale"]) == [1.0, 2.0]
    assert values(named["sae.multi_topk"]) == [False, True]
    assert values(named["sae.prefixes"]) == ["[]", "[256, 1024]"]
    assert not named["sae.multi_topk"]["numeric"]
    assert runs(named["k"]) == ["logs", "base"]


def test_runs_of_one_seed_are_told_in_words(make_sweep):
    result = make_sweep(
        {"base": {}, "k=8": {"sae.k": 8, "init_seeds": (1,)}, "k=64": {"sae.k": 64}}
    )
    found = factors(result)
    (k,) = found["factors"]
    assert [point["pairs"] for point in k["points"]] == [0, 3, 3]
    assert k["points"][0]["shared_frac"] is None
    assert [(step["from"], step["to"]) for step in k["steps"]] == [(32, 64)]
    table = factor_table(found)
    assert "one seed, so no pairs to match: k=8" in table
    point = k["points"][2]["shared_frac"]
    (row,) = [line for line in table.splitlines() if line.split()[:1] == ["64"]]
    assert f"{point['mean']:.1%}" in row
    assert f"{100 * point['low']:.1f}-{100 * point['high']:.1f} " in row
    assert row.endswith("falls")
    for run in result["runs"]:
        run["pairs"] = []
    assert "one seed, so no pairs to match: all" in factor_table(factors(result))


def test_no_factor_and_no_run(make_sweep):
    result = make_sweep({"base": {}, "both": {"sae.k": 8, "sae.num_latents": 64}})
    found = factors(result)
    assert found["factors"] == []
    assert factor_table(found).startswith("no setting is varied alone")
    with pytest.raises(InputError, match="no finished run"):
        factors({"varied": [], "common": {}, "runs": []})


def test_a_model_at_another_kind_of_hook_point_differs_in_two_things(make_sweep):
    other = {"lm.source": "openai-community/gpt2"}
    found = factors(make_sweep({"base": {}, "a": {**other, "hookpoint": "h.6"}, "k": {"sae.k": 8}}))
    assert [factor["factor"] for factor in found["factors"]] == ["k"]
    assert found["others"] == ["a"]
