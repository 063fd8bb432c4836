"""What a student may learn from a teacher beside its labels. Spec: lightweight_mixvpr §4.

Every term is a module `(student, teacher, labels) -> scalar`; the teacher never receives a gradient. What has to be trained
to compare the two (a projection, a 1x1 convolution) is an adapter: it sits beside the student and is thrown away afterwards.
"""

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpr_lib.losses.metric import MetricLoss

Mode = Literal["repo", "direct", "proj", "relational", "feature"]
Distance = Literal["cosine", "mse", "kl"]
DISTANCES: dict[str, tuple[Distance, ...]] = {  # the first one is the default
    "repo": (), "direct": ("cosine", "mse"), "proj": ("cosine", "mse"), "feature": ("cosine", "mse"),
    "relational": ("kl", "mse"),
}  # fmt: skip


class TeacherMetricLoss(nn.Module):
    """The metric loss of the teacher's own descriptors: a constant, as in the published script. Spec §4.1.

    It has no path to the student, so adding it changes the reported loss and no gradient (spec §4.2).
    """

    needs_batch = True

    def __init__(self, criterion: MetricLoss):
        super().__init__()
        self.criterion = copy.deepcopy(criterion)  # its own, so that the student's `useful_fraction` is not overwritten

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return self.criterion(teacher.detach(), labels)


class Matching(nn.Module):
    """Row by row: (B, D) descriptors, or (B, C, h, w) maps cell by cell, brought to unit length over their second axis.

    "cosine" is the mean of 1 - cos; "mse" the mean squared difference, for unit rows exactly 2 / D of it.
    """

    needs_batch = False

    def __init__(self, distance: Distance = "cosine"):
        super().__init__()
        self.distance = distance

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        if student.shape != teacher.shape:
            raise ValueError(
                f"The student gives {tuple(student.shape)}, the teacher {tuple(teacher.shape)}: `direct` needs equal "
                "lengths. Use a teacher of the student's dimension, or mode proj or relational."
            )
        student, teacher = F.normalize(student, dim=1), F.normalize(teacher.detach(), dim=1)
        if self.distance == "mse":
            return F.mse_loss(student, teacher)
        return 1 - (student * teacher).sum(1).mean()


class Relational(nn.Module):
    """Matches the B x B similarity matrices of a batch, whatever the two dimensions are; the diagonal does not count.

    "mse" is the mean squared difference of the cosine similarities; "kl" the mean over rows of
    KL(softmax(teacher / T) || softmax(student / T)).
    """

    needs_batch = True

    def __init__(self, distance: Distance = "kl", temperature: float = 0.1):
        super().__init__()
        self.distance, self.temperature = distance, temperature

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        if len(student) < 2:
            raise ValueError(f"Relations need at least two images in a batch, got {len(student)}.")
        similarities = [_off_diagonal(F.normalize(rows, dim=1)) for rows in (student, teacher.detach())]
        if self.distance == "mse":
            return F.mse_loss(*similarities)
        student, teacher = (F.log_softmax(s / self.temperature, dim=1) for s in similarities)
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _off_diagonal(rows: Tensor) -> Tensor:
    """Similarities of every row to the others: (B, D) -> (B, B - 1)."""
    n = len(rows)
    return (rows @ rows.T).flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)


class MapAdapter(nn.Module):
    """A 1x1 convolution to the teacher's channels on the teacher's grid: (B, C, h, w) -> (B, C', h', w').

    Paper: FitNets (Romero et al., ICLR 2015), Sec. 2.2, the regressor.
    """

    def __init__(self, channels: int, teacher_channels: int, teacher_grid: tuple[int, int]):
        super().__init__()
        self.project = nn.Conv2d(channels, teacher_channels, 1)
        self.grid = teacher_grid

    def forward(self, features: Tensor) -> Tensor:
        features = self.project(features)
        if tuple(features.shape[2:]) == self.grid:
            return features
        return F.interpolate(features, self.grid, mode="bilinear", align_corners=False, antialias=True)


def make_term(
    mode: Mode, criterion: MetricLoss, distance: Distance | None = None, temperature: float = 0.1
) -> TeacherMetricLoss | Matching | Relational:
    """The term of that mode.

    Args:
        criterion: the student's metric loss, which `repo` applies to the teacher.
        distance: None takes the mode's default.
    Raises:
        ValueError: for an unknown mode, or a distance the mode does not know.
    """
    if mode not in DISTANCES:
        raise ValueError(f"Unknown distillation mode '{mode}'. Known: {', '.join(DISTANCES)}.")
    known = DISTANCES[mode]
    if distance is not None and distance not in known:
        raise ValueError(
            f"Mode '{mode}' knows the distances {', '.join(known) or 'none'}, got '{distance}': leave it out for the default."
        )
    if mode == "repo":
        return TeacherMetricLoss(criterion)
    distance = distance or known[0]
    return Relational(distance, temperature) if mode == "relational" else Matching(distance)


class DistillationLoss(nn.Module):
    """L = metric loss of the student + weight * term(student, teacher).

    Args:
        criterion: applied to the student's descriptors and the place labels.
        term: from `make_term`.
        weight: lambda.
    """

    def __init__(self, criterion: MetricLoss, term: nn.Module, weight: float = 1.0):
        super().__init__()
        self.criterion, self.term, self.weight = criterion, term, weight

    def forward(self, descriptors: Tensor, matched: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """
        Args:
            descriptors: of the student, (B, D), with their labels (B,).
            matched: what is compared with the teacher, (B', D') or maps; the descriptors themselves without an adapter.
            teacher: descriptors (B', D') or maps (B', C', h', w').
        Returns:
            "loss", and its parts "student" and "distillation" (without its weight).
        """
        student = self.criterion(descriptors, labels)
        term = self.term(matched, teacher, labels)
        return {"loss": student + self.weight * term, "student": student, "distillation": term}


def similarity_matrix(descriptors: Tensor) -> Tensor:
    """Cosine similarities, (B, D) -> (B, B)."""
    rows = F.normalize(torch.as_tensor(descriptors).float(), dim=1)
    return rows @ rows.T
