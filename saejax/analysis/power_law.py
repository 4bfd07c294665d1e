"""Power laws with and without an asymptote, fitted to fractions. P points, G trial exponents."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.optimize import minimize_scalar
from scipy.special import stdtrit

from saejax.analysis.seeds import CONFIDENCE
from saejax.errors import InputError

# Exponents that are tried. At the smallest, a fraction falls by 7e-6 of itself from 2 to 1,000
# autoencoders; at the largest, all but the first point lie on the asymptote.
_EXPONENTS = (1e-6, 20.0)
# What rounding makes of equal fractions; a fall by one latent is more for a thousand seeds.
_LEAST_FALL = 1e-13
# Steps of 4 % of the exponent, between which the residual has one minimum.
_GRID = 400

# From powers k^-b [G, P] and fractions [P] to the best offset c [G] and factor a [G] of each row.
_Linear = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Fit(NamedTuple):
    """A fitted curve c + a k^(-b).

    The 95 % intervals come from the Jacobian J of the curve at the best parameters, as
    parameter +- t sqrt(diag(s^2 (J^T J)^-1)) with s^2 = rss / (num_points - number of
    parameters) and t of as many degrees of freedom. They assume that the curve is right, that it
    is about linear over the interval, and that points err independently, normally and by the same
    amount. Fractions of the same seeds at different k do not: they err together, so the
    intervals say how well the curve describes these points, not how much other seeds would move
    it.
    """

    parameters: dict[str, float]  # a, b; and c in [0, 1] where there is an asymptote
    interval: dict[str, tuple[float, float] | None]  # of each; None where it is on a bound
    rss: float  # residual sum of squares
    num_points: int

    @property
    def aic(self) -> float | None:
        """Akaike's criterion n log(rss / n) + 2 p, where p counts the variance too.

        None for a fit that is exact to rounding, whose logarithm means nothing.

        References:
          Burnham & Anderson 2002, Model Selection and Multimodel Inference, section 2.2.
        """
        n = self.num_points
        if self.rss <= n * np.finfo(np.float64).eps ** 2:
            return None
        return n * math.log(self.rss / n) + 2 * self._num_estimated

    @property
    def aicc(self) -> float | None:
        """`aic` + 2 p (p + 1) / (n - p - 1), for few points (ibid., section 2.4).

        None where `aic` is, and for less than p + 2 points.
        """
        n, p = self.num_points, self._num_estimated
        if self.aic is None or n <= p + 1:
            return None
        return self.aic + 2 * p * (p + 1) / (n - p - 1)

    @property
    def _num_estimated(self) -> int:
        return len(self.parameters) + 1


class FitComparison(NamedTuple):
    """The power law against the one with an asymptote; numbers above 1 and 0 favour the latter."""

    rss_ratio: float | None  # rss without / rss with; None where the latter is 0
    aic_difference: float | None  # aic without - aic with; None where one is
    aicc_difference: float | None  # likewise


def fit_power_law(fractions: Mapping[int, float]) -> Fit:
    """Least squares of f(k) = a k^(-b), with b in [1e-6, 20].

    Example:
      >>> fit = fit_power_law({k: 0.9 * k**-0.5 for k in (2, 3, 4, 5)})
      >>> {name: round(value, 6) for name, value in fit.parameters.items()}
      {'a': 0.9, 'b': 0.5}

    Args:
      fractions: {k: f(k)} as `Trend.only_in_base_frac`, each in [0, 1].

    Raises:
      InputError: For less than three points, NaN or what is no fraction, and where the last
        fraction is not below the first, so that no exponent can be found.
    """
    return _fit(fractions, ("a", "b"), _factor)


def fit_offset_power_law(fractions: Mapping[int, float]) -> Fit:
    """Least squares of f(k) = c + a k^(-b), with b in [1e-6, 20] and the asymptote c in [0, 1].

    For each b the best a and c are known in closed form, so that one number is searched for, over
    all of its range: there is no starting point that the answer depends on.

    Args:
      fractions: {k: f(k)} as `Trend.only_in_base_frac`, each in [0, 1].

    Raises:
      InputError: As `fit_power_law`, and for less than four points.
    """
    return _fit(fractions, ("a", "b", "c"), _factor_and_offset)


def compare_fits(power_law: Fit, offset_power_law: Fit) -> FitComparison:
    """How much better a curve with an asymptote describes the same points.

    Raises:
      InputError: If the fits are of different numbers of points.
    """
    if power_law.num_points != offset_power_law.num_points:
        raise InputError(
            f"fits of {power_law.num_points} and {offset_power_law.num_points} points cannot be "
            "compared"
        )

    def difference(without: float | None, with_offset: float | None) -> float | None:
        return None if without is None or with_offset is None else without - with_offset

    return FitComparison(
        power_law.rss / offset_power_law.rss if offset_power_law.rss > 0 else None,
        difference(power_law.aic, offset_power_law.aic),
        difference(power_law.aicc, offset_power_law.aicc),
    )


def _fit(fractions: Mapping[int, float], names: tuple[str, ...], linear: _Linear) -> Fit:
    k_P, y_P = _checked(fractions, fewest=len(names) + 1)

    def solve(log_b_G: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x_GP = k_P[None] ** -np.exp(log_b_G)[:, None]
        c_G, a_G = linear(x_GP, y_P)
        rss_G = ((c_G[:, None] + a_G[:, None] * x_GP - y_P[None]) ** 2).sum(axis=1)
        return rss_G, c_G, a_G

    low, high = np.log(_EXPONENTS)
    grid_G = np.linspace(low, high, _GRID)
    best = int(solve(grid_G)[0].argmin())
    around = grid_G[max(best - 1, 0)], grid_G[min(best + 1, _GRID - 1)]
    log_b = minimize_scalar(
        lambda log_b: solve(np.array([log_b]))[0][0],
        bounds=around,
        method="bounded",
        options={"xatol": 1e-13},
    ).x
    (rss,), (c,), (a,) = solve(np.array([log_b]))
    values = {"a": float(a), "b": math.exp(log_b), "c": float(c)}
    # The search comes near its bounds, but not onto them.
    on_bound = {"b": min(log_b - low, high - log_b) < 1e-6, "c": c in (0, 1)}
    free = [name for name in names if not on_bound.get(name, False)]
    power_P = k_P ** -values["b"]
    slope = {"a": power_P, "b": -a * np.log(k_P) * power_P, "c": np.ones_like(k_P)}
    freedom = len(k_P) - len(names)
    # R of J = Q R has J^T J = R^T R, without squaring its condition.
    R = np.linalg.qr(np.stack([slope[name] for name in free], axis=1), mode="r")
    deviations = math.sqrt(rss / freedom) * np.linalg.norm(np.linalg.inv(R), axis=1)
    reach = dict(zip(free, stdtrit(freedom, (1 + CONFIDENCE) / 2) * deviations, strict=True))
    interval = {
        name: (values[name] - float(reach[name]), values[name] + float(reach[name]))
        if name in reach
        else None
        for name in names
    }
    return Fit({name: values[name] for name in names}, interval, float(rss), len(k_P))


def _factor(x_GP: np.ndarray, y_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a_G = (x_GP * y_P[None]).sum(axis=1) / (x_GP**2).sum(axis=1)
    return np.zeros_like(a_G), a_G


def _factor_and_offset(x_GP: np.ndarray, y_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The residual is quadratic in a and c: if the best c is out of bounds, a bound is the best."""
    mean_G = x_GP.mean(axis=1)
    centred_GP = x_GP - mean_G[:, None]
    a_G = (centred_GP * y_P[None]).sum(axis=1) / (centred_GP**2).sum(axis=1)
    best_G = y_P.mean() - a_G * mean_G
    c_G = best_G.clip(0, 1)
    bound_a_G = (x_GP * (y_P[None] - c_G[:, None])).sum(axis=1) / (x_GP**2).sum(axis=1)
    return c_G, np.where(c_G == best_G, a_G, bound_a_G)


def _checked(
    fractions: Mapping[int, float], *, fewest: int
) -> tuple[Float64[np.ndarray, " P"], Float64[np.ndarray, " P"]]:
    if len(fractions) < fewest:
        raise InputError(
            f"{len(fractions)} points: this curve needs {fewest}, which {fewest + 1} seeds give"
        )
    k_P = np.array(sorted(fractions), np.float64)
    y_P = np.array([fractions[k] for k in sorted(fractions)], np.float64)
    if not k_P[0] >= 1:
        raise InputError(f"{k_P[0]:g} autoencoders: count from 1")
    # NaN fails the comparison as well.
    if not ((y_P >= 0) & (y_P <= 1)).all():
        raise InputError(f"fractions {y_P.tolist()}: each must be in [0, 1]")
    if y_P[0] - y_P[-1] < _LEAST_FALL:
        raise InputError(
            f"fractions do not fall, from {y_P[0]:g} at {k_P[0]:g} autoencoders to {y_P[-1]:g} at "
            f"{k_P[-1]:g}: no power law can be fitted"
        )
    return k_P, y_P
