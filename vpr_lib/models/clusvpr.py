"""ClusVPR: CWTNets that weigh tokens by how isolated they are, and the OptLAD head. Spec: clusvpr §2-§4.

Paper: Xu et al., ClusVPR: Efficient Visual Place Recognition with Clustering-based Weighted Transformer, arXiv 2310.04099.
Parameter names are those of the published code behind `net_vlad.`; the published code itself cannot run (spec §9), so this
is the network that its text defines.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from vpr_lib.config import Strict
from vpr_lib.models.cwt import CWTNet
from vpr_lib.models.unit import unit


@dataclass(frozen=True)
class Pyramid:
    """Regions of a feature map as unions of cells; `regions[0]` is the whole map. Cells are numbered row by row."""

    rows: int
    columns: int
    regions: tuple[tuple[int, ...], ...]

    def membership(self) -> Tensor:
        """float32 (regions, cells), 1 where the cell belongs to the region."""
        table = torch.zeros(len(self.regions), self.rows * self.columns)
        for region, cells in enumerate(self.regions):
            table[region, list(cells)] = 1
        return table


def _block(columns: int, rows: range, cols: range) -> tuple[int, ...]:
    return tuple(columns * row + column for row in rows for column in cols)


PYRAMIDS: dict[str, Pyramid] = {
    # whole, left and right half, six 2x2 blocks, twelve cells: the paper's own (spec §8.2)
    "21": Pyramid(3, 4, (
        _block(4, range(3), range(4)), _block(4, range(3), range(2)), _block(4, range(3), range(2, 4)),
        *(_block(4, range(r, r + 2), range(c, c + 2)) for r in range(2) for c in range(3)), *((cell,) for cell in range(12)),
    )),
    # whole, halves (left, right, top, bottom), quarters: as SFRS, the ablation arm
    "9": Pyramid(2, 2, ((0, 1, 2, 3), (0, 2), (1, 3), (0, 1), (2, 3), (0,), (1,), (2,), (3,))),
    "1": Pyramid(1, 1, ((0,),)),
}  # fmt: skip


class _Exponent(nn.Module):
    """Holds the exponent of the group attention, `p` of shape (1,) or (h w,)."""

    def __init__(self, count: int):
        super().__init__()
        self.p = nn.Parameter(torch.full((count,), 3.0))


class ClusVPRHead(Strict):
    """What the head of ClusVPR is made of."""

    clusters: int = 64  # K
    groups: int = 8  # G
    expansion: int = 2
    cwtnets: int = 4  # 0 to 4 in the paper's ablations
    heads: int = 2
    neighbours: int = 10
    dropout: float = 0.1
    head: Literal["optlad", "netvlad"] = "optlad"  # netvlad: on the normalised map, no expansion, no groups
    group_attention: Literal["gem", "linear", "none"] = "gem"  # see `ClusVPR.attend`
    exponent: Literal["per_location", "scalar"] = "per_location"  # of GeM; resized to other map sizes
    weigh_tokens: bool = True  # this and the next: see WeightedAttention
    weigh_class_token: bool = True
    separate_bn: bool = False  # see CWTNet

    @model_validator(mode="before")
    @classmethod
    def _plain_netvlad(cls, values: Any) -> Any:
        plain = dict(groups=1, expansion=1, group_attention="none")
        return values | plain if isinstance(values, dict) and values.get("head") == "netvlad" else values


class ClusVPR(nn.Module):
    """CWTNets and OptLAD: feature map (B, C, h, w) -> unit-norm (B, K * d) with d = expansion * C / groups.

    In evaluation any map size goes: it is resized to the grid for the CWTNets and back before OptLAD (spec §3.5); in
    training the map must have the grid's size. A batch of one gives what the same image gives inside a batch. At their
    initial value 3 one exponent per location, as published, and one for all give the same numbers.

    Args:
        in_channels, grid: the map it is built for; both sides even.
        head: fields of ClusVPRHead.
    Raises:
        ValueError: for sizes that cannot be split, an unknown option, or in training a map of another size.
    """

    def __init__(self, in_channels: int = 512, grid: tuple[int, int] = (30, 40), **head: Any):
        super().__init__()
        own = ClusVPRHead(**head)
        self.in_channels, self.grid, self.groups, self.clusters = in_channels, tuple(grid), own.groups, own.clusters
        self.group_attention = own.group_attention
        self._check(own)
        width = own.expansion * in_channels
        self.group_dim = width // own.groups
        self.dim = own.clusters * self.group_dim
        self.centroids = nn.Parameter(torch.rand(own.clusters, self.group_dim))
        self.linear1 = nn.Linear(in_channels, width, bias=False) if own.head == "optlad" else None
        count = grid[0] * grid[1] if own.exponent == "per_location" else 1
        self.GeM_pool = _Exponent(count) if own.group_attention == "gem" else None
        self.linear2 = nn.Linear(width, own.groups, bias=False) if own.group_attention == "linear" else None
        self.conv = nn.Conv2d(self.group_dim, own.clusters, 1, bias=False)
        attention = dict(heads=own.heads, neighbours=own.neighbours, weigh=own.weigh_tokens,
                         weigh_class_token=own.weigh_class_token)  # fmt: skip
        self.vit_layer = nn.ModuleList(
            CWTNet(in_channels, own.separate_bn, dropout=own.dropout, **attention) for _ in range(own.cwtnets)
        )

    def _check(self, own: ClusVPRHead) -> None:
        if own.cwtnets and (self.grid[0] % 2 or self.grid[1] % 2):
            raise ValueError(
                f"CWTNets halve the map, so its sides must be even, got {self.grid[0]}x{self.grid[1]}. Choose an image "
                "size that twice the backbone's stride divides."
            )
        if own.cwtnets and self.in_channels % (2 * own.heads):
            raise ValueError(f"{self.in_channels} channels do not split into two halves of {own.heads} heads.")
        if own.expansion * self.in_channels % own.groups:
            raise ValueError(f"{own.expansion * self.in_channels} channels do not split into {own.groups} groups.")

    # ---- the CWTNets

    def stages(self, features: Tensor) -> list[Tensor]:
        """The map on the grid before the first CWTNet and after each, (B, C, *grid); just the map without CWTNets."""
        if features.shape[1] != self.in_channels or (self.training and tuple(features.shape[2:]) != self.grid):
            raise ValueError(
                f"This ClusVPR head was built for maps of {self.in_channels}x{self.grid[0]}x{self.grid[1]} (channels, "
                f"height, width), got {'x'.join(map(str, features.shape[1:]))}. The channels must agree, and in training "
                "the images must have the model's input_spec.size."
            )
        maps = [_resize(features, self.grid) if len(self.vit_layer) else features]
        for layer in self.vit_layer:
            maps.append(layer(maps[-1]))
        return maps

    def transform(self, features: Tensor) -> Tensor:
        """The map after all CWTNets, (B, C, h, w) -> (B, C, h, w)."""
        return _resize(self.stages(features)[-1], tuple(features.shape[2:]))

    # ---- OptLAD

    def expand(self, features: Tensor) -> Tensor:
        """Normalised map through the linear layer, (B, C, h, w) -> group vectors y (B, G, d, h w)."""
        normalised = unit(features, dim=1).flatten(2)  # (B, C, L)
        wide = normalised if self.linear1 is None else self.linear1.weight @ normalised
        return wide.unflatten(1, (self.groups, self.group_dim))

    def attend(self, y: Tensor, size: tuple[int, int]) -> Tensor:
        """Group attention, y (B, G, d, L) of a map of `size` -> a (B, G, L) between 0 and 1.

        "gem": generalised mean over a group's channels, then sigmoid; "linear": the predecessor's sigmoid of a linear layer.
        """
        if self.group_attention == "gem":
            return self.pool(y, size).sigmoid()
        if self.group_attention == "linear":
            return (self.linear2.weight @ y.flatten(1, 2)).sigmoid()
        return y.new_ones(y.shape[0], y.shape[1], y.shape[3])

    def pool(self, y: Tensor, size: tuple[int, int]) -> Tensor:
        """Generalised mean over the channels of a group, (B, G, L); float32, where 1e-6 cubed still exists."""
        p = self.GeM_pool.p.float()
        if len(p) > 1:
            p = _resize(p.view(1, 1, *self.grid), size).flatten()
        return y.float().clamp(min=1e-6).pow(p).mean(dim=2).pow(1 / p)  # autocast leaves powers in float32

    def assign(self, y: Tensor) -> Tensor:
        """Soft assignment to the clusters, (B, G, d, L) -> (B, G, K, L), summing to one over K."""
        return (self.conv.weight[:, :, 0, 0] @ y).softmax(dim=2)

    def cells(self, features: Tensor, rows: int = 1, columns: int = 1) -> Tensor:
        """Unnormalised VLADs of a grid of cells, row by row: (B, C, h, w) -> (B, rows * columns, K, d).

        They add up to the VLAD of the whole map. Where a side does not divide, the first cells are one larger.
        """
        size = tuple(features.shape[2:])
        y = self.expand(features)
        mass = self.attend(y, size).unsqueeze(2) * self.assign(y)  # (B, G, K, L)
        parts = []
        for piece in _grid_index(size, rows, columns, y.device):
            m, v = (mass, y) if rows * columns == 1 else (mass[..., piece], y[..., piece])
            # sum over groups and locations of m (y - c), without the (B, G, K, d, L) tensor
            parts.append(torch.einsum("bgkl,bgdl->bkd", m, v) - m.sum(dim=(1, 3)).unsqueeze(2) * self.centroids)
        return torch.stack(parts, dim=1)

    def forward(self, features: Tensor) -> Tensor:
        return normalise_vlad(self.cells(self.transform(features)))[:, 0]

    def pyramid(self, features: Tensor, pyramid: Pyramid) -> Tensor:
        """Descriptors of the regions of a pyramid, (B, C, h, w) -> (B, regions, D); region 0 equals `forward`.

        The CWTNets see the whole map; only OptLAD is cut. Spec: clusvpr §8.2.
        """
        cells = self.cells(self.transform(features), pyramid.rows, pyramid.columns)
        return normalise_vlad(torch.einsum("rc,bckd->brkd", pyramid.membership().to(cells), cells))

    def set_centres(self, centres: Tensor, samples: Tensor) -> float:
        """Initialise centroids and assignment from k-means centres (K, d) and sample descriptors (n, d); returns alpha."""
        if tuple(centres.shape) != tuple(self.centroids.shape):
            raise ValueError(
                f"These centres are {tuple(centres.shape)}, the head needs {tuple(self.centroids.shape)} (clusters, group "
                "width): NetVLAD's published centres of 64x512 do not fit. Compute some with `vpr centres`."
            )
        alpha, weight = assignment_from_centres(centres, samples)
        with torch.no_grad():
            self.centroids.copy_(centres)
            self.conv.weight.copy_(weight)
        return alpha


def assignment_from_centres(centres: Tensor, samples: Tensor) -> tuple[float, Tensor]:
    """NetVLAD's initialisation: (K, d) and (n, d) -> alpha and the assignment weight (K, d, 1, 1).

    alpha makes the second-best cluster a hundred times less likely than the best, on average. Spec: clusvpr §4.1.
    """
    directions = unit(centres, dim=1)
    best = (directions @ samples.T).topk(2, dim=0).values  # (2, n)
    alpha = (-math.log(0.01) / (best[0] - best[1]).mean()).item()
    return alpha, (alpha * directions)[:, :, None, None]


def normalise_vlad(vlad: Tensor) -> Tensor:
    """Intra-normalised per cluster, flattened cluster by cluster, unit norm: (..., K, d) -> (..., K d)."""
    return unit(unit(vlad, dim=-1).flatten(-2), dim=-1)


def _resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(features.shape[2:]) == size:
        return features
    return F.interpolate(features, size, mode="bilinear", antialias=False)


def _grid_index(size: tuple[int, int], rows: int, columns: int, device: torch.device) -> list[Tensor]:
    """Location numbers of every cell, row by row."""
    locations = torch.arange(size[0] * size[1], device=device).view(size)
    return [cell.flatten() for band in locations.tensor_split(rows, 0) for cell in band.tensor_split(columns, 1)]
