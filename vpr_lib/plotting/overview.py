"""What a notebook shows of a data set whatever it holds: maps where there are positions, words where there are none."""

import numpy as np
from matplotlib.axes import Axes

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.plotting.maps import plot_distances, plot_map


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
