"""What the heads of BoQ and SALAD look at: query maps, the share of clusters, the dustbin."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure


def plot_queries(images: np.ndarray, maps: np.ndarray, shown: int = 4) -> Figure:
    """Images beside the maps of the queries that look most sharply, a row per image.

    Args:
        images: uint8 (B, H, W, 3).
        maps: weights (B, Q, h, w), each summing to one (`BoQ.attention`, one block).
        shown: queries, those with the highest single weight on average over the images; the same for every row.
    """
    sharp = maps.max(axis=(2, 3)).mean(axis=0).argsort()[::-1][:shown]
    return _grid(images, [maps[:, query] for query in sharp], [f"query {query + 1}" for query in sharp])


def plot_assignment(images: np.ndarray, shares: np.ndarray, shown: int = 3) -> Figure:
    """Images beside the dustbin and the clusters that take most, a row per image.

    Args:
        images: uint8 (B, H, W, 3).
        shares: (B, clusters + 1, h, w), the dustbin last, summing to one at every position (`SALAD.attention`).
        shown: clusters, those whose share varies most over the images; the same for every row.
    """
    busy = shares[:, :-1].std(axis=(0, 2, 3)).argsort()[::-1][:shown]
    maps = [shares[:, -1], *(shares[:, cluster] for cluster in busy)]
    return _grid(images, maps, ["dustbin", *(f"cluster {cluster + 1}" for cluster in busy)])


def _grid(images: np.ndarray, columns: list[np.ndarray], titles: list[str]) -> Figure:
    """A row per image: the picture, then one map per column; a column has one colour scale."""
    figure, axes = plt.subplots(
        len(images), len(columns) + 1, figsize=(1.7 * (len(columns) + 1), 1.8 * len(images)), squeeze=False
    )
    for row, image in enumerate(images):
        axes[row, 0].imshow(image)
        for ax, maps in zip(axes[row, 1:], columns):
            ax.imshow(maps[row], vmin=0, vmax=maps.max(), cmap="viridis")
    for ax, title in zip(axes[0], ["image", *titles]):
        ax.set_title(title, fontsize=9)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure
