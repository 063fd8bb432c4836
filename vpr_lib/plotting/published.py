"""Published charts redrawn from data/reported, with our own measurements on top."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from vpr_lib.plotting.picture import Picture, listed
from vpr_lib.plotting.style import MARKERS, METHOD_COLOURS, method_colour, method_marker, panels

LINES = ("-", "--", "-.", ":")


def plot_published_recall(
    reported: pd.DataFrame,
    datasets: dict[str, str],
    measured: pd.DataFrame | None = None,
    highlight: Sequence[str] = (),
) -> Axes:
    """Recall@1 of every reported method over data sets, one marked line each; ours as stars on top.

    Args:
        reported: rows of `results.reported` of one table; method and backbone name a line.
        datasets: protocol -> label, in the order of the x axis. A method without a number for one has a gap there.
        measured: a recall table (`results.tables`) of our runs; only rows under the same protocols are drawn.
        highlight: methods drawn thick and in their colour; all others thin and grey.
    Raises:
        ValueError: if the table has two numbers for one line and protocol.
    """
    ax = plt.subplots(figsize=(8.6, 5.2))[1]
    rows = reported[(reported["k"] == 1) & reported["protocol"].isin(datasets)]
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
            ax.scatter([list(datasets).index(p) for p in group["protocol"]], group["R@1"], marker="*", s=240, zorder=5,
                       color=method_colour(group["system"].iloc[0]), edgecolor="black", label=f"measured here: {model}")  # fmt: skip
    ax.set_xticks(range(len(datasets)), list(datasets.values()))
    ax.set(ylim=(0, 100), ylabel="recall@1 (%)", yticks=range(0, 101, 10))
    ax.grid(linestyle="--")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8.5)
    return ax


def plot_published_curves(
    reported: pd.DataFrame, titles: dict[str, str], records: pd.DataFrame | None = None, columns: int = 3
) -> Picture:
    """Recall@N of every reported method, one panel per data set, and our curves on top where the protocol was measured.

    Args:
        reported: rows of `results.reported` with several k, one number per method, protocol and k.
        titles: protocol -> title; a panel without any reported number says so.
        records: of our runs (`results.records`); those under other protocols are not drawn.
    Paper figures: MixVPR Recall@N on SPED and Nordland (spec mixvpr §7.3), DINO-Mix run log (spec dinomix §5.2).
    """
    figure, axes = panels(len(titles), columns, 5.2, 4)
    told, known = {}, records is not None and len(records) > 0
    for ax, (protocol, title) in zip(axes, titles.items()):
        own = reported[reported["protocol"] == protocol]
        for method, curve in own.groupby("method", sort=False):
            curve = curve.sort_values("k")
            ax.plot(
                curve["k"],
                curve["value"],
                "--",
                marker=method_marker(method),
                color=method_colour(method),
                label=method,
            )
            told[f"{title} {method}"] = curve["value"].iloc[0]
        ours = (
            records[(records["protocol"] == protocol) & records["counted"]].groupby("model", sort=False)
            if known
            else ()
        )
        for model, rows in ours:
            ns = sorted(k for k in own["k"].unique() if k <= 25)
            ax.plot(ns, [100 * rows["first_hit"].between(1, n).mean() for n in ns], "-", linewidth=2.5,
                    color=method_colour(rows["system"].iloc[0]), label=f"measured here: {model}")  # fmt: skip
        if own.empty:
            ax.text(0.5, 0.5, "no number could be read", ha="center", transform=ax.transAxes)
        ax.set(title=title, xlabel="N, top candidates", ylabel="recall@N (%)", xscale="log")
        ax.set_ylim(top=100 + 0.03 * (100 - ax.get_ylim()[0]))
        ax.set_yticks([tick for tick in ax.get_yticks() if ax.get_ylim()[0] <= tick <= 100])
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8, loc="lower right")
    measured = known and bool(set(records["protocol"]) & set(titles))
    return Picture(
        figure,
        f"Recall over N as published, one panel for each of {', '.join(titles.values())}; at N = 1: {listed(told, ' %', 1)}.",
        "As published, dashed; "
        + ("ours, solid, under the same protocol." if measured else "none of these sets was measured in this profile."),
    )


def plot_published_bars(reported: pd.DataFrame, frames: dict[str, str]) -> Picture:
    """Average recall@1 of the methods of some tables as bars; a row whose number is not known stays empty and says so.

    Args:
        reported: rows of `results.reported`. frames: table -> title, in their order.
    """
    figure, axes = panels(len(frames), 3, 4.6, 3.9)
    known = 0
    for ax, (table, title) in zip(axes, frames.items()):
        rows = reported[(reported["table"].astype(str) == table) & (reported["k"].astype(str) == "1")]
        rows = rows.assign(number=pd.to_numeric(rows["value"], errors="coerce")).iloc[::-1]
        if rows.empty:
            ax.text(0.5, 0.5, "no row of it could be read", ha="center", fontsize=8, transform=ax.transAxes)
        labels = [f"{m}{' ?' if c == '?' else ''}" for m, c in zip(rows["method"], rows["confidence"])]
        ax.barh(range(len(rows)), rows["number"].fillna(0), color=[method_colour(m) for m in rows["method"]])
        for place, number in enumerate(rows["number"]):
            ax.text(
                1,
                place,
                "not published where we could read" if number != number else f"{number:.1f}",
                va="center",
                fontsize=8,
            )
        known += int(rows["number"].notna().sum())
        ax.set_yticks(range(len(rows)), labels, fontsize=8.5)
        ax.set(title=title, xlim=(0, 100), ylim=(-0.7, max(len(rows), 6) - 0.3), xlabel="AR@1 (%)")
    return Picture(
        figure,
        f"Frames of {len(frames)} published tables with one bar for each of their methods; {known} of the numbers are known.",
        "Published average recalls; empty rows wait for a number, a question mark says that it comes from a third party.",
    )
