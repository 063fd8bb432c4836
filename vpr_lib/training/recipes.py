"""Recipes: one YAML file is one experiment, opening with the claim it should reproduce. `vpr train` runs them."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from vpr_lib.config import Strict, find_recipe, load_yaml
from vpr_lib.data.catalogue import open_benchmark
from vpr_lib.data.places import PlaceBatches, Places, PlaceSampler
from vpr_lib.data.readers.gsv_cities import read_gsv_cities
from vpr_lib.models.backbones import build_backbone
from vpr_lib.models.netvlad import NetVLAD, initialise
from vpr_lib.models.zoo import build_model
from vpr_lib.paths import data_root
from vpr_lib.registry import lookup
from vpr_lib.retrieval.protocol import evaluate
from vpr_lib.training.distillation import Distillation, train_distilled
from vpr_lib.training.fit import FitResult, FitSettings
from vpr_lib.training.metric_learning import PlaceRecipe, train_places
from vpr_lib.training.token_start import train_tokens

KS = (1, 5, 10)  # validation cut-offs
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
    validation: str | tuple[str, ...] | None = None  # data sets by name; the first one gives plain recall@k
    validation_root: str | dict[str, str] | None = None  # of the first one, or by name
    select: str = "recall@1"  # decides which epoch is best; 'msls_val/recall@5' for a further validation set
    places: PlaceRecipe = PlaceRecipe()
    distillation: Distillation | None = None  # None is the control run: the same schedule without a teacher
    fit: FitSettings
    workers: int = 8
    keep_images: bool = False
    variants: dict[str, dict[str, Any]] = {}  # named changes, field -> value: 'recipe+variant' applies one

    def folder_in(self, cache: Path) -> Path:
        """`cache/training/<model>_<8 hex digits over everything that is computed>`: notebooks with the same experiment share it."""
        about = self.model_dump_json(exclude={"claim", "expected", "hardware", "variants"})
        return Path(cache) / "training" / f"{self.model}_{hashlib.sha256(about.encode()).hexdigest()[:8]}"


def load_experiment(name: str | Path) -> Experiment:
    """The recipe of that name or path; `name+variant+variant` applies named changes of the recipe in that order.

    Raises:
        ValueError: when the recipe or a variant is unknown, or does not fit.
    """
    path, chosen = _find(name)
    experiment = load_yaml(path, Experiment)
    values = experiment.model_dump()
    for variant in chosen:
        for field, value in lookup(experiment.variants, variant, f"variant of recipe '{path.stem}'").items():
            set_field(values, field, value)
    return Experiment.model_validate(values)


def _find(name: str | Path) -> tuple[Path, list[str]]:
    """The file of a recipe, and the variants asked for; a '+' inside a path is no variant."""
    name, *chosen = [name] if str(name).endswith((".yaml", ".yml")) else str(name).split("+")
    return find_recipe(name), chosen


def set_field(values: dict[str, Any], name: str, value: Any) -> None:
    """Set `fit.epochs` and the like in a dumped experiment (ValueError for a field that it does not have)."""
    *parents, last = name.split(".")
    inside = values
    for parent in parents:
        inside = inside.get(parent) if isinstance(inside, dict) else None
    if not isinstance(inside, dict) or (last not in inside and parents[:1] != ["model_changes"]):
        raise ValueError(f"The recipe has no field '{name}'.")
    inside[last] = value


def open_recipe(name: str | Path) -> tuple[Any, Callable[..., tuple[nn.Module, FitResult]]]:
    """The experiment of that name with the function that runs it: (experiment, folder, device) -> (model, result)."""
    from vpr_lib.training.crossmodal import CrossmodalExperiment, train_crossmodal

    path, chosen = _find(name)
    if re.search(r"^crossmodal:", path.read_text(encoding="utf-8") if path.is_file() else "", re.MULTILINE):
        if chosen:
            raise ValueError(f"The recipe '{path.stem}' has no variants, '{'+'.join(chosen)}' was asked for.")
        return load_yaml(path, CrossmodalExperiment), train_crossmodal
    return load_experiment(name), train


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
    names = experiment.validation
    if names is None:
        return None
    names, roots = (names,) if isinstance(names, str) else names, experiment.validation_root
    roots = roots if isinstance(roots, dict) else {names[0]: roots} if roots else {}
    benchmarks = {name: open_benchmark(name, Path(roots[name]) if name in roots else None) for name in names}
    keys = {(name, k): f"recall@{k}" if name == names[0] else f"{name}/recall@{k}" for name in names for k in KS}
    if experiment.select not in keys.values():
        raise ValueError(f"select: '{experiment.select}' is none of {', '.join(keys.values())}.")

    def validate(model: nn.Module) -> dict[str, float]:
        scores = {
            name: evaluate(model, benchmark, None, KS, device, experiment.fit.precision, quiet=True)
            for name, benchmark in benchmarks.items()
        }
        return {keys[name, k]: value for name, found in scores.items() for k, value in found.recall.items()}

    return validate


def train(
    experiment: Experiment, folder: Path, device: str = "cpu", quiet: bool = False
) -> tuple[nn.Module, FitResult]:
    """Run an experiment, or go on where it stopped; returns the model with its best weights loaded, and the result."""
    from vpr_lib.models.checkpoints import load_weights

    model = build_model(experiment.model, experiment.pretrained, experiment.fit.seed, **experiment.model_changes)
    places, validate = training_places(experiment), validator(experiment, device)
    if isinstance(model.aggregator, NetVLAD) and not (folder / "state.pt").is_file():
        start_netvlad(model, places, experiment.fit.seed, device)
    learn = train_places
    if experiment.distillation is not None:
        learn = partial(train_distilled, distillation=experiment.distillation)
    elif experiment.token_teacher:
        learn = partial(train_tokens, teacher=build_backbone(experiment.token_teacher, pretrained=True))
    result = learn(
        model, places=places, recipe=experiment.places, settings=experiment.fit, folder=folder, validate=validate, device=device,
        workers=experiment.workers, keep_images=experiment.keep_images, about={"experiment": experiment.model_dump()},
        quiet=quiet, select=experiment.select,
    )  # fmt: skip
    load_weights(model, result.best)
    return model, result


def start_netvlad(model: nn.Module, places: Places, seed: int, device: str = "cpu", images: int = 500) -> None:
    """Give the model's NetVLAD its k-means start from features of `images` training images, drawn from all cities."""
    device = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    sampler = PlaceSampler(places, places_per_batch=8, images_per_place=1, seed=seed, order="shuffled")
    batches = islice(PlaceBatches(sampler, model.input_spec).epoch(0), -(-images // 8))
    model.to(device)
    initialise(model.aggregator, model.backbone, (model.input_spec.normalise(b.to(device)) for b, _ in batches), seed)
