"""Recall curves and tests between models. Tables in, Axes out."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vpr_lib.plotting.style import method_colour, method_marker
from vpr_lib.results.statistics import wilson_interval
from vpr_lib.results.tables import compare, recall_table


def plot_recall_at_n(
    records: pd.DataFrame, ns: Sequence[int] = (1, 2, 3, 4, 5, 10, 15, 20, 25), ax: Axes | None = None
) -> Axes:
    """Recall@N of every model in `records` (one data set and protocol), with the 95 % Wilson band.

    Paper figure: MixVPR Fig. 'Recall@N' (spec mixvpr §7.3); the x axis counts candidates, evenly spaced.
    """
    ax = ax or plt.subplots(figsize=(6.4, 4.2))[1]
    places = np.arange(len(ns))
    for model, group in records.groupby("model", sort=False):
        ranks = group.loc[group["counted"], "first_hit"].to_numpy()
        hits = [int(((ranks > 0) & (ranks <= n)).sum()) for n in ns]
        low, high = np.array([wilson_interval(h, len(ranks)) for h in hits]).T * 100
        colour, system = method_colour(group["system"].iloc[0]), group["system"].iloc[0]
        label = f"{system} ({model})" if system not in model else model
        ax.plot(places, 100 * np.array(hits) / len(ranks), color=colour, marker=method_marker(model), label=label)
        ax.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
    ax.set_xticks(places, [str(n) for n in ns])
    ax.set(xlabel="N, top candidates", ylabel="recall@N (%)", ylim=(0, 101))
    ax.legend(loc="lower right", fontsize=9)
    return ax


def plot_mcnemar_matrix(records: pd.DataFrame, k: int = 1, level: float = 0.01, ax: Axes | None = None) -> Axes:
    """Net queries that the row's model finds and the column's does not; starred where exact McNemar gives p < `level`."""
    models = list(recall_table(records, (k,)).sort_values(f"R@{k}", ascending=False)["model"])
    ax = ax or plt.subplots(figsize=(1.1 * len(models) + 2.6, 0.75 * len(models) + 1.6))[1]
    tests = [[compare(records, row, column, k) for column in models] for row in models]
    net = np.array([[test.only_first - test.only_second for test in line] for line in tests])
    bound = max(1, np.abs(net).max())
    ax.imshow(net, cmap="PuOr_r", vmin=-bound, vmax=bound, aspect="auto")
    for i, line in enumerate(tests):
        for j, test in enumerate(line):
            text = "–" if i == j else f"{net[i, j]:+d}{'*' if test.p_value < level else ''}"
            ax.text(j, i, text, ha="center", va="center", color="white" if abs(net[i, j]) > 0.6 * bound else "black")
    ax.set_xticks(range(len(models)), models, rotation=30, ha="right")
    ax.set_yticks(range(len(models)), models)
    ax.grid(visible=False)
    return ax
