"""Aggregators: feature map (B, C, h, w) -> unit-norm descriptors (B, D). Spec: mixvpr §1.1 and §1.4.

Every aggregator is built from (in_channels, grid, ...): the map's channels and its (h, w), then arguments of its own. Those
that take a map of any size do not look at the grid.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vpr_lib.models.boq import BoQ
from vpr_lib.models.clusvpr import ClusVPR
from vpr_lib.models.netvlad import NetVLAD, NetVLADPCA
from vpr_lib.models.salad import SALAD, MegaLoc
from vpr_lib.models.side_by_side import SideBySide
from vpr_lib.models.token_heads import CricaVPR, EDTformer, SuperVLAD
from vpr_lib.models.unit import at_least_fp32, unit
from vpr_lib.registry import lookup

Grid = tuple[int, int]  # (h, w) of the feature map


class FeatureMixer(nn.Module):
    """x + W2 relu(W1 norm(x)) over the last axis: every channel's flattened map (n values) is mixed over space.

    Paper: MixVPR (Ali-bey et al., WACV 2023), Sec. 3, the Feature-Mixer block.
    """

    def __init__(self, n: int, mlp_ratio: float = 1.0):
        super().__init__()
        hidden = int(n * mlp_ratio)
        self.mix = nn.Sequential(nn.LayerNorm(n), nn.Linear(n, hidden), nn.ReLU(), nn.Linear(hidden, n))
        for layer in (self.mix[1], self.mix[3]):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.mix(maps)


class MixVPR(nn.Module):
    """`mix_depth` feature mixers, then a depth-wise and a row-wise projection: D = out_channels * out_rows.

    The mixers are tied to the h x w grid they were built for.
    Paper: MixVPR (Ali-bey et al., WACV 2023), Sec. 3.
    """

    def __init__(
        self,
        in_channels: int = 1024,
        grid: Grid = (20, 20),
        out_channels: int = 1024,
        mix_depth: int = 4,
        mlp_ratio: float = 1,
        out_rows: int = 4,
    ):
        super().__init__()
        self.in_channels, (self.in_h, self.in_w) = in_channels, grid
        self.dim = out_channels * out_rows
        self.mix = nn.Sequential(*(FeatureMixer(grid[0] * grid[1], mlp_ratio) for _ in range(mix_depth)))
        self.channel_proj = nn.Linear(in_channels, out_channels)
        self.row_proj = nn.Linear(grid[0] * grid[1], out_rows)

    def forward(self, features: Tensor) -> Tensor:
        if features.shape[1:] != (self.in_channels, self.in_h, self.in_w):
            raise ValueError(
                f"This MixVPR aggregator was built for maps of {self.in_channels}x{self.in_h}x{self.in_w} (channels, "
                f"height, width), got {'x'.join(map(str, features.shape[1:]))}. Resize the images to the model's "
                "input_spec.size, or build the model for this image size."
            )
        maps = self.mix(features.flatten(2))  # (B, C, n)
        maps = self.channel_proj(maps.transpose(1, 2)).transpose(1, 2)  # (B, d, n)
        return unit(self.row_proj(maps).flatten(1), dim=-1)  # index = channel * rows + row


class ConvAP(nn.Module):
    """1x1 convolution, then adaptive average pooling to s1 x s2 cells: D = out_channels * s1 * s2.

    Paper: GSV-Cities (Ali-bey et al., Neurocomputing 2022), Sec. 4.
    """

    def __init__(self, in_channels: int, grid: Grid | None = None, out_channels: int = 512, s1: int = 2, s2: int = 2):
        super().__init__()
        self.channel_pool = nn.Conv2d(in_channels, out_channels, 1)
        self.AAP = nn.AdaptiveAvgPool2d((s1, s2))
        self.dim = out_channels * s1 * s2

    def forward(self, features: Tensor) -> Tensor:
        return unit(self.AAP(self.channel_pool(features)).flatten(1), dim=1)


class GeMPooling(nn.Module):
    """(B, C, h, w) -> (B, C): (mean of x^p)^(1/p) with one learnable exponent, not normalised.

    Paper: Radenovic et al., TPAMI 2019, Sec. 3.2.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), float(p)))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        return at_least_fp32(features).clamp(min=self.eps).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


class GeM(GeMPooling):
    """GeM pooling as an aggregator: (B, C, h, w) -> unit-norm (B, C)."""

    def __init__(self, in_channels: int = 0, grid: Grid | None = None, p: float = 3.0, eps: float = 1e-6):
        super().__init__(p, eps)
        self.dim = in_channels

    def forward(self, features: Tensor) -> Tensor:
        return unit(super().forward(features), dim=1)


class AveragePooling(nn.Module):
    """The mean over space, (B, C, h, w) -> (B, C)."""

    def __init__(self, in_channels: int = 0, grid: Grid | None = None):
        super().__init__()
        self.dim = in_channels

    def forward(self, features: Tensor) -> Tensor:
        return unit(features.mean(dim=(2, 3)), dim=1)


class CosPlace(nn.Module):
    """Channel-normalised features, GeM, a linear layer. Paper: CosPlace (Berton et al., CVPR 2022), Sec. 3.3."""

    def __init__(self, in_channels: int, grid: Grid | None = None, out_dim: int = 512):
        super().__init__()
        self.gem = GeMPooling()
        self.fc = nn.Linear(in_channels, out_dim)
        self.dim = out_dim

    def forward(self, features: Tensor) -> Tensor:
        return unit(self.fc(self.gem(unit(features, dim=1))), dim=1)


class ProjectedGeM(nn.Module):
    """1x1 convolution with bias, then GeM, (B, C, h, w) -> (B, out_channels), not normalised. Spec: distilvpr §5."""

    def __init__(self, in_channels: int, grid: Grid | None = None, out_channels: int = 384):
        super().__init__()
        self.conv1x1 = nn.Conv2d(in_channels, out_channels, 1)
        self.image_gem = GeMPooling()
        self.dim = out_channels

    def forward(self, features: Tensor) -> Tensor:
        return self.image_gem(self.conv1x1(features))


class Flatten(nn.Module):
    """The map itself as a descriptor: the pixel baseline and the 'identity' arm of ablations."""

    def __init__(self, in_channels: int, grid: Grid):
        super().__init__()
        self.dim = in_channels * grid[0] * grid[1]

    def forward(self, features: Tensor) -> Tensor:
        return unit(features.flatten(1), dim=1)


AGGREGATORS: dict[str, Callable[..., nn.Module]] = {
    "MixVPR": MixVPR,
    "ConvAP": ConvAP,
    "CosPlace": CosPlace,
    "GeM": GeM,
    "NetVLAD": NetVLAD,
    "NetVLAD+PCA": NetVLADPCA,  # SFRS
    "NetVLAD+cells": SideBySide,
    "average": AveragePooling,
    "flatten": Flatten,
    "ClusVPR": ClusVPR,
    "ProjectedGeM": ProjectedGeM,  # DistilVPR
    "SALAD": SALAD,
    "BoQ": BoQ,
    "MegaLoc": MegaLoc,
    "CricaVPR": CricaVPR,
    "EDTformer": EDTformer,
    "SuperVLAD": SuperVLAD,
}


def build_aggregator(name: str, in_channels: int, grid: Grid, **own: object) -> nn.Module:
    """The aggregator of that name for maps of `in_channels` x `grid` (ValueError for an unknown one, listing the known)."""
    return lookup(AGGREGATORS, name, "aggregator")(in_channels, grid, **own)
