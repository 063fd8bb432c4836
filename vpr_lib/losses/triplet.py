"""Batch-hard triplets on raw descriptors: the task loss of MinkLoc++ and DistilVPR. Spec: distilvpr §6.2."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Triplets:
    """Rows of a batch: anchors with their hardest positive and hardest negative, int64 (T,) each."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor


def mine_hardest(descriptors: Tensor, positives: Tensor, negatives: Tensor) -> Triplets:
    """The farthest positive and the nearest negative of every row that has both.

    Args:
        descriptors: (B, D), compared by Euclidean distance as they are.
        positives, negatives: bool (B, B); row i marks what may be drawn for anchor i.
    """
    with torch.no_grad():
        distance = torch.cdist(descriptors, descriptors)
        far = distance.masked_fill(~positives, float("-inf")).argmax(1)
        near = distance.masked_fill(~negatives, float("inf")).argmin(1)
        anchors = torch.nonzero(positives.any(1) & negatives.any(1)).squeeze(1)
    return Triplets(anchors, far[anchors], near[anchors])


def batch_hard_triplet(
    descriptors: Tensor, positives: Tensor, negatives: Tensor, margin: float = 0.2
) -> tuple[Tensor, Triplets, int]:
    """Mean over the triplets that violate relu(d(a, p) - min(d(a, n), d(p, n)) + margin), zero when none does.

    Args:
        descriptors, positives, negatives: as `mine_hardest`.
    Returns:
        the loss (scalar, differentiable also when it is zero), the mined triplets, and how many of them count.
    Spec: distilvpr §6.2, with the farthest positive mined among positives only.
    """
    mined = mine_hardest(descriptors, positives, negatives)
    distance = torch.cdist(descriptors, descriptors)
    to_positive = distance[mined.anchors, mined.positives]
    to_negative = torch.minimum(distance[mined.anchors, mined.negatives], distance[mined.positives, mined.negatives])
    losses = torch.relu(to_positive - to_negative + margin)
    active = int((losses > 0).sum())
    return losses.sum() / max(active, 1), mined, active
