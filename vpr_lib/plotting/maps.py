"""Where a data set is and what it looks like: maps where there are positions and words where there are none, sheets of pictures, how
many positives queries have."""

from collections.abc import Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.published import PublishedTruth
from vpr_lib.plotting.picture import Picture
from vpr_lib.plotting.style import BLUE, GREY, ORANGE, SKY, VERMILION

MOST_POINTS = 60_000  # drawn of one kind; more would only cost time


def plot_map(
    database: np.ndarray,
    queries: np.ndarray | None = None,
    matched: np.ndarray | None = None,
    links: np.ndarray | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Positions seen from above, in metres from the south-west corner; east is right, north is up.

    Args:
        database, queries: easting and northing in metres, (N, 2) and (Q, 2).
        matched: bool (Q,), queries that have a positive; the others are drawn as crosses.
        links: pairs of (query, database) indices to join by a line, int (L, 2).
    """
    ax = ax or plt.subplots(figsize=(6.4, 6.0))[1]
    corner = np.min(np.concatenate([database] + ([] if queries is None else [queries])), axis=0)
    points = _some(database) - corner
    ax.scatter(
        *points.T, s=_dot(len(points)), color=GREY, linewidths=0, label=f"database ({len(database):,})", rasterized=True
    )
    if links is not None and len(links):
        ends = np.stack([queries[links[:, 0]], database[links[:, 1]]], axis=1) - corner  # (L, 2, 2)
        ax.add_collection(LineCollection(ends, colors=SKY, linewidths=0.6, alpha=0.7, zorder=1))
    if queries is not None and len(queries):
        matched = np.ones(len(queries), bool) if matched is None else matched
        kinds = ((matched, "o", BLUE, "queries"), (~matched, "x", VERMILION, "queries without a positive"))
        for rows, marker, colour, label in kinds:
            if rows.any():
                chosen = _some(queries[rows]) - corner
                line = 0 if marker == "o" else 1.2
                ax.scatter(*chosen.T, s=2 * _dot(len(chosen)), color=colour, marker=marker, linewidths=line, rasterized=True,
                           label=f"{label} ({int(rows.sum()):,})")  # fmt: skip
    ax.set(xlabel="metres east", ylabel="metres north", aspect="equal")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, markerscale=2, fontsize=9)
    return ax


def plot_positive_counts(counts: Sequence[np.ndarray], labels: Sequence[str], ax: Axes | None = None) -> Axes:
    """How many positives the queries of one or more protocols have, as shares of the queries; none at all has a bar of its own.

    Args:
        counts: per protocol the number of positives of each query, (Q,).
    """
    ax = ax or plt.subplots(figsize=(6.4, 3.6))[1]
    most = max((int(c.max()) for c in counts if len(c)), default=1)
    edges = np.concatenate([[0, 1], np.unique(np.geomspace(2, max(3, most + 1), 18).round())])
    middles, width = np.arange(len(edges) - 1), 0.8 / len(counts)
    for number, (own, label) in enumerate(zip(counts, labels)):
        shares = np.histogram(own, edges)[0] / max(1, len(own))
        ax.bar(middles + (number - (len(counts) - 1) / 2) * width, 100 * shares, width, label=label)
    names = [f"{int(low)}" if high - low <= 1 else f"{int(low)}-{int(high) - 1}" for low, high in pairwise(edges)]
    ax.set_xticks(middles, names, rotation=45, ha="right", fontsize=8.5)
    ax.set(xlabel="positives of a query", ylabel="share of the queries (%)")
    if len(counts) > 1:
        ax.legend()
    return ax


def plot_distances(distances_m: np.ndarray, radius_m: float | None = None, ax: Axes | None = None) -> Axes:
    """How far the nearest database image is from each query, (Q,) metres; the radius as a line."""
    ax = ax or plt.subplots(figsize=(6.4, 3.2))[1]
    finite = distances_m[np.isfinite(distances_m)]
    top = max(float(np.percentile(finite, 99)) if len(finite) else 1.0, 1.2 * (radius_m or 0.0))
    ax.hist(np.clip(finite, 0, top), bins=40, color=SKY)
    if radius_m is not None:
        beyond = 100 * float((distances_m > radius_m).mean())
        ax.axvline(radius_m, color=ORANGE, linewidth=2)
        left = radius_m > top / 2
        ax.annotate(f"{radius_m:g} m: {beyond:.1f} % beyond", (radius_m, 0.92), xycoords=("data", "axes fraction"),
                    xytext=(-5 if left else 5, 0), textcoords="offset points", ha="right" if left else "left", fontsize=9)  # fmt: skip
    ax.set(xlabel="nearest database image (m)", ylabel="queries")
    return ax


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], columns: int = 6, height_in: float = 1.25
) -> Figure:
    """Pictures in rows, each cut to 4:3 in its middle, with a caption of one line below."""
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    figure = Figure((columns * height_in * 4 / 3, rows * (height_in + 0.28)), layout="constrained")
    for ax in (grid := np.atleast_1d(figure.subplots(rows, columns)).ravel()):
        ax.axis("off")
    for ax, picture, caption in zip(grid, pictures, captions):
        ax.imshow(ImageOps.fit(picture.convert("RGB"), (240, 180)))
        ax.set_title(caption, fontsize=6.5, loc="center", weight="normal", pad=2)
    return figure


def _some(points: np.ndarray) -> np.ndarray:
    """Every n-th point, so that at most MOST_POINTS are left."""
    return points[:: -(-len(points) // MOST_POINTS) or 1]


def _dot(n: int) -> float:
    """Area of a dot that lets `n` of them be told apart, in square points."""
    return float(np.clip(4000 / max(n, 1), 1.0, 16.0))


def has_map(benchmark: Benchmark) -> bool:
    """Whether both sides carry positions in metres."""
    return benchmark.database.has_positions and benchmark.queries.has_positions


def plot_where(benchmark: Benchmark, ax: Axes, query: int | None = None, nearest: np.ndarray | None = None) -> Axes:
    """The map of a benchmark, or with `query` that query joined to its `nearest` database rows; a note without positions."""
    if not has_map(benchmark):
        return note(ax, f"{benchmark.name} lists matches\nand gives no positions")
    database, queries = benchmark.database.positions(), benchmark.queries.positions()
    if query is None:
        return plot_map(database, queries, benchmark.positives.counts > 0, ax=ax)
    links = np.stack([np.zeros(len(nearest), int), nearest], axis=1)
    return plot_map(database, queries[[query]], links=links, ax=ax)


def plot_nearest(benchmark: Benchmark, ax: Axes, most: int = 2000) -> Axes:
    """How far the nearest database image is from each query, `most` of them drawn at random; a note without positions."""
    if not has_map(benchmark):
        return note(ax, "no positions")
    spots, database = benchmark.queries.positions(), benchmark.database.positions()
    some = np.random.default_rng(0).permutation(len(spots))[:most]
    gaps = np.array([np.linalg.norm(database - spots[row], axis=1).min() for row in some])
    return plot_distances(gaps, benchmark.protocol.card.threshold, ax=ax)


def note(ax: Axes, words: str) -> Axes:
    """Words in the middle of an empty panel."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes, color="#666666")
    return ax


def plot_real_maps(truths: Sequence[PublishedTruth]) -> Picture:
    """Maps of real positions side by side, as published ground truth has them."""
    figure, axes = plt.subplots(1, len(truths), figsize=(6.5 * len(truths), 5), squeeze=False)
    for ax, truth in zip(axes[0], truths):
        plot_map(truth.database, truth.queries, truth.positives.counts > 0, ax=ax).set_title(truth.name)
    names = " and ".join(truth.name for truth in truths)
    return Picture(
        figure,
        f"Maps of the real positions of {names}, database in grey, queries in blue.",
        "Real positions, in metres from the south-west corner.",
    )
