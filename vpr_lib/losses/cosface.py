"""The large-margin cosine loss of CosPlace and EigenPlaces: places as classes. Spec: modern_methods §4.1."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosFace(nn.Module):
    """Cross-entropy of s (cos - m at the true class): descriptors (N, D) and classes (N,) -> scalar.

    Args:
        in_features: D.
        classes: how many places there are.
        s, m: scale and margin; CosPlace 30 and 0.4, EigenPlaces 100 and 0.4.
    Paper: CosFace (Wang et al., CVPR 2018), Eq. 4.
    """

    def __init__(self, in_features: int, classes: int, s: float = 30.0, m: float = 0.4):
        super().__init__()
        self.s, self.m = s, m
        self.weight = nn.Parameter(torch.empty(classes, in_features))
        nn.init.xavier_uniform_(self.weight)

    def logits(self, descriptors: Tensor, labels: Tensor) -> Tensor:
        """(N, classes); lengths of descriptors and class vectors play no part."""
        lengths = descriptors.norm(dim=1)[:, None] * self.weight.norm(dim=1)
        cosine = descriptors @ self.weight.T / lengths.clamp(min=1e-8)
        margin = self.m * F.one_hot(labels, len(self.weight)).to(cosine)
        return self.s * (cosine - margin)

    def forward(self, descriptors: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(descriptors, labels), labels)
