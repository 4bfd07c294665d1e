"""The figure of entropic matchings at several epsilons against the exact one."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from saejax.errors import InputError
from saejax.report import style

# A proven optimum is 0 below the best, which a logarithm cannot show.
_LEAST = 1e-9


def ladder_figure(rungs: Sequence[dict[str, Any]], *, threshold: float, title: str) -> Figure:
    """Agreement with the exact partners, and distance from the best, against epsilon.

    Args:
      rungs: Of one side and one start, of `saejax.analysis.ladder.against_exact`.
      threshold: That separates hits from misses.
      title: Printed above the figure.

    Raises:
      InputError: For no rungs.
    """
    if not rungs:
        raise InputError("no entropic matching to draw")
    rungs = sorted(rungs, key=lambda rung: rung["epsilon"])
    epsilons = [rung["epsilon"] for rung in rungs]
    figure = style.new_figure(4.0, title)
    left = style.add_axes(figure, 0.65, 1.5, 2.1, 2.0)
    right = style.add_axes(figure, 3.4, 1.5, 2.1, 2.0)
    for group, colour, label in (
        ("hits", style.BLUE, f"cosine ≥ {threshold:g}"),
        ("misses", style.VERMILLION, f"cosine < {threshold:g}"),
    ):
        for name, marker, dash, how in (
            ("likeliest", "o", "-", "likeliest in the plan"),
            ("same", "s", ":", "rounded"),
        ):
            key = f"{name}_{group}_frac"
            points = [(rung["epsilon"], rung[key]) for rung in rungs if rung[key] is not None]
            if points:
                x, y = zip(*points, strict=True)
                left.plot(x, y, dash, color=colour, marker=marker, ms=4, label=f"{label}, {how}")
    sure = [rung["sure_frac"] for rung in rungs]
    left.plot(epsilons, sure, "--", color=style.GREY, label="sure: decided by the plan")
    for key, colour, marker, dash, label in (
        ("above", style.PURPLE, "^", "-", "bound above the best"),
        ("below", style.GREEN, "v", "--", "matching below the best"),
    ):
        values = [max(rung[key], _LEAST) for rung in rungs]
        right.plot(epsilons, values, dash, color=colour, marker=marker, ms=4, label=label)
    left.set(xscale="log", xlabel="epsilon", ylabel="exact partner", ylim=(-0.03, 1.03))
    left.yaxis.set_major_formatter(PercentFormatter(1))
    right.set(xscale="log", yscale="log", xlabel="epsilon", ylabel="mean cosine")
    right.set_ylim(bottom=_LEAST / 2)
    right.yaxis.set_minor_formatter(NullFormatter())
    style.add_legend(figure, left.get_lines(), 0.65, 0.95)
    style.add_legend(figure, right.get_lines(), 3.4, 0.95)
    return figure
