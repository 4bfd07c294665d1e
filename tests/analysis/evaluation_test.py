"""Numbers from sums over windows, by hand; standard errors against SciPy and the jackknife."""

import json

import numpy as np
import pytest
import scipy.stats

from saejax.analysis.evaluation import (
    Sums,
    evaluation_record,
    evaluation_table,
    from_sums,
    ratio,
)
from saejax.errors import InputError


def sums(**changes):
    """Two windows, two autoencoders; the second is as bad as zeros."""
    values = {
        "tokens": [3, 3],
        "predictions": [2, 2],
        "variance": [8, 12],
        "error": [[2, 3], [8, 12]],
        "active": [[6, 9], [3, 0]],
        "loss": [4, 8],
        "replaced_loss": [[8, 12], [4, 6], [5, 9], [8, 12]],
        "kl": [[2, 2], [1, 1], [0.5, 0.5], [2, 2]],
    } | changes
    return Sums(**{name: np.array(x, float) for name, x in values.items()})


USES_SN = [np.array([5, 5, 5, 0]), np.array([0, 0, 3, 0])]
RESIDUAL_SE = np.array([[0.0, 0.0], [6.0, 0.0]])


def test_by_hand():
    found = from_sums(sums(), RESIDUAL_SE, USES_SN)
    assert (found.num_windows, found.num_tokens, found.num_predictions) == (2, 6, 4)
    assert found.cross_entropy.value == 3
    assert found.zero_ablation.cross_entropy.value == 5
    assert found.zero_ablation.increase.value == 2
    assert found.mean_ablation.increase.value == -0.5
    good, bad = found.saes
    assert (good.fvu.value, bad.fvu.value) == (0.25, 1)
    assert good.explained_variance == 0.75
    # The mean of the error is (1, 0), which makes up 6 of the 20.
    assert bad.explained_variance == pytest.approx(6 / 20)
    assert (good.l0.value, bad.l0.value) == (2.5, 0.5)
    assert (good.dead_frac, bad.dead_frac) == (0.25, 0.75)
    assert (good.spliced.increase.value, good.spliced.kl.value) == (0.5, 0.25)
    assert (good.loss_recovered_zero.value, bad.loss_recovered_zero.value) == (0.75, 0)
    # The mean in place of the activations lowers the loss: there is nothing to recover.
    assert good.loss_recovered_mean is bad.loss_recovered_mean is None


def test_standard_error_is_that_of_scipy_for_equal_windows():
    top_W = np.random.default_rng(0).normal(size=30)
    found = ratio(top_W, np.full(30, 7.0))
    assert found.value == pytest.approx(top_W.mean() / 7)
    assert found.standard_error == pytest.approx(scipy.stats.sem(top_W) / 7)


def test_standard_error_of_a_ratio_is_near_the_jackknife():
    rng = np.random.default_rng(1)
    bottom_W = rng.uniform(5, 9, 400)
    top_W = 0.3 * bottom_W + rng.normal(size=400)
    without = np.array(
        [np.delete(top_W, i).sum() / np.delete(bottom_W, i).sum() for i in range(400)]
    )
    jackknife = np.sqrt(399 / 400 * np.square(without - without.mean()).sum())
    assert ratio(top_W, bottom_W).standard_error == pytest.approx(jackknife, rel=0.02)


def test_record_and_table_tell_the_same():
    found = from_sums(sums(), RESIDUAL_SE, USES_SN)
    record = json.loads(json.dumps(evaluation_record([1, 2], found), allow_nan=False))
    assert [sae["seed"] for sae in record["saes"]] == [1, 2]
    assert record["saes"][0]["fvu"]["value"] == 0.25
    assert record["saes"][1]["loss_recovered_mean"] is None
    assert record["over_seeds"]["fvu"] == {"mean": 0.625, "min": 0.25, "max": 1}
    assert record["over_seeds"]["spliced.kl"] == {"mean": 0.625, "min": 0.25, "max": 1}
    assert "loss_recovered_mean" not in record["over_seeds"]
    table = evaluation_table(["seed 1", "seed 2"], found).splitlines()
    assert len({len(line) for line in (table[0], table[4], table[5])}) == 1
    assert table[1].split() == ["model", "3.0000", "+-", "1.0000"]
    assert table[4].startswith("seed 1 ")
    assert table[4].split()[-4:] == ["0.7500", "+-", "0.0000", "-"]
    assert " ".join(table[-2].split()) == "seed 1 0.2500 +- 0.0000 0.7500 2.50 +- 0.50 25.0%"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"variance": [0, 0]}, "are the same"),
        ({"predictions": [0, 0]}, "no position that counts has a next token"),
        ({"loss": [np.nan, 1]}, "lm.dtype is bfloat16"),
        ({"error": [[1, 1], [np.inf, 1]]}, "autoencoder 2 of 2"),
    ],
)
def test_what_is_no_number_is_refused(changes, says):
    with pytest.raises(InputError, match=says):
        from_sums(sums(**changes), RESIDUAL_SE, USES_SN)
