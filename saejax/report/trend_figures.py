"""Figures of what many seeds share: the trend, the levels, the donut. S seeds.

They draw the parts of `results/seeds.json`, see `saejax.analysis.seeds_of_run.seeds_record`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from saejax.errors import InputError
from saejax.report import paper, style

# A curve of this many points looks smooth.
_CURVE_POINTS = 200
# Wedges of less than this part of the ring have no room for a number.
_LEAST_LABELLED = 0.03
# Wedges go from light to dark within what can be told from white and from black.
_LIGHTEST, _DARKEST = 0.2, 1.0


def trend_figure(
    rows: Sequence[Mapping[str, Any]], fits: Mapping[str, Mapping[str, Any]], *, title: str
) -> Figure:
    """Latents only in the base against the number of autoencoders, beside the paper's.

    Dots are means over all bases and subsets, bars go from the lowest to the highest base. Each
    fit that there is gets its curve, and an asymptote its line.

    Args:
      rows: `trend` of the record.
      fits: `fits` of the record.
      title: Printed as it is, above the figure.

    Raises:
      InputError: For no rows.

    References:
      Paulo & Belrose 2025 (arXiv 2501.16615), figure A1.
    """
    if not rows:
        raise InputError("no trend to draw: it needs two seeds")
    figure = style.new_figure(4.9, title)
    axes = style.add_axes(figure, 0.75, 1.5, 4.65, 2.95)
    num_saes = np.array([row["num_saes"] for row in rows])
    last = max(num_saes.max(), max(paper.ONLY_IN_BASE_FRAC))
    curve_k = np.linspace(2, last, _CURVE_POINTS)
    curves = (
        ("offset_power_law", style.BLUE, "-", "c + a k^(-b)"),
        # Last, so that dots show on top where the asymptote is 0 and both are the same.
        ("power_law", style.VERMILLION, ":", "a k^(-b)"),
    )
    handles = []
    for name, colour, dash, formula in curves:
        if name not in fits:
            continue
        values = fits[name]["parameters"]
        asymptote = values.get("c", 0.0)
        curve = asymptote + values["a"] * curve_k ** -values["b"]
        text = ", ".join(f"{key} = {value:.3g}" for key, value in values.items())
        label = f"{formula}: {text}"
        handles += axes.plot(curve_k, curve, dash, color=colour, lw=1.6, label=label)
        if "c" in values:
            axes.axhline(asymptote, color=colour, lw=0.9, ls=style.THRESHOLD_LINE)
    dots = np.array([row["only_in_base_frac"] for row in rows])
    # A mean of equal numbers may differ from them in its last digit, and lengths are not negative.
    reach = [
        np.maximum(dots - [row["lowest_base"] for row in rows], 0),
        np.maximum([row["highest_base"] for row in rows] - dots, 0),
    ]
    axes.errorbar(num_saes, dots, yerr=reach, fmt="o", color=style.INK, ms=4, lw=1, capsize=3)
    label = "this result; bars: lowest and highest base"
    handles.insert(0, Line2D([], [], color=style.INK, marker="o", ms=4, lw=1, label=label))
    handles += axes.plot(
        list(paper.ONLY_IN_BASE_FRAC),
        list(paper.ONLY_IN_BASE_FRAC.values()),
        "D",
        color=style.GREY,
        mfc="none",
        ms=6,
        label=f"{paper.CITATION}: Pythia-160M, both cosines > 0.7",
    )
    top = max(dots.max() + reach[1].max(), max(paper.ONLY_IN_BASE_FRAC.values()))
    axes.set(
        xlim=(1.7, last + 0.3),
        ylim=(-0.015, top + 0.02),  # The lowest and the highest dot are drawn whole.
        xlabel="autoencoders, base included",
        ylabel="latents only in the base",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    style.add_legend(figure, handles, 0.75, 0.9)
    return figure


def levels_figure(levels: Sequence[Sequence[int]], *, title: str) -> Figure:
    """Latents by the number of other autoencoders that share them.

    Bars are means over bases, dots the single bases.

    Args:
      levels: [S][S] counts, `levels` of the record.
      title: Printed as it is, above the figure.

    Raises:
      InputError: For no levels, or rows that are not of the same latents.
    """
    levels_SS = np.array([_checked(row) for row in levels])
    if not levels_SS.size or np.ptp(levels_SS.sum(axis=1)):
        raise InputError("levels are missing or of different numbers of latents: count again")
    frac_SS = levels_SS / levels_SS.sum(axis=1)[:, None]
    others = np.arange(frac_SS.shape[1])
    figure = style.new_figure(3.6, title)
    axes = style.add_axes(figure, 0.75, 0.85, 4.65, 2.3)
    axes.bar(others, frac_SS.mean(axis=0), color=style.SKY, width=0.75)
    for frac_S in frac_SS:
        axes.plot(others, frac_S, "o", color=style.INK, ms=2.5, alpha=0.6, mew=0)
    axes.set(xlabel="other autoencoders that share a latent", ylabel="latents of a base")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    handles = [
        Patch(color=style.SKY, label="mean over bases"),
        Line2D([], [], color=style.INK, marker="o", ms=3, ls="", label="one base each"),
    ]
    style.add_legend(figure, handles, 0.75, 0.28, columns=2)
    return figure


def donut_figure(counts: Sequence[int], *, title: str) -> Figure:
    """Latents of one base as a ring, by the number of other autoencoders that share them.

    Args:
      counts: A row of `levels` of the record: latents shared with 0, 1, ..., S - 1 others.
      title: Printed as it is, above the figure.

    Raises:
      InputError: For no latents, or counts below 0.

    References:
      The figure of the authors' post on the paper, whose counts are `paper.SEED_1_LEVELS`.
    """
    counts_S = _checked(counts)
    total = int(counts_S.sum())
    height = max(3.3, 0.75 + 0.2 * len(counts))
    figure = style.new_figure(height, title)
    axes = style.add_axes(figure, 0.05, (height - 0.35 - 2.8) / 2, 2.8, 2.8)
    shades = np.linspace(_LIGHTEST, _DARKEST, len(counts) - 1)
    colours = [style.ORANGE, *(to_rgb(rgba[:3]) for rgba in matplotlib.colormaps["Blues"](shades))]
    wedges = axes.pie(
        counts_S,
        colors=colours,
        startangle=90,
        counterclock=False,
        radius=1.2,
        wedgeprops={"width": 0.5, "edgecolor": "white", "linewidth": 1},
    ).wedges
    for others, wedge in enumerate(wedges):
        if counts_S[others] >= _LEAST_LABELLED * total:
            angle = np.deg2rad((wedge.theta1 + wedge.theta2) / 2)
            light = np.dot(to_rgb(colours[others]), (0.2126, 0.7152, 0.0722)) > 0.55
            axes.text(
                0.95 * np.cos(angle),
                0.95 * np.sin(angle),
                str(others),
                ha="center",
                va="center",
                fontsize=style.FONT,
                color=style.INK if light else "white",
            )
    axes.text(
        0, 0, f"{total:,}\nlatents", ha="center", va="center", fontsize=style.FONT, color=style.INK
    )
    for others, (wedge, count) in enumerate(zip(wedges, counts, strict=True)):
        name = f"{others or 'no'} other{'s' * (others != 1)}"
        wedge.set_label(f"{name}: {count:,} ({100 * count / total:.1f} %)")
    style.add_legend(figure, wedges, 3.1, (height - 0.35 + 0.2 * len(counts)) / 2)
    return figure


def _checked(counts: Sequence[int]) -> np.ndarray:
    counts_S = np.array(counts)
    if not counts_S.size or counts_S.min() < 0 or not counts_S.sum():
        raise InputError(f"counts {list(counts)}: give latents per level, of one latent at least")
    return counts_S
