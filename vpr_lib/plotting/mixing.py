"""The mixer made visible: its parts to scale, its learned weights, and what a descriptor's length buys."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from vpr_lib.models.aggregators import FeatureMixer, MixVPR
from vpr_lib.plotting.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

DIVERGING = "PuOr_r"  # orange above zero, purple below; told apart with every common colour vision


def plot_mixer(aggregator: MixVPR, ax: Axes | None = None) -> Axes:
    """The aggregator as a chain of matrices, sizes read off the modules; a side is drawn as the logarithm of its length.

    Paper figure: MixVPR, architecture (spec mixvpr §7.3).
    """
    ax = ax or plt.subplots(figsize=(11, 3.6))[1]
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
    return ax


def plot_mixer_inset(mixer: FeatureMixer, ax: Axes | None = None) -> Axes:
    """One feature mixer as a row of boxes with its skip connection, sizes read off the module."""
    ax = ax or plt.subplots(figsize=(8.4, 1.9))[1]
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
    return ax


def mixing_maps(mixer: FeatureMixer, grid: tuple[int, int], units: int) -> np.ndarray:
    """What the hidden units with the largest weights look at: rows of W1 times the norm's scale, (units, h, w)."""
    weights = (mixer.mix[1].weight * mixer.mix[0].weight).detach().float().cpu()  # (hidden, n)
    largest = weights.norm(dim=1).topk(min(units, len(weights))).indices
    return weights[largest].reshape(-1, *grid).numpy()


def mixing_matrix(mixer: FeatureMixer) -> np.ndarray:
    """How much cell j adds to cell i when every hidden unit is open: W2 W1 diag(scale), (n, n), without the skip."""
    with torch.no_grad():
        return (mixer.mix[3].weight @ (mixer.mix[1].weight * mixer.mix[0].weight)).float().cpu().numpy()


def plot_mixing_weights(aggregator: MixVPR, units: int = 8) -> Figure:
    """Learned mixing weights, one line per mixer: the hidden units with the largest weights as maps over the image, and
    how far apart cells reach each other (mean |weight| of the open mixer over the distance of two cells).

    Every line has its own symmetric colour scale, written beside it. Paper figure: MixVPR, visualised mixer weights.
    """
    grid, depth = (aggregator.in_h, aggregator.in_w), len(aggregator.mix)
    if depth == 0:
        raise ValueError("This aggregator has no mixers (mix_depth=0): there are no mixing weights to draw.")
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
    return figure


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
