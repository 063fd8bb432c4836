"""Figures of cost and distillation show the numbers they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from vpr_lib.data.catalogue import find
from vpr_lib.plotting.costs import picture_of_parts, plot_pareto
from vpr_lib.plotting.distillation import agreement, picture_of_similarity, plot_mode_curves, plot_seed_gains
from vpr_lib.results.reported import COLUMNS, read_reported


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_pareto_fills_the_front_only():
    table = pd.DataFrame({"model": list("abc"), "system": "MixVPR", "GFLOP": [1.0, 2.0, 3.0], "R@1": [10.0, 30.0, 20.0],
                          "R@1 low": [5.0, 25.0, 15.0], "R@1 high": [15.0, 35.0, 25.0]})  # fmt: skip
    ax = plot_pareto(table, "GFLOP")
    marks = {tuple(line.get_data()[0]): line for line in ax.get_lines() if line.get_marker() not in ("None", None)}
    hollow = {x[0]: line.get_markerfacecolor() == "white" for x, line in marks.items()}
    assert hollow == {1.0: False, 2.0: False, 3.0: True} and ax.get_xscale() == "log"
    assert list(ax.get_lines()[0].get_ydata()) == [10.0, 30.0] and set("abc") < set(ax.get_legend_handles_labels()[1])


def test_parts_are_stacked():
    table = pd.DataFrame({"model": ["m", "m"], "part": ["backbone", "aggregator"], "GFLOP": [3.0, 1.0],
                          "parameters (M)": [6.0, 2.0], "ms per image": [9.0, 3.0]})  # fmt: skip
    picture = picture_of_parts(table)
    ax = picture.figure.axes[1]
    assert "m 25 %" in picture.alt
    assert [(p.get_x(), p.get_width()) for p in ax.patches] == [(0.0, 3.0), (3.0, 1.0)]


def test_agreement_ignores_the_diagonal_and_the_scale():
    rng = np.random.default_rng(0)
    matrix = rng.random((6, 6))
    other = 0.3 * matrix + 2
    np.fill_diagonal(other, 99)
    assert agreement(matrix, other) == pytest.approx(1) and abs(agreement(matrix, rng.random((6, 6)))) < 0.6
    figure = picture_of_similarity({"teacher": matrix, "student": other}, "teacher")[0].figure
    assert "r = 1.00 with teacher" in figure.axes[1].get_xlabel() and "r =" not in figure.axes[0].get_xlabel()


def test_curves_show_every_seed_and_the_mean():
    histories = {("control", s): [{"recall@1": s / 10}, {"recall@1": s / 5}] for s in (1, 3)}
    ax = plot_mode_curves(histories | {("proj", 1): [{"distillation": 1.0}]}, "recall@1", 100, plt.subplots()[1])
    assert [list(line.get_ydata()) for line in ax.get_lines()] == [[10, 20], [30, 60], [20, 40]]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["control"]


def test_gains_in_words_and_dots():
    table = pd.DataFrame({"model": ["control", "proj"], "R@1": [20.0, 30.0], "R@1 low": [15.0, np.nan], "R@1 high": [25.0, np.nan],
                          "R@1 gain": [np.nan, 10.0]})  # fmt: skip
    runs = pd.DataFrame({"model": ["control", "control", "proj"], "R@1": [19.0, 21.0, 30.0]})
    ax = plot_seed_gains(table, runs, "control", 1, plt.subplots()[1])
    assert [t.get_text() for t in ax.texts] == ["20.0", "30.0  (+10.0)"]
    assert ax.get_lines()[0].get_xdata()[0] == 20 and [19.0, 21.0] in [
        list(line.get_xdata()) for line in ax.get_lines()
    ]


def test_published_numbers_fit_the_catalogue_and_the_descriptor_lengths():
    table = read_reported("lightweight_mixvpr")
    assert set(COLUMNS) <= set(table)
    recalls = table[table["metric"] == "recall"]
    assert all(protocol in find(name).protocols for name, protocol in set(zip(recalls["dataset"], recalls["protocol"])))
    wrong = recalls[(recalls["dim_published"] != "") & (recalls["dim_published"].astype(str) != recalls["dim"])]
    assert set(wrong["backbone"]) == {"MobileNetV2", "ResNet-18"} and set(wrong["dim"]) == {"1024", "512"}  # spec §1
    kd = recalls[(recalls["backbone"] == "ResNet-18") & (recalls["k"] == 1)].set_index("dataset")["value"]
    assert (kd["pitts30k_test"], kd["msls_val"]) == (89.00, 81.49)
