"""What chance gives: random directions, untrained seeds, and a dictionary that was rotated.

Dimension letters: N latents, D width.
"""

import dataclasses
import itertools
from collections.abc import Collection
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64
from scipy.integrate import quad
from scipy.special import betainc, betaincinv
from scipy.stats import ortho_group

from saejax.analysis.compare import Comparison, compare
from saejax.analysis.thresholds import fractions
from saejax.errors import InputError
from saejax.matching import match
from saejax.sae.init import init_params
from saejax.sae.sae import Sae

# Rows that are matched; of more, as many are drawn. SciPy's solver, which compiles nothing, takes
# about 2 s for as many and 134 MB.
MATCHED_ROWS = 4096
_METHOD = "scipy"
# Of everything that is drawn here.
_SEED = 0


class ChanceCosine(NamedTuple):
    """The largest cosine of a row with N random directions of width D."""

    mean: float
    above_frac: float  # probability that it exceeds the threshold


def chance_cosine(num_latents: int, width: int, *, threshold: float) -> ChanceCosine:
    """The best of N chance cosines, in closed form up to a quadrature.

    The cosine t of two random directions has (1 + t) / 2 ~ Beta(a, a), a = (D - 1) / 2, whatever
    one of them is. With F its distribution, the largest of N independent ones has F^N, and

        E[max] = 1 - int_{-1}^{1} F(t)^N dt,    P(max > threshold) = 1 - F(threshold)^N

    A matched cosine is at most the row's largest, so that this probability also bounds the
    fraction that a matching of chance directions can reach on average.

    Example:
      >>> chance = chance_cosine(32_768, 768, threshold=0.7)
      >>> round(chance.mean, 3), chance.above_frac < 1e-100
      (0.148, True)

    Args:
      num_latents: N.
      width: D, at least 2.
      threshold: In [-1, 1].

    Raises:
      InputError: For another width or threshold, or no latents.

    References:
      Cai, Fan & Jiang 2013, Distributions of angles in random packing on spheres, Journal of
      Machine Learning Research 14, section 2.
    """
    if num_latents < 1 or width < 2:
        raise InputError(
            f"num_latents={num_latents}, width={width}: needs a direction, of width 2 at least"
        )
    if not -1 <= threshold <= 1:
        raise InputError(f"threshold={threshold}: a cosine is in [-1, 1]; the paper uses 0.7")
    a = (width - 1) / 2

    def log_below(t: float) -> float:
        """N log F(t), from the upper tail, which is exact where it is small."""
        above = float(betainc(a, a, (1 - t) / 2))
        return -np.inf if above >= 1 else num_latents * float(np.log1p(-above))

    # F^N rises from 0 to 1 between its quantiles, outside of which there is nothing to sum up.
    low, high = (
        1 - 2 * float(betaincinv(a, a, -np.expm1(np.log(level) / num_latents)))
        for level in (1e-14, 1 - 1e-14)
    )
    middle, _ = quad(lambda t: np.exp(log_below(t)), low, high, limit=200, epsabs=1e-10)
    return ChanceCosine(
        mean=high - middle, above_frac=float(-np.expm1(log_below(float(threshold))))
    )


def null_record(
    sae_a: Sae, sae_b: Sae, *, threshold: float, used_seeds: Collection[int]
) -> dict[str, Any]:
    """What chance gives for two autoencoders, as in `results/null.json`.

    Args:
      sae_a: Of N latents.
      sae_b: Of the same width.
      threshold: Cosine above which a pair counts as shared.
      used_seeds: Seeds of the run, which the untrained ones are not to have.

    Returns:
      num_latents, width (of the decoder), threshold;
      directions: random ones: best_cosine and above_frac of N, see `chance_cosine`; and
      matched_cosine of an exact matching of matched_rows of them;
      untrained: two autoencoders as training starts from them, with `seeds`. Decoder and encoder
      start as the same directions, so that all partners agree;
      rotated: a with b in a random rotation of activation space, the same for its decoder and its
      encoder. All norms, angles and densities within b stay, and nothing is aligned but by chance;
      of these two: matched_rows, `fractions` and mean_cosine, of at most 4,096 latents drawn from
      each, since chance cosines rise little with N. None where there is nothing to compare;
      missing: why, for these.

    Raises:
      InputError: As `chance_cosine` and `compare`.
    """
    N, width = sae_a.num_latents, sae_a.d_out
    best = chance_cosine(N, width, threshold=threshold)
    rng = np.random.default_rng(_SEED)
    rows = min(N, MATCHED_ROWS)
    matched = match(
        *(rng.normal(size=(rows, width)).astype(np.float32) for _ in range(2)), method=_METHOD
    )
    missing = {}
    untrained = None
    if sae_a.transcoder:
        missing["untrained"] = "the decoder of a transcoder starts at 0, which has no direction"
    else:
        seeds = list(itertools.islice((s for s in itertools.count() if s not in used_seeds), 2))
        compared = compare(*(_untrained(seed, N, width) for seed in seeds), method=_METHOD)
        untrained = {"seeds": seeds} | _counted(compared, threshold)
    return {
        "num_latents": N,
        "width": width,
        "threshold": threshold,
        "directions": {
            "best_cosine": best.mean,
            "above_frac": best.above_frac,
            "matched_rows": rows,
            "matched_cosine": float(matched.cosine.mean(dtype=np.float64)),
        },
        "untrained": untrained,
        "rotated": _counted(
            compare(_drawn(sae_a, rng), rotate(_drawn(sae_b, rng), rng), method=_METHOD), threshold
        ),
        "missing": missing,
    }


def rotate(sae: Sae, rng: np.random.Generator) -> Sae:
    """The directions of an autoencoder in a rotated activation space.

    W_dec R^T and R W_enc with R a random rotation; of a transcoder one each, of its two spaces.
    The biases and all else are left as they are, so that it reconstructs nothing.

    Args:
      sae: Any.
      rng: Where the rotation is drawn from, uniformly.
    """
    of_output = _rotation(sae.d_out, rng)
    of_input = of_output if not sae.transcoder else _rotation(sae.d_model, rng)
    return dataclasses.replace(
        sae,
        w_dec=(np.asarray(sae.w_dec) @ of_output.T).astype(np.float32),
        w_enc=(of_input @ np.asarray(sae.w_enc)).astype(np.float32),
    )


def _rotation(width: int, rng: np.random.Generator) -> Float64[np.ndarray, "D D"]:
    return ortho_group.rvs(width, random_state=rng)


def _untrained(seed: int, num_latents: int, width: int) -> Sae:
    """An autoencoder before its first step; of many latents the first ones, which are as random."""
    bias_D = jnp.zeros(width)
    params = init_params(jnp.uint32(seed), bias_D, num_latents=min(num_latents, MATCHED_ROWS))
    return Sae(
        w_enc=np.asarray(params.enc_rows).T,
        b_enc=np.asarray(params.b_enc),
        w_dec=np.asarray(params.w_dec),
        b_dec=np.asarray(params.b_dec),
        k=1,
    )


def _drawn(sae: Sae, rng: np.random.Generator) -> Sae:
    """The directions of as many latents as are matched."""
    if sae.num_latents <= MATCHED_ROWS:
        return sae
    kept_N = np.sort(rng.choice(sae.num_latents, MATCHED_ROWS, replace=False))
    return dataclasses.replace(
        sae, w_dec=np.asarray(sae.w_dec)[kept_N], w_enc=np.asarray(sae.w_enc)[:, kept_N]
    )


def _counted(comparison: Comparison, threshold: float) -> dict[str, Any]:
    return {
        "matched_rows": comparison.num_latents,
        **fractions(comparison, threshold),
        "mean_cosine": comparison.mean_cosine,
    }
