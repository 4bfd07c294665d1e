"""The logit lens against plain products and against the model's own norm and unembedding."""

import jax.numpy as jnp
import numpy as np
import pytest

from saejax.analysis.logit_lens import logit_lens
from saejax.lm import Unembedding, load_lm, load_unembedding
from saejax.lm.layers import LayerNorm
from saejax.progress import Progress


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)


def lens(rows_ND, unembedding, count):
    with Progress("lens", total=len(rows_ND), unit="latents") as progress:
        return logit_lens(rows_ND, unembedding, count, progress)


def check(found, logits_NV, count):
    order_NV = np.argsort(-logits_NV, axis=1, kind="stable")
    promoted_NP, suppressed_NP = order_NV[:, :count], order_NV[:, ::-1][:, :count]
    np.testing.assert_array_equal(found.promoted, promoted_NP)
    np.testing.assert_array_equal(found.suppressed, suppressed_NP)
    for logit_NP, chosen_NP in (
        (found.promoted_logit, promoted_NP),
        (found.suppressed_logit, suppressed_NP),
    ):
        expected_NP = np.take_along_axis(logits_NV, chosen_NP, axis=1)
        np.testing.assert_allclose(logit_NP, expected_NP, rtol=1e-4, atol=1e-5)


def test_rms_norm_weighs_the_row_and_nothing_else(rows):
    rng = np.random.default_rng(1)
    table_VD, weight_D = rng.normal(size=(64, 16)), rng.normal(size=16)
    found = lens(
        rows,
        Unembedding(np.float32(table_VD), np.float32(weight_D), centred=False),
        8,
    )
    check(found, (rows * weight_D) @ table_VD.T, 8)


def test_layer_norm_takes_off_the_mean_first(rows):
    rng = np.random.default_rng(2)
    table_VD, weight_D = rng.normal(size=(50, 16)), rng.normal(size=16)
    found = lens(rows, Unembedding(np.float32(table_VD), np.float32(weight_D), centred=True), 8)
    check(found, ((rows - rows.mean(1, keepdims=True)) * weight_D) @ table_VD.T, 8)
    weights = {"n.weight": jnp.float32(weight_D), "n.bias": jnp.zeros(16)}
    normed_ND = np.asarray(LayerNorm(weights, "n", 1e-12)(jnp.asarray(rows)[None])[0])
    check(found, rows.std(1, keepdims=True) * (normed_ND @ table_VD.T), 8)


def test_logits_are_the_models_times_the_rms(tiny_lm, rows):
    model = load_lm(str(tiny_lm)).model
    unembedding = load_unembedding(str(tiny_lm))
    assert not unembedding.centred
    logits_NV = np.asarray(model.unembed(model.norm(1e3 * jnp.asarray(rows)[None]))[0])
    rms_N1 = np.sqrt(np.mean(rows**2, axis=1, keepdims=True))
    check(lens(rows, unembedding, 5), logits_NV * rms_N1, 5)
