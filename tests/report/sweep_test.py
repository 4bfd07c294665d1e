"""The figure of a sweep: which runs are on a curve, and what it is called."""

import io

from saejax.report.sweep import pareto_figure


def make_run(**fields):
    return {**fields, "l0": [8.0, 10.0], "fvu": [0.4, 0.6]}


def test_a_curve_for_each_kind_of_run_named_by_fields_that_need_it():
    varied = ["sae.arch", "sae.k", "train.lr_scale", "sae.multi_topk"]
    values = [("topk", 8, 0.05, True), ("topk", 4, 0.05, True), ("relu", 8, 2.0, False)]
    runs = [make_run(**dict(zip(varied, each, strict=True))) for each in values]
    figure = pareto_figure({"varied": varied, "runs": runs})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "topk, lr_scale 0.05, multi_topk True",
        "relu, lr_scale 2.0, multi_topk False",
    ]
    first, second = figure.axes[0].get_lines()
    assert first.get_xydata().tolist() == [[9.0, 0.5], [9.0, 0.5]]
    assert len(second.get_xydata()) == 1


def test_runs_of_one_kind_need_no_legend():
    runs = [make_run(**{"sae.k": k}) for k in (4, 8)]
    assert not pareto_figure({"varied": ["sae.k"], "runs": runs}).legends


def test_every_curve_of_many_is_named_by_what_sets_it_apart(make_sweep, replication):
    figure = pareto_figure(make_sweep(replication))
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(set(labels)) == len(labels)
    assert {"all others", "num_latents 16384", "layers.25", "epochs 10"} <= set(labels)
    (k,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "all others"]
    assert sorted(k.get_xydata()[:, 0]) == [8, 16, 32, 64, 128]
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].get_lines()}
    assert len(looks) == len(labels)
    figure.savefig(io.BytesIO(), format="png")
    box = legend.get_window_extent()
    assert box.x1 <= figure.bbox.x1
    assert box.y1 < figure.axes[0].xaxis.label.get_window_extent().y0
