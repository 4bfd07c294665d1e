"""Pieces of text on which a latent fires, and others, drawn for explaining it and for scoring.

Dimension letters: N latents, W activating windows, U sequences, L tokens of a sequence, T tokens of
a window, F firings, R neighbours.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from saejax.analysis.neighbours import neighbours
from saejax.config import MeshConfig
from saejax.errors import InputError
from saejax.interp.cache import Firings, LatentCache
from saejax.interp.example import Example
from saejax.matching.similarity import directions
from saejax.mesh import make_mesh
from saejax.progress import Progress
from saejax.sae.sae import Sae

# Token ids [T] of a window to the text of each.
Decode = Callable[[np.ndarray], Sequence[str]]


class Examples(NamedTuple):
    """Examples of one latent; no two of them are the same window.

    Attributes:
      explain: Activating ones for the explainer, the largest value first.
      activating: Activating ones for the scorers, the largest value first.
      non_activating: For the scorers, in the order drawn.
      num_windows: In how many windows of the text the latent fires.
    """

    explain: tuple[Example, ...]
    activating: tuple[Example, ...]
    non_activating: tuple[Example, ...]
    num_windows: int


class TooFew(NamedTuple):
    """Why a latent has no examples.

    Attributes:
      kind: "activating" or "non_activating", the windows that are too few.
      found: How many there are.
      needed: How many are asked for.
    """

    kind: str
    found: int
    needed: int


def sample(
    cache: LatentCache,
    latent: int,
    decode: Decode,
    *,
    num_explain: int = 40,
    num_activating: int = 100,
    num_non_activating: int = 100,
    context: int = 32,
    quantiles: int = 10,
    seed: int = 0,
    near: Sequence[int] | Int[np.ndarray, " R"] | None = None,
) -> Examples | TooFew:
    """Draws the examples of a latent, those to explain it by apart from those to score it by.

    Sequences are cut into windows of `context` tokens that follow each other; what is left at their
    end is not used. A window is activating if the latent fires in it, wherever that is. Windows
    centred on the largest value would overlap each other, and would tell the scorer where to look.

    Activating windows are ranked by their largest value (of equal ones the first in the text comes
    first) and cut into `quantiles` runs of the same length, up to one. From each run the same
    number, up to one, is drawn uniformly without replacement, first for the explainer, then for
    the scorers: the whole distribution is seen, and no window serves both. (delphi draws both from
    one list with one seed, so that 10 to 20 of its 40 explained windows are scored too.)

    Non-activating windows are drawn uniformly without replacement from all others, or with `near`
    from those of them in which at least one of these latents fires.

    The result depends on the cache, the arguments and nothing else. Other numbers of scored
    examples leave those of the explainer as they are.

    Args:
      cache: Of the autoencoder.
      latent: Which one.
      decode: Gives the text of each token of a window.
      num_explain: Activating windows for the explainer.
      num_activating: Activating windows for the scorers.
      num_non_activating: Windows without the latent, for the scorers.
      context: T.
      quantiles: Runs.
      seed: At least 0.
      near: Similar latents of the same cache, see `nearest_latents`.

    Returns:
      The examples, or why there are none.

    Raises:
      InputError: If a number is out of range.

    References:
      Paulo et al. 2024, arXiv 2410.13928, and delphi's defaults: windows of 32 tokens, 40 of ten
      quantiles to explain, and to score 100 activating and 100 others (in the paper).
    """
    length = cache.tokens.shape[1]
    per_sequence = length // context if context > 0 else 0
    if per_sequence < 1:
        raise InputError(f"context={context}: choose 1 to {length}, the length of a sequence")
    least = {"num_explain": 0, "num_activating": 0, "num_non_activating": 0, "seed": 0}
    least |= {"quantiles": 1}
    given = (num_explain, num_activating, num_non_activating, seed, quantiles)
    for (name, smallest), value in zip(least.items(), given, strict=True):
        if value < smallest:
            raise InputError(f"{name}={value} must be at least {smallest}")
    firings = _inside(cache.latent(latent), per_sequence * context)
    window_F = _window_numbers(firings, context, per_sequence)
    window_W, first_W = np.unique(window_F, return_index=True)
    num_drawn = num_explain + num_activating
    if len(window_W) < max(num_drawn, 1):
        return TooFew("activating", len(window_W), max(num_drawn, 1))
    if near is None:
        others = np.arange(len(cache.tokens) * per_sequence)
    else:
        found = [_inside(cache.latent(int(other)), per_sequence * context) for other in near]
        numbers = [_window_numbers(other, context, per_sequence) for other in found]
        others = np.concatenate([*numbers, np.zeros(0, np.int64)])
    silent = np.setdiff1d(others, window_W)
    if len(silent) < num_non_activating:
        return TooFew("non_activating", len(silent), num_non_activating)

    def example(window: int, quantile: int, rows: slice) -> Example:
        sequence, place = divmod(window, per_sequence)
        start = place * context
        value_T = np.zeros(context, np.float32)
        value_T[firings.positions[rows] - start] = firings.values[rows]
        texts = tuple(decode(cache.tokens[sequence, start : start + context]))
        if len(texts) != context:
            raise InputError(f"decode gives {len(texts)} texts for {context} tokens; give each one")
        return Example(texts, value_T, quantile)

    ends_W = np.append(first_W[1:], len(window_F))
    order_W = np.argsort(-np.maximum.reduceat(firings.values, first_W), kind="stable")
    rng = np.random.default_rng([seed, latent, 0])
    explain: list[Example] = []
    activating: list[Example] = []
    runs = zip(
        np.array_split(np.arange(len(window_W)), quantiles),
        _shares(num_explain, quantiles),
        _shares(num_drawn, quantiles),
        strict=True,
    )
    for quantile, (ranks, for_explain, for_both) in enumerate(runs):
        drawn = rng.permutation(ranks)[:for_both]
        for examples, chosen in ((explain, drawn[:for_explain]), (activating, drawn[for_explain:])):
            for w in order_W[np.sort(chosen)]:
                rows = slice(first_W[w], ends_W[w])
                examples.append(example(int(window_W[w]), quantile, rows))
    drawn = np.random.default_rng([seed, latent, 1]).permutation(silent)[:num_non_activating]
    non_activating = tuple(example(int(window), -1, slice(0, 0)) for window in drawn)
    return Examples(tuple(explain), tuple(activating), non_activating, len(window_W))


def nearest_latents(
    sae: Sae, latents: Sequence[int] | Int[np.ndarray, " N"], *, count: int = 10
) -> Int32[np.ndarray, "N R"]:
    """For some latents, the others of the same autoencoder with the most similar decoder rows.

    Args:
      sae: The autoencoder.
      latents: Which latents.
      count: R; one less than there are latents, if that is fewer.

    Returns:
      Numbers of latents, the largest cosine first.

    Raises:
      InputError: If there is no such latent, or weights are not finite.
    """
    chosen_N = np.asarray(latents, np.int64)
    if len(chosen_N) and not 0 <= chosen_N.min() <= chosen_N.max() < sae.num_latents:
        raise InputError(
            f"latents {chosen_N.min()} to {chosen_N.max()}: there are 0 to {sae.num_latents - 1}"
        )
    count = min(count, sae.num_latents - 1)
    units = directions(sae, "decoder")
    with Progress("nearest latents", total=len(chosen_N), unit="latents") as progress:
        near_NR, _ = neighbours(
            units[chosen_N], units, count + 1, progress, mesh=make_mesh(MeshConfig())
        )
    is_other_NR = near_NR != chosen_N[:, None]
    # Of a latent with more than `count` equals its own number may be missing: then the last goes.
    keep_NR = np.argsort(~is_other_NR, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(near_NR, keep_NR, axis=1)


def _inside(firings: Firings, end: int) -> Firings:
    """Firings at positions before an end."""
    inside_F = firings.positions < end
    return Firings(*(part[inside_F] for part in firings))


def _window_numbers(firings: Firings, context: int, per_sequence: int) -> Int[np.ndarray, " F"]:
    return firings.sequences * per_sequence + firings.positions // context


def _shares(count: int, parts: int) -> list[int]:
    """A count in equal parts, the first ones larger by one if it does not divide."""
    return [count // parts + (part < count % parts) for part in range(parts)]
