"""Sparse 3-D convolutions in plain PyTorch, with the coordinates, kernel order and names of MinkowskiEngine 0.5.4.

Spec: distilvpr §3. A cloud's features live on its occupied voxels only. The work is three steps: which coordinates a layer
writes to, which pairs of rows each kernel offset connects, and one matrix product per offset. The first two depend on the
coordinates alone and are kept in a `VoxelGrid` that all layers of a forward pass share.
"""

import itertools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

FIELD_BITS = 16  # of a packed key: batch, x, y, z
OFFSET = 1 << (FIELD_BITS - 1)
LIMIT = OFFSET - 1024  # leaves room for every kernel offset, so that neighbours never carry into another field


class VoxelGrid:
    """The voxels of a batch of clouds at every tensor stride, and the row pairs that convolutions between them use.

    Args:
        coordinates: int (N, 4), rows (cloud, x, y, z) without repeats; clouds numbered from 0.
        clouds: how many there are; default the largest number plus one.
    Raises:
        ValueError: for another shape, repeated rows, a cloud without voxels, or coordinates beyond +-31,744.
    """

    def __init__(self, coordinates: Tensor, clouds: int | None = None):
        if coordinates.ndim != 2 or coordinates.shape[1] != 4 or coordinates.is_floating_point():
            raise ValueError(
                f"Voxels are integer rows (cloud, x, y, z), got {coordinates.dtype} of shape {tuple(coordinates.shape)}."
            )
        coordinates = coordinates.long()
        self.clouds = int(coordinates[:, 0].max()) + 1 if clouds is None else clouds
        reach = int(coordinates[:, 1:].abs().max())
        if reach > LIMIT or self.clouds > LIMIT:
            raise ValueError(
                f"Voxel coordinates reach {reach:,} and clouds {self.clouds:,}, the limit is {LIMIT:,}. Is the voxel size "
                "right for these clouds (0.01 for Oxford submaps in [-1, 1], 1.0 for metres)?"
            )
        keys, order = torch.sort(_pack(coordinates))
        if bool((keys[1:] == keys[:-1]).any()):
            raise ValueError("Some voxels are listed twice; voxelise the clouds first.")
        self.levels: dict[int, _Level] = {1: _Level(coordinates, keys, order)}
        if int(self.counts(1).min()) == 0:
            raise ValueError(f"Cloud {int(self.counts(1).argmin())} of {self.clouds} has no voxels.")
        self._pairs: dict[tuple[int, int, int], list[tuple[Tensor, Tensor]]] = {}

    def level(self, stride: int) -> "_Level":
        if stride not in self.levels:
            raise ValueError(f"No voxels at tensor stride {stride}; there are {sorted(self.levels)}.")
        return self.levels[stride]

    def coarser(self, stride: int, factor: int) -> int:
        """Make the voxels at tensor stride `stride * factor`: every coordinate rounded down to a multiple of it."""
        target = stride * factor
        if target not in self.levels:
            fine = self.level(stride).coordinates
            cell = torch.div(fine[:, 1:], target, rounding_mode="floor") * target
            keys = torch.unique(_pack(torch.cat([fine[:, :1], cell], 1)))
            self.levels[target] = _Level(_unpack(keys), keys, torch.arange(len(keys), device=keys.device))
        return target

    def pairs(self, source: int, target: int, kernel: int) -> list[tuple[Tensor, Tensor]]:
        """Per kernel offset the rows (in, out) with in = out + offset * source, for a layer from stride to stride."""
        key = (source, target, kernel)
        if key not in self._pairs:
            fine, coarse = self.level(source), self.level(target)
            offsets = kernel_offsets(kernel, source)
            if source == target and kernel % 2:  # the second half of the offsets is the first seen from the other end
                half = [fine.find(coarse, offset) for offset in offsets[: len(offsets) // 2]]
                self._pairs[key] = [*half, (fine.order, fine.order), *((out, row) for row, out in reversed(half))]
            else:
                self._pairs[key] = [fine.find(coarse, offset) for offset in offsets]
        return self._pairs[key]

    def cloud_of(self, stride: int) -> Tensor:
        """The cloud of every row, int64 (N,)."""
        return self.level(stride).coordinates[:, 0]

    def counts(self, stride: int) -> Tensor:
        """Voxels per cloud, int64 (B,)."""
        return torch.bincount(self.cloud_of(stride), minlength=self.clouds)


@dataclass(frozen=True)
class _Level:
    """Voxels at one tensor stride: coordinates (N, 4) in row order, their sorted keys, and the row of every key."""

    coordinates: Tensor
    keys: Tensor
    order: Tensor

    def find(self, others: "_Level", offset: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Rows (here, there) of all voxels of `others` that have a voxel here at `offset`."""
        shift = (offset[0] << 2 * FIELD_BITS) + (offset[1] << FIELD_BITS) + offset[2]
        wanted = others.keys + shift
        place = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
        found = torch.nonzero(self.keys[place] == wanted).squeeze(1)
        return self.order[place[found]], others.order[found]


def _pack(coordinates: Tensor) -> Tensor:
    cloud, x, y, z = coordinates.unbind(1)
    return (cloud << 3 * FIELD_BITS) + (x + OFFSET << 2 * FIELD_BITS) + (y + OFFSET << FIELD_BITS) + (z + OFFSET)


def _unpack(keys: Tensor) -> Tensor:
    fields = [(keys >> bits * FIELD_BITS & (1 << FIELD_BITS) - 1) - OFFSET for bits in (2, 1, 0)]
    return torch.stack([keys >> 3 * FIELD_BITS, *fields], 1)


def kernel_offsets(kernel: int, stride: int = 1) -> list[tuple[int, int, int]]:
    """Offset of every kernel index, x fastest; odd kernels are centred, even ones reach forward. Spec: distilvpr §3.2."""
    first = -(kernel // 2) if kernel % 2 else 0
    steps = range(first * stride, (first + kernel) * stride, stride)
    return [(x, y, z) for z, y, x in itertools.product(steps, repeat=3)]


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
            if len(source):
                out.index_add_(0, target, features[source] @ weight)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        features, kernel = ctx.saved_tensors
        needs_features, needs_kernel = ctx.needs_input_grad[:2]
        grad_features = torch.zeros_like(features) if needs_features else None
        grad_kernel = torch.zeros_like(kernel) if needs_kernel else None
        for k, (source, target) in enumerate(ctx.pairs):
            if len(source):
                part = grad[target]
                if needs_features:
                    grad_features.index_add_(0, source, part @ kernel[k].T)
                if needs_kernel:
                    grad_kernel[k] = features[source].T @ part
        return grad_features, grad_kernel, None, None


def _convolve(features: Tensor, kernel: Tensor, pairs: list[tuple[Tensor, Tensor]], rows: int) -> Tensor:
    if kernel.shape[1] > 1:
        return _Convolve.apply(features, kernel, pairs, rows)
    # one channel in: (rows, offsets) values times (offsets, Cout) is a single product
    source, target = (torch.cat(side) for side in zip(*pairs))
    offset = torch.repeat_interleave(
        torch.arange(len(pairs), device=target.device), torch.tensor([len(s) for s, _ in pairs], device=target.device)
    )
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
        with torch.autocast(
            voxels.features.device.type, enabled=False
        ):  # sums over few rows: half precision gains nothing
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
        return voxels.with_features(voxels.features * self.gate(voxels)[voxels.grid.cloud_of(voxels.stride)])


class SparseGeM(nn.Module):
    """Generalised mean over the voxels of every cloud, (N, C) -> (B, C). Spec: distilvpr §4.1."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6):
        super().__init__()
        self.p, self.eps = nn.Parameter(torch.full((1,), float(p))), eps

    def forward(self, voxels: SparseTensor) -> Tensor:
        powers = voxels.features.clamp(min=self.eps).pow(self.p)
        return voxels.with_features(powers).mean().pow(1 / self.p)
