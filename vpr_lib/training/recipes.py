"""Recipes: one YAML file is one experiment, opening with the claim it should reproduce. `vpr train` runs them."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, model_validator
from torch import nn

from vpr_lib.config import RECIPES_FOLDER, find_recipe, load_yaml
from vpr_lib.data.catalogue import find_root, open_benchmark
from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.places import Places
from vpr_lib.data.readers.gsv_cities import read_gsv_cities
from vpr_lib.data.tuples import TupleSet, place_tuples, radius_tuples
from vpr_lib.digests import digest_file
from vpr_lib.models.backbones import build_backbone
from vpr_lib.models.checkpoints import load_tensors, load_weights, trained_path, weights_hash
from vpr_lib.models.zoo import ZOO, build_model
from vpr_lib.paths import cache_root
from vpr_lib.registry import lookup
from vpr_lib.retrieval.protocol import evaluate
from vpr_lib.training.centres import start_head
from vpr_lib.training.crossmodal import CrossmodalExperiment, train_crossmodal
from vpr_lib.training.distillation import Distillation, train_distilled
from vpr_lib.training.fit import FitResult, Recipe, TrainingRun
from vpr_lib.training.heads import evaluate_heads, train_heads
from vpr_lib.training.metric_learning import PlaceRecipe, train_places
from vpr_lib.training.optimisation import FitSettings
from vpr_lib.training.origin import made_from, training_folder
from vpr_lib.training.token_start import train_tokens
from vpr_lib.training.tuple_mining import TupleRecipe
from vpr_lib.training.tuples import train_tuples

KS = (1, 5, 10)  # validation cut-offs
PLACE_SETS = {  # name in a recipe: name in the catalogue, '' for the streets of the toy starting point
    "gsv_cities": "gsv_cities", "gsv_cities_light": "gsv_cities_light", "city": "city_places", "gpu": "gpu_places",
    "toycity": "toycity_places", "town": "town_places",
    "toycity_start": "",
}  # fmt: skip
TOY_RECIPES = {
    "tinyresnet": "toy",
    "dinov2_toy": "toy_dinomix",
    "efficientnet_lite0": "lite0",
}  # any head on these trunks
START_STREETS = 160  # streets of the toy starting point: the more, the better it carries over to others


class Experiment(Recipe):
    """A training run on images, by places or by tuples."""

    kind: Literal["images"] = "images"

    model_changes: dict[str, Any] = {}
    pretrained: bool = True
    start: str | None = None  # a recipe whose trained backbone this one begins with; trained first where it is not yet
    token_teacher: str | None = None  # a pre-trained backbone whose map the tokens learn, instead of the metric loss
    train_set: str = "gsv_cities"  # or toycity, toycity_start; with `tuples` also a benchmark such as pitts30k_train
    train_root: str | None = None  # default: data/gsv_cities, or the generated city
    validation: str | tuple[str, ...] | None = None  # data sets by name; the first one gives plain recall@k
    validation_root: str | dict[str, str] | None = None  # of the first one, or by name
    select: str = "recall@1"  # decides which epoch is best; 'msls_val/recall@5' for a further validation set
    places: PlaceRecipe = PlaceRecipe()
    tuples: TupleRecipe | None = None  # train by tuples instead of places
    distillation: Distillation | None = None  # None is the control run: the same schedule without a teacher
    cached_views: int = 0  # n > 0: the frozen layers run once over n views of every picture (training/heads.py)
    fit: FitSettings
    workers: int = 8
    keep_images: bool = False

    @model_validator(mode="after")
    def _maps_serve_the_training(self) -> "Experiment":
        if self.cached_views and (self.distillation or self.token_teacher):
            raise ValueError("cached_views trains by places or tuples: leave out distillation and token_teacher")
        if self.tuples and self.cached_views and (self.cached_views > 1 or self.tuples.augmentation != "none"):
            raise ValueError(
                "tuples learn from one cached view of a picture: cached_views 1 and tuples.augmentation none"
            )
        return self


KINDS: dict[str, type[Recipe]] = {"images": Experiment, "crossmodal": CrossmodalExperiment}


def load_recipe(name: str | Path) -> Recipe:
    """The recipe of that name or path, of the `kind` it says; `name+variant+variant` applies named changes in that order.

    A change whose value is a dictionary is merged into what the recipe says, any other replaces it.

    Raises:
        ValueError: when the recipe, its kind or a variant is unknown, or does not fit.
    """
    path, chosen = _find(name)
    kind = load_yaml(path, RecipeKind).kind
    experiment = load_yaml(path, lookup(KINDS, kind, f"kind of recipe '{path.stem}'"))
    values = experiment.model_dump()
    for variant in chosen:
        for field, value in lookup(experiment.variants, variant, f"variant of recipe '{path.stem}'").items():
            set_field(values, field, value, merge=True)
    return type(experiment).model_validate(values)


def load_experiment(name: str | Path) -> Experiment:
    """`load_recipe` for a training on images (ValueError for a recipe of another kind)."""
    experiment = load_recipe(name)
    if not isinstance(experiment, Experiment):
        raise ValueError(f"The recipe '{name}' trains on {experiment.kind}, not on images.")
    return experiment


def recipe_of(model: str) -> list[str]:
    """Arguments of `vpr train` for a model: a recipe or variant of its own, or a toy recipe for its trunk; [] without one."""
    if own := _recipes().get(model):
        return [own]
    config = lookup(ZOO, model, "model")
    trunk = TOY_RECIPES.get(config.backbone) if config.reads == ("image",) else None
    return [trunk, "--set", f"model={model}"] if trunk else []


@cache
def _recipes() -> dict[str, str]:
    """The first recipe, otherwise the first variant, that trains each model."""
    own, varied = {}, {}
    for path in sorted(RECIPES_FOLDER.glob("*.yaml")):
        if not path.stem.startswith("toy_start"):  # makes a starting point, not a model
            recipe = load_yaml(path, RecipeKind)
            own.setdefault(recipe.model, path.stem)
            for name, changes in recipe.variants.items():
                varied.setdefault(changes.get("model", ""), f"{path.stem}+{name}")
    return varied | own


class RecipeKind(BaseModel):
    """The first look at a recipe: which model reads the rest, and what it trains."""

    kind: str = "images"
    model: str = ""
    variants: dict[str, dict[str, Any]] = {}


def _find(name: str | Path) -> tuple[Path, list[str]]:
    """The file of a recipe, and the variants asked for; a '+' inside a path is no variant."""
    name, *chosen = [name] if str(name).endswith((".yaml", ".yml")) else str(name).split("+")
    return find_recipe(name), chosen


def set_field(values: dict[str, Any], name: str, value: Any, merge: bool = False) -> None:
    """Set `fit.epochs` and the like in a dumped experiment (ValueError for a field that it does not have).

    Args:
        merge: a dictionary keeps what is there and the new one does not name.
    """
    *parents, last = name.split(".")
    inside = values
    for parent in parents:
        inside = inside.get(parent) if isinstance(inside, dict) else None
    if not isinstance(inside, dict) or (last not in inside and parents[:1] != ["model_changes"]):
        raise ValueError(f"The recipe has no field '{name}'.")
    if merge and isinstance(value, dict) and isinstance(inside.get(last), dict):
        value = inside[last] | value
    inside[last] = value


def runner_of(experiment: Recipe) -> Callable[..., tuple[nn.Module, FitResult]]:
    """The function that runs an experiment of this kind: (experiment, folder, device, quiet) -> (model, result)."""
    return train if isinstance(experiment, Experiment) else train_crossmodal


def lesson(experiment: Experiment, mode: str, seed: int, **changes: Any) -> Experiment:
    """The experiment under another distillation mode and seed; "control" is the same run without a teacher.

    Args:
        changes: other fields of Distillation, for instance `teacher_weights`.
    """
    fit = experiment.fit.model_copy(update={"seed": seed})
    taught = None
    if mode != "control":
        clean = mode != "feature" or experiment.places.augmentation == "none"  # else maps would show other pictures
        views = {} if clean else {"views": "augmented"}
        taught = Distillation.model_validate(experiment.distillation.model_dump() | changes | views | {"mode": mode})
    return experiment.model_copy(update={"fit": fit, "distillation": taught})


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
    tuples = radius_tuples(benchmark.database, benchmark.queries, recipe.positive_m, recipe.non_negative_m)
    inner = [p for p in benchmark.protocols if p.card.threshold == recipe.positive_m and p.card.rule == "radius_m"]
    return replace(tuples, positives=inner[0].positives) if inner else tuples


def _place_manifest(experiment: Experiment) -> Manifest:
    known = lookup(PLACE_SETS, experiment.train_set, "training set of places")
    root = Path(experiment.train_root) if experiment.train_root else find_root(known) if known else _start_streets()
    return read_gsv_cities(root, name=experiment.train_set)


def _start_streets() -> Path:
    from vpr_lib.toycity.city import TOY
    from vpr_lib.toycity.export import ensure

    return ensure(replace(TOY, start_streets=START_STREETS), "start")


def validation_sets(experiment: Experiment) -> dict[str, Benchmark]:
    """The experiment's validation sets by name, in its order; none, and the last epoch counts as the best."""
    names, roots = experiment.validation or (), experiment.validation_root
    names = (names,) if isinstance(names, str) else names
    roots = roots if isinstance(roots, dict) else {name: roots for name in names[:1] if roots}
    return {name: open_benchmark(name, Path(roots[name]) if name in roots else None) for name in names}


def validator(
    experiment: Experiment, device: str, benchmarks: dict[str, Benchmark] | None = None
) -> Callable[[nn.Module], dict[str, float]] | None:
    """The describe, search, recall path on the validation set, as the callable that `fit` takes."""
    benchmarks = validation_sets(experiment) if benchmarks is None else benchmarks
    if not benchmarks:
        return None
    first = next(iter(benchmarks))
    keys = {(name, k): f"recall@{k}" if name == first else f"{name}/recall@{k}" for name in benchmarks for k in KS}
    if experiment.select not in keys.values():
        raise ValueError(f"select: '{experiment.select}' is none of {', '.join(keys.values())}.")

    def recall(model: nn.Module, benchmark: Benchmark) -> dict[int, float]:
        precision = experiment.fit.precision
        if experiment.cached_views:
            maps = cache_root() / "maps"
            return evaluate_heads(model, benchmark, maps, KS, device, precision, experiment.workers)
        return evaluate(model, benchmark, None, KS, device, precision=precision, quiet=True).recall

    def validate(model: nn.Module) -> dict[str, float]:
        scores = {name: recall(model, benchmark) for name, benchmark in benchmarks.items()}
        return {keys[name, k]: value for name, found in scores.items() for k, value in found.items()}

    return validate


def train(
    experiment: Experiment, folder: Path, device: str = "cpu", quiet: bool = False
) -> tuple[nn.Module, FitResult]:
    """Run an experiment, or go on where it stopped; returns the model with its best weights loaded, and the result."""
    model = starting_model(experiment, device, quiet)
    tuples = training_tuples(experiment) if experiment.tuples is not None else None
    places = training_places(experiment) if tuples is None else None
    benchmarks = validation_sets(experiment)
    data = {"training": tuples if places is None else places.manifest, **benchmarks}
    with training_folder(folder, made_from(experiment, model, data, **_teacher_hash(experiment)), experiment):
        validate = validator(experiment, device, benchmarks)
        run = TrainingRun(folder, device, experiment.workers, experiment.keep_images, validate, experiment.select,
                          {"experiment": experiment.model_dump()}, quiet=quiet)  # fmt: skip
        if places is None:
            maps = cache_root() / "maps" if experiment.cached_views else None
            result = train_tuples(model, tuples, experiment.tuples, experiment.fit, run, maps)
        else:
            result = _train_on_places(model, places, experiment, run)
        load_weights(model, result.best)
    return model, result


def _train_on_places(model: nn.Module, places: Places, experiment: Experiment, run: TrainingRun) -> FitResult:
    recipe, settings = experiment.places, experiment.fit
    if experiment.cached_views:
        return train_heads(model, places, recipe, settings, run, experiment.cached_views, cache_root() / "maps")
    if not run.begun:
        centres = run.folder / "centres.hdf5"
        start_head(model, [places.manifest], centres, seed=settings.seed, device=run.device, quiet=run.quiet)
    if experiment.distillation is not None:
        return train_distilled(model, places, recipe, settings, run, experiment.distillation)
    if experiment.token_teacher:
        teacher = build_backbone(experiment.token_teacher, pretrained=True)
        return train_tokens(model, places, recipe, settings, run, teacher)
    return train_places(model, places, recipe, settings, run)


def _teacher_hash(experiment: Experiment) -> dict[str, str]:
    """The weights of the tokens' teacher, or the bytes of the teacher's file, where the recipe has one and it is there."""
    if experiment.token_teacher:
        return {"teacher": weights_hash(build_backbone(experiment.token_teacher, pretrained=True))}
    d = experiment.distillation
    if d is None or not (d.teacher or d.teacher_file):
        return {}
    path = Path(d.teacher_file or d.teacher_weights or trained_path(d.teacher))
    return {"teacher": digest_file(path)} if path.is_file() else {}


def starting_model(experiment: Experiment, device: str = "cpu", quiet: bool = False) -> nn.Module:
    """The model before its first step: a fresh head on the backbone that the experiment starts from.

    With `start`, that is the backbone of another recipe's best weights; the recipe is trained first unless it was.

    Raises:
        CheckpointError: when the other recipe has another backbone.
    """
    model = build_model(experiment.model, experiment.pretrained, experiment.fit.seed, **experiment.model_changes)
    if experiment.start:
        first = load_experiment(experiment.start)
        folder = first.folder_in(cache_root())
        load_tensors(model.backbone, train(first, folder, device, quiet)[0].backbone.state_dict(), folder)
    return model
