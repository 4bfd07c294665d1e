"""The figure of a sweep: what each run explains against how many latents it uses."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

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
# More would leave the page where a label names several fields.
_LEGEND_COLUMNS = 2


def pareto_figure(result: dict[str, Any], *, title: str = "") -> Figure:
    """FVU against L0, a point a run (mean over its seeds), a curve for each kind of run.

    Args:
      result: Of `saejax.sweep.collect`.
      title: Printed above the figure.

    Raises:
      InputError: For no runs.
    """
    if not result["runs"]:
        raise InputError("the sweep has no finished run to draw")
    kinds = [path for path in result["varied"] if path not in _ALONG]
    curves: dict[str, list[tuple[float, float]]] = {}
    for run in result["runs"]:
        label = ", ".join(_described(path, run[path]) for path in kinds)
        curves.setdefault(label, []).append((np.mean(run["l0"]), np.mean(run["fvu"])))
    rows = -(-len(curves) // _LEGEND_COLUMNS) if len(curves) > 1 else 0
    figure = style.new_figure(3.6 + 0.2 * rows, title)
    axes = style.add_axes(figure, 0.7, 0.55 + 0.2 * rows, 4.7, 2.6)
    for i, (label, points) in enumerate(curves.items()):
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
        l0, fvu = zip(*sorted(points), strict=True)
        axes.plot(l0, fvu, "-", color=colour, marker=marker, ms=5, label=label)
    axes.set(xscale="log", xlabel="L0, active latents per token", ylabel="FVU")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    if rows:
        style.add_legend(figure, axes.get_lines(), 0.7, 0.05 + 0.2 * rows, columns=_LEGEND_COLUMNS)
    return figure


def _described(path: str, value: Any) -> str:
    """A value as it stands in a legend: with the name of its field unless it says enough itself."""
    return value if isinstance(value, str) else f"{path.rpartition('.')[2]} {value}"
