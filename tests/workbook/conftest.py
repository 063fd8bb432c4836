"""A throw-away project with tiny notebooks, and a run of it with a stand-in for the kernel."""

import json
import sys
from pathlib import Path

import pytest
import yaml

FAKE = (sys.executable, "-S", str(Path(__file__).with_name("fake_execute.py")))
NEVER = (sys.executable, "-c", "raise SystemExit('a child was started')")
HEAD = 'profile: str = "tiny"  # which\nrun_id: str = ""\nepochs: int = 3  # passes over the data\nrate: float = 0.1'


def notebook_json(cells: list, head: str = HEAD) -> str:
    """A notebook whose parameters cell is `head`; a cell that starts with '#md ' is Markdown."""
    made = []
    for number, source in enumerate([head, *cells]):
        if source.startswith("#md "):
            made.append({"cell_type": "markdown", "id": f"c{number}", "metadata": {}, "source": source[4:]})
            continue
        tags = {"tags": ["parameters"]} if number == 0 else {}
        made.append({"cell_type": "code", "id": f"c{number}", "metadata": tags, "source": source, "outputs": [],
                     "execution_count": None})  # fmt: skip
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return json.dumps({"cells": made, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5})


class Project:
    """Notebooks, workbook.yaml and a profile in a folder that VPR_HOME points to."""

    def __init__(self, root: Path):
        self.root, self.entries = root, []
        self.settings = {"name": "tiny", "description": "test", "hardware": "any", "device": "cpu", "notebooks": {}}

    def add(self, name: str, *cells: str, head: str = HEAD, settings: dict | None = None, **entry) -> "Project":
        """Add a notebook; without cells it makes what it declares and finishes."""
        made = [f"make({file!r})" for file in entry.get("makes", ())]
        path = self.root / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        path.write_text(notebook_json(list(cells) or [*made, "finish()"], head))
        if all(known["name"] != name for known in self.entries):
            self.entries.append({"name": name, "title": name.title(), **entry})
        self.settings["notebooks"][name] = {"minutes": 0.1} | (settings or {})
        return self.write()

    def write(self) -> "Project":
        (self.root / "notebooks" / "workbook.yaml").write_text(
            yaml.safe_dump({"notebooks": self.entries}, sort_keys=False)
        )
        self.profile.write_text(yaml.safe_dump(self.settings, sort_keys=False))
        return self

    @property
    def profile(self) -> Path:
        return self.root / "tiny.yaml"

    def run(self, command=FAKE, report=False, **options):
        from vpr_lib.workbook.report import build
        from vpr_lib.workbook.run.prepare import Request
        from vpr_lib.workbook.run.process import Child
        from vpr_lib.workbook.run.runner import run_workbook

        pages = build.build_report if report else None
        ways = {name: options.pop(name) for name in ("slack_s", "retries") if name in options}
        more = {name: options.pop(name) for name in ("display", "alone") if name in options}
        child = Child(command, grace_s=0.5, **ways)
        return run_workbook(Request(self.profile, **options), pages, child=child, **more)

    def statuses(self, **options) -> dict[str, str]:
        return {line.name: str(line.status) for line in self.run(**options).notebooks}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project; the library counts as unchanged, since others may be editing it while the tests run."""
    monkeypatch.setenv("VPR_HOME", str(tmp_path))
    monkeypatch.setattr("vpr_lib.workbook.run.keys.library_digest", lambda: "library")
    return Project(tmp_path)


@pytest.fixture
def chain(project):
    """01 <- 02 <- 08 (always), and 03 which needs nothing."""
    project.add("01_data", makes=["01.png"])
    project.add("02_train", makes=["02.png"], needs=["01_data"])
    project.add("03_other", makes=["03.png"])
    return project.add("08_results", makes=["08.png"], needs=["01_data", "02_train"], always=True)


@pytest.fixture
def never():
    """A command for the child that fails at once: nothing may be started with it."""
    return NEVER


@pytest.fixture
def fake():
    """The command of the stand-in."""
    return FAKE
