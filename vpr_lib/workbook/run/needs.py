"""What a profile needs that is not made here: data sets on disk, published weights, pre-trained trunks.

Read off the parameters of its notebooks, their defaults included: every word there that names a data set, a model or a recipe.
"""

from ast import literal_eval
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from vpr_lib.config import RECIPES_FOLDER, NotebookSettings, Profile, load_profile
from vpr_lib.data.catalogue import is_here as in_reach
from vpr_lib.data.catalogue import load_table
from vpr_lib.models.pretraining import is_fetched
from vpr_lib.models.registration import kept_at, may_start
from vpr_lib.models.zoo import TRAINING_FREE, ZOO
from vpr_lib.training.recipes import load_recipe
from vpr_lib.workbook.run.parameters import read_parameters
from vpr_lib.workbook.run.plan import Entry, load_workbook

SHOWN = ("dataset", "datasets", "runs")  # parameters: one of the sets they name is enough
# built with random weights, if at all
COUNTED = ("profile", "run_id", "sized", "latency_models", "clocked", "published", "shipped")
TRAINED = ("recipe", "teacher_recipe", "student_recipe", "cnn_recipes", "family", "further")  # whose recipes are run
# what these need may be missing: a hole in the notebook
OPTIONAL = ("traverse", "places", "more", "backbones", "further")


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
    needs: dict[str, dict[str, list[str]]] = {kind: {} for kind in ("data", "weights", "trunks", "recipes")}
    entries = {entry.name: entry for entry in load_workbook().notebooks}
    for name, settings in profile.notebooks.items():
        for kind, word in _named(values_of(entries[name], settings)):
            notebooks = needs[kind].setdefault(word, [])
            if name not in notebooks:
                notebooks.append(name)
    return Needs(**{kind: {word: tuple(where) for word, where in words.items()} for kind, words in needs.items()})


def values_of(entry: Entry, settings: NotebookSettings) -> dict[str, Any]:
    """The parameters of a notebook under a profile: its defaults, and what the profile says."""
    return {
        key: literal_eval(known.default) for key, known in read_parameters(entry.path).items()
    } | settings.parameters


def absent(entry: Entry, parameters: Mapping[str, Any]) -> str:
    """Why a notebook cannot show anything on this disk, with the commands that help; '' when it can.

    It cannot without its one data set, without any of several, without a training set or pre-training that a recipe wants,
    or without any of the registered weights it was asked to show. What else is missing leaves holes inside the notebook.
    """
    if entry.always:
        return ""
    missing: dict[str, list[str]] = {kind: [] for kind in ("data", "weights", "trunks", "recipes")}
    registered = parameters.get("weights") == "registered"
    spared = {*OPTIONAL, "pooled"} - {"further"} if registered else OPTIONAL
    for kind, word in _named({key: value for key, value in parameters.items() if key not in spared}):
        missing[kind].append(word)
    keys = (*SHOWN, "further") if registered else SHOWN
    shown = [name for name in words_of([parameters.get(key) for key in keys]) if name in load_table().datasets]
    wanted = [name for name in missing["data"] if name not in shown]
    faults = [
        f"{name} is not on this disk: vpr data get {name}" for name in dict.fromkeys(wanted) if not in_reach(name)
    ]
    if shown and not any(map(in_reach, shown)):
        faults.append(
            f"not on this disk: {', '.join(dict.fromkeys(shown))}: vpr data get {shown[0] if len(set(shown)) == 1 else 'NAME'}"
        )
    faults += [f"the pre-training of {name} is not here: vpr weights get {name}"
               for name in dict.fromkeys(missing["trunks"]) if not may_start(name)]  # fmt: skip
    browses = "networks" in parameters  # what others measured; weights add attention and own images
    if missing["weights"] and not browses and not any(kept_at(name).is_file() for name in missing["weights"]):
        faults.append(f"no weights of {', '.join(dict.fromkeys(missing['weights']))}: vpr weights get NAME")
    return "; ".join(faults)


def _named(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    released = values.get("weights") == "registered"
    for key, value in values.items():
        if key in COUNTED or (released and key == "train_set"):
            continue
        if released and key == "further":
            value = [word for teacher, drives, *_ in value.values() for word in (teacher, drives)]
        for word in words_of(value):
            if word in load_table().datasets and not load_table().datasets[word].generated:
                yield "data", word
            elif key == "pooled" and is_fetched(trunk := ZOO[word].backbone):
                yield "trunks", trunk  # averaged tokens of the pre-training itself
            elif key == "backbones" and not released and is_fetched(trunk := ZOO[word].backbone):
                yield "trunks", trunk
            elif released and word in ZOO and word not in TRAINING_FREE and key != "pooled":
                yield "weights", word
            elif released and key in ("recipe", "teacher_recipe", "further"):
                yield "weights", load_recipe(word).model
            elif not released and key in TRAINED and _is_recipe(word):
                yield from _of_recipe(word)


def _of_recipe(word: str) -> Iterator[tuple[str, str]]:
    recipe = load_recipe(word)
    yield "recipes", word
    for name in words_of([recipe.train_set, recipe.validation]):
        if name in load_table().datasets and not load_table().datasets[name].generated:
            yield "data", name
    config = ZOO[recipe.model]
    if recipe.pretrained and is_fetched(config.backbone):
        yield "trunks", config.backbone


def _is_recipe(word: str) -> bool:
    return bool(word) and (RECIPES_FOLDER / f"{word.split('+')[0]}.yaml").is_file()


def words_of(value: Any) -> Iterator[str]:
    """Every text in a value of a parameter, keys of dictionaries included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in chain(*value.items()) if isinstance(value, dict) else value:
            yield from words_of(inner)
