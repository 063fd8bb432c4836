"""Which tuples a training sees: descriptors refreshed before every chunk of queries, hard negatives with a memory. Spec: clusvpr §8.

What was mined is kept in files, so an interrupted epoch goes on with the same tuples.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from vpr_lib.config import Strict
from vpr_lib.data.images import ImageSet
from vpr_lib.data.pickles import load_arrays
from vpr_lib.data.tuples import TupleSet
from vpr_lib.models.checkpoints import save_weights
from vpr_lib.paths import atomic_path
from vpr_lib.retrieval.describe import describe_batch
from vpr_lib.retrieval.feature_maps import FeatureMaps
from vpr_lib.retrieval.rerank import k_reciprocal_distances
from vpr_lib.seeds import derive_seed
from vpr_lib.training.fit import TrainingRun
from vpr_lib.training.metric_learning import AUGMENTATIONS
from vpr_lib.training.optimisation import FitSettings

DESCRIBED = 32  # images at a time, when the cache is refreshed


class TupleRecipe(Strict):
    """The data and loss half of a tuple recipe; defaults are the training script's (spec clusvpr §8.4)."""

    negatives: int = Field(1, ge=1)
    difficult: int = Field(1, ge=0)  # difficult positives per tuple, for the soft loss
    positive_pool: int = 20  # nearest positives among which promoted ones are sought
    negative_pool: int = 1000  # random negatives among which the hardest are sought
    tuples_per_batch: int = 1  # per process
    queries_per_refresh: int = 1000
    loss: str = "sare_ind"
    temperatures: tuple[float, ...] = Field((0.06, 0.06, 0.05, 0.04), min_length=1)  # one per generation
    epochs_per_generation: int = 5  # from generation 1 on; generation 0 has one epoch
    soft_weight: float = 0.5  # of the soft loss, from generation 1 on
    pyramid: Literal["21", "9", "1"] = "21"  # regions; "1" for heads that cannot be cut
    rerank_k1: int = 20
    rerank_k2: int = 1
    rerank_weight: float = 0.1
    teacher_mode: Literal["train", "eval"] = "train"  # the authors leave dropout and batch statistics on
    augmentation: Literal["jitter", "light", "none"] = "jitter"
    sync_bn: bool = True  # with several GPUs
    centres_images: int = 500  # 0 leaves the centroids random
    positive_m: float = 10.0
    non_negative_m: float = 25.0

    @property
    def epochs(self) -> int:
        """Epochs of all generations."""
        return 1 + (len(self.temperatures) - 1) * self.epochs_per_generation

    def generation(self, epoch: int) -> int:
        """Generation of an epoch, both from 0."""
        return 0 if epoch == 0 else 1 + (epoch - 1) // self.epochs_per_generation

    def first_epochs(self) -> tuple[int, ...]:
        """First epoch of every generation after the first."""
        return tuple(1 + g * self.epochs_per_generation for g in range(len(self.temperatures) - 1))


@dataclass(frozen=True)
class MinedTuple:
    """Rows of the query (in the query table) and of its company (in the database); arrays are int64."""

    query: int
    easy: int
    negatives: np.ndarray
    difficult: np.ndarray


def mine_tuple(
    query: int,
    distances: np.ndarray,
    second: np.ndarray,
    tuples: TupleSet,
    remembered: np.ndarray,
    recipe: TupleRecipe,
    rng: np.random.Generator,
) -> MinedTuple:
    """One tuple from the query's distances to the database. Spec: clusvpr §8.1.

    Args:
        distances: (N,), of the last refresh. second: (N,), re-ranked; the same array in generation 0.
        remembered: negatives of this query from last time, int64.
    """
    near = tuples.positives[query].astype(np.int64)
    near = near[np.argsort(distances[near], kind="stable")][: recipe.positive_pool]
    gap = np.empty(len(near), np.int64)  # new rank minus old rank
    gap[np.argsort(second[near], kind="stable")] = np.arange(len(near))
    gap -= np.arange(len(near))
    promoted = near[gap <= 0][np.argsort(gap[gap <= 0], kind="stable")]
    pool = np.union1d(tuples.draw_negatives(query, recipe.negative_pool, rng), remembered).astype(np.int64)
    hardest = pool[np.argsort(distances[pool], kind="stable")][: recipe.negatives]
    return MinedTuple(query, int(near[0]), hardest, promoted[: recipe.difficult])


@dataclass(frozen=True)
class TupleBatch:
    """B tuples of one process: uint8 images (n, 3, H, W) and which of them play which part.

    `anchors`, `easy` int64 (B,); `negatives` (B, M); `difficult` one array per tuple, maybe empty.
    """

    images: Tensor
    anchors: Tensor
    easy: Tensor
    negatives: Tensor
    difficult: list[Tensor]
    generation: int


class MapRows:
    """Cached maps where `TupleSource` asks for pictures: rows of several files, one behind the other."""

    augment = None

    def __init__(self, maps: Sequence[FeatureMaps]):
        self.maps, self.ends = maps, np.cumsum([part.images for part in maps])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def batches(self, keys: Iterable[Sequence[int]], workers: int) -> Iterator[Tensor]:
        """Batches of rows -> float16 (B, C, h, w)."""
        for rows in keys:
            places = [(part := int(np.searchsorted(self.ends, row, "right")), row - self.ends[part]) for row in rows]
            block = np.stack([self.maps[part].array[row] for part, row in places])
            yield torch.from_numpy(block).unflatten(1, self.maps[0].shape)


class TupleSource:
    """Batches of tuples for `fit`: refreshes the cache with the model being trained, mines, and keeps what it mined.

    Args:
        network: the model in training, on its device; refreshing uses it in evaluation mode.
        folder: receives `epoch_EE_chunk_CCC.npz` with the tuples and the remembered negatives, and `teacher_G.safetensors`.
        run: launched; its fabric says which share of the tuples is this process's.
        maps: of the database's pictures, then the queries'; `network` is then a `HeadLearner`.
    """

    def __init__(
        self, network: nn.Module, tuples: TupleSet, recipe: TupleRecipe, settings: FitSettings, folder: Path, run: TrainingRun,
        maps: Sequence[FeatureMaps] = (),
    ):  # fmt: skip
        self.network, self.tuples, self.recipe, self.folder = network, tuples, recipe, folder
        self.seed, self.precision, self.workers = settings.seed, settings.precision, run.workers
        self.fabric, self.device = run.fabric, run.fabric.device
        self.rank, self.world_size = run.fabric.global_rank, run.fabric.world_size
        if not len(tuples.usable):
            raise ValueError(
                f"None of the {len(tuples.queries)} queries has both a positive and a negative; widen the inner radius."
            )
        self.same = tuples.queries is tuples.database
        paths = tuples.database.image_paths() + ([] if self.same else tuples.queries.image_paths())
        augment, keep = AUGMENTATIONS[recipe.augmentation](), run.keep_images and run.workers == 0
        self.images = MapRows(maps) if maps else ImageSet(paths, network.input_spec, augment, keep)

    # ---- the order of an epoch

    def __len__(self) -> int:
        return sum(self._batches(size) for size in self._chunk_sizes)

    @cached_property
    def _chunk_sizes(self) -> list[int]:
        total, size = len(self.tuples.usable), self.recipe.queries_per_refresh
        return [min(size, total - start) for start in range(0, total, size)]

    def _batches(self, queries: int) -> int:
        return math.ceil(math.ceil(queries / self.world_size) / self.recipe.tuples_per_batch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TupleBatch]:
        generation = self.recipe.generation(epoch)
        if start == 0 and epoch in self.recipe.first_epochs() and self.rank == 0:
            save_weights(self.network, self.teacher_path(generation), {"generation": generation})
        order = np.random.default_rng(derive_seed("tuples", self.seed, epoch)).permutation(self.tuples.usable)
        first, count = 0, self.recipe.tuples_per_batch
        for chunk, queries in enumerate(np.split(order, np.cumsum(self._chunk_sizes)[:-1])):
            batches = self._batches(len(queries))
            if start < first + batches:
                mined = self.mined(epoch, chunk, queries)
                share = math.ceil(
                    len(queries) / self.world_size
                )  # the last rounds wrap around, so that ranks stay in step
                own = [mined[(self.rank + step * self.world_size) % len(mined)] for step in range(share)]
                groups = [own[i : i + count] for i in range(0, share, count)]
                yield from self._load(groups[max(0, start - first) :], epoch, generation)
            first += batches

    def teacher_path(self, generation: int) -> Path:
        return self.folder / f"teacher_{generation}.safetensors"

    # ---- mining

    def mined(self, epoch: int, chunk: int, queries: np.ndarray) -> list[MinedTuple]:
        """The tuples of a chunk: from disk when this run mined them before, otherwise from a fresh cache."""
        path = self.folder / f"epoch_{epoch:02d}_chunk_{chunk:03d}.npz"
        if not self.fabric.broadcast(path.is_file()):  # all ranks mine, or none
            remembered = self._remembered(epoch, chunk)
            mined = self._mine(epoch, queries, remembered)
            for tuple_ in mined:
                remembered[tuple_.query, : len(tuple_.negatives)] = tuple_.negatives
            if self.rank == 0:
                _write(path, mined, remembered)
            self.fabric.barrier()
            return mined
        return _read(path)[0]

    def _mine(self, epoch: int, queries: np.ndarray, remembered: np.ndarray) -> list[MinedTuple]:
        every = self.describe_all()
        n = len(self.tuples.database)
        database, asked = every[:n], every if self.same else every[n:]
        distances = 2 - 2 * asked[queries] @ database.T
        second = distances
        if self.recipe.generation(epoch) > 0:
            r = self.recipe
            second = k_reciprocal_distances(
                database, None if self.same else asked, r.rerank_k1, r.rerank_k2, r.rerank_weight, self.device, queries
            )
        mined = []
        for row, query in enumerate(queries.tolist()):
            rng = np.random.default_rng(derive_seed("mine", self.seed, epoch, query))
            before = remembered[query][remembered[query] >= 0]
            mined.append(mine_tuple(query, distances[row], second[row], self.tuples, before, self.recipe, rng))
        return mined

    def _remembered(self, epoch: int, chunk: int) -> np.ndarray:
        """Negatives of every query from its last tuple, int64 (Q, M), -1 where there are none yet."""
        before = sorted(path for path in self.folder.glob("epoch_*_chunk_*.npz"))
        current = f"epoch_{epoch:02d}_chunk_{chunk:03d}.npz"
        before = [path for path in before if path.name < current]
        if before:
            return _read(before[-1])[1]
        return np.full((len(self.tuples.queries), self.recipe.negatives), -1, np.int64)

    def describe_all(self) -> np.ndarray:
        """Descriptors of database, then queries (the database alone when both are one), float32 (N, D), on every rank."""
        rows = np.array_split(np.arange(len(self.images)), self.world_size)[self.rank]
        training = self.network.training
        self.network.eval()
        keys = [rows[at : at + DESCRIBED].tolist() for at in range(0, len(rows), DESCRIBED)]
        parts = [
            describe_batch(self.network, images, self.device, self.precision)
            for images in self.images.batches(keys, self.workers)
        ]
        self.network.train(training)
        own = torch.cat(parts).numpy() if parts else np.empty((0, self.network.dim), np.float32)
        if self.world_size == 1:
            return own
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, own)
        return np.concatenate(gathered)

    # ---- images

    def _load(self, groups: list[list[MinedTuple]], epoch: int, generation: int) -> Iterator[TupleBatch]:
        offset = 0 if self.same else len(self.tuples.database)
        keys = []
        for group in groups:
            rows = [
                row
                for t in group
                for row in (t.query + offset, t.easy, *t.negatives.tolist(), *self._soft(t, generation).tolist())
            ]
            seed = derive_seed("augment", self.seed, epoch, group[0].query)
            keys.append([(row, derive_seed(seed, place)) for place, row in enumerate(rows)])
        if self.images.augment is None:
            keys = [[row for row, _ in batch] for batch in keys]
        for group, images in zip(groups, self.images.batches(keys, self.workers)):
            yield self._batch(group, images, generation)

    def _soft(self, found: MinedTuple, generation: int) -> np.ndarray:
        return found.difficult if generation > 0 and self.recipe.soft_weight else found.difficult[:0]

    def _batch(self, group: list[MinedTuple], images: Tensor, generation: int) -> TupleBatch:
        sizes = [2 + len(t.negatives) + len(self._soft(t, generation)) for t in group]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        fewest = min(len(t.negatives) for t in group)
        places = lambda values: torch.as_tensor(np.asarray(values, np.int64))
        return TupleBatch(
            images, places(starts), places(starts + 1),
            places([np.arange(s + 2, s + 2 + fewest) for s in starts]),
            [places(np.arange(s + 2 + len(t.negatives), s + size)) for s, t, size in zip(starts, group, sizes)], generation,
        )  # fmt: skip


def _write(path: Path, mined: list[MinedTuple], remembered: np.ndarray) -> None:
    arrays = {"query": [t.query for t in mined], "easy": [t.easy for t in mined], "remembered": remembered}
    for name in ("negatives", "difficult"):
        rows = [getattr(t, name) for t in mined]
        arrays |= {name: np.concatenate(rows), f"{name}_counts": [len(row) for row in rows]}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{name: np.asarray(values, np.int64) for name, values in arrays.items()})


def _read(path: Path) -> tuple[list[MinedTuple], np.ndarray]:
    kinds = ("negatives", "difficult")
    arrays = load_arrays(path, {"query", "easy", "remembered", *kinds, *(f"{kind}_counts" for kind in kinds)})
    lists = [np.split(arrays[kind], np.cumsum(arrays[f"{kind}_counts"])[:-1]) for kind in kinds]
    mined = [MinedTuple(int(q), int(e), *rows) for q, e, *rows in zip(arrays["query"], arrays["easy"], *lists)]
    return mined, arrays["remembered"]
