"""Training by places with a pair-based loss: the recipe of MixVPR and of every other single-image model here."""

import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.transforms import v2

from vpr_lib.config import Strict
from vpr_lib.data.images import InputSpec
from vpr_lib.data.places import PlaceBatches, Places, PlaceSampler
from vpr_lib.losses.metric import MetricLoss
from vpr_lib.training.fit import FitResult, TrainingRun, fit
from vpr_lib.training.optimisation import FitSettings

log = logging.getLogger(__name__)
AUGMENTATIONS: dict[str, Callable[[], Callable[[Tensor], Tensor] | None]] = {
    "randaugment": lambda: v2.RandAugment(num_ops=3, magnitude=9, interpolation=v2.InterpolationMode.BILINEAR),
    "light": lambda: v2.Compose([v2.ColorJitter(0.3, 0.3, 0.2), v2.RandomAffine(3, (0.05, 0.05), (0.95, 1.05))]),
    "jitter": lambda: v2.ColorJitter(0.7, 0.7, 0.7, 0.5),  # spec clusvpr §5
    "none": lambda: None,
}


class PlaceRecipe(Strict):
    """The data and loss half of a recipe; defaults are MixVPR's (spec mixvpr §3)."""

    places_per_batch: int = 120  # P
    images_per_place: int = 4  # M
    order: Literal["in_city", "shuffled"] = "in_city"
    fixed_order: bool = False  # visit the places in the same order in every epoch
    use_places: int = 0  # train on so many of them only; 0: all
    images: Literal["random", "newest"] = "random"  # which M of a place
    augmentation: Literal["randaugment", "light", "none"] = "randaugment"
    loss: str = "MultiSimilarityLoss"
    miner: str = "MultiSimilarityMiner"
    miner_margin: float = 0.1
    parts: int = Field(default=1, gt=0)  # see metric_step: less memory, same loss
    rate_for_places: int | None = None  # places per optimiser step that the learning rate is meant for
    rate_scaling: Literal["none", "linear", "sqrt"] = "none"  # how it follows another number


def scaled_rate(recipe: PlaceRecipe, settings: FitSettings, world_size: int = 1) -> FitSettings:
    """Settings whose learning rate fits the places that one optimiser step really sees.

    These are P x accumulated batches x processes; the rate is meant for `recipe.rate_for_places` of them. Nothing
    changes with `rate_scaling="none"`, as in the Lightweight-MixVPR recipe, which kept 0.05 at P = 32.

    Raises:
        ValueError: when a scaling is asked for without `rate_for_places`.
    """
    if recipe.rate_scaling == "none":
        return settings
    if recipe.rate_for_places is None:
        raise ValueError(
            f"rate_scaling '{recipe.rate_scaling}' needs rate_for_places, the P that the rate is meant for."
        )
    factor = recipe.places_per_batch * settings.accumulate * world_size / recipe.rate_for_places
    rate = settings.learning_rate * (factor if recipe.rate_scaling == "linear" else factor**0.5)
    log.info("learning rate %g for %d places became %g", settings.learning_rate, recipe.rate_for_places, rate)
    return settings.model_copy(update={"learning_rate": rate})


def metric_step(
    criterion: MetricLoss, prepare: Callable[[Tensor], Tensor], parts: int = 1
) -> Callable[[nn.Module, Any], dict[str, Any]]:
    """The step `fit` calls: (images uint8, labels) -> loss over the descriptors of all processes.

    With several processes the descriptors are gathered with their gradient, so that mining sees the global batch: the
    loss, the gradient and the step are those of one process with all the places (batch norm apart, which each process
    does over its own images).

    Args:
        prepare: what happens to a batch on the device, for images `input_spec.normalise`.
        parts: the images go through the network in so many parts, each forgotten and computed again for its gradient.
            Memory falls by about that factor for one more forward pass; loss and mining still see the whole batch.
            Batch norm takes each part by itself and moves its running statistics twice. One process only.
    """
    if parts > 1 and _world_size() > 1:
        raise ValueError(f"parts={parts} works in one process only; with several, give each fewer places instead.")

    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
        device = next(model.parameters()).device
        images = prepare(batch[0].to(device, non_blocking=True))
        descriptors, labels = gather(in_parts(model, images, parts)), gather(batch[1].to(device))
        loss = criterion(descriptors.float(), labels)
        return {"loss": loss, "useful": criterion.useful_fraction, "images": float(len(images))}

    return step


def in_parts(model: nn.Module, images: Tensor, parts: int) -> Tensor:
    """Descriptors of images (B, 3, H, W), keeping the activations of none of the parts when there are several."""
    if parts == 1:
        return model(images)
    return torch.cat([checkpoint(model, part, use_reentrant=False) for part in images.chunk(parts)])


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(tensor: Tensor) -> Tensor:
    """Rows of all processes in rank order, with gradients to every rank's own rows; the tensor itself when alone."""
    if _world_size() == 1:
        return tensor
    if not tensor.requires_grad:
        parts = [torch.empty_like(tensor) for _ in range(_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(tensor.contiguous()))


def place_batches(
    places: Places, recipe: PlaceRecipe, settings: FitSettings, spec: InputSpec, run: TrainingRun
) -> PlaceBatches:
    """This process's share of the recipe's batches for images of that spec; `run` is launched."""
    sampler = place_sampler(places, recipe, settings, run.fabric)
    return PlaceBatches(sampler, spec, AUGMENTATIONS[recipe.augmentation](), run.workers, run.keep_images)


def place_sampler(places: Places, recipe: PlaceRecipe, settings: FitSettings, fabric: Fabric) -> PlaceSampler:
    """This process's share of the recipe's batches, as rows of the manifest."""
    return PlaceSampler(
        places,
        recipe.places_per_batch,
        recipe.images_per_place,
        settings.seed,
        recipe.order,
        recipe.images,
        fixed_order=recipe.fixed_order,
        use=recipe.use_places,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )


def train_places(
    model: nn.Module, places: Places, recipe: PlaceRecipe, settings: FitSettings, run: TrainingRun
) -> FitResult:
    """Train a model on places and return where its weights are; see `fit` for resuming and errors."""
    run = run.launched(settings)
    settings = scaled_rate(recipe, settings, run.fabric.world_size)
    batches = place_batches(places, recipe, settings, model.input_spec, run)
    criterion = MetricLoss(recipe.loss, recipe.miner, recipe.miner_margin)
    step = metric_step(criterion, model.input_spec.normalise, recipe.parts)
    about = {"recipe": recipe.model_dump(), "data": places.hash, "places": len(places), "images": len(places.labels)}
    return fit(model, batches, step, settings, run.saying(**about))
