"""Results to matplotlib figures: no pyplot state, no numbers but histograms and densities.

Dimension letters: N latents, P pairs of seeds, T logged steps or thresholds, G density bins,
S seeds.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, MultipleLocator, PercentFormatter
from scipy.ndimage import gaussian_filter

from saejax.errors import InputError
from saejax.report import paper, style
from saejax.report.run_files import Metrics

# Histograms count cosines in bins of 0.02, of which 0 and the usual thresholds are edges.
_HISTOGRAM_BIN = 0.02
_DENSITY_BIN = 0.01
# Smoothing of a density of n points is spread * n^(-1/6), Scott's rule in two dimensions (Scott
# 1992, Multivariate Density Estimation, section 6.3), for clusters this wide.
_CLUSTER_SPREAD = 0.1
# Fewer points have no density worth drawing.
_CONTOUR_POINTS = 20
_CONTOUR_MASSES = (0.8, 0.5)

_SEED_COLOURS = (
    style.BLUE,
    style.VERMILLION,
    style.GREEN,
    style.PURPLE,
    style.ORANGE,
    style.SKY,
    style.BLACK,
)
_SEED_DASHES = ("-", "--", ":")
_LEGEND_COLUMNS = 5


def cosine_scatter(
    decoder_cosine: Float[np.ndarray, " N"],
    encoder_cosine: Float[np.ndarray, " N"],
    agree: Bool[np.ndarray, " N"],
    *,
    threshold: float,
    title: str,
) -> Figure:
    """Every latent of one seed by the cosines to its partners in another seed.

    A latent is shared when its partners agree and it lies in the upper right quadrant, edges
    included. Contours hold half and four fifths of each group; histograms stack the groups.

    Args:
      decoder_cosine: [N], in [-1, 1]: cosine to the partner in the decoder matching.
      encoder_cosine: [N], in [-1, 1]: cosine to the partner in the encoder matching.
      agree: [N]: whether both matchings name the same partner.
      threshold: The cosine from which a latent counts as shared.
      title: Printed as it is, above the figure.

    Returns:
      The figure; its dots are rasterised, so that an SVG of it stays small for any N.

    Raises:
      InputError: For no latents, different lengths, or cosines that are NaN or outside [-1, 1].

    References:
      Paulo & Belrose 2025 (arXiv 2501.16615), figure 1.
    """
    _check_latents(decoder_cosine, encoder_cosine, agree)
    num_latents = len(agree)
    figure = style.new_figure(6.25, title)
    axes = style.add_axes(figure, 0.7, 1.3, 3.75, 3.75)
    top = style.add_axes(figure, 0.7, 5.1, 3.75, 0.75, sharex=axes)
    right = style.add_axes(figure, 4.5, 1.3, 0.75, 3.75)
    low = min(0.0, math.floor(10 * min(decoder_cosine.min(), encoder_cosine.min())) / 10)

    groups = (
        (agree, style.BLUE, style.DARK_BLUE, "o", "-", "same partner in both matchings"),
        (~agree, style.ORANGE, style.DARK_ORANGE, "^", "--", "different partners"),
    )
    # Dots cover about the same area for any N, within what the eye can see.
    size = float(np.clip(9000 / num_latents, 0.8, 30))
    alpha = float(np.clip(40 / math.sqrt(num_latents), 0.15, 0.75))
    handles = []
    for member_N, colour, dark, marker, dash, label in groups:
        count = int(member_N.sum())
        x_N, y_N = decoder_cosine[member_N], encoder_cosine[member_N]
        # The smaller group lies on top, or the larger would hide it.
        layer = 2.0 if 2 * count < num_latents else 1.0
        axes.scatter(
            x_N,
            y_N,
            s=size,
            color=colour,
            marker=marker,
            alpha=alpha,
            linewidths=0,
            rasterized=True,
            zorder=layer,
        )
        if count >= _CONTOUR_POINTS:
            _draw_contours(axes, x_N, y_N, low, colour=dark, dash=dash)
        text = f"{label}: {count:,} ({100 * count / num_latents:.1f} %)"
        handles.append(Line2D([], [], color=colour, marker=marker, ls="", label=text))
    edges = np.arange(round(low / _HISTOGRAM_BIN), round(1 / _HISTOGRAM_BIN) + 1) * _HISTOGRAM_BIN
    for marginal, cosine_N in ((top, decoder_cosine), (right, encoder_cosine)):
        marginal.hist(
            [cosine_N[member_N] for member_N, *_ in groups],
            bins=list(edges),
            stacked=True,
            histtype="stepfilled",  # without the seams between bars
            color=[colour for _, colour, *_ in groups],
            orientation="vertical" if marginal is top else "horizontal",
        )
        marginal.axis("off")

    for line in (axes.axvline, axes.axhline, top.axvline, right.axhline):
        line(threshold, color=style.INK, lw=0.9, ls=style.THRESHOLD_LINE, zorder=3)
    handles.append(
        Line2D(
            [], [], color=style.INK, lw=0.9, ls=style.THRESHOLD_LINE, label=f"cosine {threshold:g}"
        )
    )
    # Dots at 1 are drawn whole.
    limits = (low - 0.02, 1.02)
    axes.set(xlim=limits, ylim=limits, xlabel="decoder cosine", ylabel="encoder cosine")
    right.set(ylim=limits)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.2))
    shared = int((agree & (decoder_cosine >= threshold) & (encoder_cosine >= threshold)).sum())
    place = {"xycoords": axes.transAxes, "color": style.INK, "va": "top"}
    percent = f"{100 * shared / num_latents:.1f} %"
    axes.annotate(percent, (1.02, 1.2), fontsize=15, annotation_clip=False, **place)
    counts = f"shared\n{shared:,} of\n{num_latents:,}"
    axes.annotate(counts, (1.02, 1.12), fontsize=style.SMALL_FONT, annotation_clip=False, **place)
    style.add_legend(figure, handles, 0.7, 0.75)
    return figure


def _check_latents(
    decoder_cosine: Float[np.ndarray, " N"],
    encoder_cosine: Float[np.ndarray, " N"],
    agree: Bool[np.ndarray, " N"],
) -> None:
    if not 0 < len(agree) == len(decoder_cosine) == len(encoder_cosine):
        raise InputError(
            f"{len(decoder_cosine)} decoder cosines, {len(encoder_cosine)} encoder cosines and "
            f"{len(agree)} agreements: give one of each for every latent, and at least one"
        )
    for side, cosine_N in (("decoder", decoder_cosine), ("encoder", encoder_cosine)):
        # NaN fails the comparison as well.
        bad_N = ~(np.abs(cosine_N) <= 1)
        if bad_N.any():
            first = int(np.argmax(bad_N))
            raise InputError(
                f"{int(bad_N.sum())} {side} cosines are NaN or outside [-1, 1], first "
                f"{cosine_N[first]} of latent {first}: match the pair again"
            )


def _draw_contours(
    axes: Axes,
    x_N: Float[np.ndarray, " N"],
    y_N: Float[np.ndarray, " N"],
    low: float,
    *,
    colour: str,
    dash: str,
) -> None:
    """Lines around the densest regions that hold half and four fifths of the points."""
    # A margin of 0.2 holds what smoothing spreads beyond the square, so that lines close.
    edges = np.arange(round(low / _DENSITY_BIN) - 20, round(1 / _DENSITY_BIN) + 21) * _DENSITY_BIN
    count_GG, _, _ = np.histogram2d(x_N, y_N, bins=(edges, edges))
    smoothing = _CLUSTER_SPREAD * len(x_N) ** (-1 / 6)
    density_GG = gaussian_filter(count_GG, smoothing / _DENSITY_BIN, mode="constant")
    falling = np.sort(density_GG, axis=None)[::-1]
    mass = np.cumsum(falling) / falling.sum()
    levels = np.unique(falling[np.searchsorted(mass, _CONTOUR_MASSES)])
    centres = (edges[:-1] + edges[1:]) / 2
    axes.contour(
        centres,
        centres,
        density_GG.T,  # contour takes rows as y
        list(levels),
        colors=colour,
        linestyles=dash,
        linewidths=0.9,
        zorder=4,
    )


def threshold_curves(
    thresholds: Float[np.ndarray, " T"],
    fractions: Mapping[str, Float[np.ndarray, "P T"]],
    *,
    threshold: float,
    title: str,
    published: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """The fraction of latents with a counterpart, for every threshold on the cosine.

    Args:
      thresholds: [T], rising.
      fractions: [P, T] for each of three definitions of a counterpart, by its label: one row
        for each pair of seeds. The mean over pairs is a thick line, each pair a thin one, and
        the range over pairs a band.
      threshold: The threshold of the run, marked.
      title: Printed as it is, above the figure.
      published: The paper's fractions at `paper.THRESHOLDS`, by label of the definition.

    Raises:
      InputError: For no pairs, or fractions that are NaN or outside [0, 1].

    References:
      Paulo & Belrose 2025 (arXiv 2501.16615), figure A2.
    """
    figure = style.new_figure(4.4, title)
    axes = style.add_axes(figure, 0.8, 0.6, 4.6, 3.35)
    styles = ((style.BLUE, "-"), (style.VERMILLION, "--"), (style.GREEN, ":"))
    for (label, fraction_PT), (colour, dash) in zip(fractions.items(), styles, strict=True):
        if not fraction_PT.size or not ((fraction_PT >= 0) & (fraction_PT <= 1)).all():
            raise InputError(
                f"fractions of {label!r} are missing, NaN or outside [0, 1]: give a row a pair"
            )
        low_T, high_T = fraction_PT.min(axis=0), fraction_PT.max(axis=0)
        axes.fill_between(thresholds, low_T, high_T, color=colour, alpha=0.15, lw=0)
        axes.plot(thresholds, fraction_PT.T, color=colour, lw=0.5, alpha=0.4)
        axes.plot(thresholds, fraction_PT.mean(axis=0), color=colour, ls=dash, lw=2, label=label)
    for (label, fraction_T), marker in zip((published or {}).items(), "os^", strict=False):
        axes.plot(
            paper.THRESHOLDS,
            fraction_T,
            marker,
            ms=5,
            mfc="none",
            color=style.GREY,
            label=f"{label}, paper",
        )
    axes.axvline(threshold, color=style.INK, lw=0.9, ls=style.THRESHOLD_LINE)
    axes.set(
        xlim=(thresholds[0], thresholds[-1]),
        ylim=(0, 1.02),
        xlabel="threshold on the cosine",
        ylabel="latents with a counterpart",
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.legend(loc="lower left", frameon=False, fontsize=style.FONT, labelcolor=style.INK)
    return figure


def training_curves(metrics: Metrics) -> Figure:
    """FVU, dead latents and learning rate against the tokens seen, one line for each seed.

    FVU above 1, worse than always answering with the mean activation, is cut off.
    """
    legend_rows = math.ceil(len(metrics.seeds) / _LEGEND_COLUMNS)
    legend_height = 0.2 * legend_rows
    figure = style.new_figure(5.9 + legend_height, "FVU, dead latents and learning rate")
    fvu = style.add_axes(figure, 0.85, 3.15, 4.55, 2.3)
    dead = style.add_axes(figure, 0.85, 1.75, 4.55, 1.2, sharex=fvu)
    lr = style.add_axes(figure, 0.85, 0.6, 4.55, 0.9, sharex=fvu)
    # A line through one point is invisible.
    marker = "o" if len(metrics.tokens) == 1 else ""
    for index, seed in enumerate(metrics.seeds):
        colour = _SEED_COLOURS[index % len(_SEED_COLOURS)]
        dash = _SEED_DASHES[index // len(_SEED_COLOURS) % len(_SEED_DASHES)]
        for axes, value_TS in ((fvu, metrics.fvu), (dead, metrics.dead_frac)):
            axes.plot(
                metrics.tokens,
                value_TS[:, index],
                color=colour,
                ls=dash,
                lw=1.2,
                marker=marker,
                label=f"seed {seed}",
            )
    lr.plot(metrics.tokens, metrics.lr, color=style.INK, lw=1.2, marker=marker)
    # A curve that is 0 everywhere still gets an axis from 0 upwards.
    fvu.set(ylabel="FVU", ylim=(0, min(1.0, 1.05 * metrics.fvu.max()) or 1.0))
    dead.set(ylabel="dead latents", ylim=(0, 1.1 * metrics.dead_frac.max() or 0.01))
    lr.set(ylabel="learning rate", ylim=(0, 1.1 * metrics.lr.max() or 1.0))
    lr.set_xlabel("tokens seen by each autoencoder")
    for axes in (fvu, dead):
        axes.tick_params(labelbottom=False)
    dead.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    for axes in (dead, lr):
        axes.yaxis.set_major_locator(MaxNLocator(3))
    lr.xaxis.set_major_formatter(EngFormatter())
    lr.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    lr.yaxis.get_offset_text().set(fontsize=style.SMALL_FONT, color=style.INK)
    for axes in (fvu, dead, lr):
        axes.yaxis.set_label_coords(-0.145, 0.5)
    style.add_legend(figure, fvu.get_lines(), 0.85, 5.55 + legend_height, columns=_LEGEND_COLUMNS)
    return figure
