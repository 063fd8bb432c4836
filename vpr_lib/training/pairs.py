"""Batches of pairs of one place, what cross-modal training goes through. Spec: distilvpr §7.2."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vpr_lib.data.clouds import SubmapSet, collate_submaps
from vpr_lib.data.tuples import TupleSet
from vpr_lib.seeds import derive_seed

SMALLEST_BATCH = 4


@dataclass(frozen=True)
class PairSampler:
    """Rows of a TupleSet in pairs (a, b, a', b', ...), different in every epoch and the same for a seed.

    Every epoch goes through the usable rows without replacement: a random unused row, then a random unused positive of it,
    or any positive when all are used. Every epoch has as many batches as the first one, or one less.
    """

    tuples: TupleSet
    batch_size: int = 128
    seed: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < SMALLEST_BATCH or self.batch_size % 2:
            raise ValueError(f"A batch is pairs: batch_size must be even and at least 4, got {self.batch_size}.")
        if len(self.tuples.usable) < SMALLEST_BATCH:
            raise ValueError(
                f"Only {len(self.tuples.usable)} of {len(self.tuples.queries)} submaps have a positive and a negative; "
                "training needs 4 or more. Are the runs of the same streets?"
            )

    def __len__(self) -> int:
        return self._first

    @cached_property
    def _first(self) -> int:
        return len(self._batches(0))

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The epoch's batches, int64 (batch_size,); the last one may be smaller, but not below 4."""
        return self._batches(epoch)[: len(self)]

    def _batches(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng(derive_seed("pairs", self.seed, epoch))
        unused = np.zeros(len(self.tuples.queries), bool)
        unused[self.tuples.usable] = True
        rows: list[int] = []
        for row in rng.permutation(self.tuples.usable):
            if unused[row]:
                unused[row] = False
                positives = self.tuples.positives[row]
                fresh = positives[unused[positives]]
                partner = rng.choice(fresh if len(fresh) else positives)
                unused[partner] = False
                rows += [row, partner]
        batches = [np.array(rows[i : i + self.batch_size], np.int64) for i in range(0, len(rows), self.batch_size)]
        return batches if len(batches[-1]) >= SMALLEST_BATCH else batches[:-1]


@dataclass
class PairBatches:
    """What `fit` consumes: (rows int64 (B,), uint8 images (B, 3, H, W) or None, voxels (N, 4) or None).

    A sample's augmentation follows from (seed, epoch, batch, place in the batch), so a resumed run sees what an
    uninterrupted one does, and several processes together what one alone would.

    Args:
        rank, world_size: every process takes every world_size-th sample of a batch; what does not fill all of them is left
            out, so that their shares are of one size.
    Raises:
        ValueError: when a batch cannot be shared equally.
    """

    sampler: PairSampler
    submaps: SubmapSet
    workers: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.sampler.batch_size % self.world_size:
            raise ValueError(
                f"A batch of {self.sampler.batch_size} cannot be shared by {self.world_size} processes; choose a multiple."
            )

    def __len__(self) -> int:
        return len(self.sampler)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        seed = lambda batch, place: derive_seed("augment", self.sampler.seed, epoch, batch, place)
        keys = [
            [(int(batch[place]), seed(number, place)) for place in self._share(len(batch))]
            for number, batch in enumerate(self.sampler.epoch(epoch))
        ]
        loader = DataLoader(
            self.submaps, batch_sampler=keys[start:], num_workers=self.workers, collate_fn=collate_submaps,
            pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        for own, (images, voxels) in zip(keys[start:], loader):
            yield torch.tensor([row for row, _ in own]), images, voxels

    def _share(self, size: int) -> range:
        """This process's places in a batch."""
        return range(self.rank, size - size % self.world_size, self.world_size)
