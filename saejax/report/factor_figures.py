"""The figure of one factor of a sweep: what seeds share against it, beside the paper's numbers."""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from saejax.analysis.factor_table import factor_title, held_text, short_name, short_number
from saejax.errors import InputError
from saejax.report import paper, style


class _Look(NamedTuple):
    colour: str
    marker: str
    size: float
    dash: Any
    hatch: str


# In the order of legends and bars. Shared, aligned and max cosine often coincide: markers are
# drawn in the order of their size, so that each shows around the next.
_LOOKS = {
    "shared_frac": _Look(style.BLUE, "o", 3.0, "-", ""),
    "aligned_frac": _Look(style.ORANGE, "o", 5.5, (0, (5, 2)), "////"),
    "max_cosine_frac": _Look(style.PURPLE, "s", 7.5, (0, (1, 1.5)), "\\\\\\\\"),
    "decoder_frac": _Look(style.GREEN, "D", 5.0, (0, (4, 1.5, 1, 1.5)), "...."),
    "agreement_frac": _Look(style.VERMILLION, "^", 6.0, (0, (2, 1)), "xxxx"),
}
_HOLLOW: dict[str, Any] = {"color": style.GREY, "ls": "", "mew": 1.2, "clip_on": False}
_MODEL_MARKERS = "os^v"
# Least distance of the labels of two ticks, as a part of the axis.
_LABEL_ROOM = 0.085
# Of a group of bars of width 1.
_BAR = 0.16
# Inches.
_WIDTH, _HEIGHT, _LINE, _SMALL_LINE = 4.75, 2.7, 0.2, 0.15
# Characters of small text in a line of the figure, and in an inch.
_LINE_CHARACTERS, _CHARACTERS = 82, 12


class _Reference(NamedTuple):
    """Published numbers: fractions by definition, for some values of the factor."""

    label: str
    fractions: Mapping[Any, Mapping[str, float]]
    marker: str = ""  # else that of each definition


def factor_figure(factor: Mapping[str, Any], *, threshold: float | None) -> Figure:
    """Every definition of "shared" against one factor: curves for numbers, bars for names.

    Points and bars are means over pairs, whiskers go from the lowest to the highest pair. Hollow
    grey marks are the paper's: of the definition with the same marker, or above the same bar.

    Args:
      factor: One of `factors` of `saejax.analysis.factors.factors`.
      threshold: On the cosines; None where runs differ in it.

    Raises:
      InputError: If fewer than two of its values have pairs of seeds.

    References:
      Paulo & Belrose 2025 (arXiv 2501.16615), section 4 and appendix A.
    """
    points = [point for point in factor["points"] if point["pairs"]]
    if len(points) < 2:
        raise InputError(
            f"{factor_title(factor)}: fewer than two values have pairs of seeds to draw; give "
            "their runs two init_seeds"
        )
    numeric, model = factor["numeric"], factor["factor"] == "model"
    own = {point["value"] for point in points}
    # Bars of ours have the paper's marks above them; its models have places of their own.
    references = [
        reference
        for reference in _references(factor)
        if numeric or model or own & reference.fractions.keys()
    ]
    limit = "threshold" if threshold is None else f"{threshold:g}"
    handles = _definitions(limit, lines=numeric)
    counts = sorted({point["pairs"] for point in points})
    pairs = " to ".join(f"{count}" for count in dict.fromkeys((counts[0], counts[-1])))
    whiskers = f"lowest to highest of {pairs} pairs" if counts != [1] else "one pair of seeds each"
    handles.append(Line2D([], [], color=style.INK, lw=0, marker="|", ms=9, label=whiskers))
    for each in references:
        marker = each.marker or "o"
        handles.append(Line2D([], [], marker=marker, mfc="white", label=each.label, **_HOLLOW))
    held = textwrap.wrap(f"Fixed: {held_text(factor)}", _LINE_CHARACTERS)
    names = [] if numeric else _categories(points, references, extra=model)
    rows = -(-len(handles) // 2)
    # Below the axes: ticks and the name of the axis, or names of several lines.
    below = _SMALL_LINE * max(map(len, names)) if names else 0.4
    bottom = below + 0.25 + _LINE * rows
    top = 0.45 + _SMALL_LINE * len(held)
    figure = style.new_figure(bottom + _HEIGHT + top, f"Varied: {factor_title(factor)}")
    figure.text(
        0.05 / style.WIDTH,
        1 - 0.33 / figure.get_size_inches()[1],
        "\n".join(held),
        va="top",
        fontsize=style.SMALL_FONT,
        color=style.INK,
        parse_math=False,
    )
    axes = style.add_axes(figure, 0.75, bottom, _WIDTH, _HEIGHT)
    if numeric:
        _curves(axes, points, references, linear=factor["factor"] == "layer")
        axes.set_xlabel(factor_title(factor))
    else:
        _bars(axes, points, references, names)
    axes.set(ylim=(0, 1.04), ylabel="latents of a seed")
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    style.add_legend(figure, handles, 0.1, 0.05 + _LINE * rows, columns=2)
    return figure


def _references(factor: Mapping[str, Any]) -> list[_Reference]:
    """What the paper has on the same factor."""
    held = factor["held"]
    match factor["factor"], factor["series"]:
        case "latents", _:
            return [_Reference("paper: Pythia-160M, 8 B tokens", paper.LATENTS)]
        case "k", _:
            return [_Reference("paper: Pythia-160M, 32,768 latents", paper.K)]
        case "tokens", _:
            return [_Reference("paper: Pythia-160M, 32,768 latents", paper.TOKENS)]
        case "layer", "mlp":
            own = math.log(held.get("sae.num_latents", max(paper.LAYERS)))
            closest = min(paper.LAYERS, key=lambda n: abs(math.log(n) - own))
            by_layer = enumerate(paper.LAYERS[closest])
            fractions = {layer: {"aligned_frac": aligned} for layer, aligned in by_layer}
            return [_Reference(f"paper: Pythia-160M, {closest:,} latents", fractions)]
        case "architecture", _:
            return [_Reference("paper: GPT-2, 27,648 latents", paper.ARCHITECTURES)]
        case "kind", _:
            models = zip(paper.MODELS.items(), _MODEL_MARKERS, strict=True)
            return [_Reference(f"paper: {model}", kinds, mark) for (model, kinds), mark in models]
        case "model", kind:
            own = {f"paper: {m}": kinds[kind] for m, kinds in paper.MODELS.items() if kind in kinds}
            return [_Reference("paper: 36 latents a dimension", own)] if own else []
    return []


def _definitions(threshold: str, *, lines: bool) -> list[Artist]:
    """What the legend says of ours."""
    labels = {
        "shared_frac": f"shared: same partner, both ≥ {threshold}",
        "aligned_frac": f"aligned: both cosines > {threshold}",
        "max_cosine_frac": f"max cosine: both maxima > {threshold}",
        "decoder_frac": f"decoder: its cosine > {threshold}",
        "agreement_frac": "agreement: same partner",
    }
    handles: list[Artist] = []
    for name, look in _LOOKS.items():
        colour, marker, size, dash, hatch = look
        if lines:
            handle = Line2D([], [], color=colour, marker=marker, ms=size, ls=dash)
        else:
            handle = Patch(fc=colour, hatch=hatch, ec="white", lw=0.5)
        handle.set_label(labels[name])
        handles.append(handle)
    return handles


def _whiskers(points: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """[2, points] from the mean down to the lowest and up to the highest pair."""
    ranges = [point[name] for point in points]
    whiskers = [[r["mean"] - r["low"] for r in ranges], [r["high"] - r["mean"] for r in ranges]]
    # The mean of equal numbers can be above all of them by rounding.
    return np.maximum(whiskers, 0)


def _curves(
    axes: Axes,
    points: Sequence[Mapping[str, Any]],
    references: Sequence[_Reference],
    *,
    linear: bool,
) -> None:
    values = [point["value"] for point in points]
    for name, look in _LOOKS.items():
        axes.errorbar(
            values,
            [point[name]["mean"] for point in points],
            yerr=_whiskers(points, name),
            color=look.colour,
            marker=look.marker,
            ms=look.size,
            ls=look.dash,
            lw=1.3,
            elinewidth=1,
            capsize=2.5,
            zorder=4 - look.size / 10,
        )
    published = [value for reference in references for value in reference.fractions]
    for reference in references:
        for value, fractions in reference.fractions.items():
            for name, fraction in fractions.items():
                look = _LOOKS[name]
                size = max(look.size, 5)
                axes.plot(value, fraction, look.marker, ms=size, mfc="none", zorder=5, **_HOLLOW)
    axes.margins(x=0.05)
    if not linear and min([*values, *published]) > 0:
        axes.set_xscale("log")
    axes.autoscale_view()
    place = axes.transData + axes.transAxes.inverted()
    labelled: dict[float, float] = {}
    # Our values come first; a label that has no room is left out.
    for value in [*values, *published]:
        at = place.transform((value, 0))[0]
        if all(abs(at - other) >= _LABEL_ROOM for other in labelled.values()):
            labelled[value] = at
    axes.xaxis.set_major_locator(FixedLocator(list(labelled)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(float(value))))
    axes.xaxis.set_minor_locator(NullLocator())


def _categories(
    points: Sequence[Mapping[str, Any]], references: Sequence[_Reference], *, extra: bool
) -> list[list[str]]:
    """What stands below each group of bars, in lines that fit; the paper's own groups last."""
    names = [short_name(point["value"]) for point in points]
    if extra:
        names += [name for reference in references for name in reference.fractions]
    width = max(3, int(_CHARACTERS * _WIDTH / len(names)))
    return [_lines(name, width) for name in names]


def _lines(name: str, width: int) -> list[str]:
    """Cut to a width, after what joins the parts of a name where there is such."""
    lines = [""]
    for part in re.findall(rf"[^-:._ ]{{1,{width}}}[-:._ ]*|[-:._ ]+", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def _bars(
    axes: Axes,
    points: Sequence[Mapping[str, Any]],
    references: Sequence[_Reference],
    names: Sequence[Sequence[str]],
) -> None:
    offsets = {name: (i - (len(_LOOKS) - 1) / 2) * _BAR for i, name in enumerate(_LOOKS)}
    for name, look in _LOOKS.items():
        axes.bar(
            np.arange(len(points)) + offsets[name],
            [point[name]["mean"] for point in points],
            _BAR,
            yerr=_whiskers(points, name),
            color=look.colour,
            hatch=look.hatch,
            ec="white",
            lw=0.5,
            error_kw={"ecolor": style.INK, "elinewidth": 1, "capsize": 2},
        )
    own = [point["value"] for point in points]
    extra = iter(range(len(points), len(names)))
    for i, reference in enumerate(references):
        marker = reference.marker or "o"
        # Side by side where several models have nearly the same fraction.
        aside = (i - (len(references) - 1) / 2) * _BAR / 5
        for value, fractions in reference.fractions.items():
            at = own.index(value) if value in own else next(extra, None)
            if at is not None:
                for name, fraction in fractions.items():
                    x = at + offsets[name] + aside
                    axes.plot(x, fraction, marker, ms=5.5, mfc="white", zorder=3, **_HOLLOW)
    axes.set_xticks(range(len(names)), ["\n".join(lines) for lines in names])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(names) - 0.4)
