"""The house rules: floors, light imports, and one set of dependencies in three files."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "cli": 9, "workbook": 8, "widgets": 7, "plotting": 6, "bench": 6, "training": 5, "results": 5, "retrieval": 4, "models": 3,
    "losses": 3, "data": 2, "toycity": 1, "config": 0, "paths": 0, "progress": 0, "seeds": 0, "registry": 0, "machine": 0, "digests": 0,
    "files": -1,
}  # fmt: skip


def imports_of(path: Path) -> set[str]:
    """Rooms of vpr_lib that a file imports from, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        rooms |= {name.split(".")[1] for name in names if name.startswith("vpr_lib.")}
    return rooms


def test_imports_point_downwards():
    wrong = []
    for path in sorted((ROOT / "vpr_lib").rglob("*.py")):
        room = path.relative_to(ROOT / "vpr_lib").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in imports_of(path) - {room}:
            if FLOORS[other] >= FLOORS[room]:
                wrong.append(f"{path.relative_to(ROOT)} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_through_others():
    """No circle anywhere, not even for an annotation."""
    graph = {}
    for path in (ROOT / "vpr_lib").rglob("*.py"):
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vpr_lib"):
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        graph[".".join(path.relative_to(ROOT).with_suffix("").parts)] = found
    graph = {name: {other for other in found if other in graph} for name, found in graph.items()}
    while removable := [name for name, found in graph.items() if not found & set(graph)]:
        for name in removable:
            del graph[name]
    assert not graph, f"circles among {sorted(graph)}"


def test_the_rooms_of_the_workbook_stand_on_each_other():
    order, wrong = ("book", "run", "report", "night"), []
    for level, room in enumerate(order):
        for path in (ROOT / "vpr_lib/workbook" / room).glob("*.py"):
            wrong += [f"{path.name} imports {above}" for above in order[level + 1 :]
                      if f"from vpr_lib.workbook.{above}" in path.read_text()]  # fmt: skip
    assert not wrong


# Functions that still take more than eight parameters: the list may only become shorter.
WIDE = {"retrieval/feature_maps.py:feature_maps"}


def test_functions_are_short_and_narrow():
    """At most 60 lines, and 8 parameters besides self; a command's options are its own."""
    long, wide = [], []
    for path in sorted((ROOT / "vpr_lib").rglob("*.py")):
        name = path.relative_to(ROOT / "vpr_lib").as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or name.startswith("cli/"):
                continue
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            wide += [f"{name}:{node.name}"] if len(names) - (names[:1] in (["self"], ["cls"])) > 8 else []
            long += [f"{name}:{node.name}"] if node.end_lineno - node.lineno >= 60 else []
    assert not long and sorted(set(wide) - WIDE) == []


def test_every_module_has_a_test():
    """One of its name, one that imports it, or one whose first words say `Covers room.module`."""
    covered = set()
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vpr_lib"):
                covered |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        told = re.search(r"^Covers (.*?)\.$", ast.get_docstring(tree) or "", re.MULTILINE | re.DOTALL)
        covered |= {f"vpr_lib.{name}" for name in re.split(r",\s+", told[1])} if told else set()
        covered.add(path.stem)
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): f"test_{path.stem}"
        for path in (ROOT / "vpr_lib").rglob("*.py")
        if not path.name.startswith("__")
    }
    assert sorted(module for module, test in modules.items() if not {module, test} & covered) == []


def test_every_room_has_a_floor():
    rooms = {
        p.name.removesuffix(".py")
        for p in (ROOT / "vpr_lib").iterdir()
        if p.suffix == ".py" or (p / "__init__.py").is_file()
    }
    assert rooms - {"__init__"} == set(FLOORS)


def test_importing_the_package_is_light():
    code = "import sys, vpr_lib, vpr_lib.config, vpr_lib.cli; print([m for m in ('torch', 'pandas', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    return {normal(re.match(r"[\w.-]+", line).group()): line for line in lines}


@pytest.fixture(scope="module")
def constraints():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", line) for line in lines), (
        "constraints are name==version, nothing else"
    )
    return {normal(line.split("==")[0]): line.split("==")[1] for line in lines}


def test_constraints_pin_every_dependency_inside_its_range(dependencies, constraints):
    from packaging.requirements import Requirement

    for name, line in dependencies.items():
        assert name in constraints, f"{name} is not in constraints.txt"
        assert Requirement(line).specifier.contains(constraints[name]), f"{line} excludes {constraints[name]}"


def test_environment_is_the_same_set(dependencies, constraints):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    pinned = {normal(line.split("==")[0]): line.split("==")[1] for line in pip if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {normal(re.match(r"[\w.-]+", line).group()) for line in project["dependencies"]}
    wanted = wanted - {"faiss-cpu"} | {"faiss-gpu"}  # the conda view is for a machine with a GPU
    assert set(pinned) == wanted
    assert all(constraints[name] == version for name, version in pinned.items())


def test_the_readme_knows_every_notebook_and_is_read_in_a_minute():
    text = (ROOT / "README.md").read_text()
    rows = re.findall(
        r"^\| \[\d\d [^]]+\]\((notebooks/\w+\.ipynb)\) \| [^|]+ \| [\d.]+ min \| [^|]+ \|$", text, re.MULTILINE
    )
    assert rows == [f"notebooks/{path.name}" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert len(text.splitlines()) <= 100


def test_the_scoreboard_adds_up():
    text = (ROOT / "docs/scoreboard.md").read_text()
    held, total = re.search(r"^(\d+) of (\d+) checks of profile `\w+` hold", text, re.MULTILINE).groups()
    assert text.count("| ✓ holds |") == int(held) and len(re.findall(r"\| . (?:holds|does not hold) \|", text)) == int(
        total
    )


PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
        ROOT / "data/README.md",
    ]
)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / page).read_text(), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|#|mailto:", link)]
    assert [link for link in links if not ((ROOT / page).parent / link.split("#")[0]).exists()] == []


def test_claims_cite_specifications_that_are_here():
    cited = set()
    for path in [*(ROOT / "vpr_lib").rglob("*.py"), *(ROOT / "vpr_lib/configs").rglob("*.yaml")]:
        cited |= set(
            re.findall(
                r"\b(mixvpr|lightweight_mixvpr|dinomix|clusvpr|distilvpr|datasets|modern_methods) §", path.read_text()
            )
        )
    assert {f"{name}.md" for name in cited} <= {path.name for path in (ROOT / "docs/specs").glob("*.md")}


def test_notebooks_open_with_their_number_and_carry_no_outputs():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        assert "".join(cells[0]["source"]).startswith(f"# {path.name[:2]} · "), path.name
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path.name


def test_a_machine_without_a_network_has_every_package_that_is_imported_at_once():
    """The wheels of examples/gpu and what the Makefile's machine has; the rest of the dependencies is imported where it is used."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    name = lambda text: re.match(r"[\w.-]+", text)[0].lower().replace("_", "-")
    wheels = (ROOT / "examples" / "gpu" / "wheels.txt").read_text().splitlines()
    stack = re.search(r"GPU_STACK := (.*?)\n\n", (ROOT / "Makefile").read_text(), re.DOTALL)[1].replace("\\\n", " ")
    there = {name(text) for text in [*stack.split(), *wheels] if not text.startswith("#")} | {
        "joblib"
    }  # scikit-learn's
    later = {"openvino", "huggingface-hub", "gdown", "pillow-heif", "jupyterlab"}
    assert {name(text) for text in asked} - there == later
    at_once = {
        match[1].replace("_", "-")
        for path in (ROOT / "vpr_lib").rglob("*.py")
        for match in re.finditer(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
    }
    assert not later & at_once
