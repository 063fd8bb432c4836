import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd

from vpr_lib.plotting.attention import plot_assignment, plot_queries
from vpr_lib.plotting.curves import plot_precision_recall, plot_sequences


def records():
    generator = np.random.default_rng(0)
    rows = []
    for model in ("a", "b"):
        for _ in range(20):
            right = bool(generator.random() < 0.6)
            rows.append({"model": model, "system": "GeM", "counted": True, "n_positives": 1, "top_correct": [right],
                         "top_score": [generator.random() + right]})  # fmt: skip
    return pd.DataFrame(rows)


def test_precision_is_drawn_per_model_with_its_average():
    ax = plot_precision_recall(records())
    assert len(ax.get_legend().get_texts()) == 2 and "AP" in ax.get_legend().get_texts()[0].get_text()
    lines = ax.get_lines()
    assert all(line.get_ydata().max() <= 100 for line in lines) and len(lines) == 4


def test_recall_over_the_length_of_a_sequence():
    ax = plot_sequences({"a": {1: 0.5, 5: 0.8}}, {"a": "GeM"})
    assert ax.get_lines()[0].get_ydata().tolist() == [50, 80]


def test_queries_and_the_dustbin_are_drawn_beside_their_images():
    images, generator = np.zeros((2, 16, 16, 3), np.uint8), np.random.default_rng(0)
    maps = generator.dirichlet(np.ones(16), (2, 6)).reshape(2, 6, 4, 4)
    assert len(plot_queries(images, maps, shown=3).axes) == 2 * 4
    shares = generator.dirichlet(np.ones(5), (2, 4, 4)).transpose(0, 3, 1, 2)
    figure = plot_assignment(images, shares, shown=2)
    assert [ax.get_title("left") or ax.get_title() for ax in figure.axes[:2]] == ["image", "dustbin"]
    assert np.allclose(figure.axes[1].get_images()[0].get_array(), shares[0, -1])
