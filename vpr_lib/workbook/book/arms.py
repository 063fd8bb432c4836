"""The arms of a comparison: experiments that differ by model, seed or one argument of the head, trained and kept."""

from typing import Any

from torch import nn

from vpr_lib.models.zoo import vary
from vpr_lib.training.recipes import Experiment, train
from vpr_lib.workbook.book.session import Book


def arm(
    run: Experiment, model: str = "", *, seed: int | None = None, rate: float | None = None, **head: Any
) -> Experiment:
    """The experiment with another model, seed, learning rate, or arguments of the aggregator such as `mix_depth=0`."""
    changes: dict[str, Any] = {"model": model} if model else {}
    fit = {"seed": seed, "learning_rate": rate}
    changes["fit"] = run.fit.model_copy(update={name: value for name, value in fit.items() if value is not None})
    if head:
        changes["model_changes"] = run.model_changes | vary(model or run.model, **head)
    return run.model_copy(update=changes)


def trained_to(book: Book, run: Experiment) -> tuple[nn.Module, list[dict[str, float]]]:
    """The experiment's model on the book's device, ready to describe, and its training history.

    What any notebook has trained to the same experiment is used; a begun training goes on where it stopped.
    """
    model, result = train(run, run.folder_in(book.cache), str(book.device), quiet=True)
    return model.to(book.device).eval(), result.history
