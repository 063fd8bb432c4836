"""Published charts redrawn from data/reported, with our own measurements on top."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from vpr_lib.plotting.style import MARKERS, METHOD_COLOURS, method_colour

LINES = ("-", "--", "-.", ":")


def plot_published_recall(
    reported: pd.DataFrame,
    datasets: dict[str, str],
    measured: pd.DataFrame | None = None,
    k: int = 1,
    highlight: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Recall@k of every reported method over data sets, one marked line each; ours as stars on top.

    Args:
        reported: rows of `results.reported` of one table; method and backbone name a line.
        datasets: protocol -> label, in the order of the x axis. A method without a number for one has a gap there.
        measured: a recall table (`results.tables`) of our runs; only rows under the same protocols are drawn.
        highlight: methods drawn thick and in their colour; all others thin and grey.
    Raises:
        ValueError: if the table has two numbers for one line and protocol.
    """
    ax = ax or plt.subplots(figsize=(8.6, 5.2))[1]
    rows = reported[(reported["k"] == k) & reported["protocol"].isin(datasets)]
    rows = rows.assign(line=(rows["method"] + " " + rows["backbone"]).str.strip())
    if (twice := rows.duplicated(["line", "protocol"])).any():
        raise ValueError(
            f"Two numbers for {rows.loc[twice, ['line', 'protocol']].iloc[0].tolist()}: pass one table only."
        )
    order = rows.groupby("line")["value"].mean().sort_values(ascending=False).index
    for place, line in enumerate(order):
        own = rows[rows["line"] == line].set_index("protocol")
        method, loud = own["method"].iloc[0], own["method"].iloc[0] in highlight
        ax.plot(
            range(len(datasets)), [own["value"].get(protocol, float("nan")) for protocol in datasets], label=line,
            color=method_colour(method) if loud or method in METHOD_COLOURS else "#9A9A9A",
            marker=MARKERS[place % len(MARKERS)], linestyle=LINES[place % len(LINES)], linewidth=2.6 if loud else 1.2,
            markersize=7 if loud else 5, zorder=3 if loud else 2,
        )  # fmt: skip
    if measured is not None:
        ours = measured[measured["protocol"].isin(datasets)]
        for model, group in ours.groupby("model", sort=False):
            ax.scatter([list(datasets).index(p) for p in group["protocol"]], group[f"R@{k}"], marker="*", s=240, zorder=5,
                       color=method_colour(group["system"].iloc[0]), edgecolor="black", label=f"measured here: {model}")  # fmt: skip
    ax.set_xticks(range(len(datasets)), list(datasets.values()))
    ax.set(ylim=(0, 100), ylabel=f"recall@{k} (%)", yticks=range(0, 101, 10))
    ax.grid(linestyle="--")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8.5)
    return ax
