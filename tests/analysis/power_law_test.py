"""Fits of power laws, against SciPy's curve_fit, known curves and the paper's figure."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from saejax.analysis.power_law import compare_fits, fit_offset_power_law, fit_power_law
from saejax.errors import InputError
from saejax.report import paper


def points(a, b, c=0.0, noise=0.0, last=9):
    rng = np.random.default_rng(0)
    return {k: c + a * k**-b + noise * rng.normal() for k in range(2, last + 1)}


def curve(fit, k):
    return fit.parameters.get("c", 0.0) + fit.parameters["a"] * k ** -fit.parameters["b"]


@pytest.mark.parametrize(
    ("a", "b", "c"),
    [(0.9, 0.5, 0.0), (0.5, 1.3, 0.31), (0.3, 0.2, 0.2), (0.9, 6.0, 0.1), (0.9998, 2e-4, 0.0)],
)
def test_known_curves_are_found(a, b, c):
    fit = fit_offset_power_law(points(a, b, c)) if c else fit_power_law(points(a, b))
    assert fit.parameters == pytest.approx({"a": a, "b": b} | ({"c": c} if c else {}), rel=1e-3)
    assert fit.rss < 1e-14
    assert fit.num_points == 8
    for k in (2, 30):
        assert curve(fit, k) == pytest.approx(c + a * k**-b, abs=1e-6)


@pytest.mark.parametrize("c", [0.0, 0.2])
def test_parameters_and_intervals_are_those_of_curve_fit(c):
    data = points(0.6, 0.7, c, noise=0.003, last=12)
    k, y = np.array(list(data), float), np.array(list(data.values()))
    if c:
        fit = fit_offset_power_law(data)
        best, cov = curve_fit(lambda k, a, b, c: c + a * k**-b, k, y, (0.5, 0.5, 0.1))
    else:
        fit = fit_power_law(data)
        best, cov = curve_fit(lambda k, a, b: a * k**-b, k, y, (0.5, 0.5))
    assert list(fit.parameters.values()) == pytest.approx(best, rel=1e-4)
    # 2.262157 and 2.306004: quantiles of Student's t, 97.5 %, 9 and 8 degrees of freedom.
    reach = (2.306004 if c else 2.262157) * np.sqrt(np.diag(cov))
    for value, error, interval in zip(best, reach, fit.interval.values(), strict=True):
        assert interval == pytest.approx((value - error, value + error), rel=1e-3)


def test_the_papers_figure_has_an_asymptote():
    plain = fit_power_law(paper.ONLY_IN_BASE_FRAC)
    offset = fit_offset_power_law(paper.ONLY_IN_BASE_FRAC)
    better = compare_fits(plain, offset)
    assert better.rss_ratio == plain.rss / offset.rss
    assert better.rss_ratio >= 100
    assert better.aic_difference == pytest.approx(8 * math.log(better.rss_ratio) - 2)
    # p + 1 = 3 and 4 estimated numbers, 8 points: 2 * 3 * 4 / 4 = 6 and 2 * 4 * 5 / 3.
    assert better.aicc_difference == pytest.approx(better.aic_difference + 6 - 40 / 3)
    assert 0.25 < offset.parameters["c"] < min(paper.ONLY_IN_BASE_FRAC.values())


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0.01, 5), st.floats(0, 1))
def test_no_other_parameters_are_better(seed, c, b, a):
    rng = np.random.default_rng(seed)
    fractions = np.sort(rng.random(7))[::-1]
    data = dict(enumerate(fractions.tolist(), start=2))
    k = np.arange(2, 9)
    for fit, other in (
        (fit_power_law(data), a * k**-b),
        (fit_offset_power_law(data), c + a * k**-b),
    ):
        assert fit.rss <= ((other - fractions) ** 2).sum() + 1e-12
        assert fit.rss == pytest.approx(
            ((curve(fit, k.astype(float)) - fractions) ** 2).sum(), rel=1e-6
        )
    assert fit_offset_power_law(data).rss <= fit_power_law(data).rss + 1e-9


def test_an_asymptote_on_its_bound_has_no_interval():
    # Falls faster than any power law: the best asymptote is below 0.
    data = {k: 1 - k / 10 for k in range(2, 10)}
    plain, offset = fit_power_law(data), fit_offset_power_law(data)
    assert offset.parameters["c"] == 0
    assert offset.interval["c"] is None
    assert offset.interval["a"] is not None
    assert offset.parameters["b"] == pytest.approx(plain.parameters["b"], rel=1e-4)
    assert offset.rss == pytest.approx(plain.rss)


def test_an_exponent_on_its_bound_has_no_interval():
    data = {2: 0.9, 3: 0.5, 4: 0.5, 5: 0.5, 6: 0.5}
    fit = fit_offset_power_law(data)
    assert fit.interval["b"] is None
    assert fit.parameters["c"] == pytest.approx(0.5, abs=1e-3)


def test_few_points():
    data = points(0.5, 1, 0.3, noise=0.001)
    first = {k: data[k] for k in (2, 3, 4, 5)}
    with pytest.raises(InputError, match="2 points: this curve needs 3, which 4 seeds give"):
        fit_power_law({k: data[k] for k in (2, 3)})
    with pytest.raises(InputError, match="3 points: this curve needs 4, which 5 seeds give"):
        fit_offset_power_law({k: data[k] for k in (2, 3, 4)})
    fits = fit_power_law(first), fit_offset_power_law(first)
    assert all(fit.aicc is None and fit.aic is not None for fit in fits)
    assert compare_fits(*fits).aicc_difference is None
    with pytest.raises(InputError, match="of 4 and 8 points"):
        compare_fits(fits[0], fit_offset_power_law(data))


def test_the_order_of_points_does_not_matter():
    data = points(0.5, 1, 0.3, noise=0.001)
    shuffled = {k: data[k] for k in (5, 2, 9, 3, 4, 8, 6, 7)}
    assert fit_offset_power_law(shuffled) == fit_offset_power_law(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dict.fromkeys(range(2, 10), 0.3), "do not fall, from 0.3 at 2 autoencoders to 0.3 at 9"),
        (dict.fromkeys(range(2, 10), 0.0), "do not fall"),
        (points(-0.5, 1, 0.9), "do not fall"),
        (points(0.5, 1) | {4: math.nan}, r"each must be in \[0, 1\]"),
        (points(0.5, 1) | {4: 40.0}, r"each must be in \[0, 1\]"),
        (points(0.5, 1) | {0: 1.0}, "0 autoencoders: count from 1"),
    ],
)
@pytest.mark.parametrize("fit", [fit_power_law, fit_offset_power_law])
def test_bad_points(fit, data, message):
    with pytest.raises(InputError, match=message):
        fit(data)
