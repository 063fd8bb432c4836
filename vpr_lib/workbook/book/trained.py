"""Trained models for a notebook: registered weights where they are wanted, a training run to a recipe otherwise.

Also the arms of a comparison: experiments that differ by model, seed or one argument of the head.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from torch import nn

from vpr_lib.models.checkpoints import load_weights, trained_path
from vpr_lib.models.published import published_at
from vpr_lib.models.registration import may_start
from vpr_lib.models.zoo import ZOO, build_model
from vpr_lib.training.fit import Recipe
from vpr_lib.training.recipes import Experiment, load_experiment
from vpr_lib.widgets.live import Network
from vpr_lib.workbook.book.session import Book

Weights = Literal["trained", "registered"]


def check_word(weights: str) -> None:
    """ValueError for another word than `trained` and `registered`."""
    if weights not in get_args(Weights):
        raise ValueError(f"weights is 'trained' or 'registered', got '{weights}'.")


def trained_model(
    book: Book, name: str, recipe: str, weights: Weights = "trained"
) -> tuple[nn.Module, list[dict[str, float]], str]:
    """The model on the book's device, its training history (empty for registered weights), and where its weights come from.

    A run of the same experiment that another notebook has finished is used, a begun one goes on.

    Args:
        recipe: the model's name is put into it.
        weights: `registered` takes what `vpr weights get` or `add` or `vpr train` keep for this model, and trains nothing.
    Raises:
        ValueError: for another word in `weights`, or an unknown model or recipe. FileNotFoundError: for registered weights
            that are not there, with the command that gets them.
    """
    check_word(weights)
    if weights == "registered":
        if not (path := trained_path(name)).is_file():
            raise FileNotFoundError(f"No registered weights of {name}.{how_to_register(name)}")
        model = build_model(name)
        about = load_weights(model, path)
        return model.to(book.device).eval(), [], str(about.get("source") or about.get("file") or path.name)
    model, history = trained_to(book, load_experiment(recipe).model_copy(update={"model": name}), quiet=False)
    return model, history, f"trained here, recipe {recipe}"


def how_to_register(name: str) -> str:
    """A sentence on how the weights of a model come to this disk."""
    return (
        published_at(name)
        or f" Nobody publishes them: train the model and keep it with `vpr weights add FILE --as {name}`."
    )


def at_hand(book: Book, weights: Weights, *groups: Sequence[str]) -> list[list[str]]:
    """The groups of models without those whose registered weights are missing; each of these leaves a hole in the book.

    Models that are to be trained are all at hand.

    Raises:
        FileNotFoundError: when nothing is left of the first group, which the notebook is about.
    """
    check_word(weights)
    if weights == "trained":
        return [list(group) for group in groups]
    for name in dict.fromkeys(name for group in groups for name in group):
        if not trained_path(name).is_file():
            book.hole(name, f"No registered weights.{how_to_register(name)}")
    left = [[name for name in group if trained_path(name).is_file()] for group in groups]
    if not left[0]:
        raise FileNotFoundError(
            f"No registered weights of {', '.join(groups[0])}. `vpr weights list` shows how to get them."
        )
    return left


def can_start(book: Book, models: Sequence[str]) -> list[str]:
    """Those of the models whose trunk's pre-training is here or may be fetched; every other one leaves a hole in the book."""
    for name in models:
        if not may_start(trunk := ZOO[name].backbone):
            book.hole(name, f"The pre-training of {trunk} is not here: vpr weights get {trunk}")
    return [name for name in models if may_start(ZOO[name].backbone)]


def networks_on_disk(book: Book, recipes: Mapping[str, str], weights: Weights = "trained") -> dict[str, Network]:
    """What `trained_model` would give for each of these models and recipes, without training and without loading it.

    A model that no notebook has trained to its recipe yet is left out.
    """
    networks = {}
    for name, recipe in recipes.items():
        run = load_experiment(recipe).model_copy(update={"model": name})
        registered, trained = trained_path(name), run.folder_in(book.cache) / "best.safetensors"
        if weights == "registered" and registered.is_file():
            networks[name] = Network(name, registered)
        elif trained.is_file():
            networks[name] = Network(name, trained, run.model_changes)
    return networks


def arm(
    run: Experiment, model: str = "", *, seed: int | None = None, rate: float | None = None,
    backbone: Mapping[str, Any] | None = None, **head: Any,
) -> Experiment:  # fmt: skip
    """The experiment with another model, seed, learning rate, or arguments of the aggregator such as `mix_depth=0`.

    Args:
        backbone: arguments of the backbone that change, for instance `{"freeze_to": 3}`.
    """
    changes: dict[str, Any] = {"model": model} if model else {}
    fit = {"seed": seed, "learning_rate": rate}
    changes["fit"] = run.fit.model_copy(update={name: value for name, value in fit.items() if value is not None})
    built, config = run.model_changes, ZOO[model or run.model]
    for key, arguments in (("aggregator_args", head), ("backbone_args", backbone or {})):
        if arguments:
            built = built | {key: built.get(key, getattr(config, key)) | dict(arguments)}
    changes["model_changes"] = built
    return run.model_copy(update=changes)


def trained_to(book: Book, run: Recipe, **given: Any) -> tuple[nn.Module, list[dict[str, float]]]:
    """`book.train` with the model on the book's device, ready to describe, and its training history."""
    model, result = book.train(run, **given)
    return model.to(book.device).eval(), result.history


def budget(run: Experiment, places: int, steps: int, every: int = 0) -> Experiment:
    """The experiment on so many training places for about so many steps; the places of a smaller number are among a larger's.

    Args:
        every: how many places the set has; on all of them it is the experiment itself, which is not trained twice.
    """
    recipe = run.places.model_copy(update={"use_places": 0 if places == every else places})
    epochs = max(1, round(steps / -(-places // recipe.places_per_batch)))
    return run.model_copy(update={"places": recipe, "fit": run.fit.model_copy(update={"epochs": epochs})})
