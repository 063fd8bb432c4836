"""DistilVPR's losses: relations within and between teacher and student on three geometries. Spec: distilvpr §6.3-6.6.

A relation is a B x B matrix of how the descriptors of a batch lie to each other: SS among the student's, TT among the
teacher's, ST between the two. Self-agent terms compare SS with TT, cross-agent terms bring ST in. The geometries are flat
(distance), spherical (cosine or angle) and hyperbolic (geodesic distance in the Poincaré ball).
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vpr_lib.config import Strict
from vpr_lib.registry import lookup

CURVATURE = 0.1  # c; the ball has curvature -c
TANH_LIMIT, NORM_FLOOR, BALL_MARGIN, ARTANH_MARGIN, MOBIUS_EPS = 15.0, 1e-5, 1e-3, 1e-5, 1e-5

Geometry = Literal["euclidean", "cosine", "geodesic"]
GEOMETRIES: tuple[Geometry, ...] = ("euclidean", "cosine", "geodesic")
MANIFOLDS: dict[str, Geometry] = {"E": "euclidean", "angle": "cosine", "cosine": "cosine", "H": "geodesic"}  # in tables


# ---- the Poincaré ball (spec §6.3)


class _Artanh(torch.autograd.Function):
    """artanh of the clamped input; the gradient 1 / (1 - z^2) is that of the clamped value and is not cut outside."""

    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:
        z = z.clamp(-1 + ARTANH_MARGIN, 1 - ARTANH_MARGIN)
        ctx.save_for_backward(z)
        return 0.5 * (torch.log(1 + z) - torch.log(1 - z))

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grad / (1 - z**2)


artanh: Callable[[Tensor], Tensor] = _Artanh.apply


def to_ball(tangent: Tensor, c: float = CURVATURE) -> Tensor:
    """Exponential map at the origin, then back inside the ball: (B, D) -> (B, D) with norms below (1 - 1e-3) / sqrt(c).

    Descriptors with a norm above 12 all land on the rim (c = 0.1); `descriptor_norm` in the logs tells.
    """
    root = math.sqrt(c)
    norm = tangent.norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR)
    points = torch.tanh((root * norm).clamp(-TANH_LIMIT, TANH_LIMIT)) * tangent / (root * norm)
    radius = points.norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR)
    largest = (1 - BALL_MARGIN) / root
    return torch.where(radius > largest, points * (largest / radius), points)


def mobius_difference(x: Tensor, y: Tensor, c: float = CURVATURE) -> Tensor:
    """(-x_i) + y_j by Möbius addition for all pairs: (N, D), (M, D) -> (N, M, D)."""
    x = -x
    xy = x @ y.T
    x2, y2 = (x**2).sum(-1)[:, None], (y**2).sum(-1)[None]
    numerator = (1 + 2 * c * xy + c * y2)[..., None] * x[:, None] + (1 - c * x2)[..., None] * y[None]
    return numerator / (1 + 2 * c * xy + c**2 * x2 * y2 + MOBIUS_EPS)[..., None]


def geodesic_distances(x: Tensor, y: Tensor, c: float = CURVATURE) -> Tensor:
    """Distances in the ball between all points of x (N, D) and y (M, D): (N, M). Saturates at 38.6 for c = 0.1."""
    root = math.sqrt(c)
    return 2 / root * artanh(root * mobius_difference(x, y, c).norm(dim=-1))


# ---- relations


def euclidean_distances(x: Tensor, y: Tensor) -> Tensor:
    """‖x_i - y_j‖, (N, M); its gradient at distance zero is zero."""
    return (x[:, None] - y[None]).norm(dim=-1)


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of the angle between x_i and y_j, (N, M)."""
    return x @ y.T / (x.norm(dim=1)[:, None] * y.norm(dim=1)[None])


def relation(x: Tensor, y: Tensor, geometry: Geometry, c: float = CURVATURE) -> Tensor:
    """The matrix of one geometry between two sets of descriptors, (N, M)."""
    if geometry == "geodesic":
        return geodesic_distances(to_ball(x, c), to_ball(y, c), c)
    return {"euclidean": euclidean_distances, "cosine": cosines}[geometry](x, y)


def relations(x: Tensor, y: Tensor, c: float = CURVATURE) -> dict[Geometry, Tensor]:
    """All three matrices of two sets of descriptors brought to unit length, as the cross-agent terms see them."""
    return {geometry: relation(F.normalize(x, dim=1), F.normalize(y, dim=1), geometry, c) for geometry in GEOMETRIES}


# ---- self-agent terms, "RKD-G" (spec §6.4)


def self_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the distance matrices (B, B), each divided by the mean over its entries above zero."""
    return F.smooth_l1_loss(_scaled(_rkd_distances(student)), _scaled(_rkd_distances(teacher)))


def self_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the cosines of all angles j-i-k, (B, B, B); an angle with a repeated point counts as zero."""
    return F.smooth_l1_loss(_angles(student), _angles(teacher))


def self_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the cosine matrices: the spherical relation as the paper words it."""
    return F.smooth_l1_loss(cosines(student, student), cosines(teacher, teacher))


def self_geodesic(student: Tensor, teacher: Tensor, c: float = CURVATURE, exact: bool = False) -> Tensor:
    """Smooth L1 between the geodesic matrices, each divided by its mean.

    Args:
        exact: as released, the mean over entries above zero. Rounding makes some self-distances positive, so that mean
            depends on noise; the default averages the entries off the diagonal.
    """
    scale = _scaled if exact else _scaled_off_diagonal
    parts = [scale(relation(x, x, "geodesic", c)) for x in (student, teacher)]
    return F.smooth_l1_loss(*parts)


def _rkd_distances(x: Tensor) -> Tensor:
    squares = (x**2).sum(1)
    distance = (squares[:, None] + squares[None] - 2 * x @ x.T).clamp_min(1e-12).sqrt()
    return distance.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), 0)


def _angles(x: Tensor) -> Tensor:
    edges = F.normalize(x[None] - x[:, None], dim=2)  # (B, B, D), from i to j
    return edges @ edges.transpose(1, 2)


def _scaled(matrix: Tensor) -> Tensor:
    return matrix / matrix[matrix > 0].mean()


def _scaled_off_diagonal(matrix: Tensor) -> Tensor:
    off = ~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    return matrix / matrix[off].mean()


# ---- cross-agent terms (spec §6.5)


def cross_relation(
    student: Tensor,
    teacher: Tensor,
    geometry: Geometry,
    term: Literal["st2ss", "tt2st"] = "st2ss",
    c: float = CURVATURE,
    compare: Literal["mse", "l1"] = "mse",
    detach: bool = True,
) -> Tensor:
    """Pull one relation matrix to another, on L2-normalised descriptors, the diagonal included.

    Args:
        term: "st2ss" pulls SS to ST, "tt2st" pulls ST to TT.
        detach: whether ST, which holds the student too, is a fixed target in "st2ss" (as released).
    """
    s, t = F.normalize(student, dim=1), F.normalize(teacher.detach(), dim=1)
    between = relation(s, t, geometry, c)
    distance = {"mse": F.mse_loss, "l1": F.l1_loss}[compare]
    if term == "tt2st":
        return distance(between, relation(t, t, geometry, c))
    return distance(relation(s, s, geometry, c), between.detach() if detach else between)


# ---- the sum (spec §6.6)


class RelationalWeights(Strict):
    """Weights of the distillation terms; the defaults are DistilVPR-SC on Oxford. On Boreas `self_agent` is 1."""

    self_agent: float = 10.0
    geometries: tuple[Geometry, ...] = GEOMETRIES  # of the self-agent terms
    spherical: Literal["angle", "cosine"] = "angle"  # as released, or as the paper words it
    exact_mean: bool = False  # the released normaliser of the geodesic matrix
    cross: dict[Geometry, float] = {"euclidean": 0.1, "cosine": 0.1, "geodesic": 0.1}
    cross_term: Literal["st2ss", "tt2st"] = "st2ss"
    compare: Literal["mse", "l1"] = "mse"
    detach: bool = True
    curvature: float = CURVATURE

    def restricted_to(self, manifolds: str) -> "RelationalWeights":
        """The same weights on some manifolds only, for instance 'E+H'; the sphere is 'angle' or 'cosine', see `spherical`.

        Raises:
            ValueError: for an unknown manifold, or the sphere twice.
        """
        names = manifolds.split("+")
        chosen = {lookup(MANIFOLDS, name, "manifold") for name in names}
        if len(chosen) < len(names):
            raise ValueError(
                f"'{manifolds}' names a manifold twice; 'angle' and 'cosine' are two relations on one sphere."
            )
        changes = {
            "geometries": tuple(name for name in self.geometries if name in chosen),
            "cross": {name: weight for name, weight in self.cross.items() if name in chosen},
        }
        spherical = next((name for name in names if name in ("angle", "cosine")), self.spherical)
        return self.model_validate(self.model_dump() | changes | {"spherical": spherical})


def relational_loss(student: Tensor, teacher: Tensor, weights: RelationalWeights) -> dict[str, Tensor]:
    """All terms with a weight, by name and already weighted; the teacher gets no gradient.

    Args:
        student, teacher: raw descriptors (B, D) of equal width.
    Raises:
        ValueError: when shapes differ: cross-agent relations need one space.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"Student descriptors are {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}; relations between "
            "them need equal widths. Build the student with the teacher's width."
        )
    teacher, c = teacher.detach(), weights.curvature
    self_terms: dict[str, Callable[[], Tensor]] = {
        "euclidean": lambda: self_distance(student, teacher),
        "cosine": lambda: (self_angle if weights.spherical == "angle" else self_cosine)(student, teacher),
        "geodesic": lambda: self_geodesic(student, teacher, c, weights.exact_mean),
    }
    terms = {}
    if weights.self_agent:
        terms |= {f"self_{name}": weights.self_agent * self_terms[name]() for name in weights.geometries}
    for name, weight in weights.cross.items():
        if weight:
            arguments = (name, weights.cross_term, c, weights.compare, weights.detach)
            terms[f"cross_{name}"] = weight * cross_relation(student, teacher, *arguments)
    return terms
