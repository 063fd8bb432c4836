"""Training by places: P places with M images each per batch, in the order of the GSV-Cities loader (mixvpr §3.1)."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vpr_lib.data.images import ImageSet, InputSpec
from vpr_lib.data.manifest import Manifest
from vpr_lib.seeds import derive_seed


@dataclass(frozen=True)
class Places:
    """A training manifest with place labels; places with too few images are already left out.

    `labels` int64 (N,) numbers the places 0..L-1 by sorted `place_id`; `groups` int64 (N,) is the rank of the
    row's city in the order cities were listed.
    """

    manifest: Manifest
    labels: np.ndarray
    groups: np.ndarray

    @classmethod
    def from_manifest(cls, manifest: Manifest, min_images: int = 4, cities: list[str] | None = None) -> "Places":
        """Keep the places with at least `min_images` images (ValueError when none is left).

        Args:
            cities: their order; default the order of first appearance.
        """
        names, labels = np.unique(manifest.table["place_id"].to_numpy(str), return_inverse=True)
        large = np.bincount(labels, minlength=len(names))[labels] >= min_images
        if not large.any():
            raise ValueError(f"None of the {len(names)} places under {manifest.root} has {min_images} images.")
        manifest = manifest if large.all() else manifest.take(np.flatnonzero(large))
        labels = np.unique(labels[large], return_inverse=True)[1].astype(np.int64)
        city = manifest.table["city"].to_numpy(str)
        order = {name: rank for rank, name in enumerate(cities or dict.fromkeys(city))}
        return cls(manifest, labels, np.array([order[name] for name in city], np.int64))

    def __len__(self) -> int:
        """Number of places."""
        return int(self.labels.max()) + 1

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the list of images and which of them share a place."""
        return hashlib.sha256(self.manifest.list_hash.encode() + self.labels.tobytes()).hexdigest()

    @cached_property
    def dates(self) -> np.ndarray:
        """Sort key "most recent first": rank of (timestamp, lat) descending, int64 (N,)."""
        table = self.manifest.table
        if "timestamp" not in table:
            raise ValueError("These places carry no dates; sample images at random.")
        rank = np.empty(len(table), np.int64)
        rank[np.lexsort((-table["lat"].to_numpy(), -table["timestamp"].to_numpy(np.int64)))] = np.arange(len(table))
        return rank


@dataclass(frozen=True)
class PlaceSampler:
    """Batches of image rows, (P, M), different in every epoch and the same for a seed.

    Args:
        order: "in_city" shuffles rows inside each city and visits the cities in order, so that a batch holds places of
            one city, the harder negatives; "shuffled" mixes all cities.
        images: "random" draws M images of a place without replacement, "newest" takes the M most recent.
        fixed_order: visit the places in the order of epoch 0 in every epoch, as a loader that is built once does; the
            images of a place are drawn anew all the same.
        use: how many of the places take part, 0 for all; the same ones under every seed, and more contain fewer.
        rank, world_size: every process takes its own P places of a global batch of P x world_size places; places that
            do not fill a global batch are dropped when world_size > 1, and form a smaller last batch otherwise.
    """

    places: Places
    places_per_batch: int = 120
    images_per_place: int = 4
    seed: int = 1
    order: Literal["in_city", "shuffled"] = "in_city"
    images: Literal["random", "newest"] = "random"
    fixed_order: bool = False
    use: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        fewest = int(np.bincount(self.places.labels).min())
        if self.images_per_place > fewest:
            raise ValueError(
                f"{self.images_per_place} images per place asked for, but a place has only {fewest}; "
                f"build Places with min_images={self.images_per_place}."
            )
        if self.use > len(self.places):
            raise ValueError(f"{self.use} places asked for, there are {len(self.places)}.")
        if len(self) == 0:
            raise ValueError(
                f"{self.world_size} processes with {self.places_per_batch} places each need "
                f"{self.world_size * self.places_per_batch} places, there are {len(self.places)}."
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        total = self.places_per_batch * self.world_size
        count = self.use or len(self.places)
        return count // total if self.world_size > 1 else -(-count // total)

    def epoch(self, epoch: int) -> Iterator[np.ndarray]:
        """The epoch's batches, int64 (P, M) rows of the manifest."""
        labels, n = self.places.labels, len(self.places.labels)
        rng = np.random.default_rng(derive_seed("places", self.seed, epoch))
        shuffled = rng.permutation(n)
        if self.fixed_order:
            shuffled = np.random.default_rng(derive_seed("places", self.seed, 0)).permutation(n)
        if self.order == "in_city":
            shuffled = shuffled[np.argsort(self.places.groups[shuffled], kind="stable")]
        seen, first = np.unique(labels[shuffled], return_index=True)
        visit = seen[np.argsort(first)]  # places by first appearance
        if self.use:
            used = np.random.default_rng(derive_seed("places used")).permutation(len(self.places))[: self.use]
            visit = visit[np.isin(visit, used)]
        key = self.places.dates if self.images == "newest" else rng.permutation(n)
        by_place = np.lexsort((key, labels))  # rows grouped by place, best key first
        start = np.concatenate([[0], np.cumsum(np.bincount(labels))[:-1]])
        chosen = by_place[start[visit][:, None] + np.arange(self.images_per_place)]  # (places, M)
        total = self.places_per_batch * self.world_size
        for batch in range(len(self)):
            begin = batch * total + self.rank * self.places_per_batch
            yield chosen[begin : begin + self.places_per_batch]


class PlaceBatches:
    """What a training loop consumes: normalisation-ready uint8 batches with their labels.

    `epoch(e, start)` yields `(images uint8 (P*M, 3, H, W), labels int64 (P*M,))` from batch `start` on. What a sample
    looks like depends on (seed, epoch, row) only, so a resumed run sees exactly what an uninterrupted one does.

    Args:
        augment: uint8 (3, H, W) -> uint8, or None.
        workers: loader processes; 0 loads in this one and, with `keep`, holds resized images in memory.
    """

    def __init__(
        self,
        sampler: PlaceSampler,
        spec: InputSpec,
        augment: Callable[[Tensor], Tensor] | None = None,
        workers: int = 0,
        keep: bool = False,
    ):
        self.sampler, self.workers = sampler, workers
        self.images = ImageSet(sampler.places.manifest.image_paths(), spec, augment, keep and workers == 0)
        self._augmented = augment is not None

    def __len__(self) -> int:
        return len(self.sampler)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        batches = list(self.sampler.epoch(epoch))[start:]
        keys = [[self._key(int(row), epoch) for row in batch.ravel()] for batch in batches]
        for rows, images in zip(batches, self.images.batches(keys, self.workers)):
            yield images, torch.from_numpy(self.sampler.places.labels[rows.ravel()])

    def _key(self, row: int, epoch: int) -> int | tuple[int, int]:
        return (row, derive_seed("augment", self.sampler.seed, epoch, row)) if self._augmented else row
