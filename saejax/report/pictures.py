"""Figures as the page holds them: numbered, with the whole SVG in their address."""

import base64
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from saejax.progress import Progress
from saejax.report import style
from saejax.rundir import RunDir


class DrawnFigure(NamedTuple):
    """A figure that is not in the page yet, with what is said of it."""

    name: str  # of its file
    figure: Figure
    title: str
    alt: str
    caption: str


class Picture(NamedTuple):
    """A figure in the page."""

    number: int
    source: str  # a data: address that holds the whole SVG
    width: int  # CSS pixels
    height: int
    title: str


class Captioned(NamedTuple):
    """A figure with what is said of it."""

    picture: Picture
    alt: str
    caption: str


def write_picture(
    figure: Figure, run_path: Path, name: str, number: int, title: str, progress: Progress
) -> Picture:
    """Writes a figure as SVG and PNG, and returns it for the page."""
    svg = style.write_figure(figure, RunDir(run_path).figure(name, "svg").parent, name)
    progress.advance()
    width, height = figure.get_size_inches()
    encoded = base64.b64encode(svg).decode("ascii")
    # CSS has 96 pixels an inch.
    return Picture(
        number,
        f"data:image/svg+xml;base64,{encoded}",
        round(96 * width),
        round(96 * height),
        title,
    )
