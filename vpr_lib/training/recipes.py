"""Recipes: one YAML file is one experiment, opening with the claim it should reproduce. `vpr train` runs them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from vpr_lib.config import Strict, find_recipe, load_yaml
from vpr_lib.data.catalogue import open_benchmark
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.places import Places
from vpr_lib.data.readers.gsv_cities import read_gsv_cities
from vpr_lib.data.tuples import TupleSet, place_tuples, radius_tuples
from vpr_lib.models.zoo import build_model
from vpr_lib.paths import data_root
from vpr_lib.registry import lookup
from vpr_lib.retrieval.protocol import evaluate
from vpr_lib.training.fit import FitResult, FitSettings
from vpr_lib.training.metric_learning import PlaceRecipe, train_places
from vpr_lib.training.tuples import TupleRecipe, train_tuples

PLACE_SETS = {"gsv_cities": "read from disk", "toycity": "generated", "toycity_start": "generated"}
START_STREETS = 160  # streets of the toy starting point: the more, the better it carries over to others


class Experiment(Strict):
    """A training run. `claim`, `expected` and `hardware` are for the reader; the rest decides what is computed."""

    claim: str  # table and row it reproduces, with the paper's number
    expected: str  # what we expect to get, and why when it differs
    hardware: str  # time on which machine
    model: str
    model_changes: dict[str, Any] = {}
    pretrained: bool = True
    train_set: str = (
        "gsv_cities"  # gsv_cities, toycity, toycity_start; with `tuples` also a benchmark such as pitts30k_train
    )
    train_root: str | None = None  # default: data/gsv_cities, or the generated city
    validation: str | None = None  # a data set by name
    validation_root: str | None = None
    places: PlaceRecipe = PlaceRecipe()
    tuples: TupleRecipe | None = None  # train by tuples instead of places
    fit: FitSettings
    workers: int = 8
    keep_images: bool = False


def load_experiment(name: str | Path) -> Experiment:
    """The recipe of that name or path (ValueError when it is unknown or does not fit)."""
    return load_yaml(find_recipe(name), Experiment)


def training_places(experiment: Experiment) -> Places:
    """The experiment's training set, read from disk (or generated, for the toy city)."""
    return Places.from_manifest(_place_manifest(experiment), experiment.places.images_per_place)


def training_tuples(experiment: Experiment) -> TupleSet:
    """The experiment's training set as tuples: by place for GSV-Cities and the toy city, by radius for a benchmark.

    A benchmark that has a card with the inner radius (TokyoTM: within 10 m and at another time) says itself what a
    positive is.
    """
    recipe = experiment.tuples or TupleRecipe()
    if experiment.train_set in PLACE_SETS:
        return place_tuples(_place_manifest(experiment), recipe.non_negative_m)
    root = Path(experiment.train_root) if experiment.train_root else None
    benchmark = open_benchmark(experiment.train_set, root)
    found = radius_tuples(benchmark.database, benchmark.queries, recipe.positive_m, recipe.non_negative_m)
    inner = [p for p in benchmark.protocols if p.card.threshold == recipe.positive_m and p.card.rule == "radius_m"]
    return replace(found, positives=inner[0].positives) if inner else found


def _place_manifest(experiment: Experiment) -> Manifest:
    lookup(PLACE_SETS, experiment.train_set, "training set of places")
    if experiment.train_set == "gsv_cities":
        root = Path(experiment.train_root or data_root() / "gsv_cities")
    else:
        root = _toy_places(experiment.train_set)
    return read_gsv_cities(root, name=experiment.train_set)


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
    rest = (
        experiment.fit, folder, validator(experiment, device), device, experiment.workers, experiment.keep_images,
        {"experiment": experiment.model_dump()},
    )  # fmt: skip
    if experiment.tuples is not None:
        result = train_tuples(model, training_tuples(experiment), experiment.tuples, *rest, quiet=quiet)
    else:
        result = train_places(model, training_places(experiment), experiment.places, *rest, quiet=quiet)
    load_weights(model, result.best)
    return model, result
