"""Losses over tuples of a query, its positive and its negatives, and the soft loss between regions. Spec: clusvpr §8.3."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vpr_lib.registry import lookup

TRIPLET_MARGIN = 0.1**0.5  # on Euclidean distances between unit vectors


def sare_ind(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Mean over negatives of -log(e^(s+/t) / (e^(s+/t) + e^(s-/t))).

    Paper: SARE (Liu et al., ICCV 2019), independent form.
    """
    near, far = _similarities(anchors, positives, negatives)
    return F.softplus((far - near) / temperature).mean()


def sare_joint(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """One softmax over the positive and all its negatives. Paper: SARE (Liu et al., ICCV 2019), joint form."""
    logits = torch.cat(_similarities(anchors, positives, negatives), dim=1) / temperature
    return -logits.log_softmax(dim=1)[:, 0].mean()


def triplet(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Mean hinge of Euclidean distances with the margin sqrt(0.1); the temperature plays no part."""
    each = [part.expand_as(negatives) for part in (anchors[:, None], positives[:, None])]
    return F.triplet_margin_loss(*each, negatives, margin=TRIPLET_MARGIN)


def _similarities(anchors: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1) to the positive and (B, M) to the negatives."""
    return (anchors * positives).sum(-1, keepdim=True), (negatives @ anchors[:, :, None]).squeeze(2)


TUPLE_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "sare_ind": sare_ind, "sare_joint": sare_joint, "triplet": triplet,
}  # fmt: skip


def tuple_loss(name: str, anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float = 0.06) -> Tensor:
    """The loss of that name over unit-norm descriptors (B, D), (B, D) and (B, M, D); a scalar.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    return lookup(TUPLE_LOSSES, name, "tuple loss")(anchors, positives, negatives, temperature)


def hardest_regions(anchors: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Of every negative the region most similar to the anchor's global descriptor; the choice carries no gradient.

    Args:
        anchors: (B, D).
        regions: descriptors of the negatives' regions, (B, M, P, D).
    Returns:
        their descriptors (B, M, D), and their numbers (B, M).
    """
    with torch.no_grad():
        index = torch.einsum("bd,bmpd->bmp", anchors, regions).argmax(dim=2)
    return regions.gather(2, index[:, :, None, None].expand(-1, -1, 1, regions.shape[-1])).squeeze(2), index


def soft_loss(student: Tensor, teacher: Tensor, student_temperature: float, teacher_temperature: float) -> Tensor:
    """Cross-entropy between two softmaxes over region similarities, both (B, S), mean over B; the teacher has no gradient."""
    target = (teacher.detach() / teacher_temperature).softmax(dim=1)
    return -(target * (student / student_temperature).log_softmax(dim=1)).sum(1).mean()
