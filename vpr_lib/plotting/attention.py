"""Attention maps over images: the overlay of DINO-Mix's figures to the last grey level, grids of them, and what the heads of BoQ
and SALAD look at."""

from collections.abc import Mapping, Sequence
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from vpr_lib.models.heatmaps import unit_range, upsample
from vpr_lib.plotting.style import bare


def stretched(maps: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Maps (B, h, w) at an image's size, each stretched to 0..1 by itself: name -> float (B, *size)."""
    return {name: unit_range(upsample(values, size)).cpu().numpy() for name, values in maps.items()}


@cache
def jet() -> np.ndarray:
    """OpenCV's JET table, uint8 (256, 3) as red, green, blue; matplotlib's differs by up to 34 levels. Spec §6.1."""
    i = np.arange(256)
    ramps = [
        np.minimum((8 * i - low) / 2, (high - 8 * i) / 2) for low, high in ((765, 2295), (255, 1785), (-255, 1275))
    ]
    table = np.rint(np.stack(ramps, axis=1)).clip(0, 255).astype(np.uint8)  # rint: half to even
    table[159, 2] = 1  # the one entry of OpenCV's table that the formula misses
    return table


def overlay(maps: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Maps in colour over their images, by one rule for every model: (B, H, W), (B, H, W, 3) -> uint8 (B, H, W, 3).

    The map is truncated to 256 levels, coloured, added to the image, and the sum divided by its largest value.

    Args:
        maps: between 0 and 1.
        images: uint8, or floating point between 0 and 1.
    Raises:
        ValueError: if the sizes differ or the maps leave 0..1.
    Spec: dinomix §6.1, step 6.
    """
    maps, images = np.asarray(maps, np.float32), np.asarray(images)
    if images.shape != (*maps.shape, 3):
        raise ValueError(f"Maps {maps.shape} need images {(*maps.shape, 3)}, got {images.shape}.")
    if maps.size and not (maps.min() >= 0 and maps.max() <= 1):
        raise ValueError(f"Maps lie between 0 and 1, got {maps.min():g} to {maps.max():g}.")
    backgrounds = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)
    heat = jet()[(255 * maps).astype(np.uint8)].astype(np.float32) / 255
    blend = heat + backgrounds
    blend /= blend.max(axis=(-3, -2, -1), keepdims=True)
    return (255 * blend).astype(np.uint8)


def choose_views(queries: pd.DataFrame, conditions: Sequence[str], seed: int = 0) -> tuple[list[int], list[str]]:
    """One query for every condition, as many as possible from one place; rows of the table, and names for them.

    A data set without a `conditions` column gives as many queries, drawn at random under `seed`.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(queries))
    if "conditions" not in queries:
        return list(map(int, order[: len(conditions)])), [f"query {row}" for row in order[: len(conditions)]]
    word_sets = [set(words) if words is not None else set() for words in queries["conditions"]]
    place = [str(values) for values in queries[["utm_east", "utm_north"]].to_numpy().tolist()]
    wanted = set(conditions)
    alone: dict[str, set[str]] = {}  # place -> conditions that it shows by themselves
    for row, where in enumerate(place):
        shared = word_sets[row] & wanted
        alone.setdefault(where, set()).update(shared if len(shared) == 1 else ())
    best = max((place[row] for row in order), key=lambda where: len(alone[where]))
    rows: list[int] = []
    for condition in conditions:
        fitting = [int(row) for row in order if condition in word_sets[row] and row not in rows]
        if fitting:
            rows.append(
                min(fitting, key=lambda row: (len(word_sets[row] & wanted), place[row] != best, len(word_sets[row])))
            )
    return rows, [" ".join(sorted(word_sets[row] - {"easy", "hard"})) for row in rows]


def repeated_views(queries: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """For every query a second one with the same view, and one of another place: rows (Q,) and (Q,), -1 where there is none.

    The same view means the same position and heading, under another condition; the other place comes next in the list
    with the same conditions.
    """
    keys = [key for key in ("utm_east", "utm_north", "heading_deg") if key in queries]
    tags = queries["conditions"] if "conditions" in queries else pd.Series([()] * len(queries), queries.index)
    words = tags.map(lambda own: " ".join(own) if own is not None else "")
    frame = queries[keys].assign(words=words, row=np.arange(len(queries)))

    def following(by: list[str]) -> np.ndarray:
        """The next row of the same group, in a circle."""
        turned = frame.groupby(by, sort=False)["row"].transform(lambda rows: np.roll(rows, -1)).to_numpy()
        return np.where(turned == frame["row"], -1, turned)

    other = following(["words"])
    places = frame[keys].astype(str).agg(" ".join, axis=1).to_numpy()
    return following(keys), np.where((other >= 0) & (places[other] != places), other, -1)


def plot_attention(
    columns: Mapping[str, np.ndarray], images: np.ndarray, rows: Sequence[str], tile_in: float = 1.55
) -> Figure:
    """A grid: one line per image, the image itself first, then one picture per column.

    Args:
        columns: title -> maps (B, H, W) in 0..1, drawn over the images at the maps' size and sharing one colour bar; or
            pictures (B, h, w, 3), drawn as they are.
        images: uint8 (B, H, W, 3).
        rows: B names, one per image.
    """
    lines, width, tall = len(images), len(columns) + 1, images.shape[1] / images.shape[2]
    figure, axes = plt.subplots(
        lines,
        width,
        figsize=(tile_in * width + 0.8, tile_in * lines * tall + 0.35),
        squeeze=False,
        layout="constrained",
    )
    tiles = {"image": images} | {
        title: overlay(tile, _fit(images, tile)) if tile.ndim == 3 else tile for title, tile in columns.items()
    }
    for column, (title, pictures) in enumerate(tiles.items()):
        axes[0, column].set_title(title, fontsize=9, loc="center")
        for line, picture in enumerate(pictures):
            axes[line, column].imshow(picture)
            bare(axes[line, column])
    for line, name in enumerate(rows):
        axes[line, 0].set_ylabel(name, fontsize=9)
    if all(tile.ndim == 4 for tile in columns.values()):
        return figure
    bar = ScalarMappable(Normalize(0, 1), ListedColormap(jet() / 255))
    figure.colorbar(bar, ax=axes, shrink=min(0.8, 3 / lines), aspect=25, label="attention (scaled per image)")
    return figure


def _fit(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Images at the size of the maps, resized as PIL does for the published pictures (bicubic)."""
    from PIL import Image

    height, width = maps.shape[1:]
    if images.shape[1:3] == (height, width):
        return images
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height))) for image in images])


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
