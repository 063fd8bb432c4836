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


def test_the_readme_knows_every_notebook_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    rows = re.findall(
        r"^\| \[\d\d [^]]+\]\((notebooks/\w+\.ipynb)\) \| [^|]+ \| [\d.]+ min \| [^|]+ \|$", text, re.MULTILINE
    )
    assert rows == [f"notebooks/{path.name}" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert [link for link in links if not (ROOT / link.split("#")[0]).exists()] == []
    held, total = re.search(r"^(\d+) of (\d+) checks of profile `\w+` hold", text, re.MULTILINE).groups()
    assert text.count("| ✓ holds |") == int(held) and len(re.findall(r"\| . (?:holds|does not hold) \|", text)) == int(
        total
    )


def test_notebooks_open_with_their_number_and_carry_no_outputs():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        assert "".join(cells[0]["source"]).startswith(f"# {path.name[:2]} · "), path.name
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path.name
