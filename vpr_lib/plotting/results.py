"""Figures of notebooks 08 and 09: every protocol at a glance, costs, near misses."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from vpr_lib.plotting.costs import plot_pareto
from vpr_lib.plotting.curves import plot_recall_at_n
from vpr_lib.plotting.picture import Picture, listed
from vpr_lib.plotting.style import GREEN, VERMILION, method_colour, method_marker, panels
from vpr_lib.results.tables import compare, recall_table


def plot_protocols(groups: Mapping[tuple[str, str], pd.DataFrame], table: pd.DataFrame, leaders: int = 9) -> Picture:
    """Recall over N, one panel per data set and protocol, the models with the highest R@1 in each.

    Args:
        groups: (dataset, protocol) -> records. table: recall table of all of them.
    """
    figure, axes = panels(len(groups), 2, 8.6, 4.2)
    for axis, ((dataset, protocol), group) in zip(axes, groups.items()):
        own = table[(table["dataset"] == dataset) & (table["protocol"] == protocol)]
        best = own.groupby("model")["R@1"].mean().nlargest(leaders).index
        plot_recall_at_n(group[group["model"].isin(best)], ax=axis).set_title(f"{dataset}, {protocol}")
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    return Picture(
        figure,
        f"Recall over the number of candidates, one panel for each of {len(groups)} protocols, one line with its band for each of the best "
        f"{leaders} models.",
        f"Recall@N with 95 % bands, the {leaders} models with the highest R@1 of each protocol.",
    )


def plot_cost_fronts(main: pd.DataFrame, costs: Sequence[str], dataset: str) -> Picture:
    """Recall@1 over several costs side by side, with Pareto fronts."""
    figure, axes = plt.subplots(1, len(costs), figsize=(6 * len(costs), 4.6), sharey=True, squeeze=False)
    for axis, cost in zip(axes[0], costs):
        plot_pareto(main, cost, ax=axis)
    axes[0, -1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    numbers = "; ".join(
        f"{row['model']} {row[costs[0]]:.0f} {costs[0]}, {row['R@1']:.0f} %" for _, row in main.iterrows()
    )
    return Picture(
        figure,
        f"Recall at 1 with its interval over {' and over '.join(costs)}: {numbers}.",
        f"{dataset}. Filled: on the Pareto front; hollow: behind it.",
    )


def picture_of_tests(records: pd.DataFrame, dataset: str, level: float = 0.01) -> Picture:
    """Net queries that the row's model finds at rank one and the column's does not; starred where exact McNemar gives p < `level`.

    Args:
        records: of one data set and protocol, one seed of each model.
    """
    models = list(recall_table(records, (1,)).sort_values("R@1", ascending=False)["model"])
    ax = plt.subplots(figsize=(1.1 * len(models) + 2.6, 0.75 * len(models) + 1.6))[1]
    tests = [[compare(records, row, column) for column in models] for row in models]
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
    return Picture(
        ax.figure,
        f"Matrix of models on {dataset}: each cell gives the queries only the row's model finds, minus those only the column's finds; starred "
        f"where p is below {level:g}.",
        f"The {len(models)} models with the highest R@1, one seed each, {dataset}, k = 1: net queries gained by the row over the column; "
        f"* p < {level:g}, exact McNemar.",
    )


def plot_lens(lens: pd.DataFrame, systems: Mapping[str, str], dataset: str, radius_m: float = 25) -> Picture:
    """The near-miss lens: share of queries whose first match lies within a radius, one line per model.

    Args:
        lens: of `results.tables.recall_within`, empty where no distance is known. systems: model -> method, which chooses the
            colour.
    """
    figure, ax = plt.subplots(figsize=(10, 4.6))
    if lens.empty:
        reason = f"No distance of a match is known on {dataset}: its images carry no positions."
        ax.text(0.5, 0.5, reason, ha="center", transform=ax.transAxes)
        ax.set(xlabel="radius (m)", ylabel="first match within (%)")
        return Picture(figure, reason, f"Near-miss lens: {dataset}. {reason}")
    for name, values in lens.iterrows():
        ax.plot(lens.columns, values, marker=method_marker(name), color=method_colour(systems[name]), label=name)
    ax.axvline(radius_m, color="grey", linewidth=1)
    ax.set(xscale="log", xlabel="radius (m)", ylabel="first match within (%)")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    return Picture(
        figure,
        f"Share of queries whose first match lies within a radius, one rising line per model; at {lens.columns[-1]} m: "
        f"{listed(lens.iloc[:, -1].to_dict())}.",
        f"Near-miss lens: {dataset}; the grey line is at {radius_m:g} m.",
    )


def plot_near_misses(metres: np.ndarray, found: np.ndarray, near: int, name: str, radius_m: float = 25) -> Picture:
    """Histogram of the distance of first matches, correct and wrong ones.

    Args:
        metres: distance of every query's first match, (Q,). found: whether it is correct, bool (Q,). near: how many wrong ones
            lie within twice the radius.
    """
    figure, ax = plt.subplots(figsize=(7.5, 3.4))
    right, wrong = metres[found], metres[~found]
    per_side = np.geomspace(1, radius_m, 13), np.geomspace(radius_m, max(4 * radius_m, float(np.nanmax(metres))), 17)
    edges = np.concatenate([per_side[0], per_side[1][1:]])  # no bin on both sides of the radius
    ax.hist(right.clip(1), edges, color=GREEN, label=f"✓ correct ({len(right)})")
    ax.hist(
        wrong.clip(1),
        edges,
        histtype="step",
        linewidth=2,
        linestyle="--",
        color=VERMILION,
        label=f"✗ wrong ({len(wrong)})",
    )
    ax.axvline(radius_m, color="grey", linewidth=1)
    ax.set(xscale="log", xlabel="distance of the first match (m)", ylabel="queries")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend()
    return Picture(
        figure,
        f"Histogram of the distance of the first match, correct ones solid, wrong ones dashed; {near} of {len(wrong)} wrong ones lie within "
        "twice the radius.",
        f"{name}: distance of the first match; the line is the radius.",
    )
