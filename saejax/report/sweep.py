"""The figure of a sweep: what each run explains against how many latents it uses."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from saejax.analysis.factor_table import short_name
from saejax.errors import InputError
from saejax.report import style

# Fields that move a run along its curve; runs that differ in another one are on other curves.
_ALONG = ("sae.k", "sae.sparsity_coefficient")
_COLOURS = (
    style.BLUE,
    style.VERMILLION,
    style.GREEN,
    style.ORANGE,
    style.PURPLE,
    style.SKY,
    style.BLACK,
)
_MARKERS = "osD^vPX"
# Characters of a label in a legend of one column, and of two.
_LONGEST_LABEL, _SHORT_LABEL = 70, 32


def pareto_figure(result: dict[str, Any], *, title: str = "") -> Figure:
    """FVU against L0, a point a run (mean over its seeds), a curve for each kind of run.

    Args:
      result: Of `saejax.sweep_results.collect`.
      title: Printed above the figure.

    Raises:
      InputError: For no runs.
    """
    if not result["runs"]:
        raise InputError("the sweep has no finished run to draw")
    kinds = [path for path in result["varied"] if path not in (*_ALONG, "init_seeds")]
    curves: dict[str, list[tuple[float, float]]] = {}
    for run, label in zip(result["runs"], _labels(result["runs"], kinds), strict=True):
        curves.setdefault(label, []).append((np.mean(run["l0"]), np.mean(run["fvu"])))
    columns = 2 if max(map(len, curves)) <= _SHORT_LABEL else 1
    rows = -(-len(curves) // columns) if len(curves) > 1 else 0
    figure = style.new_figure(3.6 + 0.2 * rows, title)
    axes = style.add_axes(figure, 0.7, 0.55 + 0.2 * rows, 4.7, 2.6)
    for i, (label, points) in enumerate(curves.items()):
        # Of as many markers as colours: another pair for each of 49 curves.
        turn, colour = divmod(i, len(_COLOURS))
        marker = _MARKERS[(colour + turn) % len(_MARKERS)]
        l0, fvu = zip(*sorted(points), strict=True)
        axes.plot(l0, fvu, "-", color=_COLOURS[colour], marker=marker, ms=5, label=label)
    axes.set(xscale="log", xlabel="L0, active latents per token", ylabel="FVU")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    if rows:
        style.add_legend(figure, axes.get_lines(), 0.1, 0.05 + 0.2 * rows, columns=columns)
    return figure


def _labels(runs: Sequence[dict[str, Any]], kinds: Sequence[str]) -> list[str]:
    """What sets each run apart: all values, or, where these are too long, the unusual ones."""
    values = [{path: _described(path, run[path]) for path in kinds} for run in runs]
    whole = [", ".join(each.values()) for each in values]
    if max(map(len, whole)) <= _LONGEST_LABEL:
        return whole
    usual = {path: statistics.mode(each[path] for each in values) for path in kinds}
    return [
        ", ".join(text for path, text in each.items() if text != usual[path]) or "all others"
        for each in values
    ]


def _described(path: str, value: Any) -> str:
    """A value as it stands in a legend: with the name of its field unless it says enough itself."""
    return short_name(value) if isinstance(value, str) else f"{path.rpartition('.')[2]} {value}"
