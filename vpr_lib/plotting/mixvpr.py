"""The mixer made visible: its parts to scale, its learned weights, and what a descriptor's length buys."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

from vpr_lib.models.aggregators import FeatureMixer, MixVPR
from vpr_lib.plotting.picture import Picture
from vpr_lib.plotting.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, method_colour
from vpr_lib.retrieval.protocol import Evaluation
from vpr_lib.retrieval.reduce import reduce_dimensions

DIVERGING = "PuOr_r"  # orange above zero, purple below; told apart with every common colour vision


def plot_mixer(aggregator: MixVPR, ax: Axes) -> None:
    """The aggregator as a chain of matrices, sizes read off the modules; a side is drawn as the logarithm of its length.

    Paper figure: MixVPR, architecture (spec mixvpr §7.3).
    """
    c, n, depth = aggregator.in_channels, aggregator.in_h * aggregator.in_w, len(aggregator.mix)
    d, r = aggregator.channel_proj.out_features, aggregator.row_proj.out_features
    mixed = [(c, n, BLUE, f"mixed {depth} ×\n{c} × {n}", f"{depth} ×\nFeature-Mixer")] if depth else []
    x, previous = 0.0, None
    steps = [
        (c, n, SKY, f"feature map, flattened\n{c} channels × {n} cells\n({aggregator.in_h} × {aggregator.in_w})", ""),
        *mixed,
        (d, n, ORANGE, f"depth-wise\nprojection\n{d} × {n}", f"$W_d$\n{d} × {c}"),
        (d, r, GREEN, f"row-wise\nprojection\n{d} × {r}", f"$W_r$\n{r} × {n}"),
        (d * r, 1, VERMILION, f"descriptor\n{d * r} numbers,\nunit length", "flatten,\nL2"),
    ]  # fmt: skip
    for rows, columns, colour, text, operation in steps:
        height, width = 0.34 * np.log2(rows + 1), 0.16 * np.log2(columns + 1)
        ax.add_patch(Rectangle((x, -height / 2), width, height, facecolor=colour, edgecolor="black", alpha=0.75))
        ax.text(x + width / 2, -2.45, text, ha="center", va="top", fontsize=9)
        if previous is not None:
            ax.add_patch(FancyArrowPatch((previous + 0.08, 0), (x - 0.08, 0), arrowstyle="->", mutation_scale=13))
            ax.text((previous + x) / 2, 0.18, operation, ha="center", va="bottom", fontsize=9)
        previous, x = x + width, x + width + 1.75
    ax.set(xlim=(-0.4, x - 1.2), ylim=(-3.9, 2.5))
    ax.axis("off")


def plot_mixer_inset(mixer: FeatureMixer, ax: Axes) -> None:
    """One feature mixer as a row of boxes with its skip connection, sizes read off the module."""
    first, second = mixer.mix[1], mixer.mix[3]
    boxes = [f"norm\nover {mixer.mix[0].normalized_shape[0]} cells", f"$W_1$\n{first.out_features} × {first.in_features}",
             "ReLU", f"$W_2$\n{second.out_features} × {second.in_features}", "+"]  # fmt: skip
    ends = [0.0]
    for place, text in enumerate(boxes):
        left, width = 1.75 * place + 0.45, 0.5 if text == "+" else 1.3
        ax.add_patch(Rectangle((left, -0.45), width, 0.9, facecolor="white", edgecolor=PURPLE, linewidth=1.6))
        ax.text(left + width / 2, 0, text, ha="center", va="center", fontsize=9.5)
        ax.add_patch(
            FancyArrowPatch((ends[-1], 0), (left, 0), arrowstyle="->", mutation_scale=11, shrinkA=0, shrinkB=0)
        )
        ends.append(left + width)
    plus = ends[-1] - 0.25
    ax.plot([0.2, 0.2, plus], [0, 0.85, 0.85], color=GREY, linewidth=1.6)
    ax.add_patch(FancyArrowPatch((plus, 0.85), (plus, 0.45), arrowstyle="->", mutation_scale=11, shrinkA=0, shrinkB=0))
    ax.add_patch(FancyArrowPatch((ends[-1], 0), (ends[-1] + 0.5, 0), arrowstyle="->", mutation_scale=11, shrinkA=0))
    ax.text(0, -0.12, "x", ha="right", va="center")
    ax.text(ends[-1] + 0.55, 0, "mix(x)", va="center")
    ax.set(xlim=(-0.3, ends[-1] + 1.5), ylim=(-0.6, 1.05))
    ax.axis("off")


def mixing_maps(mixer: FeatureMixer, grid: tuple[int, int], units: int) -> np.ndarray:
    """What the hidden units with the largest weights look at: rows of W1 times the norm's scale, (units, h, w)."""
    weights = (mixer.mix[1].weight * mixer.mix[0].weight).detach().float().cpu()  # (hidden, n)
    largest = weights.norm(dim=1).topk(min(units, len(weights))).indices
    return weights[largest].reshape(-1, *grid).numpy()


def mixing_matrix(mixer: FeatureMixer) -> np.ndarray:
    """How much cell j adds to cell i when every hidden unit is open: W2 W1 diag(scale), (n, n), without the skip."""
    with torch.no_grad():
        return (mixer.mix[3].weight @ (mixer.mix[1].weight * mixer.mix[0].weight)).float().cpu().numpy()


def picture_of_mixing_weights(aggregator: MixVPR, name: str) -> Picture:
    """Learned mixing weights, one line per mixer: the hidden units with the largest weights as maps over the image, and
    how far apart cells reach each other (mean |weight| of the open mixer over the distance of two cells).

    Every line has its own symmetric colour scale, written beside it. Paper figure: MixVPR, visualised mixer weights.
    """
    grid, depth = (aggregator.in_h, aggregator.in_w), len(aggregator.mix)
    if depth == 0:
        raise ValueError("This aggregator has no mixers (mix_depth=0): there are no mixing weights to draw.")
    units = 8
    figure = plt.figure(figsize=(1.15 * units + 3.4, 1.25 * depth + 0.9))
    cells = figure.add_gridspec(depth, units + 1, width_ratios=[1] * units + [2.4])
    for line, mixer in enumerate(aggregator.mix):
        maps = mixing_maps(mixer, grid, units)
        bound = float(np.abs(maps).max())
        for column, weights in enumerate(maps):
            ax = figure.add_subplot(cells[line, column])
            ax.imshow(weights, cmap=DIVERGING, vmin=-bound, vmax=bound)
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            if column == 0:
                ax.set_ylabel(f"mixer {line + 1}\n±{bound:.2g}", rotation=0, ha="right", va="center", fontsize=9)
        ax = figure.add_subplot(cells[line, units])
        distance, reach = reach_over_distance(mixer, grid)
        ax.plot(distance, reach, color=BLUE, marker="o", markersize=3.5)
        ax.set(ylim=(0, 1.12 * reach.max()), ylabel="mean |weight|")
        ax.yaxis.label.set_size(8)
        ax.tick_params(labelsize=8, labelbottom=line == depth - 1)
        if line == depth - 1:
            ax.set_xlabel("distance of two cells", fontsize=9)
    figure.suptitle(
        "Largest hidden units of every mixer over the h × w grid; right, how far mixing reaches", fontsize=11
    )
    return Picture(
        figure,
        f"One line per mixer: the eight hidden units with the largest weights as maps over the {aggregator.in_h} by "
        f"{aggregator.in_w} grid, and the mean weight over the distance of two cells.",
        f"Learned mixing weights of {name}; every line has its own colour scale.",
    )


def reach_over_distance(mixer: FeatureMixer, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean |mixing_matrix| over pairs of cells by their distance, rounded to whole cells: (distances, means).

    Distances between opposite corners are left out where fewer than h * w pairs have them.
    """
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    apart = np.hypot(rows[:, None] - rows, columns[:, None] - columns).round().astype(int).ravel()
    total = np.bincount(apart, np.abs(mixing_matrix(mixer)).ravel())
    pairs = np.bincount(apart)
    filled = np.flatnonzero(pairs >= len(rows))
    return filled, total[filled] / pairs[filled]


def picture_of_mixvpr(aggregator: MixVPR, name: str) -> Picture:
    """The aggregator as a chain of matrices to scale, and below it one mixer with its skip connection."""
    c, n, depth = aggregator.in_channels, aggregator.in_h * aggregator.in_w, len(aggregator.mix)
    figure, axes = plt.subplots(
        1 + bool(depth), 1, figsize=(11, 5.4), height_ratios=[1.7, 1][: 1 + bool(depth)], squeeze=False
    )
    plot_mixer(aggregator, axes[0, 0])
    if depth:
        plot_mixer_inset(aggregator.mix[0], axes[1, 0])
    return Picture(
        figure,
        f"The aggregator as a chain of matrices: a {c} by {n} feature map, {depth} mixers, a depth-wise and a row-wise projection to "
        f"{aggregator.dim} numbers; below, one mixer with its skip connection.",
        f"The aggregator of {name}, drawn from its modules; a side is as long as the logarithm of its size.",
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
