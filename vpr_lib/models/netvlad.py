"""NetVLAD and its start: cluster centres of real features by k-means. Paper: Arandjelovic et al., CVPR 2016, Sec. 3.1."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from vpr_lib.models.unit import at_least_fp32, unit

SECOND_BEST = 100.0  # the best cluster of a feature should get this many times the weight of the second best


class NetVLAD(nn.Module):
    """Residuals to `clusters` centres, softly assigned and summed: (B, C, h, w) -> unit-norm (B, clusters * C).

    Features are brought to unit length first; every cluster's sum too (intra-normalisation), then the whole. Works for
    any h and w. A fresh module holds random centres: call `initialise` with real features before training.

    Args:
        bias: of the assignment; pytorch-NetVlad's "vladv1", its default, has none and assigns by the angle to a centre.
    """

    def __init__(self, in_channels: int, grid: tuple[int, int] | None = None, clusters: int = 64, bias: bool = True):
        super().__init__()
        self.dim = clusters * in_channels
        self.assign = nn.Conv2d(
            in_channels, clusters, 1, bias=bias
        )  # w_k = 2 alpha c_k, b_k = -alpha |c_k|^2, then learned freely
        self.centroids = nn.Parameter(torch.empty(clusters, in_channels))
        self.set_centres(unit(torch.randn(clusters, in_channels), dim=1), alpha=10.0)

    @torch.no_grad()
    def set_centres(self, centres: Tensor, alpha: float) -> None:
        """Start from centres (clusters, C) with soft assignment exp(-alpha |x - c_k|^2), normalised over k."""
        if centres.shape != self.centroids.shape:
            raise ValueError(f"NetVLAD needs centres {tuple(self.centroids.shape)}, got {tuple(centres.shape)}.")
        self.centroids.copy_(centres)
        if self.assign.bias is None:
            centres = unit(centres, dim=1)
        else:
            self.assign.bias.copy_(-alpha * centres.square().sum(dim=1))
        self.assign.weight.copy_(2 * alpha * centres[:, :, None, None])

    def forward(self, features: Tensor) -> Tensor:
        features = unit(features, dim=1)
        shares = self.assign(features).softmax(dim=1).flatten(2)  # (B, K, n)
        sums = shares @ features.flatten(2).transpose(1, 2)  # (B, K, C)
        residuals = at_least_fp32(sums) - at_least_fp32(shares).sum(dim=2, keepdim=True) * self.centroids
        return unit(unit(residuals, dim=2).flatten(1), dim=1)


class NetVLADPCA(NetVLAD):
    """NetVLAD and its whitening as a layer, as OpenIBL publishes them: (B, C, h, w) -> unit-norm (B, dim). Spec: clusvpr §8.5."""

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int] | None = None,
        clusters: int = 64,
        bias: bool = True,
        dim: int = 4096,
    ):
        super().__init__(in_channels, grid, clusters, bias)
        self.whitening, self.dim = nn.Conv2d(self.dim, dim, 1), dim

    def forward(self, features: Tensor) -> Tensor:
        return unit(self.whitening(super().forward(features)[:, :, None, None]).flatten(1), dim=1)


@torch.no_grad()
def sample_features(
    backbone: nn.Module, batches: Iterable[Tensor], per_image: int = 100, count: int = 50_000, seed: int = 0
) -> Tensor:
    """Unit-norm local features at random cells of real images, float32 (N, C) with N <= count.

    Args:
        batches: normalised images (B, 3, H, W) on the backbone's device; consumed until `count` are together.
        per_image: cells of each image, all of them when the map is smaller.
    Raises:
        ValueError: when there are no images.
    """
    generator, samples, training = torch.Generator().manual_seed(seed), [], backbone.training
    backbone.eval()
    for images in batches:
        maps = unit(backbone(images).float(), dim=1).flatten(2).transpose(1, 2).cpu()  # (B, n, C)
        for cells in maps:
            samples.append(cells[torch.randperm(len(cells), generator=generator)[:per_image]])
        if sum(map(len, samples)) >= count:
            break
    backbone.train(training)
    if not samples:
        raise ValueError("No images to take features from: NetVLAD starts from features of real images.")
    return torch.cat(samples)[:count]


def kmeans(vectors: Tensor, clusters: int, iterations: int = 50, seed: int = 0) -> Tensor:
    """Centres (clusters, C) of vectors (N, C) by Lloyd's algorithm (faiss) from a k-means++ start, the same for the same seed.

    Raises:
        ValueError: when there are fewer vectors than clusters.
    """
    import faiss

    if len(vectors) < clusters:
        raise ValueError(f"k-means of {clusters} clusters needs at least as many vectors, got {len(vectors)}.")
    search = faiss.Kmeans(vectors.shape[1], clusters, niter=iterations, seed=seed, min_points_per_centroid=1,
                          max_points_per_centroid=len(vectors))  # fmt: skip
    search.train(
        np.ascontiguousarray(vectors.numpy(), np.float32), init_centroids=_spread(vectors, clusters, seed).numpy()
    )
    return torch.from_numpy(search.centroids.copy())


def _spread(vectors: Tensor, clusters: int, seed: int) -> Tensor:
    """First centres: each drawn with probability proportional to its squared distance from the ones before."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(vectors), (1,), generator=generator))]
    distances = torch.full((len(vectors),), math.inf)
    for _ in range(clusters - 1):
        distances = torch.minimum(distances, (vectors - vectors[chosen[-1]]).square().sum(dim=1))
        chosen.append(int(torch.multinomial(distances + 1e-12, 1, generator=generator)))
    return vectors[chosen]


def assignment_sharpness(vectors: Tensor, centres: Tensor) -> float:
    """alpha for which the nearest centre gets on (geometric) average 100 times the weight of the second nearest."""
    nearest = torch.cdist(vectors, centres).square().topk(2, largest=False).values  # (N, 2)
    gap = (nearest[:, 1] - nearest[:, 0]).mean().item()
    return math.log(SECOND_BEST) / max(gap, 1e-6)


def initialise(
    aggregator: NetVLAD, backbone: nn.Module, batches: Iterable[Tensor], seed: int = 0, count: int = 50_000
) -> None:
    """Give a NetVLAD its start from real images: k-means centres and a matching sharpness; see `sample_features`."""
    vectors = sample_features(backbone, batches, count=count, seed=seed)
    centres = kmeans(vectors, len(aggregator.centroids), seed=seed)
    aggregator.set_centres(centres.to(aggregator.centroids.device), assignment_sharpness(vectors, centres))
