"""The figure of entropic matchings draws the numbers it is given."""

import io

import pytest

from saejax.errors import InputError
from saejax.report.ladder import ladder_figure


def rung(epsilon, **values):
    keys = [
        f"{name}_{group}_frac" for name in ("same", "likeliest") for group in ("hits", "misses")
    ]
    return dict.fromkeys(keys, 0.5) | {
        "epsilon": epsilon,
        "sure_frac": 0.3,
        "above": 1e-3,
        "below": 0.0,
        **values,
    }


def test_lines_hold_the_numbers_in_order_of_epsilon():
    rungs = [rung(0.01, likeliest_misses_frac=0.9), rung(0.1, likeliest_misses_frac=0.4)]
    figure = ladder_figure(rungs, threshold=0.7, title="t")
    left, right = figure.axes
    lines = {line.get_label(): line for line in left.get_lines()}
    assert len(lines) == 5
    drawn = lines["cosine < 0.7, likeliest in the plan"]
    assert list(drawn.get_xdata()) == [0.01, 0.1]
    assert list(drawn.get_ydata()) == [0.9, 0.4]
    above, below = right.get_lines()
    assert list(above.get_ydata()) == [1e-3, 1e-3]
    assert list(below.get_ydata()) == [1e-9, 1e-9]  # 0 has no logarithm.
    figure.savefig(io.BytesIO(), format="svg")


def test_groups_without_latents_are_left_out():
    empty = dict.fromkeys(("same_hits_frac", "likeliest_hits_frac"))
    figure = ladder_figure([rung(0.1, **empty)], threshold=0.7, title="t")
    assert len(figure.axes[0].get_lines()) == 3


def test_nothing_to_draw_is_refused():
    with pytest.raises(InputError, match="no entropic matching"):
        ladder_figure([], threshold=0.7, title="t")
