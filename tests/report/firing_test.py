"""The figure of firing frequency counts what it is given."""

import io

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.report.firing import firing_figure


def dots(axes):
    """Bin, fraction, and the ends of the whisker."""
    found = []
    for container in axes.containers:
        line, _, (bars,) = container.lines
        (segment,) = bars.get_segments()
        found.append((line.get_xdata()[0], line.get_ydata()[0], *segment[:, 1]))
    return found


def test_fractions_and_counts_of_every_bin():
    rng = np.random.default_rng(0)
    N, num_tokens = 500, 10_000
    firings_N = rng.integers(1, 2000, N)
    firings_N[:20] = 0
    firings_N[20] = num_tokens
    shared_PN = rng.random((3, N)) < 0.4
    figure = firing_figure(firings_N, num_tokens, shared_PN, title="t")
    axes, below = figure.axes
    expected = {}
    for latent, firings in enumerate(firings_N):
        frequency = firings / num_tokens
        upper = [b for b in range(-13, 0) if 10 ** (b / 3) <= frequency]
        expected.setdefault(max(upper) if firings else None, []).append(latent)
    drawn = dots(axes)
    assert len(drawn) == len(expected)
    (never, *_), *_ = drawn
    first = min(b for b in expected if b is not None)
    assert never < 3 * (first // 3)
    for x, mean, low, high in drawn:
        members = expected[None if x == never else round(x - 0.5)]
        fracs = [sum(row[latent] for latent in members) / len(members) for row in shared_PN]
        np.testing.assert_allclose((mean, low, high), (np.mean(fracs), min(fracs), max(fracs)))
    heights = [bar.get_height() for bar in below.patches]
    assert sorted(heights) == sorted(map(len, expected.values()))
    assert sorted(int(text.get_text()) for text in below.texts) == sorted(heights)
    labels = dict(zip(below.get_xticks(), below.get_xticklabels(), strict=True))
    # An edge 10^(b/3), in percent.
    assert labels[-6].get_text() == "1 %"
    assert labels[never].get_text() == "never"
    figure.savefig(io.BytesIO(), format="svg")


@pytest.mark.parametrize("firings", [[0, 0, 0], [1, 1, 1], [40, 40, 40], [0, 5, 40]])
def test_few_latents(firings):
    shared_PN = np.array([[True, False, True]])
    figure = firing_figure(np.array(firings), 40, shared_PN, title="t")
    assert len(dots(figure.axes[0])) == len(set(firings))
    assert len(figure.axes[1].get_xticks()) >= 1
    svg = io.BytesIO()
    figure.savefig(svg, format="svg")
    assert b"nan" not in svg.getvalue().lower()


@pytest.mark.parametrize(
    ("firings", "num_tokens", "shared", "says"),
    [
        ([], 5, [[]], "at least one"),
        ([1, 6], 5, [[True, False]], "firings from 1 to 6 of 5 tokens"),
        ([-1, 2], 5, [[True, False]], "firings from -1"),
        ([0, 0], 0, [[True, False]], "of 0 tokens"),
    ],
)
def test_what_is_no_count_is_refused(firings, num_tokens, shared, says):
    with pytest.raises(InputError, match=says):
        firing_figure(np.array(firings, int), num_tokens, np.array(shared, bool), title="t")
