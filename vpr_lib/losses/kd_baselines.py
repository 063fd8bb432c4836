"""The seven distillation losses that DistilVPR is compared with, as its authors implement them. Spec: distilvpr §6.8.

Every function takes raw descriptors of the student and the teacher, (B, D) each, and the batch's masks of positive and
negative pairs, bool (B, B), which only LSD-Net reads. No weights were published.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vpr_lib.losses.relational import euclidean_distances, self_angle, self_distance
from vpr_lib.registry import lookup


def kd(student: Tensor, teacher: Tensor, positives: Tensor, negatives: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(t / T) || softmax(s / T)) over the D entries, mean over B, times T². Hinton et al., 2015."""
    log_s, log_t = (F.log_softmax(x / temperature, dim=1) for x in (student, teacher))
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * temperature**2


def rkd(student: Tensor, teacher: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Distances and angles. Park et al., CVPR 2019, with both weights 1."""
    return self_distance(student, teacher) + self_angle(student, teacher)


def afd(student: Tensor, teacher: Tensor, positives: Tensor, negatives: Tensor, as_released: bool = False) -> Tensor:
    """Distances from every student to every teacher descriptor, weighted by attention; sum over teachers, mean over students.

    Args:
        as_released: the weights' rows are students and the distances' rows teachers, a slip.
    """
    attention = (student @ teacher.T).softmax(dim=1)
    s, t = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    distance = euclidean_distances(t, s) if as_released else euclidean_distances(s, t)
    return (attention * distance).sum(1).mean()


def csd(student: Tensor, teacher: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Teacher-student against teacher-teacher cosines. Contextual similarity distillation (Wu et al., CVPR 2022)."""
    s, t = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    return F.mse_loss(t @ s.T, t @ t.T)


def epc_net(student: Tensor, teacher: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """The normalised descriptors themselves. EPC-Net (Hui et al., TIP 2022)."""
    return F.mse_loss(F.normalize(student, dim=1), F.normalize(teacher, dim=1))


def lsd_net(student: Tensor, teacher: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Distances of positive and of negative pairs, and the angles between their difference vectors.

    A kind of pairs that the batch lacks contributes nothing.
    """
    s, t = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    pairs = [torch.nonzero(mask, as_tuple=True) for mask in (positives, negatives)]
    own, taught = euclidean_distances(s, s), euclidean_distances(t, t)
    loss = sum((F.mse_loss(own[i, j], taught[i, j]) for i, j in pairs if len(i)), student.sum() * 0)
    if all(len(i) for i, _ in pairs):
        inner = [(x[i] - x[j]) @ (x[k] - x[m]).T for x in (s, t) for (i, j), (k, m) in [pairs]]
        loss = loss + F.mse_loss(*inner)
    return loss


def mkd(student: Tensor, teacher: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """KD, and the Gram matrices of the softmax rows over the batch and over the channels."""
    p_s, p_t = student.softmax(dim=1), teacher.softmax(dim=1)
    batch, width = student.shape
    channels = (p_t.T @ p_t - p_s.T @ p_s).square().sum() / width
    samples = (p_t @ p_t.T - p_s @ p_s.T).square().sum() / batch
    return kd(student, teacher, positives, negatives) + channels + samples


KD_BASELINES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "KD": kd, "RKD": rkd, "AFD": afd, "CSD": csd, "EPC-Net": epc_net, "LSD-Net": lsd_net, "MKD": mkd,
}  # fmt: skip


def kd_baseline(name: str, student: Tensor, teacher: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """The baseline of that name, a scalar; the teacher gets no gradient.

    Raises:
        ValueError: for an unknown name, or descriptors of different shapes.
    """
    loss = lookup(KD_BASELINES, name, "distillation baseline")
    if student.shape != teacher.shape:
        raise ValueError(
            f"{name} compares descriptors of equal width, got {tuple(student.shape)} of the student and "
            f"{tuple(teacher.shape)} of the teacher."
        )
    return loss(student, teacher.detach(), positives, negatives)
