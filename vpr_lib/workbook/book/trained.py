"""A trained model for a notebook: registered weights where they are wanted, a training run to a recipe otherwise."""

from collections.abc import Mapping
from typing import Literal

from torch import nn

from vpr_lib.models.checkpoints import load_weights, trained_path
from vpr_lib.models.zoo import build_model
from vpr_lib.training.recipes import load_experiment
from vpr_lib.widgets.live import Network
from vpr_lib.workbook.book.session import Book


def trained_model(
    book: Book, name: str, recipe: str, weights: Literal["train", "registered"] = "train"
) -> tuple[nn.Module, list[dict[str, float]], str]:
    """The model on the book's device, its training history (empty for registered weights), and in words where its weights come from.

    A run of the same experiment that another notebook has finished is used, a begun one goes on.

    Args:
        recipe: the model's name is put into it.
        weights: `registered` takes what `vpr weights add` or `vpr train` keep for this model, where there is something.
    Raises:
        ValueError: for another word in `weights`, or an unknown model or recipe.
    """
    if weights not in ("train", "registered"):
        raise ValueError(f"weights is 'train' or 'registered', got '{weights}'.")
    if weights == "registered" and (path := trained_path(name)).is_file():
        model = build_model(name)
        about = load_weights(model, path)
        return model.to(book.device), [], str(about.get("source") or about.get("file") or path.name)
    run = load_experiment(recipe).model_copy(update={"model": name})
    model, result = book.train(run, quiet=False)
    return model.to(book.device), result.history, f"trained here, recipe {recipe}"


def networks_on_disk(
    book: Book, recipes: Mapping[str, str], weights: Literal["train", "registered"] = "train"
) -> dict[str, Network]:
    """What `trained_model` would give for each of these models and recipes, without training and without loading it.

    A model that no notebook has trained to its recipe yet is left out.
    """
    found = {}
    for name, recipe in recipes.items():
        run = load_experiment(recipe).model_copy(update={"model": name})
        registered, trained = trained_path(name), run.folder_in(book.cache) / "best.safetensors"
        if weights == "registered" and registered.is_file():
            found[name] = Network(name, registered)
        elif trained.is_file():
            found[name] = Network(name, trained, run.model_changes)
    return found
