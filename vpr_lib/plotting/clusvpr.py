"""Figures of ClusVPR: what methods look at and what they find, and what the group attention does."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from vpr_lib.data.images import InputSpec, load_images
from vpr_lib.plotting.attention import overlay
from vpr_lib.plotting.picture import Picture
from vpr_lib.plotting.retrievals import show_match
from vpr_lib.plotting.style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION
from vpr_lib.retrieval.protocol import Evaluation


def picture_of_group_attention(values: np.ndarray, before: np.ndarray) -> Picture:
    """Histogram of the group attention over all images, groups and cells; it could lie anywhere between 0.5 and 1.

    Args:
        values, before: attention of the trained and of the fresh network, (queries, groups, ...).
    """
    ax = plt.subplots(figsize=(6.4, 3.2))[1]
    edges = np.linspace(0.5, 0.5 + 1.05 * (max(float(values.max()), float(before.max())) - 0.5), 60)
    ax.hist(before.ravel(), edges, color=GREY, alpha=0.6, label="before training", density=True)
    ax.hist(values.ravel(), edges, histtype="step", color=BLUE, linewidth=2, label="trained", density=True)
    ax.set(xlabel="group attention a (0.5 = nothing above zero in the group)", ylabel="density")
    ax.legend()
    return Picture(
        ax,
        f"Histogram of the group attention: all values lie between {values.min():.3f} and {values.max():.3f}.",
        f"{values.shape[0]} queries, {values.shape[1]} groups, every cell; possible are 0.5 to 1.",
    )


def picture_of_looks(
    pixels: np.ndarray, maps: Mapping[str, np.ndarray], answers: Mapping[str, Evaluation], rows: np.ndarray, names: Sequence[str],
    spec: InputSpec,
) -> Picture:  # fmt: skip
    """The layout of the paper's qualitative figure: the query, every method's heat map, every method's first match.

    Right matches carry a solid frame and ✓, wrong ones a dashed frame and ✗; matches are read from disk.

    Args:
        pixels: the queries, uint8 (B, H, W, 3), named by `names`. maps: method -> (B, H, W) between 0 and 1.
        rows: the queries' numbers, (B,). spec: the size at which matches are shown.
    Spec: clusvpr §10, Fig. 5.
    """
    width = 1 + 2 * len(maps)
    figure, axes = plt.subplots(len(pixels), width, squeeze=False, layout="constrained",
                                figsize=(1.4 * width, 1.4 * len(pixels) + 0.4))  # fmt: skip
    for ax in axes.ravel():
        ax.set_axis_off()
    for ax, query, name in zip(axes[:, 0], pixels, names):
        ax.imshow(query)
        ax.set_title(name, fontsize=8.5, loc="left", fontweight="normal", pad=3)
    database, right = next(iter(answers.values())).benchmark.database.image_paths(), []
    for method, looks, finds in zip(maps, axes.T[1:], axes.T[1 + len(maps) :]):
        scored = answers[method].scores[0]
        found = load_images([database[row] for row in scored.ranking[rows, 0]], spec).permute(0, 2, 3, 1).numpy()
        correct = scored.first_hits[rows] == 1
        for ax, drawn in zip(looks, overlay(maps[method], pixels)):
            ax.imshow(drawn)
        for ax, image, hit in zip(finds, found, correct):
            show_match(ax, image, bool(hit))
        looks[0].set_title(f"{method}: map", fontsize=9, loc="left", pad=3)
        finds[0].set_title(f"{finds[0].get_title(loc='left')} {method}: first", fontsize=9, loc="left", pad=4)
        right.append(f"{method} {int(correct.sum())} of {len(correct)}")
    return Picture(
        figure,
        f"Queries with the heat maps of {len(maps)} models and their first matches; right at rank one: {', '.join(right)}.",
        f"Half the queries are found by {next(iter(answers))}, half are not, drawn at random; ✓ and a solid frame: within the radius.",
    )


def plot_tokens_by_hand(tokens: np.ndarray, weights: np.ndarray) -> Picture:
    """Tokens of two numbers as dots, as large as their values will count (0.5 + w).

    Args:
        tokens: (T, 2). weights: w between 0 and 1, (T,).
    """
    ax = plt.subplots(figsize=(6.2, 3.4))[1]
    for number, (token, weight) in enumerate(zip(tokens, weights)):
        size, label = 420 * (0.5 + weight), f"token {number} counts × {0.5 + weight:.2f}"
        ax.scatter(*token, s=size, color=VERMILION, alpha=0.6, label=label)
        ax.annotate(str(number), token, ha="center", va="center", fontsize=10)
    ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1), markerscale=0.5)
    ax.margins(0.25)
    ax.set(xlabel="first number", ylabel="second number")
    factors = ", ".join(f"{0.5 + weight:.2f}" for weight in weights)
    return Picture(
        ax,
        f"{len(tokens)} tokens as dots; their values count {factors} times.",
        "The farther from its neighbours, the more a token counts.",
    )


def plot_vlad_by_hand(points: np.ndarray, centres: np.ndarray, shares: np.ndarray) -> Picture:
    """Points softly assigned to centres: a line from every centre to every point, as strong as its share.

    Args:
        points: (L, 2). centres: (K, 2). shares: (K, L), summing to one over K.
    """
    ax = plt.subplots(figsize=(7.2, 3.6))[1]
    colours = (BLUE, GREEN, ORANGE, PURPLE, VERMILION)
    for k, centre in enumerate(centres):
        colour = colours[k % len(colours)]
        for point, share in zip(points, shares[k]):
            ax.plot(
                *np.stack([centre, point]).T, color=colour, alpha=float(0.05 + 0.9 * share), linewidth=0.5 + 3 * share
            )
        total = (shares[k][:, None] * (points - centre)).sum(0)
        ax.annotate("", centre + total / len(points), centre, arrowprops=dict(arrowstyle="-|>", color="black"))
        ax.plot(
            *centre, "s", color=colour, markersize=9, label=f"centre {k}: residual ({total[0]:+.2f}, {total[1]:+.2f})"
        )
    ax.plot(*points.T, "o", color="black", markersize=5)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    ax.set(xlabel="first number", ylabel="second number")
    return Picture(
        ax,
        f"{len(points)} points joined to {len(centres)} centres by lines as strong as their shares; an arrow at each centre is its residual.",
        f"What {len(centres)} centres see of {len(points)} points; arrows: the sum of residuals over the number of points.",
    )
