"""Ambiguity of planted pairs: shared latents have one partner, the others many."""

from types import SimpleNamespace

import numpy as np

from saejax.analysis.ambiguity import ambiguity
from saejax.analysis.compare import compare


def test_shared_latents_are_sure_and_others_are_not():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(60, 8))
    b = np.concatenate([a[:20], rng.normal(size=(40, 8))])
    first, second = (SimpleNamespace(w_enc=x.T, w_dec=x) for x in (a, b))
    comparison = compare(first, second, method="sinkhorn", epsilon=0.02)
    found = ambiguity(comparison, 0.99)
    assert found is not None
    assert found["epsilon"] == 0.02
    shared, other = found["shared"], found["unshared"]
    assert (shared["num_latents"], other["num_latents"]) == (20, 40)
    assert shared["median_partners"] < 2 < other["median_partners"]
    assert shared["mean_weight"] > other["mean_weight"]
    assert shared["mean_expected_cosine"] > other["mean_expected_cosine"]
    soft = comparison.decoder.soft
    assert soft is not None
    assert other["mean_weight"] == np.float64(soft.weight[20:].astype(np.float64).mean())


def test_other_methods_say_nothing_and_empty_groups_have_no_means():
    rng = np.random.default_rng(0)
    sae = SimpleNamespace(w_enc=rng.normal(size=(4, 20)), w_dec=rng.normal(size=(20, 4)))
    assert ambiguity(compare(sae, sae), 0.7) is None
    found = ambiguity(compare(sae, sae, method="sinkhorn", epsilon=0.01), 0.7)
    assert found is not None
    assert found["unshared"] == {"num_latents": 0}
