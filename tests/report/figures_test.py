"""Figures hold what they claim, and survive any data that is not an error."""

import io

import matplotlib
import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.collections import FillBetweenPolyCollection, PathCollection
from matplotlib.colors import to_rgb
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from saejax.errors import InputError
from saejax.report import paper, style
from saejax.report.figures import cosine_scatter, threshold_curves, training_curves
from saejax.report.run_files import Metrics


def _draw(figure: Figure) -> bytes:
    svg = io.BytesIO()
    figure.savefig(svg, format="svg")
    return svg.getvalue()


def _texts(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(Text) if isinstance(t, Text))


def _data(line: Line2D) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def _latents(num_latents: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    decoder_N, encoder_N = rng.uniform(-0.3, 1, (2, num_latents)).astype(np.float32)
    return decoder_N, encoder_N, rng.random(num_latents) < 0.6


def _scatter(decoder_N: np.ndarray, encoder_N: np.ndarray, agree_N: np.ndarray) -> Figure:
    return cosine_scatter(decoder_N, encoder_N, agree_N, threshold=0.7, title="a title")


def test_scatter_counts_and_draws_every_latent():
    decoder_N, encoder_N, agree_N = _latents(1000)
    figure = _scatter(decoder_N, encoder_N, agree_N)
    main, top, right = figure.axes
    dots = [c for c in main.collections if isinstance(c, PathCollection)]
    for drawn, member_N in zip(dots, (agree_N, ~agree_N), strict=True):
        wanted = np.stack([decoder_N[member_N], encoder_N[member_N]], axis=1)
        np.testing.assert_array_equal(np.asarray(drawn.get_offsets()), wanted)
    assert all(c.get_rasterized() for c in dots)
    shared = sum(
        a and d >= 0.7 and e >= 0.7 for d, e, a in zip(decoder_N, encoder_N, agree_N, strict=True)
    )
    texts = _texts(figure)
    for text in (
        "a title",
        f"{shared / 10:.1f} %",
        f"shared\n{shared:,} of\n1,000",
        f"same partner in both matchings: {agree_N.sum()} ({agree_N.sum() / 10:.1f} %)",
        f"different partners: {(~agree_N).sum()}",
        "cosine 0.7",
        "decoder cosine",
        "encoder cosine",
    ):
        assert text in texts
    for axes, lines in ((main, 2), (top, 1), (right, 1)):
        assert len(axes.get_lines()) == lines
        assert all(0.7 in np.concatenate(_data(line)) for line in axes.get_lines())
        assert all(line.get_linestyle() != "-" for line in axes.get_lines())


def test_scatter_marginals_stack_to_the_histogram_of_all():
    decoder_N, encoder_N, agree_N = _latents(1000)
    _, top, right = _scatter(decoder_N, encoder_N, agree_N).axes
    edges = np.arange(-0.3, 1.001, 0.02)
    for axes, cosine_N, coordinate in ((top, decoder_N, 1), (right, encoder_N, 0)):
        outlines = [np.asarray(patch.get_path().vertices)[:, coordinate] for patch in axes.patches]
        assert max(outline.max() for outline in outlines) == np.histogram(cosine_N, edges)[0].max()
        colours = {to_rgb(patch.get_facecolor()) for patch in axes.patches}
        assert colours == {to_rgb(style.BLUE), to_rgb(style.ORANGE)}


def test_scatter_contours_hold_half_and_four_fifths():
    rng = np.random.default_rng(0)
    x_N, y_N = rng.normal(0.4, 0.1, (2, 20_000)).clip(-1, 1)
    main, _, _ = _scatter(x_N, y_N, np.ones(20_000, bool)).axes
    (contours,) = [c for c in main.collections if isinstance(c, QuadContourSet)]
    points = np.stack([x_N, y_N], axis=1)
    held = [path.contains_points(points).mean() for path in contours.get_paths()]
    np.testing.assert_allclose(held, [0.8, 0.5], atol=0.03)


@pytest.mark.parametrize(
    ("cosine_N", "agree_N"),
    [
        (np.array([0.7]), np.array([True])),
        (np.array([-1.0]), np.array([False])),
        (np.linspace(-1, 1, 300), np.ones(300, bool)),
        (np.linspace(-1, 1, 300), np.zeros(300, bool)),
        (np.linspace(0, 1, 300), np.arange(300) == 7),
        (np.full(300, 1.0), np.arange(300) % 2 == 0),
        (np.full(300, -1.0), np.arange(300) % 2 == 0),
        (np.full(300, 0.0), np.arange(300) % 2 == 0),
    ],
    ids=["one", "one, none", "all", "none", "one agrees", "at 1", "at -1", "at 0"],
)
def test_scatter_of_extreme_data(cosine_N: np.ndarray, agree_N: np.ndarray):
    figure = _scatter(cosine_N, cosine_N, agree_N)
    shared = int((agree_N & (cosine_N >= 0.7)).sum())
    assert f"shared\n{shared:,} of\n{len(agree_N):,}" in _texts(figure)
    assert b"nan" not in _draw(figure).lower()


@pytest.mark.parametrize(
    ("value", "named"), [(np.nan, "nan"), (1.5, "1.5"), (-np.inf, "-inf")], ids=str
)
@pytest.mark.parametrize("side", [0, 1])
def test_scatter_rejects_what_is_no_cosine(value: float, named: str, side: int):
    cosines = [np.full(5, 0.5), np.full(5, 0.5)]
    cosines[side][3] = value
    name = ("decoder", "encoder")[side]
    with pytest.raises(InputError, match=f"1 {name} cosines .* first {named} of latent 3"):
        _scatter(cosines[0], cosines[1], np.ones(5, bool))


def test_scatter_rejects_no_latents():
    with pytest.raises(InputError, match="at least one"):
        _scatter(np.ones(0), np.ones(0), np.ones(0, bool))


def test_scatter_of_many_latents_stays_small_in_svg():
    svg = _draw(_scatter(*_latents(131_072)))
    assert b"<image" in svg
    assert len(svg) < 1_000_000


def test_groups_differ_in_grey():
    def lightness(colour: str) -> float:
        return float(np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)))

    assert abs(lightness(style.BLUE) - lightness(style.ORANGE)) > 0.25


def test_threshold_curves_show_mean_pairs_and_range():
    thresholds_T = np.linspace(0, 1, 11)
    rng = np.random.default_rng(0)
    fractions = {
        name: np.sort(rng.random((4, 11)), axis=1)[:, ::-1]
        for name in ("shared", "aligned", "nearest")
    }
    figure = threshold_curves(thresholds_T, fractions, threshold=0.6, title="t")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    for name, fraction_PT in fractions.items():
        mean_T = [sum(column) / 4 for column in fraction_PT.T]
        np.testing.assert_allclose(_data(lines[name])[1], mean_T)
    # Three definitions: a mean and four pairs each; and the threshold.
    assert len(axes.get_lines()) == 3 * 5 + 1
    assert len({lines[name].get_linestyle() for name in fractions}) == 3
    bands = [c for c in axes.collections if isinstance(c, FillBetweenPolyCollection)]
    for band, fraction_PT in zip(bands, fractions.values(), strict=True):
        heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
        assert heights.min() == fraction_PT.min()
        assert heights.max() == fraction_PT.max()
    assert set(_data(axes.get_lines()[-1])[0]) == {0.6}
    _draw(figure)


def test_threshold_curves_show_the_papers_marks():
    zeros = dict.fromkeys(("shared", "aligned", "nearest"), np.zeros((1, 2)))
    (axes,) = threshold_curves(
        np.array([0.0, 1]),
        zeros,
        threshold=0.7,
        title="t",
        published={"shared": paper.SHARED_FRAC, "aligned": paper.ALIGNED_FRAC},
    ).axes
    marks = {line.get_label(): line for line in axes.get_lines() if line.get_marker() in "os^"}
    for name, fracs in (("shared", paper.SHARED_FRAC), ("aligned", paper.ALIGNED_FRAC)):
        x, y = _data(marks[f"{name}, paper"])
        assert (list(x), list(y)) == (list(paper.THRESHOLDS), list(fracs))


@pytest.mark.parametrize("fraction", [np.nan, 1.1, -0.1])
def test_threshold_curves_reject_what_is_no_fraction(fraction: float):
    good_PT, bad_PT = np.zeros((1, 2)), np.array([[0.5, fraction]])
    with pytest.raises(InputError, match="'b'"):
        threshold_curves(
            np.array([0.0, 1]), {"a": good_PT, "b": bad_PT, "c": good_PT}, threshold=0, title=""
        )


def _metrics(num_steps: int, num_seeds: int) -> Metrics:
    rng = np.random.default_rng(0)
    return Metrics(
        tuple(range(10, 10 + num_seeds)),
        np.arange(num_steps),
        1000 * np.arange(1, num_steps + 1),
        rng.random((num_steps, num_seeds)) + 0.5,
        rng.random((num_steps, num_seeds)) / 10,
        np.full((num_steps, num_seeds), 32.0),
        rng.random(num_steps),
    )


@pytest.mark.parametrize(("num_steps", "num_seeds"), [(20, 3), (1, 1), (5, 9), (5, 21)])
def test_training_curves_show_every_seed(num_steps: int, num_seeds: int):
    metrics = _metrics(num_steps, num_seeds)
    figure = training_curves(metrics)
    fvu, dead, lr = figure.axes
    for axes, value_TS in ((fvu, metrics.fvu), (dead, metrics.dead_frac)):
        assert len(axes.get_lines()) == num_seeds
        for index, line in enumerate(axes.get_lines()):
            np.testing.assert_array_equal(line.get_xdata(), metrics.tokens)
            np.testing.assert_array_equal(line.get_ydata(), value_TS[:, index])
        looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
        assert len(looks) == num_seeds
    np.testing.assert_array_equal(lr.get_lines()[0].get_ydata(), metrics.lr)
    assert fvu.get_ylim() == (0, 1)
    assert all(f"seed {seed}" in _texts(figure) for seed in metrics.seeds)
    if num_steps == 1:
        assert all(line.get_marker() == "o" for line in fvu.get_lines())
    # The legend ends above the curves.
    _draw(figure)
    (legend,) = figure.legends
    assert legend.get_window_extent().y0 > fvu.get_window_extent().y1


def test_training_curves_of_zeros():
    zeros = _metrics(3, 2)._replace(
        fvu=np.zeros((3, 2)), dead_frac=np.zeros((3, 2)), lr=np.zeros(3)
    )
    _draw(training_curves(zeros))


def test_figures_leave_no_global_state():
    before = dict(matplotlib.rcParams)
    _draw(_scatter(*_latents(50)))
    _draw(training_curves(_metrics(3, 2)))
    assert dict(matplotlib.rcParams) == before
    assert not Gcf.figs
