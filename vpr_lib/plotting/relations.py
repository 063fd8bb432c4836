"""Pictures of triplets and relations: hardest triplets on a line, three geometries, descriptors in the Poincaré disc, matrices of teacher and student."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from torch import Tensor

from vpr_lib.losses.relational import to_ball
from vpr_lib.losses.triplet import Triplets
from vpr_lib.plotting.distillation import agreement, show_pairs
from vpr_lib.plotting.picture import Picture, listed
from vpr_lib.plotting.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, bare


def plot_three_geometries(c: float) -> Figure:
    """The same three points and how each geometry measures them: chords, angles, geodesics of the disc with curvature -c."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.9))
    radius = 1 / np.sqrt(c)
    turns = np.radians([20.0, 75.0, 160.0])
    lengths = np.array([0.55, 0.85, 0.7]) * radius
    points = lengths[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)
    pairs = [(0, 1), (1, 2), (0, 2)]
    titles = ("Euclidean: how far", "Spherical: in which direction", "Hyperbolic: how far, more so near the rim")
    for ax, title in zip(axes, titles):
        bare(ax)
        ax.set(xlim=(-1.12 * radius, 1.12 * radius), ylim=(-0.35 * radius, 1.12 * radius), aspect="equal")
        ax.set_title(title, fontsize=11)
        ax.plot(0, 0, "+", color=GREY, markersize=9)
    for i, j in pairs:
        axes[0].plot(*points[[i, j]].T, color=BLUE)
        arc = np.linspace(turns[i], turns[j], 60)
        reach = (0.25 + 0.1 * (i + j)) * radius
        axes[1].plot(reach * np.cos(arc), reach * np.sin(arc), color=ORANGE)
        axes[2].plot(*geodesic(points[i], points[j], c).T, color=VERMILION)
    for point in points:
        axes[1].plot([0, point[0]], [0, point[1]], color=GREY, linewidth=1)
    axes[2].add_patch(Circle((0, 0), radius, fill=False, color="black"))
    axes[2].text(0, -0.28 * radius, f"rim: radius 1/√c = {radius:.2f}, infinitely far away", ha="center", fontsize=9)
    for ax in axes:
        ax.plot(*points.T, "o", color="black", zorder=3)
        for name, point in zip("abc", points):
            ax.annotate(name, point, textcoords="offset points", xytext=(7, 5), fontsize=11)
    return figure


def geodesic(x: np.ndarray, y: np.ndarray, c: float, count: int = 60) -> np.ndarray:
    """Points of the shortest path between two points of the disc with curvature -c, (count, 2)."""
    step = _add(-x, y, c)
    norm = np.linalg.norm(step)
    if norm < 1e-12:
        return np.repeat(x[None], count, 0)
    root = np.sqrt(c)
    reach = np.tanh(np.linspace(0, 1, count) * np.arctanh(min(root * norm, 1 - 1e-9))) / root
    return np.stack([_add(x, r * step / norm, c) for r in reach])


def _add(x: np.ndarray, y: np.ndarray, c: float) -> np.ndarray:
    """Möbius addition."""
    xy, x2, y2 = x @ y, x @ x, y @ y
    return ((1 + 2 * c * xy + c * y2) * x + (1 - c * x2) * y) / (1 + 2 * c * xy + c**2 * x2 * y2)


def project_to_disc(agents: Mapping[str, np.ndarray], c: float) -> tuple[dict[str, np.ndarray], float]:
    """Descriptors of several agents as points of one disc, agent -> (N, 2), and the share of their variance that is kept.

    Relations do not know where an agent's origin is nor how long its descriptors are, so each agent is centred on its mean
    and scaled to the same mean square length. Two joint principal directions become tangent vectors at the centre of the
    disc, and the exponential map takes them inside.
    """
    centred = {name: rows - rows.mean(0) for name, rows in agents.items()}
    equal = {name: rows / np.sqrt((rows**2).sum(1).mean()) for name, rows in centred.items()}
    _, strength, directions = np.linalg.svd(np.concatenate(list(equal.values())), full_matrices=False)
    points = {
        name: to_ball(torch.from_numpy(rows @ directions[:2].T / np.sqrt(c)), c).numpy() for name, rows in equal.items()
    }
    return points, float((strength[:2] ** 2).sum() / (strength**2).sum())


def plot_poincare_disc(
    clouds: Mapping[str, np.ndarray], places: np.ndarray, c: float, ax: Axes, shown: int = 6
) -> Axes:
    """Descriptors of teacher and student in one disc: a colour and a number per place, a marker per agent, a geodesic between.

    Args:
        clouds: agent -> points of the disc, (N, 2), two agents.
        places: place of every point, (N,); the first `shown` places are drawn in colour, the others in grey.
    """
    rim = 1 / np.sqrt(c)
    names, colours = np.unique(places), (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
    ax.add_patch(Circle((0, 0), rim, fill=False, color="black"))
    (first, second), markers = clouds.values(), ("o", "^")
    for number, place in enumerate(names):
        rows = places == place
        colour = colours[number % len(colours)] if number < shown else "#CCCCCC"
        for points, marker in ((first, markers[0]), (second, markers[1])):
            ax.scatter(
                *points[rows].T, s=26, color=colour, marker=marker, linewidths=0, zorder=2 if number < shown else 1
            )
        if number < shown:
            for a, b in zip(first[rows], second[rows]):
                ax.plot(*geodesic(a, b, c).T, color=colour, linewidth=0.7, alpha=0.6)
            for points in (first, second):  # the number says what the colour says
                ax.annotate(f"{number + 1}", points[rows].mean(0), ha="center", va="center", fontsize=11, fontweight="bold",
                            color=colour, path_effects=[withStroke(linewidth=2.5, foreground="white")], zorder=4)  # fmt: skip
    for name, marker in zip(clouds, markers):
        ax.scatter([], [], color="black", marker=marker, label=name)
    bare(ax)
    ax.set(aspect="equal", xlim=(-1.03 * rim, 1.03 * rim), ylim=(-1.03 * rim, 1.03 * rim))
    ax.legend(loc="lower right", fontsize=9)
    return ax


def picture_of_relations(
    matrices: Mapping[str, Mapping[str, Tensor]], geometries: Sequence[str], shape: tuple[int, int]
) -> tuple[Picture, dict[str, float]]:
    """Heat maps of relations, and how far the cosines of every pair of agents go with the teacher's, a correlation.

    One line per geometry, one column per pair of agents, every panel on a scale of its own: panels are compared by their
    pattern, which an offset that all entries share, as between a student and a teacher that never met, would hide on a common
    scale. Bright is near.

    Args:
        matrices: title -> {geometry: (B, B)}, "TT" among the titles. shape: places and drives.
        geometries: from top to bottom; of all but "cosine" small values are near.
    """
    size = (2.1 * len(matrices), 2.15 * len(geometries))
    figure, axes = plt.subplots(len(geometries), len(matrices), figsize=size, squeeze=False, layout="constrained")
    for line, geometry in zip(axes, geometries):
        for ax, kinds in zip(line, matrices.values()):
            show_pairs(ax, kinds[geometry].numpy(), "cividis" if geometry == "cosine" else "cividis_r")
        line[0].set_ylabel(geometry)
    for ax, title in zip(axes[0], matrices):
        ax.set_title(title, fontsize=10, loc="center")
    teacher = matrices["TT"]["cosine"].numpy()
    alike = {title: agreement(kinds["cosine"].numpy(), teacher) for title, kinds in matrices.items()}
    return Picture(
        figure,
        f"Heat maps of relations on three geometries. Correlation of the cosines with the teacher's: {listed(alike, '', 2)}.",
        f"{shape[0]} places in {shape[1]} drives; teacher (TT), student before and after training (SS), student against teacher (ST). Every "
        "panel has its own scale.",
    ), alike


def picture_of_discs(students: Mapping[str, Mapping[str, np.ndarray]], places: np.ndarray, c: float) -> Picture:
    """`plot_poincare_disc` side by side, one for each student.

    Args:
        students: title -> {"teacher": (N, D), a student: (N, D)}. places: place of every row, (N,).
    """
    figure, axes = plt.subplots(1, len(students), figsize=(5.5 * len(students), 5.4), squeeze=False)
    for ax, (title, agents) in zip(axes[0], students.items()):
        points, share = project_to_disc(agents, c)
        plot_poincare_disc(points, places, c, ax).set_title(f"{title}: {100 * share:.0f} % of the variance")
    return Picture(
        figure,
        f"Poincaré discs with the same submaps as the teacher (circles) and the student (triangles) see them, joined by geodesics: {', '.join(students)}.",
        "Each agent centred and scaled alike, two joint principal directions, mapped into the disc; six numbered places in colour, the "
        "others grey.",
    )


def plot_triplets(spots: Tensor, places: Tensor, mined: Triplets) -> Picture:
    """Descriptors of one number on a line; above it an arc from every anchor to its farthest positive, below to its nearest negative.

    Args:
        spots: (B,). places: place of every descriptor, (B,), which chooses its marker.
    """
    ax = plt.subplots(figsize=(8.4, 3.2))[1]
    x, colours, markers = spots.tolist(), (BLUE, ORANGE, PURPLE, SKY), "os^D"
    for number, place in enumerate(places.tolist()):
        ax.plot(x[number], 0, markers[place % 4], color=colours[place % 4], markersize=17, zorder=3)
        ax.text(
            x[number], 0, str(number), ha="center", va="center", fontsize=10, color="white", weight="bold", zorder=4
        )
    turn = np.linspace(0, np.pi, 60)
    for others, side, colour in ((mined.positives, 1, GREEN), (mined.negatives, -1, VERMILION)):
        for anchor, other in zip(mined.anchors.tolist(), others.tolist()):
            centre, half = (x[anchor] + x[other]) / 2, (x[other] - x[anchor]) / 2
            arc = np.stack([centre - half * np.cos(turn), side * (0.12 + 0.8 * abs(half)) * np.sin(turn)])
            ax.plot(*arc, color=colour, linewidth=1.4, linestyle="-" if side > 0 else "--")
            ax.annotate("", arc[:, -1], arc[:, -4], arrowprops={"arrowstyle": "-|>", "color": colour})
    ax.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.text(0.01, 0.97, "to the farthest positive", color=GREEN, transform=ax.transAxes, va="top", fontsize=9)
    ax.text(0.01, 0.03, "to the nearest negative", color=VERMILION, transform=ax.transAxes, fontsize=9)
    ax.margins(0.12, 0.16)
    ax.set(yticks=[], xlabel="descriptor")
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
    rows = zip(mined.anchors.tolist(), mined.positives.tolist(), mined.negatives.tolist())
    told = ", ".join(f"{a} with {p} and {n}" for a, p, n in rows)
    return Picture(
        ax,
        f"{len(x)} descriptors on a line. Every anchor with its farthest positive and nearest negative: {told}.",
        "One arc above and one below for every anchor; markers and colours are places.",
    )
