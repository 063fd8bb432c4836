"""Aggregators of later transformers: CricaVPR's regions, EDTformer's decoder, SuperVLAD. Spec: modern_methods §7."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from vpr_lib.models.transformer import CrossImageEncoder, MultiHeadAttention
from vpr_lib.models.unit import unit


class SuperVLAD(nn.Module):
    """Soft sums of features per cluster, without centroids: (B, C, h, w) -> unit-norm (B, clusters * C).

    Ghost clusters take part in the assignment and are left out of the descriptor.

    Args:
        cross_image_encoder: let the images of a batch look at each other; a descriptor then depends on its batch.
    Paper: Lu et al., SuperVLAD: Compact and Robust Image Descriptors for Visual Place Recognition, NeurIPS 2024.
    """

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int] | None = None,
        clusters: int = 4,
        ghost_clusters: int = 1,
        cross_image_encoder: bool = False,
    ):
        super().__init__()
        self.clusters, self.dim = clusters, clusters * in_channels
        self.conv = nn.Conv2d(in_channels, clusters + ghost_clusters, 1, bias=False)
        self.encoder = CrossImageEncoder(in_channels) if cross_image_encoder else None

    def vlad(self, features: Tensor) -> Tensor:
        """Per cluster and as a whole at unit norm, (B, clusters, C)."""
        features = unit(features)
        shares = self.conv(features).flatten(2).softmax(dim=1)[:, : self.clusters]  # (B, K, N)
        sums = unit(shares @ features.flatten(2).transpose(1, 2), dim=2)
        return unit(sums.flatten(1)).view_as(sums)

    def forward(self, features: Tensor) -> Tensor:
        rows = self.vlad(features)
        return unit((rows if self.encoder is None else self.encoder(rows)).flatten(1))


class CricaVPR(nn.Module):
    """Fourteen regions of a 16 x 16 map that look at the same regions of the other images: -> unit-norm (B, 14 C).

    Regions: the class token (the mean over the map where a trunk has none), four quarters, nine cells cut at 5 and 11.
    A descriptor depends on the other images of its batch; the published numbers are of batches of 16, in the order of the
    sequence. With batches of one it is a fixed function of the image.
    Paper: Lu et al., CricaVPR: Cross-image Correlation-aware Representation Learning, CVPR 2024.
    """

    uses_token = True
    CUTS = ((0, 8, 16), (0, 5, 11, 16))

    def __init__(self, in_channels: int, grid: tuple[int, int] | None = None, eps: float = 1e-6):
        super().__init__()
        self.gem = nn.Module()
        self.gem.p = nn.Parameter(torch.full((1,), 3.0))
        self.eps = eps
        self.encoder = CrossImageEncoder(in_channels)
        self.dim = 14 * in_channels

    def regions(self, features: Tensor, token: Tensor) -> Tensor:
        """(B, 14, C). Raises ValueError for a map that is not 16 x 16."""
        if tuple(features.shape[2:]) != (16, 16):
            raise ValueError(
                f"CricaVPR cuts maps of 16 x 16 (224 x 224 pixels), got {' x '.join(map(str, features.shape[2:]))}."
            )
        p, vectors = self.gem.p.float(), unit(features)
        powers = vectors.clamp(min=self.eps).pow(p)
        cells = [
            powers[:, :, top:bottom, left:right].mean(dim=(2, 3)).pow(1 / p)
            for cuts in self.CUTS
            for top, bottom in pairwise(cuts)
            for left, right in pairwise(cuts)
        ]
        return torch.stack([token.float(), *cells], dim=1)

    def forward(self, features: Tensor, token: Tensor | None = None) -> Tensor:
        token = features.mean(dim=(2, 3)) if token is None else token
        return unit(self.encoder(self.regions(features, token)).flatten(1))


class DecoderLayer(nn.Module):
    """Post-norm decoder layer without a feed-forward part: queries (B, Q, C) and memory (B, N, C) -> (B, Q, C)."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.self_attn, self.multihead_attn = MultiHeadAttention(channels, heads), MultiHeadAttention(channels, heads)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        queries = self.norm1(queries + self.self_attn(queries, queries))
        return self.norm2(queries + self.multihead_attn(queries, memory))


class EDTformer(nn.Module):
    """Queries decode class and patch tokens, (B, C, h, w) and (B, C) -> unit-norm (B, out_channels * out_rows).

    Paper: Jin et al., EDTformer: An Efficient Decoder Transformer for Visual Place Recognition, TCSVT 2025.
    """

    uses_token = True

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int] | None = None,
        num_queries: int = 64,
        layers: int = 2,
        heads: int = 16,
        out_channels: int = 256,
        out_rows: int = 16,
    ):
        super().__init__()
        self.dim = out_channels * out_rows
        self.queries = nn.Parameter(1e-6 * torch.randn(1, num_queries, in_channels))
        self.fc = nn.Linear(in_channels, in_channels)
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(DecoderLayer(in_channels, heads) for _ in range(layers))
        self.channel_proj = nn.Linear(in_channels, out_channels)
        self.row_proj = nn.Linear(num_queries, out_rows)

    def forward(self, features: Tensor, token: Tensor | None = None) -> Tensor:
        tokens = features.flatten(2).transpose(1, 2)
        memory = self.fc(tokens if token is None else torch.cat([token[:, None], tokens], dim=1))
        queries = self.queries
        for layer in self.decoder.layers:
            queries = layer(queries, memory)
        rows = self.row_proj(self.channel_proj(queries).transpose(1, 2))  # (B, out_channels, out_rows)
        return unit(rows.flatten(1))
