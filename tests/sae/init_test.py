"""Initial weights and the initial decoder bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from saejax.sae.init import geometric_median, init_params, initial_decoder_bias, unit_rows


def test_paper_initialisation():
    D, N = 50, 400
    params = init_params(jnp.uint32(3), jnp.arange(D, dtype=jnp.float32), num_latents=N)
    bound = 1 / np.sqrt(D)
    assert float(jnp.abs(params.enc_rows).max()) <= bound
    # Uniform: the variance is bound^2 / 3, here from 20,000 samples.
    assert float(params.enc_rows.var()) == pytest.approx(bound**2 / 3, rel=0.03)
    np.testing.assert_allclose(jnp.linalg.norm(params.w_dec, axis=1), 1.0, rtol=1e-6)
    cosine = (params.w_dec * params.enc_rows).sum(1) / jnp.linalg.norm(params.enc_rows, axis=1)
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-6)
    assert not params.b_enc.any()
    np.testing.assert_array_equal(params.b_dec, jnp.arange(D))


def test_seeds_differ_and_repeat():
    a, b, c = (init_params(jnp.uint32(s), jnp.zeros(4), num_latents=8) for s in (1, 2, 1))
    assert not np.array_equal(a.enc_rows, b.enc_rows)
    np.testing.assert_array_equal(a.enc_rows, c.enc_rows)


def test_unit_rows_keep_a_zero_row():
    rows = unit_rows(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]], rtol=1e-6)


def test_geometric_median_minimises_the_sum_of_distances():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    x[:10] += 30.0

    def total(m):
        return np.linalg.norm(x - m, axis=1).sum()

    best = scipy.optimize.minimize(total, x.mean(0), method="Nelder-Mead", tol=1e-9).fun
    assert total(np.asarray(geometric_median(jnp.asarray(x)))) <= best * (1 + 1e-5)
    # The mean is far from it: outliers pull it.
    assert total(x.mean(0)) > best * 1.05


def test_median_that_is_a_point():
    x = jnp.zeros((5, 2)).at[0].set(1.0)
    np.testing.assert_allclose(geometric_median(x), [0, 0], atol=1e-4)


@pytest.mark.parametrize("rule", ["zero", "mean", "geometric_median"])
def test_rules(rule):
    x = jax.random.normal(jax.random.key(0), (30, 3)) + 2.0
    expected = {
        "zero": jnp.zeros(3),
        "mean": x.mean(0),
        "geometric_median": geometric_median(x),
    }[rule]
    np.testing.assert_array_equal(initial_decoder_bias(x, rule), expected)
