"""Which voxels there are at every stride, and which of them a kernel offset connects: the coordinate half of a sparse
convolution, on a CPU or a GPU. Spec: distilvpr §3.1-3.4."""

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

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
        """Per kernel offset the rows (in, out) with in = out + offset * source, for a layer from stride to stride.

        Where every voxel meets itself, both are the same tensor.
        """
        key = (source, target, kernel)
        if key not in self._pairs:
            fine, coarse = self.level(source), self.level(target)
            offsets, plane = kernel_offsets(kernel, source), kernel**2  # the first plane are the columns along z
            mirrored = source == target and kernel % 2 == 1  # half of the columns are the others from the other end
            neighbours = {}
            for column in range(plane // 2 + 1 if mirrored else plane):
                for step, (here, there) in enumerate(fine.find(coarse, offsets[column], kernel, source)):
                    neighbours[column + step * plane] = here, there
                    if mirrored:
                        neighbours[len(offsets) - 1 - column - step * plane] = there, here
            if mirrored:
                neighbours[len(offsets) // 2] = fine.order, fine.order
            self._pairs[key] = [neighbours[k] for k in range(len(offsets))]
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

    @cached_property
    def ends(self) -> Tensor:
        """The keys and one that is never looked for, so that a search may end behind the last."""
        return F.pad(self.keys, (0, 1), value=-1)

    def find(
        self, others: "_Level", offset: tuple[int, int, int], count: int, step: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Rows (here, there) of all voxels of `others` with a voxel here at `offset`; then with one `step` further up, ...

        One search serves all `count` of them: the next key up stands at the same place, or behind a voxel that was found.
        """
        wanted = others.keys + ((offset[0] << 2 * FIELD_BITS) + (offset[1] << FIELD_BITS) + offset[2])
        place, pairs = torch.searchsorted(self.keys, wanted), []
        for _ in range(count):
            hit = self.ends.index_select(0, place) == wanted
            rows = torch.nonzero(hit).squeeze(1)
            pairs.append((self.order[place[rows]], others.order[rows]))
            place, wanted = place + hit, wanted + step
        return pairs


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
