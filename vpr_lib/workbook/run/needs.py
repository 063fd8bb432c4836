"""What a profile needs that is not made here: data sets on disk, published weights, pre-trained trunks.

Read off the parameters of its notebooks, their defaults included: every word there that names a data set, a model or a recipe.
"""

from ast import literal_eval
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpr_lib.config import RECIPES_FOLDER, Profile, load_profile
from vpr_lib.data.catalogue import load_table
from vpr_lib.models.pretraining import is_fetched
from vpr_lib.models.zoo import ZOO
from vpr_lib.training.recipes import open_recipe
from vpr_lib.workbook.run.parameters import read_parameters
from vpr_lib.workbook.run.plan import load_workbook


@dataclass(frozen=True)
class Needs:
    """Names in the order in which the notebooks ask for them, each with the notebooks that do."""

    data: dict[str, tuple[str, ...]]  # of the catalogue; nothing that is generated
    weights: dict[str, tuple[str, ...]]  # models whose published weights are to be used
    trunks: dict[str, tuple[str, ...]]  # backbones whose pre-training a recipe starts from
    recipes: dict[str, tuple[str, ...]]  # trainings


def needs_of(profile: str | Path | Profile) -> Needs:
    """The needs of a profile (ValueError for an unknown one)."""
    profile = profile if isinstance(profile, Profile) else load_profile(profile)
    found: dict[str, dict[str, list[str]]] = {kind: {} for kind in ("data", "weights", "trunks", "recipes")}
    entries = {entry.name: entry for entry in load_workbook().notebooks}
    for name, settings in profile.notebooks.items():
        values = {
            key: literal_eval(known.default) for key, known in read_parameters(entries[name].path).items()
        } | settings.parameters
        for kind, word in _named(values):
            notebooks = found[kind].setdefault(word, [])
            if name not in notebooks:
                notebooks.append(name)
    return Needs(**{kind: {word: tuple(where) for word, where in words.items()} for kind, words in found.items()})


def _named(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    released = values.get("weights") == "registered"
    for key, value in values.items():
        if key in ("profile", "run_id"):
            continue
        for word in _words(value):
            if word in load_table().datasets and not load_table().datasets[word].generated:
                yield "data", word
            elif released and word in ZOO and key not in ("sized", "latency_models"):
                yield "weights", word
            elif not released and _is_recipe(word):
                yield from _of_recipe(word)


def _of_recipe(word: str) -> Iterator[tuple[str, str]]:
    recipe = open_recipe(word)[0]
    yield "recipes", word
    for name in _words([recipe.train_set, recipe.validation]):
        if name in load_table().datasets and not load_table().datasets[name].generated:
            yield "data", name
    config = ZOO[recipe.model]
    if recipe.pretrained and is_fetched(config.backbone):
        yield "trunks", config.backbone


def _is_recipe(word: str) -> bool:
    return bool(word) and (RECIPES_FOLDER / f"{word.split('+')[0]}.yaml").is_file()


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (*_words(key), *_words(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _words(inner)
