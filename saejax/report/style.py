"""The look that all figures share: sizes, colours, axes.

Every figure carries its meaning in lightness, marker or dash as well as in colour, so that it
survives grey print and colour blindness.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from saejax.files import atomic_write

# The palette of Okabe and Ito (2008, "Color Universal Design"): hues that can be told apart with
# any colour vision; blue is dark in grey print, orange light.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
# The first two, darkened for lines on top of dots.
DARK_BLUE, DARK_ORANGE = "#004166", "#8A5F00"
INK, GREY = "#26292e", "#6b7078"

# Inches: a column of text, so that a page shows the fonts at about their nominal size.
WIDTH = 5.6
# Points.
FONT, SMALL_FONT = 10.0, 9.0
# Twice the density of a plain screen for PNGs; dots inside an SVG are smaller, so that a page
# with dozens of figures stays below ten megabytes.
_PNG_DPI, _SVG_DPI = 200, 150
# The dashes of a marked threshold.
THRESHOLD_LINE = (0, (4, 3))


def new_figure(height: float, title: str) -> Figure:
    """An empty figure of the common width, `height` inches high, with its title top left."""
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(
        0.05 / WIDTH,
        1 - 0.1 / height,
        title,
        ha="left",
        va="top",
        fontsize=FONT + 1,
        color=INK,
        parse_math=False,  # a $ in a name is a $
    )
    return figure


def add_axes(
    figure: Figure,
    left: float,
    bottom: float,
    width: float,
    height: float,
    sharex: Axes | None = None,
) -> Axes:
    """Axes at a place given in inches, so that text keeps its room in figures of any height."""
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes(
        (left / total_width, bottom / total_height, width / total_width, height / total_height),
        sharex=sharex,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=SMALL_FONT, color=GREY, labelcolor=INK, length=3)
    axes.xaxis.label.set(fontsize=FONT, color=INK)
    axes.yaxis.label.set(fontsize=FONT, color=INK)
    return axes


def add_legend(
    figure: Figure, handles: Sequence[Artist], left: float, top: float, *, columns: int = 1
) -> None:
    """A legend without a frame, its upper left corner at a place given in inches."""
    width, height = figure.get_size_inches()
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(left / width, top / height),
        ncols=columns,
        frameon=False,
        fontsize=SMALL_FONT,
        labelcolor=INK,
        columnspacing=1.2,
        handlelength=1.8,
        borderpad=0,
        borderaxespad=0,
    )


def write_figure(figure: Figure, folder: Path, name: str) -> bytes:
    """Writes `<name>.svg` and `<name>.png`, and returns the SVG, whose bytes repeat.

    Raises:
      InputError: If the disk is full or cannot be written.
    """
    svg = io.BytesIO()
    # Text as outlines looks the same everywhere; a fixed salt and no date keep the bytes the same.
    with matplotlib.rc_context({"svg.hashsalt": "saejax", "svg.fonttype": "path"}):
        figure.savefig(svg, format="svg", dpi=_SVG_DPI, metadata={"Date": None})
    with atomic_write(folder / f"{name}.svg") as file:
        file.write(svg.getvalue())
    with atomic_write(folder / f"{name}.png") as file:
        figure.savefig(file, format="png", dpi=_PNG_DPI)
    return svg.getvalue()
