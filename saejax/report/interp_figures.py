"""Figures of explanation scores: by how many seeds share a latent, and of partners.

They draw the rows of `results/interp.json`. Dimension letters: n latents.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator

from saejax.errors import InputError
from saejax.report import style

# Bins of scores; 0.5, what chance gives, is an edge.
_BIN = 0.05
_ROW, _GAP = 0.62, 0.13
# Dark to light alike for all colour vision (Nunez et al. 2018, PLOS ONE 13(7) e0199239).
_COLOURS = "cividis"


class Scores(NamedTuple):
    """Scores of some latents, and how many latents each of these stands for."""

    score: Float[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]


class Group(NamedTuple):
    """The latents of one level.

    Attributes:
      name: As it is printed.
      llm: Of the language model's explanations; may be empty.
      token_set: Of the sets of tokens.
    """

    name: str
    llm: Scores
    token_set: Scores


def score_histograms(groups: Sequence[Group], *, title: str, measure: str) -> Figure:
    """Scores of explanations, a histogram for each number of seeds that share the latents.

    Bars are the language model's, with a solid line at their mean; the outline and the dashed line
    are those of the sets of tokens.

    Args:
      groups: From the first row on.
      title: Printed as it is, above the figure.
      measure: What a score is, for the axis.

    Raises:
      InputError: For no scores, or scores outside [0, 1].
    """
    every = np.concatenate(
        [each.score for group in groups for each in (group.llm, group.token_set)]
    )
    _check(every)
    low = min(0.4, _BIN * np.floor(every.min() / _BIN))
    edges = np.arange(round(low / _BIN), round(1 / _BIN) + 1) * _BIN
    height = 1.45 + len(groups) * (_ROW + _GAP)
    figure = style.new_figure(height, title)
    kinds = (("llm", style.BLUE), ("token_set", style.VERMILLION))
    shown = [kind for kind in kinds if any(len(getattr(group, kind[0]).score) for group in groups)]
    first, tallest = None, 0.0
    for index, group in enumerate(groups):
        bottom = 1.0 + (len(groups) - 1 - index) * (_ROW + _GAP)
        axes = style.add_axes(figure, 1.35, bottom, 4.05, _ROW, sharex=first)
        first = first or axes
        for name, colour in shown:
            score_n, weight_n = getattr(group, name)
            if not len(score_n):
                continue
            frac, _ = np.histogram(score_n, edges, weights=weight_n / weight_n.sum())
            tallest = max(tallest, frac.max())
            filled = name == "llm"
            axes.stairs(
                frac,
                edges,
                fill=filled,
                color=style.SKY if filled else colour,
                lw=1.4,
                ls="-" if filled else "--",
            )
            mean = np.average(score_n, weights=weight_n)
            axes.axvline(mean, color=colour, lw=1.4, ls="-" if filled else "--")
        axes.text(
            -0.04,
            0.5,
            f"{group.name}\n({max(len(group.llm.score), len(group.token_set.score))})",
            transform=axes.transAxes,
            ha="right",
            va="center",
            fontsize=style.SMALL_FONT,
            color=style.INK,
        )
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
        axes.tick_params(labelbottom=index == len(groups) - 1)
    for axes in figure.axes:
        axes.set(xlim=(edges[0], 1), ylim=(0, 1.08 * tallest))
    figure.axes[-1].set_xlabel(f"score: {measure}")
    legend = {
        "llm": [
            Patch(color=style.SKY, label="language model"),
            Line2D([], [], color=style.BLUE, label="its mean"),
        ],
        "token_set": [Line2D([], [], color=style.VERMILLION, ls="--", label="token set, its mean")],
    }
    handles = [handle for name, _ in shown for handle in legend[name]]
    style.add_legend(figure, handles, 0.75, 0.35, columns=3)
    return figure


def pair_scores(
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    cosine: Float[np.ndarray, " n"],
    shared: Bool[np.ndarray, " n"],
    *,
    seeds: tuple[int, int],
    title: str,
) -> Figure:
    """The score of each latent's explanation against that of its partner, by their cosine.

    Args:
      first: [n] scores in the first seed.
      second: [n] scores of the partners in the second.
      cosine: [n], in [-1, 1], of the two decoder rows: the colour.
      shared: [n] whether the two are shared: dots, or else triangles.
      seeds: Of the two.
      title: Printed as it is, above the figure.

    Raises:
      InputError: For no pairs, or values out of range.

    References:
      Paulo & Belrose 2025 (arXiv 2501.16615), figure 3.
    """
    _check(np.concatenate([first, second]))
    if not (np.abs(cosine) <= 1 + 1e-6).all():
        raise InputError("cosines are NaN or outside [-1, 1]: match the pair again")
    figure = style.new_figure(4.9, title)
    axes = style.add_axes(figure, 0.75, 0.85, 3.6, 3.6)
    norm = Normalize(min(0.0, float(cosine.min())), 1.0)
    groups: Mapping[str, tuple[str, np.ndarray]] = {
        "shared": ("o", shared),
        "not shared": ("^", ~shared),
    }
    handles = []
    for label, (marker, member_n) in groups.items():
        axes.scatter(
            first[member_n],
            second[member_n],
            c=cosine[member_n],
            cmap=_COLOURS,
            norm=norm,
            marker=marker,
            s=28,
            edgecolors=style.INK,
            linewidths=0.4,
        )
        count = f"{label}: {int(member_n.sum())}"
        handles.append(
            Line2D([], [], color=style.GREY, mec=style.INK, marker=marker, ls="", label=count)
        )
    low = min(0.4, float(min(first.min(), second.min()))) - 0.02
    axes.plot([low, 1.02], [low, 1.02], color=style.GREY, lw=0.8, zorder=0)
    for line in (axes.axvline, axes.axhline):
        line(0.5, color=style.GREY, lw=0.8, ls=style.THRESHOLD_LINE, zorder=0)
    axes.set(
        xlim=(low, 1.02),
        ylim=(low, 1.02),
        xlabel=f"score, seed {seeds[0]}",
        ylabel=f"score of the partner, seed {seeds[1]}",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.1))
    bar = style.add_axes(figure, 4.55, 0.85, 0.14, 3.6)
    colour_bar = figure.colorbar(ScalarMappable(norm, _COLOURS), cax=bar)
    colour_bar.set_label("decoder cosine", fontsize=style.FONT, color=style.INK)
    colour_bar.outline.set_visible(False)
    bar.spines[:].set_visible(False)
    style.add_legend(figure, handles, 0.75, 0.28, columns=2)
    return figure


def _check(score_n: Float[np.ndarray, " n"]) -> None:
    if not len(score_n) or not ((score_n >= 0) & (score_n <= 1)).all():
        raise InputError("scores are missing, NaN or outside [0, 1]: score the latents again")
