"""A start for the toy transformer: its tokens learn to predict the map of a trained toy CNN, without labels.

It plays the part of DINOv2's self-supervised pre-training, which no laptop repeats: afterwards tokens mean something, and
the recipe of DINO-Mix has early blocks worth freezing. The CNN did learn from labels, so this is no foundation model.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpr_lib.data.places import Places
from vpr_lib.models.backbone import Backbone
from vpr_lib.training.fit import FitResult, TrainingRun, fit
from vpr_lib.training.metric_learning import PlaceRecipe, place_batches
from vpr_lib.training.optimisation import FitSettings


class TokenLearner(nn.Module):
    """A model whose map is projected to the teacher's channels: images (B, 3, H, W) -> (B, C, h, w)."""

    def __init__(self, model: nn.Module, teacher_channels: int):
        super().__init__()
        self.model = model
        self.head = nn.Conv2d(model.backbone.out_channels, teacher_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.model.feature_map(images))


def token_step(teacher: Backbone, spec: Any) -> Callable[[nn.Module, Any], dict[str, Any]]:
    """The step `fit` calls: 1 - cosine between predicted and teacher features, each centred, averaged over all cells.

    The teacher sees the image at the size that gives it the student's grid: 128 px for the 8 x 8 patches of 112 px.
    """

    def step(learner: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
        images = spec.normalise(batch[0].to(next(learner.parameters()).device, non_blocking=True))
        predicted = learner(images)
        size = [side * teacher.stride for side in predicted.shape[-2:]]
        with torch.no_grad():
            wanted = teacher.eval()(F.interpolate(images, size, mode="bilinear", antialias=True))
        wanted, predicted = (maps - maps.mean(dim=1, keepdim=True) for maps in (wanted, predicted.float()))
        loss = 1 - F.cosine_similarity(predicted, wanted, dim=1).mean()
        return {"loss": loss, "images": float(len(images))}

    return step


def train_tokens(
    model: nn.Module, places: Places, recipe: PlaceRecipe, settings: FitSettings, run: TrainingRun, teacher: Backbone
) -> FitResult:
    """Teach the backbone of `model` the map of `teacher`; files and errors as of `fit`. The aggregator learns nothing."""
    run = run.launched(settings)
    batches = place_batches(places, recipe, settings, model.input_spec, run)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        learner = TokenLearner(model, teacher.out_channels)
    step = token_step(teacher.to(run.fabric.device), model.input_spec)
    return fit(learner, batches, step, settings, run, lambda learner: learner.model)
