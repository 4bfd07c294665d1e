"""The figure of how often latents fire against how many of them are shared. N latents, P seeds."""

import numpy as np
from jaxtyping import Bool, Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from saejax.analysis.factor_table import short_number
from saejax.errors import InputError
from saejax.report import style

# Bins of the logarithm: three in a decade are each about twice as wide as the one before.
_BINS_PER_DECADE = 3


def firing_figure(
    firings: Int[np.ndarray, " N"],
    num_tokens: int,
    shared: Bool[np.ndarray, "P N"],
    *,
    title: str,
) -> Figure:
    """The shared fraction of the latents of a seed by how often they fire.

    Bins are of the logarithm of the frequency, firings / tokens; latents that never fire are a
    bin of their own on the left. Dots are means over other seeds, whiskers go from the lowest to
    the highest, and bars below count the latents, since a fraction of few says little.

    Args:
      firings: [N] tokens on which each latent of the seed fires, as in `latents/<hookpoint>/`.
      num_tokens: Tokens that were read.
      shared: [P, N] whether each latent is shared with each other seed.
      title: Printed as it is, above the figure.

    Raises:
      InputError: For no latents or seeds, different lengths, or counts outside [0, num_tokens].
    """
    P, N = shared.shape
    if not P or not N or firings.shape != (N,):
        raise InputError(
            f"{len(firings)} firing counts, and shared of {P} seeds and {N} latents: give one of "
            "each for every latent, and at least one"
        )
    if num_tokens < 1 or firings.min() < 0 or firings.max() > num_tokens:
        raise InputError(
            f"firings from {firings.min()} to {firings.max()} of {num_tokens} tokens: count again"
        )
    fires_N = firings > 0
    # Bin b holds frequencies from 10^(b/3) on; that of 1 belongs to the last.
    log_N = np.log10(np.maximum(firings, 1) / num_tokens)
    bin_N = np.minimum(np.floor(_BINS_PER_DECADE * log_N), -1).astype(int)
    # Whole decades, so that there are ticks.
    first = bin_N[fires_N].min() // _BINS_PER_DECADE if fires_N.any() else -1
    decades = np.arange(first, bin_N.max() // _BINS_PER_DECADE + 2)
    never = _BINS_PER_DECADE * (first - 1)
    bin_N = np.where(fires_N, bin_N, never)

    figure = style.new_figure(4.6, title)
    axes = style.add_axes(figure, 0.75, 1.85, 4.6, 2.25)
    below = style.add_axes(figure, 0.75, 0.6, 4.6, 0.95, sharex=axes)
    for b in np.unique(bin_N):
        frac_P = shared[:, bin_N == b].mean(axis=1)
        mean = frac_P.mean()
        reach = np.maximum([[mean - frac_P.min()], [frac_P.max() - mean]], 0)
        axes.errorbar(
            b + 0.5, mean, yerr=reach, fmt="o", color=style.BLUE, ms=5, capsize=3, clip_on=False
        )
        count = int((bin_N == b).sum())
        below.bar(b + 0.5, count, 0.9, color=style.SKY)
        below.text(
            b + 0.5,
            count,
            short_number(count),
            ha="center",
            va="bottom",
            fontsize=style.SMALL_FONT - 1.5,
            color=style.INK,
        )
    ticks = {_BINS_PER_DECADE * decade: f"{100 * 10.0**decade:g} %" for decade in decades}
    if not fires_N.all():
        ticks[never + 0.5] = "never"
    below.set_xticks(list(ticks), list(ticks.values()))
    below.set(xlabel="tokens on which a latent fires", ylabel="latents")
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    below.margins(y=0.2)
    axes.set(ylim=(0, 1.04), ylabel="shared", xlim=(min(ticks) - 0.6, max(ticks) + 0.1))
    axes.tick_params(labelbottom=False)
    seeds = "one other seed" if P == 1 else f"mean, lowest and highest of {P} other seeds"
    axes.set_title(seeds, loc="left", fontsize=style.SMALL_FONT, color=style.INK)
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    return figure
