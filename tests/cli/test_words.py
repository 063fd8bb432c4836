"""What messages and the README tell a user to type works: every command is parsed with the names it uses, those on own
images are executed, and `vpr models` names for every model a command that gets it."""

import json
import os
import re
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import typer
from films import write_film
from pictures import write_picture

from vpr_lib.cli import _register, app, main
from vpr_lib.cli.common import PACKAGE, how_to_get, load_model
from vpr_lib.config import load_profile
from vpr_lib.data.catalogue import find
from vpr_lib.models.published import load_published
from vpr_lib.models.zoo import ZOO
from vpr_lib.registry import lookup
from vpr_lib.retrieval.transforms import TRANSFORMS
from vpr_lib.toycity import ToyCitySpec, ensure
from vpr_lib.training.recipes import load_recipe, set_field

ROOT = Path(__file__).resolve().parent.parent.parent
NAMED = re.compile(r"(?:`|^)vpr ([a-z][a-z-]*)((?: [A-Za-z0-9_.+{}@/=-]+)*)", re.MULTILINE)


@pytest.fixture(scope="module")
def commands():
    _register()
    return typer.main.get_command(app).commands


def named():
    files = [
        *sorted((ROOT / "vpr_lib").rglob("*.py")),
        *sorted((ROOT / "vpr_lib/configs").rglob("*.yaml")),
        ROOT / "README.md",
    ]
    for path in files:
        for match in NAMED.finditer(path.read_text(encoding="utf-8")):
            yield path.relative_to(ROOT), match[1], match[2].split()


KNOWN = {  # what a literal word for a parameter must be
    "model": lambda name: lookup(ZOO, name, "model"),
    "dataset": find,
    "whiten_on": find,
    "recipe": load_recipe,
    "profile": load_profile,
    "transform": lambda name: lookup(TRANSFORMS, name, "transform"),
}


def parse(commands, words: list[str]) -> dict:
    """What a command would be called with; names that it uses exist. Nothing runs."""
    word, *rest = words
    command = commands[word]
    while hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    given = command.make_context(word, list(rest)).params
    for name, value in given.items():
        if name in KNOWN and isinstance(value, str) and value in rest and not value.isupper():
            KNOWN[name](value)
    return given


def test_every_command_that_is_named_exists(commands):
    wrong, seen = [], set()
    for path, word, rest in named():
        command = commands.get(word)
        for step in rest:
            if hasattr(command, "commands"):
                command = command.commands.get(step)
        options = {
            name
            for parameter in getattr(command, "params", ())
            for name in (*parameter.opts, *parameter.secondary_opts)
        }
        unknown = [option for option in rest if option.startswith("--") and option not in options]
        seen.add(word)
        if command is None or unknown:
            wrong.append(f"{path}: vpr {word} {' '.join(rest)}")
    assert not wrong and {"retrieve", "evaluate", "train", "weights", "data", "run"} <= seen


def test_every_line_of_the_readme_is_a_whole_command(commands):
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("vpr ")]
    for line in lines:
        parse(commands, shlex.split(line.split("#")[0])[1:])
    assert len(lines) > 12


def test_every_model_works_or_says_how(commands):
    for name in ZOO:
        needs, told = how_to_get(name)
        words = shlex.split(told)
        if not needs:
            assert told in ("no weights", PACKAGE), name
            continue
        given = parse(commands, words[1:])
        if words[1] == "train":
            values = load_recipe(given["recipe"]).model_dump()
            for change in given["set_"] or []:
                set_field(values, *change.split("="))
            assert values["model"] == name and needs == f"training on {values['train_set']}"
        else:
            fetched = name in load_published() and load_published()[name].by_hand is None
            assert words[2:] == (["get", name] if fetched else ["add", "FILE", "--as", name])
        with pytest.raises(ValueError, match=re.escape(f"No weights for '{name}': run `{told}`")):
            load_model(name, None, False)


def test_models_lists_what_works_first(vpr, tmp_path):
    said = vpr("models", "--json", tmp_path / "m.json").splitlines()
    works = [line.split()[0] for line in said if "works at once" in line]
    assert works == [line.split()[0] for line in said[1 : 1 + len(works)]] and {"places", "pixels"} <= set(works)
    listed = json.loads((tmp_path / "m.json").read_text())
    assert listed["places"]["needs"] == "" and set(listed) == set(ZOO)
    assert all(any(about["command"] in line for line in said) for about in listed.values())  # whole, to be copied


@pytest.fixture
def vpr(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["vpr", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert not ended.value.code, printed.out + printed.err
        return printed.out

    return run


@pytest.fixture
def own_images(tmp_path, two_folders):
    """What the README's words stand for: the real photos beside this checkout where they are, generated ones elsewhere."""
    database, queries = two_folders
    numbered = tmp_path / "numbered"
    for folder, side in ((database, "ref"), (queries, "query")):
        for row, path in enumerate(sorted(folder.iterdir())):
            (numbered / side).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, numbered / side / f"{row:07d}.png")
    truth = np.empty((6, 2), object)
    truth[:, 0], truth[:, 1] = list(range(6)), [[2 * row] for row in range(6)]
    np.save(numbered / "ground_truth_new.npy", truth, allow_pickle=True)
    for row in range(2):
        for side in ("database", "queries"):
            write_picture(tmp_path / "utm" / side / f"@{500_000 + 90 * row}@5400000@.png", row)
    toy = Path(os.environ.get("VPR_SHARED", ROOT.parent / "shared")) / "real" / "vpr_eval_toy"
    photos = (toy / "queries", toy / "database") if toy.is_dir() else city(tmp_path / "city")
    return {"photos": photos, "vpr_bench": numbered, "berton": tmp_path / "utm", "pictures": database}


def city(folder):
    """Queries and database of one generated street."""
    spec = ToyCitySpec(
        image_size=(72, 96), street_m=60, val_streets=1, test_streets=1, poses_per_street=2, query_conditions=("day",)
    )
    root = ensure(spec, "benchmark", folder, workers=1)
    return next(root.rglob("test/queries")), next(root.rglob("test/database"))


def test_the_readmes_commands_on_own_images(vpr, own_images, tmp_path, monkeypatch):
    """Each of them runs as it stands, with folders in the place of the words in capitals."""
    monkeypatch.chdir(tmp_path)
    block = re.search(r"## Your own images\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    lines, ran = [shlex.split(line.split("#")[0])[1:] for line in block.splitlines()], []
    for words in lines:
        if ("walk.mp4" in words and find_spec("av") is None) or (
            words[0] == "export" and find_spec("onnxruntime") is None
        ):
            continue
        dataset = words[words.index("--dataset") + 1] if "--dataset" in words else ""
        folders = iter(own_images["photos"] if words[0] == "retrieve" else (own_images["pictures"],) * 2)
        filled = {"OUT": tmp_path / "out", "FOLDER": own_images.get(dataset), "MODEL": "pixels"}
        if "walk.mp4" in words:
            filled["walk.mp4"] = write_film(tmp_path / "walk.mp4", 10)
        said = vpr(*(next(folders) if word == "DIR" else filled.get(word, word) for word in words))
        ran.append((words[0], said))
    assert {"retrieve", "evaluate", "models"} <= {word for word, _ in ran}
    assert "with places (part of the package" in ran[0][1] and all(
        "R@1" in said for word, said in ran if word == "evaluate"
    )
    assert (tmp_path / "out" / "index.html").is_file() and (tmp_path / "out" / "matches.csv").is_file()
