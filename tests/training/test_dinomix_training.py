"""The DINO-Mix recipe: clipping by value, its schedule, and the toy transformer's start."""

import numpy as np
import pytest
import torch
from pictures import write_picture
from torch import nn
from torch.nn import functional as F

from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.places import Places
from vpr_lib.models.backbones import build_backbone
from vpr_lib.models.checkpoints import load_weights
from vpr_lib.models.zoo import build_model
from vpr_lib.training.fit import TrainingRun, fit, make_fabric
from vpr_lib.training.metric_learning import PlaceRecipe
from vpr_lib.training.optimisation import FitSettings, learning_rate
from vpr_lib.training.recipes import load_experiment
from vpr_lib.training.token_start import TokenLearner, token_step, train_tokens


class One:
    def __len__(self):
        return 1

    def epoch(self, epoch, start=0):
        yield torch.tensor([[100.0, -0.2]])


def test_gradients_are_clipped_entry_by_entry(tmp_path):
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    settings = FitSettings(
        epochs=1,
        learning_rate=1.0,
        momentum=0,
        weight_decay=0,
        clip_value=0.5,
        channels_last=False,
        schedule="constant",
    )
    fit(model, One(), lambda m, batch: {"loss": m(batch).sum()}, settings, tmp_path, fabric=make_fabric(settings, "cpu"),
        quiet=True)  # fmt: skip
    torch.testing.assert_close(before - model.weight, torch.tensor([[0.5, -0.2]]))


def test_the_recipe_is_the_papers():
    experiment = load_experiment("dinomix_paper")
    fit_ = experiment.fit
    batches = 782  # 62,500 places of 80, in 196 optimiser steps (spec §3.1)
    steps = -(-batches // fit_.accumulate)
    assert steps == 196 and fit_.warmup_steps < fit_.milestones[0] * steps  # a longer warm-up would eat a milestone
    rates = [learning_rate(fit_, epoch * steps, steps) for epoch in (4, 5, 10, 15, 25, 45)]
    assert rates == pytest.approx([5e-3, 1.5e-3, 4.5e-4, 1.35e-4, 4.05e-5, 1.215e-5])
    assert learning_rate(fit_, 0, steps) == pytest.approx(5e-3 / 650)
    assert (experiment.places.places_per_batch, experiment.places.images_per_place) == (80, 4)
    assert experiment.validation == "pitts30k_val"  # and not the test set


def test_tokens_learn_the_teachers_map(tmp_path):
    paths = [write_picture(tmp_path / "city" / f"{index}.png", index, height=112, width=112).name for index in range(8)]
    columns = {"image_path": paths, "place_id": [f"p{index // 2}" for index in range(8)], "city": ["c"] * 8,
               "timestamp": np.arange(8), "lat": np.zeros(8)}  # fmt: skip
    manifest = build_manifest(tmp_path / "city", "s", "train", "train", columns, keep_order=True)
    places = Places.from_manifest(manifest, min_images=2)
    model = build_model("avg_dinov2_toy_96", backbone_args={})
    settings = FitSettings(epochs=6, optimizer="adamw", learning_rate=2e-3, schedule="constant", seed=2)
    recipe = PlaceRecipe(places_per_batch=4, images_per_place=2, order="shuffled", augmentation="none")
    teacher = build_backbone("tinyresnet", pretrained=True)
    run = TrainingRun(tmp_path / "run", "cpu", keep_images=True, quiet=True)
    result = train_tokens(model, places, recipe, settings, run, teacher)
    losses = [row["loss"] for row in result.history]
    assert losses[-1] < 0.7 * losses[0]
    load_weights(build_model("avg_dinov2_toy_96"), result.last)  # the saved weights are the model's, without the head


def test_the_loss_is_the_cosine_of_centred_features_on_one_grid():
    torch.manual_seed(1)
    model, teacher = build_model("avg_dinov2_toy_96", backbone_args={}), build_backbone("tinyresnet").eval()
    learner, batch = TokenLearner(model, 160), torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8)
    loss = token_step(teacher, model.input_spec)(learner, (batch, torch.zeros(2)))["loss"]
    images = model.input_spec.normalise(batch)
    wanted, predicted = teacher(F.interpolate(images, (128, 128), mode="bilinear", antialias=True)), learner(images)
    assert wanted.shape == predicted.shape == (2, 160, 8, 8)
    cosines = [
        torch.corrcoef(torch.stack([wanted[b, :, y, x], predicted[b, :, y, x]]))[0, 1]
        for b in range(2) for y in range(8) for x in range(8)
    ]  # fmt: skip
    assert loss.item() == pytest.approx(1 - torch.stack(cosines).mean().item(), abs=1e-5)
