"""Figures of notebooks 00 and 01: the task, training places, a benchmark, and what a protocol does to a number."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from PIL import Image

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.images import read_image
from vpr_lib.data.manifest import Manifest
from vpr_lib.plotting.maps import contact_sheet, note, plot_nearest, plot_positive_counts, plot_where
from vpr_lib.plotting.picture import Picture, listed
from vpr_lib.plotting.style import BLUE, GREEN, SKY, VERMILION
from vpr_lib.retrieval.protocol import Evaluation

MOST_QUERIES = 2000  # whose distance to every database image is drawn


def picture_of_task(answers: Evaluation, query: int, k: int = 5) -> Picture:
    """One query with its k nearest database images, on the map and as pictures, right or wrong."""
    benchmark, scored = answers.benchmark, answers.scores[0]
    nearest = scored.ranking[query, :k]
    right = scored.protocol.positives.contains(np.full(k, query), nearest)
    figure = plt.figure(figsize=(12, 5))
    cells = figure.add_gridspec(2, 5, width_ratios=[1.6, 1, 1, 1, 1])
    plot_where(benchmark, figure.add_subplot(cells[:, 0:2]), query, nearest)
    database = benchmark.database.image_paths()
    shown = [("query", benchmark.queries.image_paths()[query])]
    shown += [(f"match {i} {'✓' if ok else '✗'}", database[row]) for i, (row, ok) in enumerate(zip(nearest, right), 1)]
    for place, (title, path) in enumerate(shown):
        cell = figure.add_subplot(cells[place // 3, 2 + place % 3])
        cell.imshow(read_image(path).permute(1, 2, 0).numpy())
        cell.set_title(title, fontsize=10)
        cell.set_axis_off()
    return Picture(
        figure,
        f"A map of the database with one query and lines to its {k} nearest neighbours, {right.sum()} of them correct; beside it the pictures.",
        f"One query of {benchmark.name} and its {k} nearest neighbours by raw pixels, which answer {100 * answers.recall[1]:.0f} % of all "
        f"{len(benchmark.queries):,} queries at rank one.",
    )


def picture_of_city(sheet: np.ndarray, conditions: Sequence[str], name: str) -> Picture:
    """A contact sheet of the generated city, conditions written above its columns."""
    figure, ax = plt.subplots(figsize=(12.5, 12.5 * sheet.shape[0] / sheet.shape[1]))
    ax.imshow(sheet)
    ax.set_xticks((np.arange(len(conditions)) + 0.5) * sheet.shape[1] / len(conditions), conditions, fontsize=9)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_yticks([])
    ax.grid(False)
    return Picture(
        figure,
        f"Contact sheet of the generated town: places in rows, each under {len(conditions)} conditions: {', '.join(conditions)}.",
        f"Places of {name} under {len(conditions)} conditions.",
    )


def picture_of_places(training: Manifest, name: str, seed: int, places: int = 3, images: int = 4) -> Picture:
    """Some training places, one per line, with the month of every photo."""
    groups = training.table.groupby("place_id", sort=False).indices
    rng = np.random.default_rng(seed)
    shown = [row for place in rng.permutation(list(groups))[:places] for row in groups[place][:images]]
    files, months = training.image_paths(), pd.to_datetime(training.table["timestamp"], unit="us")
    titles = [f"{training.table['place_id'][row]} · {months[row]:%Y-%m}" for row in shown]
    figure = contact_sheet([Image.open(files[row]) for row in shown], titles, columns=images)
    return Picture(
        figure,
        f"{places} training places in rows, {images} photos each, taken in different months.",
        f"{places} of {len(groups):,} places of {name} ({len(training):,} photos).",
    )


def picture_of_benchmark(benchmarks: Mapping[str, Benchmark]) -> Picture:
    """The first benchmark on the map; positives per query of all; distance to the nearest database image of the first."""
    name, first = next(iter(benchmarks.items()))
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2))
    plot_where(first, axes[0])
    plot_positive_counts([content.positives.counts for content in benchmarks.values()], list(benchmarks), ax=axes[1])
    plot_nearest(first, axes[2], MOST_QUERIES)
    for ax, title in zip(axes, ("Where", "Positives per query", "Nearest database image")):
        ax.set_title(title)
    return Picture(
        figure,
        f"Three panels for {name}: a map of database and queries in metres, the distribution of positives per query (median "
        f"{np.median(first.positives.counts):.0f}), and the distance to the nearest database image.",
        f"{name}: {len(first.database):,} database images, {len(first.queries):,} queries; {first.protocol.card.rule_in_words()}.",
    )


def picture_of_conditions(counted: pd.Series, name: str) -> Picture:
    """How many queries carry each condition, as bars."""
    figure, ax = plt.subplots(figsize=(7.5, 3))
    ax.bar(counted.index, counted, color=SKY)
    ax.set_ylabel("queries")
    ax.tick_params(axis="x", rotation=30)
    numbers = ", ".join(f"{word} {n}" for word, n in counted.items()) or "the set names none"
    return Picture(
        figure,
        f"Bars: number of queries per condition: {numbers}.",
        f"Conditions of the queries of {name}; a query may carry several.",
    )


def _radius_panel(radius: pd.DataFrame | None, ax: Axes) -> str:
    """Draw recall over the radius; what it says, in words."""
    if radius is None:
        note(ax, "the set lists matches and gives no positions:\nno other radius can be tried")
        return "nothing: the set gives no positions"
    ax.plot(radius["rule"], 100 * radius["all"], "-o", color=BLUE, label="every query counts")
    ax.plot(radius["rule"], 100 * radius["with_positive"], "--s", color=VERMILION, label="queries with a positive")
    ax.axvline(25, color="grey", linewidth=1)
    ax.set(xscale="log", xlabel="radius (m)", ylabel="recall@1 (%)", title="Radius and denominator")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(fontsize=9)
    ends = [100 * radius[column].iloc[row] for column, row in (("all", 0), ("all", -1), ("with_positive", 0))]
    return (f"it goes from {ends[0]:.0f} % at {radius['rule'].iloc[0]} m to {ends[1]:.0f} % at {radius['rule'].iloc[-1]} m when every "
            f"query counts, and starts at {ends[2]:.0f} % when only queries with a positive do")  # fmt: skip


def picture_of_traps(
    radius: pd.DataFrame | None,
    answers: Evaluation,
    conditions: Sequence[str],
    windows: pd.DataFrame | None,
    traverse: str,
) -> Picture:
    """One ranking under other rules: the radius and the denominator, which queries count, the window of frames.

    Args:
        radius: of `retrieval.lens.recall_by_radius`, None where the set gives no positions. windows: of `recall_by_window` on the traverse of that name, or None.
    """
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), sharey=True)
    left = _radius_panel(radius, axes[0])
    table, hit = answers.benchmark.queries.table, answers.scores[0].first_hits == 1
    words = table.get("conditions", pd.Series([[]] * len(table), index=table.index))
    subsets = {"all": np.ones(len(words), bool)} | {
        word: words.map(lambda own, w=word: w in own).to_numpy() for word in conditions
    }
    bars = {f"{word} ({mask.sum()})": 100 * float(hit[mask].mean()) for word, mask in subsets.items()}
    axes[1].bar(list(bars), list(bars.values()), color=[BLUE] + [SKY] * (len(bars) - 1))
    axes[1].tick_params(axis="x", labelsize=8, rotation=60)
    axes[1].set(title="Which queries count", xlabel="condition and number of queries")
    if windows is not None:
        axes[2].bar(
            [f"±{width}" for width in windows["rule"]], 100 * windows["all"], color=GREEN, hatch="//", edgecolor="white"
        )
    axes[2].set(title="Window of frames", xlabel=f"frames ({traverse or 'no traverse'})")
    return Picture(
        figure,
        f"Recall at 1 of one ranking by raw pixels. Left, {left}. Middle, by "
        f"condition: {listed(bars)}. Right, by window of frames.",
        f"The same rankings under other rules: raw pixels on {answers.benchmark.name} and {traverse or 'no traverse'}.",
    )
