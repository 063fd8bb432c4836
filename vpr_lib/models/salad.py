"""SALAD: patches go to clusters by optimal transport, with a dustbin for those that say nothing. Spec: modern_methods §1.

Paper: Izquierdo and Civera, Optimal Transport Aggregation for Visual Place Recognition, CVPR 2024.
"""

import math

import torch
from torch import Tensor, nn

from vpr_lib.models.unit import unit

SINKHORN_ROUNDS = 3


class SALAD(nn.Module):
    """Feature map (B, C, h, w) and class token (B, C) -> unit-norm (B, num_clusters * cluster_dim + token_dim).

    Without a token (convolutional trunks have none) the mean over the map takes its place. Any map with more positions
    than clusters goes. The value of `dust_bin` has no effect on the result: what is constant along a row is absorbed by
    the transport; only the mass of its row matters (spec §1.1).

    Args:
        hidden: width of the three perceptrons.
        dropout: in training, inside the perceptrons that read the patches.
    """

    uses_token = True

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int] | None = None,
        num_clusters: int = 64,
        cluster_dim: int = 128,
        token_dim: int = 256,
        hidden: int = 512,
        dropout: float = 0.3,
    ):
        super().__init__()
        self.num_clusters, self.dim = num_clusters, num_clusters * cluster_dim + token_dim

        def perceptron(out_channels: int) -> nn.Sequential:
            first, last = nn.Conv2d(in_channels, hidden, 1), nn.Conv2d(hidden, out_channels, 1)
            return nn.Sequential(first, nn.Dropout(dropout), nn.ReLU(), last)

        self.cluster_features, self.score = perceptron(cluster_dim), perceptron(num_clusters)
        self.token_features = nn.Sequential(nn.Linear(in_channels, hidden), nn.ReLU(), nn.Linear(hidden, token_dim))
        self.dust_bin = nn.Parameter(torch.tensor(1.0))

    def log_assignment(self, features: Tensor) -> Tensor:
        """Logarithm of the share of every position in every cluster, the dustbin last: (B, num_clusters + 1, h w), float32.

        Over clusters and dustbin the shares of a position sum to one.

        Raises:
            ValueError: for a map that has no more positions than there are clusters.
        """
        scores = self.score(features).flatten(2).float()  # (B, m, N)
        clusters, positions = self.num_clusters, scores.shape[2]
        if positions <= clusters:
            raise ValueError(
                f"SALAD with {clusters} clusters needs a map of more positions than that, got "
                f"{' x '.join(map(str, features.shape[2:]))} = {positions}. Use larger images or fewer clusters."
            )
        dustbin = self.dust_bin.float().expand(scores.shape[0], 1, positions)
        return sinkhorn(torch.cat([scores, dustbin], dim=1))

    def attention(self, features: Tensor) -> Tensor:
        """Shares of the clusters and, last, of the dustbin: (B, num_clusters + 1, h, w), summing to one at every position."""
        return self.log_assignment(features).exp().unflatten(2, tuple(features.shape[2:]))

    def forward(self, features: Tensor, token: Tensor | None = None) -> Tensor:
        token = features.mean(dim=(2, 3)) if token is None else token
        shares = self.log_assignment(features)[:, :-1].exp()  # (B, m, N)
        local = self.cluster_features(features).flatten(2)  # (B, l, N)
        sums = local @ shares.to(local.dtype).transpose(1, 2)  # (B, l, m)
        scene = unit(self.token_features(token))
        return unit(torch.cat([scene, unit(sums).flatten(1)], dim=1))


def sinkhorn(scores: Tensor, rounds: int = SINKHORN_ROUNDS) -> Tensor:
    """Log of a transport plan, scaled by the total mass: scores (B, m + 1, N), the last row a dustbin -> the same shape.

    Every position has mass 1, every cluster 1 and the dustbin N - m. After the last round the positions are exact and the
    clusters nearly so.
    """
    clusters, positions = scores.shape[1] - 1, scores.shape[2]
    mass = -math.log(positions + clusters)
    rows = torch.cat(
        [scores.new_full((clusters, 1), mass), scores.new_full((1, 1), mass + math.log(positions - clusters))]
    )
    u, v = torch.zeros_like(scores[:, :, :1]), torch.zeros_like(scores[:, :1])
    for _ in range(rounds):
        u = rows - (scores + v).logsumexp(dim=2, keepdim=True)
        v = mass - (scores + u).logsumexp(dim=1, keepdim=True)
    return scores + u + v - mass


class MegaLoc(nn.Module):
    """SALAD with a learned projection of its result, (B, C, h, w) and (B, C) -> unit-norm (B, out_dim).

    Paper: Berton and Masone, MegaLoc: One Retrieval to Place Them All, CVPR 2025 workshops. Spec: modern_methods §3.
    """

    uses_token = True

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int] | None = None,
        out_dim: int = 8448,
        num_clusters: int = 64,
        cluster_dim: int = 256,
        token_dim: int = 256,
        hidden: int = 512,
    ):
        super().__init__()
        self.agg = SALAD(in_channels, grid, num_clusters, cluster_dim, token_dim, hidden)
        self.linear = nn.Linear(self.agg.dim, out_dim)
        self.dim = out_dim

    def attention(self, features: Tensor) -> Tensor:
        """As `SALAD.attention`."""
        return self.agg.attention(features)

    def forward(self, features: Tensor, token: Tensor | None = None) -> Tensor:
        return unit(self.linear(self.agg(features, token)))
