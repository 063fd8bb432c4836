"""Sparse 3-D convolutions in plain PyTorch, with the coordinates, kernel order and names of MinkowskiEngine 0.5.4.

Spec: distilvpr §3. A cloud's features live on its occupied voxels only. Which voxels a layer writes to and which rows each
kernel offset connects follows from the coordinates alone and is kept in a `VoxelGrid` that all layers of a forward pass
share; what is left is one matrix product per offset.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vpr_lib.models.voxel_grid import VoxelGrid


@dataclass(frozen=True)
class SparseTensor:
    """`features` (N, C), row i belongs to voxel i of `grid` at tensor stride `stride`."""

    features: Tensor
    grid: VoxelGrid
    stride: int = 1

    @property
    def coordinates(self) -> Tensor:
        """int64 (N, 4), rows (cloud, x, y, z) in units of the finest voxels."""
        return self.grid.level(self.stride).coordinates

    def with_features(self, features: Tensor) -> "SparseTensor":
        return replace(self, features=features)

    def mean(self) -> Tensor:
        """Mean over the voxels of every cloud, (B, C), clouds in batch order."""
        clouds = self.features.new_zeros(self.grid.clouds, self.features.shape[1])
        sums = clouds.index_add(0, self.grid.cloud_of(self.stride), self.features)
        return sums / self.grid.counts(self.stride)[:, None]


class _Convolve(torch.autograd.Function):
    """out[o] = sum over kernel offsets k of features[i] @ kernel[k], for the row pairs (i, o) of k.

    Within one offset every output row occurs once, so the order of additions is fixed, also on a GPU. Written as one
    function because the gathered rows of every offset would otherwise be kept for the backward pass.
    """

    @staticmethod
    def forward(ctx, features: Tensor, kernel: Tensor, pairs: list[tuple[Tensor, Tensor]], rows: int) -> Tensor:
        ctx.save_for_backward(features, kernel)
        ctx.pairs = pairs
        out = features.new_zeros(rows, kernel.shape[2])
        for weight, (source, target) in zip(kernel, pairs):
            if source is target:  # every voxel on itself
                out.addmm_(features, weight)
            elif len(source):
                out.index_add_(0, target, features.index_select(0, source) @ weight)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        features, kernel = ctx.saved_tensors
        needs_features, needs_kernel = ctx.needs_input_grad[:2]
        grad_features = torch.zeros_like(features) if needs_features else None
        grad_kernel = torch.zeros_like(kernel) if needs_kernel else None
        for k, (source, target) in enumerate(ctx.pairs):
            if len(source):
                part = grad.index_select(0, target)
                if needs_features:
                    grad_features.index_add_(0, source, part @ kernel[k].T)
                if needs_kernel:
                    grad_kernel[k] = features.index_select(0, source).T @ part
        return grad_features, grad_kernel, None, None


def _convolve(features: Tensor, kernel: Tensor, pairs: list[tuple[Tensor, Tensor]], rows: int) -> Tensor:
    if kernel.shape[1] > 1:
        return _Convolve.apply(features, kernel, pairs, rows)
    # one channel in: (rows, offsets) values times (offsets, Cout) is a single product
    source, target = (torch.cat(side) for side in zip(*pairs))
    counts = torch.tensor([len(rows) for rows, _ in pairs], device=target.device)
    offset = torch.arange(len(pairs), device=target.device).repeat_interleave(counts, output_size=len(target))
    values = features.new_zeros(rows, len(pairs)).index_put((target, offset), features[source, 0])
    return values @ kernel[:, 0]


class SparseConv(nn.Module):
    """Convolution without bias; `kernel` is (K^3, Cin, Cout), for K = 1 (Cin, Cout). Spec: distilvpr §3.3, §3.7.

    With stride 1 it writes to the voxels it reads from, otherwise to the coarser ones of `VoxelGrid.coarser`.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int = 3, stride: int = 1):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        shape = (channels_in, channels_out) if kernel_size == 1 else (kernel_size**3, channels_in, channels_out)
        fan = channels_in if kernel_size == 1 else channels_out * kernel_size**3
        self.kernel = nn.Parameter(torch.randn(shape) * (2 / fan) ** 0.5)

    def forward(self, voxels: SparseTensor) -> SparseTensor:
        grid = voxels.grid
        with torch.autocast(voxels.features.device.type, enabled=False):  # half precision gains nothing on few rows
            features = voxels.features.to(self.kernel.dtype)
            if self.kernel_size == 1 and self.stride == 1:
                return voxels.with_features(features @ self.kernel)
            target = grid.coarser(voxels.stride, self.stride)
            kernel = self.kernel if self.kernel.ndim == 3 else self.kernel[None]
            pairs = grid.pairs(voxels.stride, target, self.kernel_size)
            return SparseTensor(_convolve(features, kernel, pairs, len(grid.level(target).keys)), grid, target)


class SparseConvTranspose(nn.Module):
    """Transposed convolution back onto the voxels that the encoder had at the finer stride. Spec: distilvpr §3.4."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int = 2, stride: int = 2):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        bound = (channels_out * kernel_size**3) ** -0.5
        self.kernel = nn.Parameter(torch.empty(kernel_size**3, channels_in, channels_out).uniform_(-bound, bound))

    def forward(self, voxels: SparseTensor) -> SparseTensor:
        grid, target = voxels.grid, voxels.stride // self.stride
        pairs = [(coarse, fine) for fine, coarse in grid.pairs(target, voxels.stride, self.kernel_size)]
        with torch.autocast(voxels.features.device.type, enabled=False):
            features = voxels.features.to(self.kernel.dtype)
            return SparseTensor(_convolve(features, self.kernel, pairs, len(grid.level(target).keys)), grid, target)


class SparseBatchNorm(nn.Module):
    """Batch normalisation over all voxels of the batch."""

    def __init__(self, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm1d(channels)

    def forward(self, voxels: SparseTensor) -> SparseTensor:
        return voxels.with_features(self.bn(voxels.features))


class ECA(nn.Module):
    """Efficient channel attention: every cloud's channel means, mixed along the channels, gate its voxels.

    Paper: ECA-Net (Wang et al., CVPR 2020). Spec: distilvpr §4.1.
    """

    def __init__(self, channels: int):
        super().__init__()
        size = int(abs(math.log2(channels) + 1) / 2)
        size += 1 - size % 2  # odd: 3 for 32 and 64 channels, 5 for 128
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def gate(self, voxels: SparseTensor) -> Tensor:
        """Values in (0, 1), (B, C)."""
        return torch.sigmoid(self.conv(voxels.mean()[:, None])).squeeze(1)

    def forward(self, voxels: SparseTensor) -> SparseTensor:
        return voxels.with_features(
            voxels.features * self.gate(voxels).index_select(0, voxels.grid.cloud_of(voxels.stride))
        )


class SparseGeM(nn.Module):
    """Generalised mean over the voxels of every cloud, (N, C) -> (B, C). Spec: distilvpr §4.1."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6):
        super().__init__()
        self.p, self.eps = nn.Parameter(torch.full((1,), float(p))), eps

    def forward(self, voxels: SparseTensor) -> Tensor:
        powers = (self.p * voxels.features.clamp(min=self.eps).log()).exp()  # half the time of pow by a tensor
        return voxels.with_features(powers).mean().pow(1 / self.p)
