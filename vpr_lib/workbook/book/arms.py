"""The arms of a comparison: experiments that differ by model, seed or one argument of the head, trained and kept."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from vpr_lib.models.zoo import ZOO
from vpr_lib.training.fit import Recipe
from vpr_lib.training.recipes import Experiment
from vpr_lib.workbook.book.session import Book


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
