"""Training by tuples, as ClusVPR and SFRS: mined negatives with memory, promoted positives, generations with a teacher.

A cache of descriptors is refreshed before every chunk of queries and tuples are mined from it. What was mined, and the
teacher of every generation, lie in the run folder: a killed run goes on with exactly the tuples it had. Spec: clusvpr §8.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from pydantic import Field
from torch import Tensor, nn

from vpr_lib.config import Strict
from vpr_lib.data.images import ImageSet, load_image
from vpr_lib.data.tuples import TupleSet
from vpr_lib.losses.tuples import hardest_regions, soft_loss, tuple_loss
from vpr_lib.models.checkpoints import load_weights, save_weights
from vpr_lib.models.clusvpr import PYRAMIDS, ClusVPR
from vpr_lib.models.netvlad import NetVLAD, initialise
from vpr_lib.paths import atomic_path
from vpr_lib.registry import lookup
from vpr_lib.retrieval.describe import describe_batch
from vpr_lib.retrieval.rerank import k_reciprocal_distances
from vpr_lib.seeds import derive_seed
from vpr_lib.training.centres import SEED, initialise_centres
from vpr_lib.training.fit import FitResult, FitSettings, fit, make_fabric
from vpr_lib.training.metric_learning import AUGMENTATIONS


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


class TupleSource:
    """Batches of tuples for `fit`: refreshes the cache with the model being trained, mines, and keeps what it mined.

    Args:
        network: the model in training, on its device; refreshing uses it in evaluation mode.
        folder: receives `epoch_EE_chunk_CCC.npz` with the tuples and the remembered negatives, and `teacher_G.safetensors`.
    """

    def __init__(
        self, network: nn.Module, tuples: TupleSet, recipe: TupleRecipe, seed: int, folder: Path, device: str | torch.device,
        precision: str = "fp32", workers: int = 0, keep_images: bool = False, batch_size: int = 32, rank: int = 0,
        world_size: int = 1,
    ):  # fmt: skip
        self.network, self.tuples, self.recipe, self.seed, self.folder = network, tuples, recipe, seed, Path(folder)
        self.device, self.precision, self.workers, self.batch_size = device, precision, workers, batch_size
        self.rank, self.world_size = rank, world_size
        if not len(tuples.usable):
            raise ValueError(
                f"None of the {len(tuples.queries)} queries has both a positive and a negative; widen the inner radius."
            )
        self.same = tuples.queries is tuples.database
        paths = tuples.database.image_paths() + ([] if self.same else tuples.queries.image_paths())
        self.images = ImageSet(
            paths, network.input_spec, AUGMENTATIONS[recipe.augmentation](), keep_images and workers == 0
        )

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
        if not self._agreed(path.is_file()):
            remembered = self._remembered(epoch, chunk)
            mined = self._mine(epoch, queries, remembered)
            for found in mined:
                remembered[found.query, : len(found.negatives)] = found.negatives
            if self.rank == 0:
                _write(path, mined, remembered)
            self._barrier()
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
        keys = [rows[at : at + self.batch_size].tolist() for at in range(0, len(rows), self.batch_size)]
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

    def _agreed(self, found: bool) -> bool:
        """What rank 0 found: all ranks must mine, or none."""
        if self.world_size == 1:
            return found
        answer = [found]
        dist.broadcast_object_list(answer)
        return answer[0]

    def _barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

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


class TupleNet(nn.Module):
    """The student as `fit` sees it: several groups of images through one call, each a batch of its own for the norms."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, groups: list[Tensor], pyramid: str) -> list[Tensor]:
        """Normalised images (n, 3, H, W) per group -> region descriptors (n, P, D) per group."""
        return [regions(self.network, images, pyramid) for images in groups]


def regions(network: nn.Module, images: Tensor, pyramid: str) -> Tensor:
    """Descriptors of the regions of a pyramid, (n, 3, H, W) -> (n, P, D); region 0 is the image's descriptor.

    Raises:
        ValueError: if the model's head cannot be cut into regions.
    """
    if pyramid == "1":
        return network(images).unsqueeze(1)
    if not hasattr(network.aggregator, "pyramid"):
        raise ValueError(
            f"A {type(network.aggregator).__name__} head has no regions: train it with pyramid '1' and soft_weight 0."
        )
    return network.aggregator.pyramid(network.feature_map(images), lookup(PYRAMIDS, pyramid, "pyramid"))


class TupleStep:
    """The step `fit` calls: a TupleBatch -> hard loss, plus the soft loss against the teacher from generation 1 on."""

    def __init__(self, source: TupleSource, recipe: TupleRecipe, spec: Any):
        self.source, self.recipe, self.spec = source, recipe, spec
        self._teacher: tuple[int, nn.Module] | None = None

    def __call__(self, model: nn.Module, batch: TupleBatch) -> dict[str, Any]:
        recipe, device = self.recipe, next(model.parameters()).device
        images = self.spec.normalise(batch.images.to(device, non_blocking=True))
        b, m = batch.negatives.shape
        hard_rows = torch.cat([batch.anchors, batch.easy, batch.negatives.flatten()])
        soft = [tuple_ for tuple_, found in enumerate(batch.difficult) if len(found)]
        groups = [images[hard_rows]]
        if soft:
            groups.append(images[torch.cat([batch.anchors[soft], *(batch.difficult[t] for t in soft)])])
        pyramid = recipe.pyramid if batch.generation else "1"  # generation 0 looks at whole images only
        hard_regions, *soft_regions = model(groups, pyramid)
        anchors, easy, negatives = hard_regions.float().split([b, b, b * m])
        negatives = negatives.unflatten(0, (b, m))  # (B, M, P, D)
        chosen = hardest_regions(anchors[:, 0], negatives)[0] if batch.generation else negatives[:, :, 0]
        hard = tuple_loss(recipe.loss, anchors[:, 0], easy[:, 0], chosen, recipe.temperatures[0])
        values = {"loss": hard, "hard": hard, "soft": 0.0, "images": float(len(images))}
        if soft:
            with torch.no_grad():
                taught = regions(self.teacher(batch.generation, device), groups[1], pyramid)
            counts = [len(batch.difficult[t]) for t in soft]
            student, teacher = (_anchor_rows(r.float(), counts) for r in (soft_regions[0], taught))
            temperature = recipe.temperatures[batch.generation]
            parts = [soft_loss(s[None], t[None], recipe.temperatures[0], temperature) for s, t in zip(student, teacher)]
            values["soft"] = torch.stack(parts).mean()
            values["loss"] = hard + recipe.soft_weight * values["soft"]
        return values

    def teacher(self, generation: int, device: torch.device) -> nn.Module:
        """The student as it was when the generation began, without gradient."""
        if self._teacher is None or self._teacher[0] != generation:
            network = copy.deepcopy(self.source.network)
            load_weights(network, self.source.teacher_path(generation))
            network.requires_grad_(False).train(self.recipe.teacher_mode == "train")
            self._teacher = (generation, network.to(device))
        return self._teacher[1]


def _anchor_rows(found: Tensor, counts: list[int]) -> list[Tensor]:
    """Similarities of every anchor's global descriptor to all regions of its difficult positives, one (J P,) per tuple."""
    anchors, others = found[: len(counts), 0], found[len(counts) :].split(counts)
    return [(other @ anchor).flatten() for anchor, other in zip(anchors, others)]


def train_tuples(
    model: nn.Module,
    tuples: TupleSet,
    recipe: TupleRecipe,
    settings: FitSettings,
    folder: Path,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    device: str = "auto",
    workers: int = 0,
    keep_images: bool = False,
    about: dict[str, Any] | None = None,
    fabric: Fabric | None = None,
    quiet: bool = False,
    select: str = "recall@5",
) -> FitResult:
    """Train a model on tuples; see `fit` for resuming and errors. The authors' best epoch has the highest recall@5.

    Raises:
        ValueError: if the settings ask for more epochs than the generations have.
    """
    if settings.epochs > recipe.epochs:
        raise ValueError(
            f"{len(recipe.temperatures)} generations of {recipe.epochs_per_generation} epochs (the first of one) make "
            f"{recipe.epochs} epochs, the settings ask for {settings.epochs}. Add temperatures, or lower fit.epochs."
        )
    settings = settings.model_copy(update={"restarts": recipe.first_epochs()})
    fabric = fabric or make_fabric(settings, device)
    identity = f"{recipe.model_dump_json()}{settings.seed}{tuples.database.list_hash}{tuples.queries.list_hash}"
    mined = Path(folder) / f"tuples_{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    mined.mkdir(parents=True, exist_ok=True)
    model.to(fabric.device)
    if recipe.centres_images and not (Path(folder) / "state.pt").is_file():
        _start(model, tuples, recipe.centres_images, mined / "centres.hdf5", fabric.device, quiet)
    if recipe.sync_bn and fabric.world_size > 1 and fabric.device.type == "cuda":  # torch has none for the CPU
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    source = TupleSource(
        model, tuples, recipe, settings.seed, mined, fabric.device, settings.precision, workers, keep_images,
        rank=fabric.global_rank, world_size=fabric.world_size,
    )  # fmt: skip
    step = TupleStep(source, recipe, model.input_spec)
    about = {"recipe": recipe.model_dump(), "queries": len(tuples.usable), "images": len(source.images)} | (about or {})
    return fit(
        TupleNet(model),
        source,
        step,
        settings,
        folder,
        validate,
        select=select,
        weights_of=lambda net: net.network,
        about=about,
        fabric=fabric,
        quiet=quiet,
    )


def _start(model: nn.Module, tuples: TupleSet, images: int, path: Path, device: torch.device, quiet: bool) -> None:
    """k-means centres of the training images for heads that begin with some."""
    sides = [tuples.database] if tuples.queries is tuples.database else [tuples.queries, tuples.database]
    if isinstance(model.aggregator, ClusVPR):
        initialise_centres(model, sides, path, images, device=str(device), quiet=quiet)
    elif isinstance(model.aggregator, NetVLAD):
        paths = [path for side in sides for path in side.image_paths()]
        chosen = np.random.default_rng(derive_seed("centres", SEED)).choice(
            len(paths), min(images, len(paths)), replace=False
        )
        loaded = (load_image(paths[row], model.input_spec)[None].to(device) for row in chosen)
        initialise(model.aggregator, model.backbone, map(model.input_spec.normalise, loaded), SEED)


def _write(path: Path, mined: list[MinedTuple], remembered: np.ndarray) -> None:
    arrays = {"query": [t.query for t in mined], "easy": [t.easy for t in mined], "remembered": remembered}
    for name in ("negatives", "difficult"):
        rows = [getattr(t, name) for t in mined]
        arrays |= {name: np.concatenate(rows), f"{name}_counts": [len(row) for row in rows]}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{name: np.asarray(values, np.int64) for name, values in arrays.items()})


def _read(path: Path) -> tuple[list[MinedTuple], np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        lists = [
            np.split(arrays[name], np.cumsum(arrays[f"{name}_counts"])[:-1]) for name in ("negatives", "difficult")
        ]
        mined = [MinedTuple(int(q), int(e), *rows) for q, e, *rows in zip(arrays["query"], arrays["easy"], *lists)]
        return mined, arrays["remembered"]
