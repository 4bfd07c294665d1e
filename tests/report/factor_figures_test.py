"""Figures of factors draw the numbers they are given, beside the paper's, within the page."""

import io

import numpy as np
import pytest
from matplotlib.text import Text

from saejax.analysis.factors import FRACTIONS, factors
from saejax.errors import InputError
from saejax.report import paper, style
from saejax.report.factor_figures import factor_figure


@pytest.fixture(scope="module")
def found(make_sweep, replication):
    return {
        (factor["factor"], factor["series"]): factor
        for factor in factors(make_sweep(replication))["factors"]
    }


def published(axes):
    """The paper's marks, as (x, y)."""
    grey = [line for line in axes.get_lines() if line.get_color() == style.GREY]
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in grey]


NUMERIC = [
    ("latents", None),
    ("k", None),
    ("tokens", None),
    ("layer", "mlp"),
    ("layer", "residual"),
]
NAMES = [("kind", None), ("model", "mlp"), ("architecture", None)]


@pytest.mark.parametrize("key", NUMERIC)
def test_curves_hold_means_and_ranges_of_every_definition(found, key):
    factor = found[key]
    (axes,) = factor_figure(factor, threshold=0.7).axes
    drawn = []
    for container in axes.containers:
        line, _, (bars,) = container.lines
        assert list(line.get_xdata()) == [point["value"] for point in factor["points"]]
        drawn.append([line.get_ydata(), *np.array(bars.get_segments())[:, :, 1].T])
    expected = [
        [[point[name][part] for point in factor["points"]] for part in ("mean", "low", "high")]
        for name in FRACTIONS
    ]
    np.testing.assert_allclose(sorted(map(list_of, drawn)), sorted(map(list_of, expected)))
    looks = {(line.get_marker(), str(line.get_linestyle())) for line in lines_of(axes)}
    assert len({marker for marker, _ in looks}) >= 4
    assert axes.get_xscale() == ("linear" if key[0] == "layer" else "log")


def list_of(arrays):
    return np.array(arrays).ravel().tolist()


def lines_of(axes):
    return [container.lines[0] for container in axes.containers]


@pytest.mark.parametrize("key", NAMES)
def test_bars_hold_means_and_ranges_of_every_definition(found, key):
    factor = found[key]
    (axes,) = factor_figure(factor, threshold=0.7).axes
    bars = [c for c in axes.containers if hasattr(c, "patches")]
    for name, container in zip(("shared_frac", "aligned_frac"), bars, strict=False):
        heights = [bar.get_height() for bar in container.patches]
        assert heights == [point[name]["mean"] for point in factor["points"]]
        _, _, (whiskers,) = container.errorbar.lines
        ends = np.array(whiskers.get_segments())[:, :, 1]
        wanted = [[point[name]["low"], point[name]["high"]] for point in factor["points"]]
        np.testing.assert_allclose(ends, wanted)
    assert len(bars) == len(FRACTIONS)
    assert len({container.patches[0].get_hatch() for container in bars}) == len(FRACTIONS)


def test_the_papers_numbers_are_where_they_belong(found):
    def marks(*key):
        (axes,) = factor_figure(found[key], threshold=0.7).axes
        return published(axes)

    for key, numbers in (("latents", paper.LATENTS), ("k", paper.K), ("tokens", paper.TOKENS)):
        wanted = [(value, frac) for value, all_ in numbers.items() for frac in all_.values()]
        assert marks(key, None) == wanted
    # Base: 4,096 latents.
    assert marks("layer", "mlp") == list(enumerate(paper.LAYERS[4084]))
    assert marks("layer", "residual") == []
    # Decoder and agreement are the fourth and fifth bar of a group.
    architectures = marks("architecture", None)
    assert sorted(y for _, y in architectures) == sorted(
        frac for all_ in paper.ARCHITECTURES.values() for frac in all_.values()
    )
    at = dict((y, x) for x, y in architectures)
    # Our groups are topk, gated, relu.
    assert at[0.8562] == pytest.approx(1 + 0.16)
    assert at[0.8993] == pytest.approx(2 + 2 * 0.16)
    assert len(marks("kind", None)) == 4 * 2 + 3 * 2
    models = marks("model", "mlp")
    assert len(models) == 2 * len(paper.MODELS)
    # Three models of ours come first.
    assert min(x for x, _ in models) > 2.5


def test_titles_and_legends_say_what_varies_and_what_stays(found):
    figure = factor_figure(found["latents", None], threshold=0.6)
    texts = "\n".join(text.get_text() for text in figure.texts)
    assert "Varied: number of latents" in texts
    assert "layers.6.mlp, topk, k=32, 996K tokens" in texts
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert "aligned: both cosines > 0.6" in labels
    assert "lowest to highest of 3 to 36 pairs" in labels
    assert "paper: Pythia-160M, 8 B tokens" in labels
    unknown = factor_figure(found["latents", None], threshold=None).legends[0].get_texts()
    assert "aligned: both cosines > threshold" in [text.get_text() for text in unknown]


@pytest.mark.parametrize("key", NUMERIC + NAMES)
def test_nothing_is_cut_and_no_labels_overlap(found, key):
    figure = factor_figure(found[key], threshold=0.7)
    figure.savefig(io.BytesIO(), format="png")
    page = figure.bbox
    drawn = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text()]
    boxes = [text.get_window_extent() for text in drawn if text.get_visible()]
    for box in boxes:
        assert box.x0 >= page.x0
        assert box.x1 <= page.x1
        assert box.y0 >= page.y0
        assert box.y1 <= page.y1
    (axes,) = figure.axes
    ticks = [label.get_window_extent() for label in axes.get_xticklabels()]
    others = [axes.xaxis.label.get_window_extent(), figure.legends[0].get_window_extent()]
    for i, box in enumerate(ticks):
        assert not any(box.overlaps(other) for other in ticks[i + 1 :])
        assert not any(box.overlaps(other) for other in others if other.height > 1)
    assert not others[0].overlaps(others[1])


def test_values_without_pairs_are_left_out(make_sweep):
    changes = {f"k={k}": {"sae.k": k} for k in (8, 16, 64)}
    changes["k=8"] |= {"init_seeds": (1,)}
    (factor,) = factors(make_sweep({"base": {}, **changes}))["factors"]
    (axes,) = factor_figure(factor, threshold=0.7).axes
    assert all(list(line.get_xdata()) == [16, 32, 64] for line in lines_of(axes))
    one_seed = {name: {**change, "init_seeds": (1,)} for name, change in changes.items()}
    (factor,) = factors(make_sweep({"base": {}, **one_seed}))["factors"]
    with pytest.raises(InputError, match="give their runs two init_seeds"):
        factor_figure(factor, threshold=None)


def test_no_legend_for_marks_that_are_not_there(make_sweep):
    changes = {
        "a": {"hookpoint": "layers.6.self_attn"},
        "b": {"hookpoint": "layers.6.input_layernorm"},
    }
    result = make_sweep({"base": {"hookpoint": "layers.6.post_attention_layernorm"}, **changes})
    (factor,) = factors(result)["factors"]
    figure = factor_figure(factor, threshold=0.0)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-1] == "lowest to highest of 3 pairs"
    assert "aligned: both cosines > 0" in labels


def test_one_pair_each_has_no_whiskers_to_explain(make_sweep):
    two = {"init_seeds": (1, 2)}
    (factor,) = factors(make_sweep({"base": two, "k=8": {"sae.k": 8, **two}}))["factors"]
    labels = [t.get_text() for t in factor_figure(factor, threshold=0.7).legends[0].get_texts()]
    assert "one pair of seeds each" in labels


def test_long_names_are_cut_to_the_width_of_their_group(make_sweep):
    sources = ["org/a-model-of-some-length-1.5B-instruct", "x" * 40, "org/b", "org/c", "org/d"]
    changes = {name: {"lm.source": name, "hookpoint": "layers.5.mlp"} for name in sources}
    (factor,) = factors(make_sweep({"base": {}, **changes}))["factors"]
    figure = factor_figure(factor, threshold=0.7)
    figure.savefig(io.BytesIO(), format="png")
    (axes,) = figure.axes
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    assert min(box.y0 for box in boxes) > figure.legends[0].get_window_extent().y1
