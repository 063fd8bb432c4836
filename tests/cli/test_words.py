"""What messages and the README tell a user to type exists; the README's own-photos command is executed."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import typer

from vpr_lib.cli import _register, app, main

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


def test_the_readmes_own_photos(tmp_path, monkeypatch, capsys, two_folders):
    line = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("vpr retrieve"))
    database, queries = two_folders
    toy = ROOT.parent / "shared" / "real" / "vpr_eval_toy"
    if toy.is_dir():
        database, queries = toy / "database", toy / "queries"
    words = shlex.split(line.split("#")[0])
    folders = iter((queries, database))
    words = [
        str(next(folders)) if word == "DIR" else str(tmp_path / "out") if word == "OUT" else word for word in words
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr().out
    assert not ended.value.code and "with places (part of the package" in printed
    assert (tmp_path / "out" / "index.html").is_file() and (tmp_path / "out" / "matches.csv").is_file()
