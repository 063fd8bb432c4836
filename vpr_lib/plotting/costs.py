"""Recall against what it costs, and where the cost sits."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from vpr_lib.plotting.picture import Picture
from vpr_lib.plotting.style import BLUE, GREY, ORANGE, method_colour, method_marker
from vpr_lib.results.statistics import pareto_front


def plot_pareto(table: pd.DataFrame, x: str, ax: Axes | None = None) -> Axes:
    """One marker per model at (cost, recall@1); the Pareto front as a line, models behind it hollow. The caller adds a legend.

    Args:
        table: columns model, system, `x`, `R@1`, and optionally `R@1 low` and `R@1 high` for intervals.
    Spec: lightweight_mixvpr §7, suggested figures.
    """
    ax = ax or plt.subplots(figsize=(8.4, 4.4))[1]
    front = pareto_front(table[x], table["R@1"])
    best = table[front].sort_values(x)
    ax.step(
        best[x], best["R@1"], where="post", color=GREY, linewidth=1.4, linestyle="--", zorder=1, label="Pareto front"
    )
    for on_front, (_, row) in zip(front, table.iterrows()):
        colour = method_colour(row["system"])
        if "R@1 low" in table:
            ax.plot([row[x]] * 2, [row["R@1 low"], row["R@1 high"]], color=colour, linewidth=1, alpha=0.6, zorder=2)
        ax.plot(row[x], row["R@1"], method_marker(row["model"]), color=colour, markersize=10, zorder=3, label=row["model"],
                markerfacecolor=colour if on_front else "white", markeredgewidth=1.8, linestyle="none")  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(lambda cost, _: f"{cost / 1000:g}k" if cost >= 10_000 else f"{cost:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.1, y=0.1)
    ax.set(xlabel=x, ylabel="R@1 (%)")
    return ax


def plot_parameters_and_latency(costs: pd.DataFrame, batch: int, published: dict[str, float] | None = None) -> Picture:
    """Parameters against milliseconds per image, one marker per model; a published recall stands beside its name.

    Args:
        costs: columns model, system, `parameters (M)` and `ms, batch <batch>` (per call), as of `cost_of_model`.
        published: model -> R@1 in per cent.
    """
    figure, ax = plt.subplots(figsize=(6.4, 4.8))
    time = costs[f"ms, batch {batch}"] / batch
    for (_, row), ms in zip(costs.iterrows(), time):
        recall = (published or {}).get(row["model"])
        label = row["model"] + (f", published R@1 {recall:.1f} %" if recall else "")
        ax.plot(
            row["parameters (M)"],
            ms,
            method_marker(row["model"]),
            color=method_colour(row["system"]),
            markersize=10,
            label=label,
        )
    ax.set(xlabel="parameters (million)", ylabel=f"ms per image, batch {batch}", xlim=(0, None), ylim=(0, None))
    figure.legend(fontsize=8.5, loc="outside lower center")
    ax.margins(0.1)
    numbers = "; ".join(
        f"{m} {p:.1f} M, {ms:.1f} ms" for m, p, ms in zip(costs["model"], costs["parameters (M)"], time)
    )
    return Picture(
        figure, f"Parameters against latency: {numbers}.", "Full-size models at their input size; time measured here."
    )


def picture_of_pareto(recalls: pd.DataFrame, costs: Sequence[str]) -> Picture:
    """`plot_pareto` side by side for several costs, under one legend."""
    figure, axes = plt.subplots(
        1, len(costs), figsize=(3.6 * len(costs), 4.3), sharey=True, layout="constrained", squeeze=False
    )
    for ax, cost in zip(axes[0], costs):
        plot_pareto(recalls, cost, ax=ax)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncol=min(5, len(recalls) + 1))
    numbers = "; ".join(
        f"{row['model']} {row['R@1']:.0f} % at {row[costs[0]]:.3g} {costs[0]}" for _, row in recalls.iterrows()
    )
    return Picture(
        figure,
        f"Recall@1 against {', '.join(costs)}, one marker per model: {numbers}.",
        "Filled: nothing else is both cheaper and better (Pareto front, dashed); hollow: beaten. Logarithmic costs, 95 % intervals.",
    )


def picture_of_parts(parts: pd.DataFrame) -> Picture:
    """What backbone and aggregator cost, as stacked bars: a panel for parameters, arithmetic and time, a bar per model.

    Args:
        parts: columns model, part ('backbone' or 'aggregator'), `parameters (M)`, `GFLOP` and `ms per image`.
    """
    models, costs = list(dict.fromkeys(parts["model"])), ["parameters (M)", "GFLOP", "ms per image"]
    figure, axes = plt.subplots(1, len(costs), figsize=(4.2 * len(costs), 0.42 * len(models) + 1.3), sharey=True)
    for ax, cost in zip(axes, costs):
        start = np.zeros(len(models))
        for part, colour, hatch in (("backbone", BLUE, ""), ("aggregator", ORANGE, "///")):
            width = parts[parts["part"] == part].set_index("model").loc[models, cost].to_numpy(float)
            ax.barh(models, width, left=start, color=colour, hatch=hatch, edgecolor="white", label=part, height=0.65)
            start += width
        ax.set(xlabel=cost)
        ax.grid(axis="y", visible=False)
        ax.invert_yaxis()
    axes[0].legend(fontsize=9)
    table = parts.pivot(index="model", columns="part", values="parameters (M)")
    share = table["aggregator"] / table.sum(axis=1)
    numbers = ", ".join(f"{name} {100 * value:.0f} %" for name, value in share.items())
    return Picture(
        figure,
        f"Stacked bars of backbone and aggregator per light model. The aggregator's share of the parameters: {numbers}.",
        "What the two parts cost, batch 1, one CPU process. The mixers are tied to the grid: 400 cells cost 0.32 M parameters each.",
    )
