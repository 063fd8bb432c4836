"""Training by places on cached maps: the frozen layers ran once, so an epoch of a head takes seconds."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.places import Places, PlaceSampler
from vpr_lib.losses.metric import MetricLoss
from vpr_lib.retrieval.feature_maps import FeatureMaps, HeadLearner, describe_on_maps, feature_maps
from vpr_lib.retrieval.protocol import evaluate_described
from vpr_lib.seeds import derive_seed
from vpr_lib.training.centres import start_head
from vpr_lib.training.fit import FitResult, TrainingRun, fit
from vpr_lib.training.metric_learning import AUGMENTATIONS, PlaceRecipe, metric_step, place_sampler, scaled_rate
from vpr_lib.training.optimisation import FitSettings

log = logging.getLogger(__name__)


class MapBatches:
    """What a training loop consumes: `(maps float16 (P*M, C, h, w), labels int64 (P*M,))`, from any batch on.

    Which view of a picture is shown follows from (seed, epoch, picture). On a GPU the maps live in its memory when they
    take less than half of what is free; otherwise every batch is read from the file.
    """

    def __init__(self, sampler: PlaceSampler, maps: FeatureMaps, device: torch.device):
        self.sampler, self.maps, self.device = sampler, maps, device
        self.on_device: Tensor | None = None
        if device.type == "cuda" and maps.array.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
            self.on_device = _to_device(maps.array, device)

    def __len__(self) -> int:
        return len(self.sampler)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(derive_seed("view", self.sampler.seed, epoch))
        views = rng.integers(self.maps.views, size=self.maps.images)
        for batch in list(self.sampler.epoch(epoch))[start:]:
            rows = batch.ravel()
            maps = self._take(views[rows] * self.maps.images + rows)
            yield maps.unflatten(1, self.maps.shape), torch.from_numpy(self.sampler.places.labels[rows])

    def _take(self, rows: np.ndarray) -> Tensor:
        if self.on_device is not None:
            return self.on_device[torch.from_numpy(rows).to(self.device)]
        return torch.from_numpy(np.asarray(self.maps.array[rows]))


def _to_device(array: np.ndarray, device: torch.device, rows: int = 1024) -> Tensor:
    """The array on the device, copied in blocks so that the host never holds a second one."""
    whole = torch.empty(array.shape, dtype=torch.float16, device=device)
    for first in range(0, len(array), rows):
        block = np.array(array[first : first + rows])
        whole[first : first + len(block)] = torch.from_numpy(block).to(device)
    return whole


def evaluate_heads(
    model: nn.Module,
    benchmark: Benchmark,
    cache: Path | None,
    ks: Sequence[int],
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    workers: int = 0,
) -> dict[int, float]:
    """Recall (k -> share) under the benchmark's first card, as `evaluate` gives it, from cached maps of its pictures.

    The frozen layers run once for all epochs of all trainings with this trunk; maps are rounded to half precision.
    """
    options = {"device": device, "precision": precision, "workers": workers, "quiet": True}
    sides = (describe_on_maps(model, side, cache, **options) for side in (benchmark.database, benchmark.queries))
    return evaluate_described(benchmark, *sides, ks, device, quiet=True).recall


def train_heads(
    model: nn.Module, places: Places, recipe: PlaceRecipe, settings: FitSettings, run: TrainingRun, views: int,
    cache: Path | None,
) -> FitResult:  # fmt: skip
    """As `train_places`, for a model whose backbone is frozen at least in its first layers.

    Args:
        views: pictures shown per picture: itself, and `views - 1` augmented ones by `recipe.augmentation`, all made once.
        cache: folder of the maps; trainings with the same trunk, pictures and views share them.
    Raises:
        ValueError: for a backbone that learns from its first layer on, or several views without an augmentation.
    """
    run = run.launched(settings)
    fabric, quiet = run.fabric, run.quiet
    settings = scaled_rate(recipe, settings, fabric.world_size)
    with fabric.rank_zero_first():  # the first process makes the file that the others then open
        maps = feature_maps(
            model, places.manifest, cache, views, AUGMENTATIONS[recipe.augmentation](), device=fabric.device,
            precision=settings.precision, workers=run.workers, quiet=quiet,
        )  # fmt: skip
    if not run.begun:
        centres, device = run.folder / "centres.hdf5", fabric.device
        start_head(model, [places.manifest], centres, seed=settings.seed, device=device, quiet=quiet, maps=maps)
    batches = MapBatches(place_sampler(places, recipe, settings, fabric), maps, fabric.device)
    step = metric_step(MetricLoss(recipe.loss, recipe.miner, recipe.miner_margin), Tensor.float, recipe.parts)
    about = {"recipe": recipe.model_dump(), "places": len(places), "images": len(places.labels), "views": views}
    return fit(HeadLearner(model), batches, step, settings, run.saying(**about), lambda learner: learner.model)
