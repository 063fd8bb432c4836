"""Boxes and arrows, and with them the methods after MixVPR in one picture each; sizes are read off the modules."""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import nn

from vpr_lib.models.clusvpr import ClusVPR
from vpr_lib.models.cost import count_parameters
from vpr_lib.models.minkloc import MinkLoc
from vpr_lib.models.zoo import VPRModel
from vpr_lib.plotting.picture import Picture
from vpr_lib.plotting.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

Spot = tuple[float, float]


class Diagram:
    """A sheet on which boxes are joined by arrows; coordinates are inches from the lower left corner."""

    def __init__(self, width: float, height: float):
        self.figure, self.ax = plt.subplots(figsize=(width, height))
        self.ax.set(xlim=(0, width), ylim=(0, height))
        self.ax.axis("off")

    def box(self, x: float, y: float, text: str, colour: str = GREY, width: float = 1.6, height: float = 0.75) -> Spot:
        """A box around the point (x, y); returns that point."""
        corner = (x - width / 2, y - height / 2)
        style = "round,pad=0.02,rounding_size=0.08"
        self.ax.add_patch(
            FancyBboxPatch(corner, width, height, boxstyle=style, facecolor="white", edgecolor=colour, linewidth=1.8)
        )
        self.ax.text(x, y, text, ha="center", va="center", fontsize=10.5)
        return x, y

    def row(
        self, y: float, xs: Sequence[float], texts: Sequence[str], colours: str | Sequence[str], width: float = 1.6,
        height: float = 0.75,
    ) -> list[Spot]:  # fmt: skip
        """Boxes in a line, joined from left to right; one colour for all, or one for each."""
        colours = [colours] * len(xs) if isinstance(colours, str) else colours
        spots = [self.box(x, y, text, colour, width, height) for x, text, colour in zip(xs, texts, colours)]
        for left, right in itertools.pairwise(spots):
            self.arrow((left[0] + width / 2, y), (right[0] - width / 2, y))
        return spots

    def arrow(
        self, start: Spot, end: Spot, colour: str = "black", text: str = "", dashed: bool = False, bend: float = 0
    ) -> None:
        line = "--" if dashed else "-"
        self.ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=colour, linestyle=line, shrinkA=2,
                                          shrinkB=2, linewidth=1.5, connectionstyle=f"arc3,rad={bend}"))  # fmt: skip
        if text:
            self.note((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.1, text, colour)

    def note(self, x: float, y: float, text: str, colour: str = "black", align: str = "center") -> None:
        self.ax.text(x, y, text, ha=align, va="bottom", fontsize=10, color=colour)


def _map(model: VPRModel) -> str:
    grid = model.backbone.grid(model.config.image_size)
    return f"{model.backbone.out_channels} × {grid[0]} × {grid[1]}"


def picture_of_light_models(models: Mapping[str, VPRModel]) -> Picture:
    """One row for each network: image, trunk, mixers, projections, descriptor, with what every part has in parameters.

    Args:
        models: name -> a network with MixVPR's head; meta tensors will do, nothing is computed.
    """
    sheet, xs = Diagram(11.6, 1.25 * len(models) + 0.5), (1.0, 3.6, 6.2, 8.4, 10.5)
    told = []
    for place, (name, model) in enumerate(models.items()):
        y, head = 1.25 * (len(models) - place) - 0.55, model.aggregator
        trunk, mixers = count_parameters(model.backbone) / 1e6, count_parameters(head.mix) / 1e6
        projections = count_parameters(head) / 1e6 - mixers
        texts = ["image\n{} × {}".format(*model.config.image_size), f"{_map(model)}\n{trunk:.2f} M", f"{len(head.mix)} × {head.in_h * head.in_w} cells\n{mixers:.2f} M",
                 f"{head.channel_proj.out_features} × {head.row_proj.out_features}\n{projections:.2f} M", f"{model.dim} numbers,\nunit length"]  # fmt: skip
        sheet.row(y, xs, texts, (GREY, SKY, BLUE, ORANGE, VERMILION), 1.7)
        sheet.note(0.15, y + 0.42, name, align="left")
        told.append(f"{name} {trunk:.2f}, {mixers:.2f} and {projections:.2f}")
    for x, text, colour in zip(
        xs[1:], ("trunk", "mixers", "projections", "descriptor"), (SKY, BLUE, ORANGE, VERMILION)
    ):
        sheet.note(x, 1.25 * len(models) + 0.2, text, colour)
    return Picture(
        sheet.ax,
        f"{len(models)} rows of boxes from image through trunk, mixers and projections to the descriptor. Millions of parameters in these "
        f"three parts: {'; '.join(told)}.",
        "One head, several trunks, read off the modules: the map that enters the mixers, and parameters in millions (M).",
    )


def picture_of_distillation(student: VPRModel, teacher: VPRModel) -> Picture:
    """Teacher and student on the same image, and which of the losses reach the student's weights."""
    sheet = Diagram(11.6, 4.7)
    xs, heads = (1.0, 3.4, 5.6, 7.7), ("mixers,\nprojections", "flatten, L2")
    above = sheet.row(
        3.6, xs, ["image $x$", f"teacher's trunk\n{_map(teacher)}", heads[0], f"$t$, {teacher.dim} numbers"], PURPLE
    )
    below = sheet.row(
        1.2, xs, ["image $x$", f"student's trunk\n{_map(student)}", heads[0], f"$s$, {student.dim} numbers"], SKY
    )
    sheet.note(3.4, 4.1, "frozen: no gradient", PURPLE)
    sheet.note(3.4, 0.4, "learns", SKY)
    published = sheet.box(10.3, 3.6, "$\\ell(t, y)$\nin the published loss", GREY, 2.0)
    labels = sheet.box(10.3, 1.2, "$\\ell(s, y)$\nlabels", GREEN, 2.0)
    link = sheet.box(8.8, 2.4, "$\\lambda\\, d(s, t)$: what was meant", GREEN, 2.6)
    for start, end in ((above[3], published), (below[3], labels)):
        sheet.arrow((start[0] + 0.8, start[1]), (end[0] - 1.0, end[1]))
    sheet.arrow((7.7, 3.22), (8.3, 2.78))
    sheet.arrow((7.7, 1.58), (8.3, 2.02))
    sheet.arrow((link[0] - 1.3, 2.3), (below[2][0] + 0.2, 1.6), GREEN, dashed=True, bend=0.15)
    sheet.arrow((labels[0] - 0.6, 0.8), (below[1][0] + 0.2, 0.8), GREEN, dashed=True, bend=-0.22)
    sheet.note(6.1, 2.15, "gradient", GREEN)
    sheet.note(6.4, 0.32, "gradient", GREEN)
    sheet.note(10.3, 4.05, "✗ no path to the student: gradient 0", VERMILION)
    return Picture(
        sheet.ax,
        "Two rows of boxes, the frozen teacher above the learning student. Dashed green arrows lead from the labels' loss and from the "
        "intended distillation term back to the student; none leads there from the published term, which only sees the teacher.",
        "Distillation as published and as meant; dashed: how a loss reaches the student's weights.",
    )


def picture_of_dinomix(model: VPRModel) -> Picture:
    """The trimmed transformer and the mixers on its patch tokens, drawn from the modules."""
    size, grid, mixer = model.backbone.size, model.backbone.grid(model.config.image_size), model.aggregator
    blocks = model.backbone.dino_model.blocks
    fixed = sum(not next(block.parameters()).requires_grad for block in blocks)
    sheet = Diagram(12.4, 3.9)
    tokens = f"{grid[0]} × {grid[1]} patches\nof {size.patch} px\n+ class token"
    texts = ["image\n{} × {}".format(*model.config.image_size), tokens, f"blocks 1 to {fixed}\nfixed" if fixed else "no fixed block",
             f"blocks {fixed + 1} to {size.depth}\nlearn", f"patch tokens\n{size.dim} × {grid[0]} × {grid[1]}",
             f"{len(mixer.mix)} mixers,\nprojections", f"descriptor\n{mixer.dim}"]  # fmt: skip
    xs = [0.9 + 1.78 * place for place in range(len(texts))]
    sheet.row(2.1, xs, texts, (GREY, SKY, GREY, PURPLE, SKY, BLUE, VERMILION), 1.42, 0.95)
    middle = (xs[3] + xs[4]) / 2
    sheet.box(middle, 0.6, "✗ final norm\n✗ class token, ✗ head", VERMILION, 1.9, 0.7)
    sheet.arrow((middle, 2.05), (middle, 0.97), VERMILION, dashed=True)
    sheet.note(middle + 1.05, 0.45, "trimmed away", VERMILION, "left")
    sheet.note(
        (xs[1] + xs[3]) / 2, 2.85, "positions: a learned table, resampled to this grid; they keep learning", PURPLE
    )
    sheet.note(xs[5], 2.85, "as in notebook 02", BLUE)
    return Picture(
        sheet.ax,
        f"A chain of boxes: image, patches with a class token, {fixed} fixed and {size.depth - fixed} learning blocks, the patch tokens as a map, "
        f"{len(mixer.mix)} mixers with projections, a descriptor of {mixer.dim} numbers; final norm, class token and head are left out.",
        f"`{model.backbone.name}` and its mixers, drawn from the modules.",
    )


def picture_of_clusvpr(model: VPRModel) -> Picture:
    """Trunk, CWTNets, OptLAD; below, what happens inside one CWTNet."""
    head: ClusVPR = model.aggregator
    half, (h, w) = head.in_channels // 2, head.grid
    sheet = Diagram(12.4, 6.2)
    texts = ["image\n{} × {}".format(*model.config.image_size), f"trunk\n{_map(model)}", f"{len(head.vit_layer)} CWTNets",
             f"unit columns, $W_1$\n{head.groups} groups of {head.group_dim}", f"OptLAD\n{head.clusters} centres",
             f"descriptor\n{head.clusters} · {head.group_dim} = {head.dim}"]  # fmt: skip
    xs = [1.1 + 2.05 * place for place in range(len(texts))]
    for x, text, colour in zip(xs, texts, (GREY, SKY, VERMILION, ORANGE, ORANGE, GREEN)):
        sheet.box(x, 5.3, text, colour, 1.75, 0.85)
    for left, right in itertools.pairwise(xs):
        sheet.arrow((left + 0.88, 5.3), (right - 0.88, 5.3))
    sheet.note(1.1, 4.2, "one CWTNet:", VERMILION)
    sheet.box(2.0, 3.4, f"local half\n{half} × {h} × {w}", SKY)
    sheet.box(2.0, 1.2, f"global half\n{half} × {h} × {w}", SKY)
    steps = [
        f"halve: {h * w // 4} tokens\n+ class token",
        "$w_i$: how far are its\nnearest tokens?",
        "attention over\n$v_i \\cdot (0.5 + w_i)$",
        "double,\nadd to the map",
    ]
    sheet.row(1.2, (4.35, 6.3, 8.25, 10.2), steps, VERMILION, 1.7)
    sheet.arrow((2.8, 1.2), (3.55, 1.2))
    sheet.box(10.2, 3.4, "ReLU(BN(sum))\nof both halves", GREY)
    sheet.arrow((2.8, 3.4), (9.4, 3.4), text="depthwise 3 × 3")
    sheet.arrow((10.2, 1.6), (10.2, 3.02))
    sheet.arrow((2.4, 1.58), (9.4, 3.2), GREY, bend=-0.05)
    sheet.note(7.6, 2.35, "exchange: depthwise 3 × 3", GREY)
    sheet.arrow((2.4, 3.02), (9.45, 1.58), GREY, bend=0.05)
    sheet.arrow((11.0, 3.4), (11.7, 3.4), text="next")
    sheet.note(6.4, 0.35, "rare tokens count up to three times as much as common ones", VERMILION)
    return Picture(
        sheet.ax,
        f"Above, a chain from image through trunk, {len(head.vit_layer)} CWTNets and OptLAD to {head.dim} numbers. Below, one CWTNet: the channels "
        "are split into a local and a global half that exchange depthwise convolutions; the global half is turned into tokens, each is "
        "weighed by how far its nearest tokens are, attention runs over the weighed values, and the result is added to the map.",
        f"{model.config.system} on {model.config.backbone}, drawn from the modules.",
    )


def picture_of_distilvpr(teacher: MinkLoc, student: nn.Module) -> Picture:
    """MinkLoc++ with its two branches, the camera-only student, and the relations that are handed over."""
    sheet = Diagram(12.4, 6.4)
    planes = ", ".join(map(str, teacher.config.planes))
    cloud = sheet.row(
        5.6,
        (1.0, 3.4, 5.8),
        ["point cloud", f"voxels, sparse 3-D\nconvolutions {planes}", f"GeM\n{teacher.config.cloud_dim}"],
        PURPLE,
        1.9,
    )
    image = sheet.row(
        4.2,
        (1.0, 3.4, 5.8),
        ["image", f"{teacher.config.backbone},\n1 × 1 convolution", f"GeM\n{teacher.config.image_dim}"],
        PURPLE,
        1.9,
    )
    t = sheet.box(8.3, 4.9, f"teacher $t$\n{teacher.dim} numbers, frozen", PURPLE, 2.1)
    for spot in (cloud[2], image[2]):
        sheet.arrow((spot[0] + 0.95, spot[1]), (t[0] - 1.05, t[1]))
    camera = sheet.row(
        1.2,
        (1.0, 3.4, 5.8),
        ["image", f"{student.config.backbone},\n1 × 1 convolution", f"GeM\n{student.dim}"],
        SKY,
        1.9,
    )
    s = sheet.box(8.3, 1.2, f"student $s$\n{student.dim} numbers", SKY, 2.1)
    sheet.arrow((camera[2][0] + 0.95, 1.2), (s[0] - 1.05, 1.2))
    sheet.note(1.0, 0.45, "all that the robot carries", SKY)
    relations = [
        (11.1, 4.9, "TT\nteacher to teacher", PURPLE),
        (11.1, 3.05, "ST\nstudent to teacher", ORANGE),
        (11.1, 1.2, "SS\nstudent to student", SKY),
    ]
    for x, y, text, colour in relations:
        sheet.box(x, y, text, colour, 1.9, 0.8)
    sheet.arrow((9.35, 4.9), (10.15, 4.9))
    sheet.arrow((9.35, 1.2), (10.15, 1.2))
    sheet.arrow((9.2, 4.5), (10.15, 3.3))
    sheet.arrow((9.2, 1.6), (10.15, 2.8))
    sheet.arrow((11.5, 4.5), (11.5, 1.6), GREEN, dashed=True, bend=-0.5)
    sheet.arrow((10.8, 2.65), (10.8, 1.6), GREEN, dashed=True)
    sheet.note(12.25, 3.55, "S", GREEN)
    sheet.note(10.55, 2.0, "C", GREEN)
    sheet.note(
        5.9,
        2.75,
        "each relation on three manifolds:\nflat (distances), sphere (angles, cosines), hyperbolic (geodesics)",
        GREEN,
    )
    return Picture(
        sheet.ax,
        "Above, the teacher: a cloud branch of sparse convolutions and an image branch, side by side in one frozen descriptor. Below, the "
        "student with a camera only. Right, relations inside a batch: teacher to teacher, student to teacher, student to student; green "
        "arrows make SS like TT (S, self-agent) and like ST (C, cross-agent), on three manifolds.",
        "DistilVPR: what is handed over is how the submaps of a batch lie to each other.",
    )
