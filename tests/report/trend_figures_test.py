"""Figures of many seeds draw the numbers they are given."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, Wedge

from saejax.errors import InputError
from saejax.report import paper
from saejax.report.trend_figures import donut_figure, levels_figure, trend_figure


def draw(figure: Figure) -> bytes:
    svg = io.BytesIO()
    figure.savefig(svg, format="svg")
    return svg.getvalue()


def rows(last):
    return [
        {
            "num_saes": k,
            "only_in_base_frac": 0.2 + 0.5 / k,
            "lowest_base": 0.19 + 0.5 / k,
            "highest_base": 0.23 + 0.5 / k,
        }
        for k in range(2, last + 1)
    ]


FITS = {
    "power_law": {"parameters": {"a": 0.6, "b": 0.3}},
    "offset_power_law": {"parameters": {"a": 0.5, "b": 1.0, "c": 0.2}},
    "comparison": {"rss_ratio": 3.0},
}


def test_trend_holds_points_fits_and_the_papers_marks():
    figure = trend_figure(rows(9), FITS, title="t")
    (axes,) = figure.axes
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert "a k^(-b): a = 0.6, b = 0.3" in labels
    assert "c + a k^(-b): a = 0.5, b = 1, c = 0.2" in labels
    lines = {line.get_label(): line for line in axes.get_lines()}
    for label, curve in (
        ("a k^(-b): a = 0.6, b = 0.3", lambda k: 0.6 * k**-0.3),
        ("c + a k^(-b): a = 0.5, b = 1, c = 0.2", lambda k: 0.2 + 0.5 / k),
    ):
        k, drawn = (np.asarray(data) for data in lines[label].get_data())
        np.testing.assert_allclose(drawn, curve(k))
    (marks,) = [line for line in axes.get_lines() if line.get_marker() == "D"]
    assert dict(zip(*marks.get_data(), strict=True)) == paper.ONLY_IN_BASE_FRAC
    (container,) = axes.containers
    dots, _, (bars,) = container.lines
    np.testing.assert_allclose(dots.get_ydata(), [row["only_in_base_frac"] for row in rows(9)])
    for segment, row in zip(bars.get_segments(), rows(9), strict=True):
        wanted = row["lowest_base"], row["highest_base"]
        np.testing.assert_allclose(segment[:, 1], wanted)
    asymptotes = [line for line in axes.get_lines() if set(line.get_ydata()) == {0.2}]
    assert len(asymptotes) == 1
    draw(figure)


@pytest.mark.parametrize("last", [2, 4, 12])
def test_trend_without_fits(last):
    (axes,) = trend_figure(rows(last), {}, title="t").axes
    assert axes.get_xlim()[1] >= max(9, last)
    # Dots and the paper's marks, no curve.
    assert len([line for line in axes.get_lines() if len(line.get_xdata()) > 20]) == 0


def test_bases_that_are_all_alike():
    # 0.1 + 0.1 + 0.1 is more than 3 * 0.1.
    row = {"num_saes": 2, "lowest_base": 0.1, "highest_base": 0.1}
    for mean in (0.1 + 2e-17, 0.1, 0.1 - 2e-17):
        draw(trend_figure([row | {"only_in_base_frac": mean}], {}, title="t"))


@pytest.mark.parametrize("frac", [0.0, 1.0])
def test_dots_at_the_ends_are_drawn_whole(frac):
    row = {"num_saes": 2, "only_in_base_frac": frac, "lowest_base": frac, "highest_base": frac}
    (axes,) = trend_figure([row], {}, title="t").axes
    low, high = axes.get_ylim()
    assert low < frac - 0.01
    assert high > frac + 0.01


def test_levels_show_the_mean_and_every_base():
    levels = [[4, 2, 4], [6, 2, 2], [5, 2, 3]]
    figure = levels_figure(levels, title="t")
    (axes,) = figure.axes
    heights = [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]
    assert heights == pytest.approx([0.5, 0.2, 0.3])
    drawn = [list(line.get_ydata()) for line in axes.get_lines()]
    np.testing.assert_allclose(drawn, np.array(levels) / 10)
    draw(figure)


def test_donut_has_the_published_numbers_in_its_labels():
    figure = donut_figure(paper.SEED_1_LEVELS, title="t")
    (axes,) = figure.axes
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [
        "no others: 11,512 (35.1 %)",
        "1 other: 2,451 (7.5 %)",
        "2 others: 2,104 (6.4 %)",
        "3 others: 1,932 (5.9 %)",
        "4 others: 1,908 (5.8 %)",
        "5 others: 2,036 (6.2 %)",
        "6 others: 2,314 (7.1 %)",
        "7 others: 2,864 (8.7 %)",
        "8 others: 5,647 (17.2 %)",
    ]
    assert "32,768\nlatents" in [text.get_text() for text in axes.texts]
    wedges = [patch for patch in axes.patches if isinstance(patch, Wedge)]
    angles = [(wedge.theta2 - wedge.theta1) % 360 for wedge in wedges]
    np.testing.assert_allclose(angles, np.array(paper.SEED_1_LEVELS) * 360 / 32_768, atol=1e-3)
    grey = [np.dot(to_rgb(w.get_facecolor()), (0.2126, 0.7152, 0.0722)) for w in wedges[1:]]
    assert (np.diff(grey) < -0.03).all()
    draw(figure)


@pytest.mark.parametrize("counts", [[3, 5], [0, 0, 7], [1] * 25, [0, 1]])
def test_donuts_of_other_sizes(counts):
    figure = donut_figure(counts, title="t")
    svg = draw(figure)
    assert b"nan" not in svg.lower()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len(counts)
    extent = legend.get_window_extent()
    assert extent.y0 >= 0
    assert extent.x1 <= figure.bbox.x1
    assert extent.y1 <= figure.bbox.y1


def test_nothing_to_draw_is_refused():
    with pytest.raises(InputError, match="no trend to draw"):
        trend_figure([], {}, title="t")
    for counts in ([], [0, 0], [3, -1]):
        with pytest.raises(InputError, match="give latents per level"):
            donut_figure(counts, title="t")
    for levels in ([], [[1, 1], [1, 2]]):
        with pytest.raises(InputError, match="levels are missing"):
            levels_figure(levels, title="t")
