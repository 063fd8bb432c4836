"""Recipes: one YAML file is one experiment, opening with the claim it should reproduce. `vpr train` runs them."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from vpr_lib.config import Strict, find_recipe, load_yaml
from vpr_lib.data.catalogue import open_benchmark
from vpr_lib.data.places import Places
from vpr_lib.data.readers.gsv_cities import read_gsv_cities
from vpr_lib.models.backbones import build_backbone
from vpr_lib.models.zoo import build_model
from vpr_lib.paths import data_root
from vpr_lib.retrieval.protocol import evaluate
from vpr_lib.training.distillation import Distillation, train_distilled
from vpr_lib.training.fit import FitResult, FitSettings
from vpr_lib.training.metric_learning import PlaceRecipe, train_places
from vpr_lib.training.token_start import train_tokens

START_STREETS = 160  # streets of the toy starting point: the more, the better it carries over to others


class Experiment(Strict):
    """A training run. `claim`, `expected` and `hardware` are for the reader; the rest decides what is computed."""

    claim: str  # table and row it reproduces, with the paper's number
    expected: str  # what we expect to get, and why when it differs
    hardware: str  # time on which machine
    model: str
    model_changes: dict[str, Any] = {}
    pretrained: bool = True
    token_teacher: str | None = None  # a pre-trained backbone whose map the tokens learn, instead of the metric loss
    train_set: Literal["gsv_cities", "toycity", "toycity_start"] = "gsv_cities"
    train_root: str | None = None  # default: data/gsv_cities, or the generated city
    validation: str | None = None  # a data set by name
    validation_root: str | None = None
    places: PlaceRecipe = PlaceRecipe()
    distillation: Distillation | None = None  # None is the control run: the same schedule without a teacher
    fit: FitSettings
    workers: int = 8
    keep_images: bool = False


def load_experiment(name: str | Path) -> Experiment:
    """The recipe of that name or path (ValueError when it is unknown or does not fit)."""
    return load_yaml(find_recipe(name), Experiment)


def open_recipe(name: str | Path) -> tuple[Any, Callable[..., tuple[nn.Module, FitResult]]]:
    """The experiment of that name with the function that runs it: (experiment, folder, device) -> (model, result)."""
    from vpr_lib.training.crossmodal import CrossmodalExperiment, train_crossmodal

    path = find_recipe(name)
    if re.search(r"^crossmodal:", path.read_text(encoding="utf-8") if path.is_file() else "", re.MULTILINE):
        return load_yaml(path, CrossmodalExperiment), train_crossmodal
    return load_yaml(path, Experiment), train


def training_places(experiment: Experiment) -> Places:
    """The experiment's training set, read from disk (or generated, for the toy city)."""
    if experiment.train_set == "gsv_cities":
        root = Path(experiment.train_root or data_root() / "gsv_cities")
    else:
        root = _toy_places(experiment.train_set)
    manifest = read_gsv_cities(root, name=experiment.train_set)
    return Places.from_manifest(manifest, experiment.places.images_per_place)


def _toy_places(train_set: str) -> Path:
    from vpr_lib.data.toycity.city import TOY
    from vpr_lib.data.toycity.export import ensure

    if train_set == "toycity":
        return ensure(TOY, "places")
    return ensure(replace(TOY, start_streets=START_STREETS), "start")


def validator(experiment: Experiment, device: str) -> Callable[[nn.Module], dict[str, float]] | None:
    """The describe, search, recall path on the validation set, as the callable that `fit` takes."""
    if experiment.validation is None:
        return None
    root = Path(experiment.validation_root) if experiment.validation_root else None
    benchmark = open_benchmark(experiment.validation, root)

    def validate(model: nn.Module) -> dict[str, float]:
        scores = evaluate(model, benchmark, None, (1, 5, 10), device, experiment.fit.precision, quiet=True)
        return {f"recall@{k}": value for k, value in scores.recall.items()}

    return validate


def train(
    experiment: Experiment, folder: Path, device: str = "cpu", quiet: bool = False
) -> tuple[nn.Module, FitResult]:
    """Run an experiment, or go on where it stopped; returns the model with its best weights loaded, and the result."""
    from vpr_lib.models.checkpoints import load_weights

    model = build_model(experiment.model, experiment.pretrained, experiment.fit.seed, **experiment.model_changes)
    learn = train_places
    if experiment.distillation is not None:
        learn = partial(train_distilled, distillation=experiment.distillation)
    elif experiment.token_teacher:
        learn = partial(train_tokens, teacher=build_backbone(experiment.token_teacher, pretrained=True))
    result = learn(
        model, places=training_places(experiment), recipe=experiment.places, settings=experiment.fit, folder=folder,
        validate=validator(experiment, device), device=device, workers=experiment.workers,
        keep_images=experiment.keep_images, about={"experiment": experiment.model_dump()}, quiet=quiet,
    )  # fmt: skip
    load_weights(model, result.best)
    return model, result
