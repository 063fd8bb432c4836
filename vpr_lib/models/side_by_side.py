"""A head for photos of any kind: soft assignment, which travels across viewpoints, beside cells, which bear the seasons."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpr_lib.models.netvlad import NetVLAD
from vpr_lib.models.unit import unit


class SideBySide(nn.Module):
    """NetVLAD beside the averages of cells: (B, C, h, w) -> unit-norm (B, (clusters + cells^2) * C).

    Ours. A similarity is `share` times NetVLAD's plus 1 - share times that of the cells, so none drowns the other. The cells
    learn nothing: a projection learned in a generated city serves real photos worse than the ImageNet features themselves.

    Args:
        clusters: of NetVLAD.
        cells: the map is averaged over so many cells in each direction, each brought to unit length.
        share: NetVLAD's part of a similarity.
    Raises:
        ValueError: for a share outside 0 to 1.
    """

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int] | None = None,
        clusters: int = 14,
        cells: int = 2,
        share: float = 0.6,
    ):
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"share is NetVLAD's part of a similarity, between 0 and 1, got {share}.")
        self.netvlad, self.cells, self.share = NetVLAD(in_channels, grid, clusters), cells, share
        self.dim = (clusters + cells**2) * in_channels

    def forward(self, features: Tensor) -> Tensor:
        height, width = (int(size) for size in features.shape[2:])
        if height % self.cells or width % self.cells:
            averages = F.adaptive_avg_pool2d(features, self.cells)
        else:  # the same, and exporters know it
            averages = F.avg_pool2d(features, (height // self.cells, width // self.cells))
        averages = unit(averages.flatten(2)).flatten(1)
        parts = self.netvlad(features) * self.share**0.5, unit(averages) * (1 - self.share) ** 0.5
        return torch.cat(parts, dim=1)
