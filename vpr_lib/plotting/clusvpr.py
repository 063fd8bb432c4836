"""Figures of ClusVPR: what methods look at and what they find, and what the group attention does."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vpr_lib.plotting.attention import overlay
from vpr_lib.plotting.retrievals import show_match
from vpr_lib.plotting.style import BLUE, GREY


def plot_looks_and_finds(
    queries: np.ndarray,
    maps: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    correct: Mapping[str, np.ndarray],
    rows: Sequence[str],
    tile_in: float = 1.4,
) -> Figure:
    """The layout of the paper's qualitative figure: the query, every method's heat map, every method's first match.

    Right matches carry a solid frame and ✓, wrong ones a dashed frame and ✗.

    Args:
        queries: uint8 (B, H, W, 3).
        maps: method -> (B, H, W) between 0 and 1. found: method -> uint8 (B, h, w, 3). correct: method -> bool (B,).
        rows: B names.
    Spec: clusvpr §10, Fig. 5.
    """
    methods = list(maps)
    figure, axes = plt.subplots(len(queries), 1 + 2 * len(methods), squeeze=False, layout="constrained",
                                figsize=(tile_in * (1 + 2 * len(methods)), tile_in * len(queries) + 0.4))  # fmt: skip
    for ax in axes.ravel():
        ax.set_axis_off()
    for line, name in enumerate(rows):
        axes[line][0].imshow(queries[line])
        axes[line][0].set_title(name, fontsize=8.5, loc="left", fontweight="normal", pad=3)
    for column, method in enumerate(methods):
        drawn = overlay(maps[method], queries)
        for line in range(len(queries)):
            axes[line][1 + column].imshow(drawn[line])
            show_match(axes[line][1 + len(methods) + column], found[method][line], bool(correct[method][line]))
        axes[0][1 + column].set_title(f"{method}: map", fontsize=9, loc="left", pad=3)
    for column, method in enumerate(methods):
        ax = axes[0][1 + len(methods) + column]
        sign = ax.get_title(loc="left")
        ax.set_title(f"{sign} {method}: first", fontsize=9, loc="left", pad=4)
    return figure


def plot_group_attention(values: np.ndarray, before: np.ndarray | None = None, ax: Axes | None = None) -> Axes:
    """Histogram of the group attention over all images, groups and cells; it could lie anywhere between 0.5 and 1.

    Args:
        values, before: attention of the trained and of the fresh network, any shape.
    """
    ax = ax or plt.subplots(figsize=(6.4, 3.2))[1]
    top = max(float(np.max(part)) for part in (values, before) if part is not None)
    edges = np.linspace(0.5, 0.5 + 1.05 * (top - 0.5), 60)
    if before is not None:
        ax.hist(before.ravel(), edges, color=GREY, alpha=0.6, label="before training", density=True)
    ax.hist(values.ravel(), edges, histtype="step", color=BLUE, linewidth=2, label="trained", density=True)
    ax.set(xlabel="group attention a (0.5 = nothing above zero in the group)", ylabel="density")
    ax.legend()
    return ax
