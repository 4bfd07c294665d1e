"""The paper's numbers, against each other and the source they were copied from."""

import json
import math
from pathlib import Path

import pytest

from saejax.report import paper

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
    levels = reference["seed1_latents_by_number_of_other_saes_that_share_them"]
    assert list(paper.SEED_1_LEVELS) == [levels[str(m)] for m in range(9)]
