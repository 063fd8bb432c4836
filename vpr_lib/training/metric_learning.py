"""Training by places with a pair-based loss: the recipe of MixVPR and of every other single-image model here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import Tensor, nn
from torchvision.transforms import v2

from vpr_lib.config import Strict
from vpr_lib.data.images import InputSpec
from vpr_lib.data.places import PlaceBatches, Places, PlaceSampler
from vpr_lib.losses.metric import MetricLoss
from vpr_lib.training.fit import FitResult, FitSettings, fit, make_fabric

AUGMENTATIONS: dict[str, Callable[[], Callable[[Tensor], Tensor] | None]] = {
    "randaugment": lambda: v2.RandAugment(num_ops=3, magnitude=9, interpolation=v2.InterpolationMode.BILINEAR),
    "light": lambda: v2.Compose([v2.ColorJitter(0.3, 0.3, 0.2), v2.RandomAffine(3, (0.05, 0.05), (0.95, 1.05))]),
    "none": lambda: None,
}


class PlaceRecipe(Strict):
    """The data and loss half of a recipe; defaults are MixVPR's (spec mixvpr §3)."""

    places_per_batch: int = 120  # P
    images_per_place: int = 4  # M
    order: Literal["in_city", "shuffled"] = "in_city"
    fixed_order: bool = False  # visit the places in the same order in every epoch
    augmentation: Literal["randaugment", "light", "none"] = "randaugment"
    loss: str = "MultiSimilarityLoss"
    miner: str = "MultiSimilarityMiner"
    miner_margin: float = 0.1


def metric_step(criterion: MetricLoss, spec: Any) -> Callable[[nn.Module, Any], dict[str, Any]]:
    """The step `fit` calls: (images uint8, labels) -> loss over the descriptors of all processes.

    With several processes the descriptors are gathered with their gradient, so that mining sees the global batch.
    """

    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
        device = next(model.parameters()).device
        images = spec.normalise(batch[0].to(device, non_blocking=True))
        descriptors, labels = gather(model(images)), gather(batch[1].to(device))
        loss = criterion(descriptors.float(), labels)
        return {"loss": loss, "useful": criterion.useful_fraction, "images": float(len(images))}

    return step


def gather(tensor: Tensor) -> Tensor:
    """Rows of all processes in rank order, with gradients to every rank's own rows; the tensor itself when alone."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    if not tensor.requires_grad:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(tensor.contiguous()))


def place_batches(
    places: Places,
    recipe: PlaceRecipe,
    settings: FitSettings,
    spec: InputSpec,
    fabric: Fabric,
    workers: int = 0,
    keep_images: bool = False,
) -> PlaceBatches:
    """This process's share of the recipe's batches for images of that spec."""
    sampler = PlaceSampler(
        places,
        recipe.places_per_batch,
        recipe.images_per_place,
        settings.seed,
        recipe.order,
        fixed_order=recipe.fixed_order,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    return PlaceBatches(sampler, spec, AUGMENTATIONS[recipe.augmentation](), workers, keep_images)


def train_places(
    model: nn.Module,
    places: Places,
    recipe: PlaceRecipe,
    settings: FitSettings,
    folder: Path,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    device: str = "auto",
    workers: int = 0,
    keep_images: bool = False,
    about: dict[str, Any] | None = None,
    fabric: Fabric | None = None,
    quiet: bool = False,
) -> FitResult:
    """Train a model on places and return where its weights are; see `fit` for resuming and errors.

    Args:
        workers, keep_images: see PlaceBatches.
        validate: model -> {"recall@1": ...}; its recall@1 selects the best epoch.
    """
    fabric = fabric or make_fabric(settings, device)
    batches = place_batches(places, recipe, settings, model.input_spec, fabric, workers, keep_images)
    criterion = MetricLoss(recipe.loss, recipe.miner, recipe.miner_margin)
    about = {"recipe": recipe.model_dump(), "places": len(places), "images": len(places.labels)} | (about or {})
    return fit(
        model,
        batches,
        metric_step(criterion, model.input_spec),
        settings,
        folder,
        validate,
        about=about,
        fabric=fabric,
        quiet=quiet,
    )
