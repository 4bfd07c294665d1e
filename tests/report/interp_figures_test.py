"""Figures of made-up scores: what is drawn is what was given, and nothing leaves the picture."""

import io

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.report.interp_figures import Group, Scores, pair_scores, score_histograms


def scores(*values, weights=None):
    value_n = np.array(values, float)
    return Scores(value_n, np.array(weights, float) if weights else np.ones(len(value_n)))


def drawn(figure):
    """Draws it, and checks that no text leaves the figure."""
    figure.savefig(io.BytesIO(), format="png")
    width, height = figure.bbox.size
    renderer = figure.canvas.get_renderer()
    for text in [*figure.texts, *figure.legends, *(t for axes in figure.axes for t in axes.texts)]:
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    return figure


def test_histograms_hold_the_weights_of_their_latents():
    groups = [
        Group("no others", scores(0.52, 0.61, 0.97, weights=[1, 2, 1]), scores(0.5, 0.5, 1)),
        Group("1 other", scores(), scores(0.31, 0.72)),
        Group("2 others", scores(1.0), scores(0.9)),
    ]
    figure = drawn(score_histograms(groups, title="t $1", measure="m"))
    assert len(figure.axes) == 3
    for axes, group in zip(figure.axes, groups, strict=True):
        assert axes.texts[0].get_text().startswith(group.name)
        shown = [each for each in (group.llm, group.token_set) if len(each.score)]
        assert len(axes.patches) == len(axes.lines) == len(shown)
        for stairs, line, each in zip(axes.patches, axes.lines, shown, strict=True):
            data = stairs.get_data()
            assert data.values.sum() == pytest.approx(1)
            assert data.values.max() <= axes.get_ylim()[1]
            assert axes.get_xlim()[0] <= each.score.min()
            mean = np.average(each.score, weights=each.weight)
            assert line.get_xdata()[0] == pytest.approx(mean)
    first = figure.axes[0].patches[0].get_data()
    heights = {
        round(edge, 2): value for edge, value in zip(first.edges, first.values, strict=False)
    }
    assert (heights[0.5], heights[0.6], heights[0.95]) == (0.25, 0.5, 0.25)


def test_a_score_at_an_edge_is_in_the_bin_above():
    figure = score_histograms(
        [Group("all", scores(), scores(0.5, 0.55, 1))], title="t", measure="m"
    )
    data = figure.axes[0].patches[0].get_data()
    starts = data.edges[:-1][data.values > 0]
    np.testing.assert_allclose(starts, [0.5, 0.55, 0.95])


def test_pairs_are_at_their_scores_in_the_colour_of_their_cosine():
    first, second = np.array([0.5, 0.8, 0.2]), np.array([0.6, 0.9, 1.0])
    cosine, shared = np.array([-0.1, 0.9, 0.4]), np.array([False, True, False])
    figure = drawn(pair_scores(first, second, cosine, shared, seeds=(1, 2), title="t"))
    axes = figure.axes[0]
    for points, member_n in zip(axes.collections, (shared, ~shared), strict=True):
        expected = np.stack([first[member_n], second[member_n]], axis=1)
        np.testing.assert_array_equal(points.get_offsets(), expected)
        np.testing.assert_array_equal(points.get_array(), cosine[member_n])
        assert points.norm.vmin == -0.1
    assert axes.get_xlim()[0] < 0.2
    assert [text.get_text() for text in figure.legends[0].texts] == ["shared: 1", "not shared: 2"]


def test_bad_scores_are_refused():
    with pytest.raises(InputError, match="missing, NaN or outside"):
        score_histograms([Group("all", scores(), scores(np.nan))], title="t", measure="m")
    with pytest.raises(InputError, match="missing, NaN or outside"):
        score_histograms([Group("all", scores(), scores())], title="t", measure="m")
    one = np.array([0.5])
    with pytest.raises(InputError, match="outside"):
        pair_scores(one, one, 4 * one, one > 0, seeds=(1, 2), title="t")
