"""The paper's numbers, against each other and the source they were copied from."""

import json
import math
from pathlib import Path

import pytest

from saejax.report import paper

NAMES = {"aligned_frac": "aligned", "agreement_frac": "equal", "max_cosine_frac": "max_cos"}
REFERENCE = Path(__file__).parents[2].parent / "shared" / "paper" / "reference.json"


def test_the_levels_of_one_base_fit_the_mean_of_all():
    N = sum(paper.SEED_1_LEVELS)
    assert N == 32_768
    for k, frac in paper.ONLY_IN_BASE_FRAC.items():
        missed = sum(count * math.comb(8 - m, k - 1) for m, count in enumerate(paper.SEED_1_LEVELS))
        # One of nine bases; they differ by less than a point.
        assert missed / (N * math.comb(8, k - 1)) == pytest.approx(frac, abs=0.01)


@pytest.mark.skipif(not REFERENCE.exists(), reason="the paper's reference numbers are not here")
def test_copied_as_published():
    reference = json.loads(REFERENCE.read_text())
    trend = reference["figure_a1_only_in_base_by_number_of_saes"]
    assert {str(k): frac for k, frac in paper.ONLY_IN_BASE_FRAC.items()} == trend
    for ours, theirs in (
        (paper.LATENTS, "pythia_160m_mlp6_k32_8B_tokens_by_latents"),
        (paper.K, "pythia_160m_mlp6_32k_by_k"),
        (
            {tokens / 1e9: fracs for tokens, fracs in paper.TOKENS.items()},
            "pythia_160m_mlp6_32k_by_training_tokens_billion",
        ),
    ):
        assert {
            f"{value:g}": {NAMES[name]: frac for name, frac in fracs.items()}
            for value, fracs in ours.items()
        } == {
            value: {name: frac for name, frac in fracs.items() if "cos_" not in name}
            for value, fracs in reference[theirs].items()
        }
    layers = reference["pythia_160m_mlp_by_layer_aligned"]
    assert list(map(list, paper.LAYERS.values())) == [layers[n] for n in ("768", "4k", "32k")]
    decoder = reference["models_expansion36_k32_decoder_cos_above_0.7"]
    equal = reference["models_expansion36_k32_equal"]
    for model, kinds in paper.MODELS.items():
        for name, theirs in (("decoder_frac", decoder), ("agreement_frac", equal)):
            wanted = {
                k: x
                for k, x in theirs[model.lower().replace("gpt-2", "gpt2")].items()
                if k in ("residual", "mlp")
            }
            assert {kind: fracs[name] for kind, fracs in kinds.items()} == wanted
    assert len(decoder) == len(paper.MODELS)
    architectures = reference["gpt2_mlp6_architectures"]
    for name, theirs in (("topk", "topk"), ("relu", "relu_l1"), ("gated", "gated")):
        assert list(paper.ARCHITECTURES[name].values()) == list(architectures[theirs].values())
    curves = reference["figure_a2_threshold_curves_pythia_32k"]
    assert list(curves.values()) == [
        *map(
            list,
            (paper.THRESHOLDS, paper.ALIGNED_FRAC, paper.SHARED_FRAC, paper.MAX_COSINE_FRAC),
        )
    ]
    levels = reference["seed1_latents_by_number_of_other_saes_that_share_them"]
    assert list(paper.SEED_1_LEVELS) == [levels[str(m)] for m in range(9)]
