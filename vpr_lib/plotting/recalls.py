"""What every notebook shows of its recalls: means over seeds as bars with their seeds, and recall over N."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vpr_lib.plotting.curves import plot_recall_at_n, plot_runs
from vpr_lib.plotting.picture import Picture, listed
from vpr_lib.plotting.style import method_colour
from vpr_lib.results.seeds import mean_recalls


def plot_mean_bars(table: pd.DataFrame, ax: Axes) -> Axes:
    """Recall@1 as horizontal bars, best on top: the mean over seeds, a mark per seed, the interval as a line.

    Args:
        table: of `results.seeds.mean_recalls`.
    """
    name, table = "R@1", table.sort_values("R@1", ignore_index=True)
    ax.barh(table["model"], table[name], color=[method_colour(s) for s in table["system"]], height=0.62, alpha=0.85)
    for place, row in table.iterrows():
        low, high = max(0, row[f"{name} low"]), min(100, row[f"{name} high"])
        ax.plot([low, high], [place, place], color="#222222", linewidth=1.3)
        if row["seeds"] > 1:
            ax.plot(
                row[f"{name} by seed"],
                [place] * row["seeds"],
                "o",
                color="white",
                markeredgecolor="#222222",
                markersize=5,
            )
        ax.text(max(high, row[name], *row[f"{name} by seed"]) + 1, place, f"{row[name]:.1f}", va="center", fontsize=9.5)
    reach = max(table[name].max(), table[f"{name} high"].clip(upper=100).max())
    ax.set(xlabel="recall@1 (%)", xlim=(0, min(112, reach + 9)))
    ax.grid(axis="y", visible=False)
    return ax


def plot_recalls(records: pd.DataFrame, curves: Sequence[str] = ()) -> Picture:
    """Bars of recall@1 beside recall over N, of one data set and protocol.

    Args:
        curves: the models drawn over N; default all, where there are at most nine the bars and curves have the same ones.
    """
    table = mean_recalls(records, (1,))
    figure, (left, right) = plt.subplots(1, 2, figsize=(13.8, max(4.2, 0.42 * len(table) + 1.2)))
    plot_mean_bars(table, left).set_title("Recall@1")
    models = list(curves) or list(table.nlargest(9, "R@1")["model"])
    plot_recall_at_n(records[records["model"].isin(models)], ax=right).set_title("Recall@N")
    right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    recall, first = table.set_index("model")["R@1"].sort_values(ascending=False), records.iloc[0]
    queries, seeds = int(records.groupby(["model", "seed"])["counted"].sum().max()), int(table["seeds"].max())
    return Picture(
        figure,
        f"Left, recall@1 as bars, best first: {listed(recall.to_dict())}. Right, recall over N from 1 to 25.",
        f"{first['dataset']}, {first['rule']}, {queries:,} queries, up to {seeds} seed{'s' * (seeds != 1)}. Bars: means; circles: seeds; "
        "lines: 95 % interval, Student's over seeds, Wilson's for a single one.",
    )


def plot_budgets(tables: dict[str, pd.DataFrame]) -> Picture:
    """Recall@1 over what training was given, one panel for each budget, one line per model: means with every seed as a mark.

    Args:
        tables: budget (training places, steps) -> columns model, system, seed, `R@1` in per cent and the budget's own, a number
            drawn on a logarithmic axis.
    """
    figure, axes = plt.subplots(1, len(tables), figsize=(5.9 * len(tables), 4.4), sharey=True, squeeze=False)
    sentences = []
    for ax, (budget, table) in zip(axes[0], tables.items()):
        ends, ticks = [], sorted(table[budget].unique())
        for model, group in table.groupby("model", sort=False):
            colour, mean = method_colour(group["system"].iloc[0]), group.groupby(budget)["R@1"].mean()
            bare = "L = 0" in model  # without mixers: dashed and hollow
            ax.plot(mean.index, mean, "--" if bare else "-", color=colour, label=model)
            ax.plot(group[budget], group["R@1"], "s" if bare else "o", color=colour, alpha=0.7, markersize=5,
                    markerfacecolor="white" if bare else colour)  # fmt: skip
            ends.append(f"{model} {mean.iloc[0]:.0f} to {mean.iloc[-1]:.0f} %")
        ax.set_xscale("log")
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.minorticks_off()
        ax.set(xlabel=budget, ylabel="recall@1 (%)")
        ax.legend(fontsize=9)
        sentences.append(f"from {ticks[0]:,} to {ticks[-1]:,} {budget}: {', '.join(ends)}")
    return Picture(
        figure,
        f"Recall@1 {'; '.join(sentences)}.",
        "Recall@1 over what training is given; lines join means, every dot is one training.",
    )


def plot_histories(
    histories: dict[tuple[str, int], list[dict]], systems: dict[str, str], second: tuple[str, str]
) -> Picture:
    """Validation recall@1 over epochs beside another number of the history, one line per model and seed.

    Where nothing was validated, the loss stands in its place.

    Args:
        histories: of `train`, by (model, seed); one without validation is drawn on the right only.
        systems: model -> method, which chooses the colour.
        second: key of the history and the label of its axis.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.6, 3.8))
    key, label = second
    validated = any("recall@1" in history[0] for history in histories.values())
    first = ("recall@1", 100) if validated else ("loss", 1)
    for model in dict.fromkeys(name for name, _ in histories):
        colour = method_colour(systems[model])
        for ax, number, scale in ((left, *first), (right, key, 1)):
            plot_runs(ax, histories, model, number, scale, 0.8, color=colour, marker="o", markersize=3.5)
    words = ("validation recall@1 (%)", "Validation recall@1") if validated else ("loss", "Loss")
    left.set(xlabel="epoch", ylabel=words[0], title=words[1])
    right.set(xlabel="epoch", ylabel=label, title=label[:1].upper() + label[1:])
    right.legend(*left.get_legend_handles_labels(), fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1))
    for ax in (left, right):
        ax.xaxis.get_major_locator().set_params(integer=True)
    last = {
        f"{name} (seed {seed})": 100 * h[-1]["recall@1"] for (name, seed), h in histories.items() if "recall@1" in h[0]
    }
    last = last or {f"{name} (seed {seed})": h[-1][key] for (name, seed), h in histories.items()}
    return Picture(
        figure,
        f"Two panels over epochs, ending at {listed(last, '', 1)}.",
        f"{words[1]} and {label}; thin lines are seeds, lines with dots their mean.",
    )


def plot_conditions(table: pd.DataFrame, systems: dict[str, str]) -> Picture:
    """Recall@1 by condition, a group of bars for each, one bar per model.

    Args:
        table: of `results.tables.recall_by_condition`. systems: model -> method, which chooses the colour.
    """
    figure, ax = plt.subplots(figsize=(1.2 * len(table.columns) + 3, 3.8))
    width = 0.8 / len(table)
    hatches = ("", "//", "..", "xx", "++", "oo")
    for place, (model, row) in enumerate(table.iterrows()):
        at = np.arange(len(row)) + (place - (len(table) - 1) / 2) * width
        ax.bar(
            at,
            row,
            width,
            color=method_colour(systems[model]),
            label=model,
            hatch=hatches[place % len(hatches)],
            edgecolor="white",
        )
    ax.set_xticks(range(len(table.columns)), table.columns, rotation=30, ha="right")
    ax.set(ylabel="recall@1 (%)")
    ax.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1))
    hardest = {model: row.idxmin() for model, row in table.iterrows()}
    return Picture(
        figure,
        f"Recall@1 by condition. Hardest: {', '.join(f'{c} for {m} ({table.loc[m, c]:.0f} %)' for m, c in hardest.items())}.",
        "Recall@1 by condition (number of queries).",
    )
