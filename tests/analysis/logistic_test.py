"""Logistic regression against SciPy's optimizers and NumPy, F1 against its definition."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from saejax.analysis.logistic import f1, fit_l1, fit_l2


@pytest.fixture(scope="module")
def data():
    """300 examples of 8 features, of which two matter; a fifth are members."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8)).astype(np.float32)
    member = x[:, 0] - x[:, 3] + rng.normal(size=300) > 1.4
    return x, member


def balanced_loss(weight, bias, x, member):
    """In float64, from the class-balanced definition."""
    sign = np.where(member, 1, -1)
    balance = np.where(member, 0.5 / member.sum(), 0.5 / (~member).sum())
    return (balance * np.logaddexp(0, -sign * (x.astype(float) @ weight + bias))).sum()


@pytest.mark.parametrize("l2", [1.0, 1e-3])
def test_l2_is_scipys_minimum(data, l2):
    x, member = data
    best = scipy.optimize.minimize(
        lambda p: balanced_loss(p[:-1], p[-1], x, member) + l2 / 2 * p[:-1] @ p[:-1],
        np.zeros(9),
        tol=1e-12,
    )
    found = fit_l2(jnp.asarray(x), jnp.asarray(member[None]), l2)
    np.testing.assert_allclose(found.weight[0], best.x[:-1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.bias[0], best.x[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("l1", [0.1, 0.005])
def test_l1_is_scipys_minimum(data, l1):
    x, member = data
    # w = p - q with p, q >= 0 makes the penalty linear.
    best = scipy.optimize.minimize(
        lambda p: balanced_loss(p[:8] - p[8:16], p[16], x, member) + l1 * p[:16].sum(),
        np.full(17, 0.1),
        bounds=[(0, None)] * 16 + [(None, None)],
        method="L-BFGS-B",
        options={"ftol": 1e-14, "gtol": 1e-9, "maxfun": 100_000},
    )
    found = fit_l1(jnp.asarray(x), jnp.asarray(member[None]), l1)
    np.testing.assert_allclose(found.weight[0], best.x[:8] - best.x[8:16], atol=5e-3)
    loss = balanced_loss(np.asarray(found.weight[0], float), float(found.bias[0]), x, member)
    assert loss + l1 * np.abs(found.weight).sum() <= best.fun + 1e-5
    assert np.abs(found.weight[0, jnp.array([0, 3])]).min() > 0.1


def test_classes_with_features_of_their_own_are_each_alone(data):
    x, member = data
    members = np.stack([member, x[:, 1] > 0.5])
    own = np.stack([x, x[:, ::-1]])
    many = fit_l2(jnp.asarray(own), jnp.asarray(members), 0.01)
    for place in range(2):
        alone = fit_l2(jnp.asarray(own[place]), jnp.asarray(members[place : place + 1]), 0.01)
        np.testing.assert_allclose(many.weight[place], alone.weight[0], atol=5e-3)
        expected = own[place] @ np.asarray(many.weight[place]) + float(many.bias[place])
        np.testing.assert_allclose(many.scores(jnp.asarray(own))[place], expected, atol=1e-5)


def test_separable_classes_have_finite_weights():
    x = np.repeat([[1.0], [0.0]], [3, 50], axis=0).astype(np.float32)
    found = fit_l2(jnp.asarray(x), jnp.asarray(x.T > 0), 1e-3)
    assert np.isfinite(found.weight).all()
    assert ((found.scores(jnp.asarray(x)) > 0) == (x.T > 0)).all()


def test_f1_is_the_harmonic_mean():
    predicted = np.array([True, True, True, False, False])
    member = np.array([True, True, False, True, False])
    precision, recall = 2 / 3, 2 / 3
    assert f1(predicted, member) == pytest.approx(2 * precision * recall / (precision + recall))
    assert f1(np.zeros(5, bool), member) == 0
    assert f1(np.zeros(5, bool), np.zeros(5, bool)) == 0
