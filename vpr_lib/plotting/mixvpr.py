"""Figures of notebook 02: the aggregator in one picture, and what a descriptor's length buys."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt

from vpr_lib.models.aggregators import MixVPR
from vpr_lib.plotting.mixing import plot_mixer, plot_mixer_inset, plot_mixing_weights
from vpr_lib.plotting.picture import Picture
from vpr_lib.plotting.style import VERMILION, method_colour
from vpr_lib.retrieval.protocol import Evaluation
from vpr_lib.retrieval.reduce import reduce_dimensions


def picture_of_mixvpr(aggregator: MixVPR, name: str) -> Picture:
    """The aggregator as a chain of matrices to scale, and below it one mixer with its skip connection."""
    c, n, depth = aggregator.in_channels, aggregator.in_h * aggregator.in_w, len(aggregator.mix)
    figure, axes = plt.subplots(
        1 + bool(depth), 1, figsize=(11, 5.4), height_ratios=[1.7, 1][: 1 + bool(depth)], squeeze=False
    )
    plot_mixer(aggregator, ax=axes[0, 0])
    if depth:
        plot_mixer_inset(aggregator.mix[0], ax=axes[1, 0])
    return Picture(
        figure,
        f"The aggregator as a chain of matrices: a {c} by {n} feature map, {depth} mixers, a depth-wise and a row-wise projection to "
        f"{aggregator.dim} numbers; below, one mixer with its skip connection.",
        f"The aggregator of {name}, drawn from its modules; a side is as long as the logarithm of its size.",
    )


def picture_of_mixing_weights(aggregator: MixVPR, name: str) -> Picture:
    """Learned weights of every mixer, see `plot_mixing_weights`."""
    return Picture(
        plot_mixing_weights(aggregator),
        f"One line per mixer: the eight hidden units with the largest weights as maps over the {aggregator.in_h} by "
        f"{aggregator.in_w} grid, and the mean weight over the distance of two cells.",
        f"Learned mixing weights of {name}; every line has its own colour scale.",
    )


def plot_descriptor_size(long: Evaluation, name: str, trained: Mapping[str, Sequence[Evaluation]]) -> Picture:
    """Recall@1 over the number of dimensions: principal components of one model, and models trained at their size.

    The components are fitted on the database's descriptors, never on the queries.

    Args:
        trained: model -> its evaluations, one per seed.
    """
    most = min(long.database.array.shape)
    dims = [d for d in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if d < most]
    cut = {dim: 100 * found.recall[1] for dim, found in reduce_dimensions(long, dims).items()}
    figure, ax = plt.subplots(figsize=(6.8, 4))
    ax.plot(list(cut), list(cut.values()), "-o", color=method_colour("MixVPR"), label=f"{name}, principal components")
    ticks = {*dims}
    for label, runs in trained.items():
        size = runs[0].database.array.shape[1]
        ticks.add(size)
        ax.plot(
            [size] * len(runs), [100 * run.recall[1] for run in runs], "D", markersize=7, color=VERMILION, alpha=0.7
        )
        ax.annotate(label, (size, 100 * runs[0].recall[1]), textcoords="offset points", xytext=(6, -12), fontsize=8)
    ax.plot([], [], "D", color=VERMILION, label="trained at this size, one mark per seed")
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(ticks), [str(d) for d in sorted(ticks)])
    ax.set(xlabel="dimensions D", ylabel="recall@1 (%)", title="Recall against descriptor size")
    ax.legend(fontsize=9)
    return Picture(
        figure,
        f"Recall at 1 over the number of dimensions: principal components of {name} go from {cut[dims[0]]:.0f} % at {dims[0]} to "
        f"{cut[dims[-1]]:.0f} % at {dims[-1]}; diamonds mark models trained at their size.",
        f"{long.benchmark.name}; components of the first seed, fitted on the {len(long.benchmark.database):,} database descriptors.",
    )
