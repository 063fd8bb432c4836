"""What the workbook consists of: `notebooks/workbook.yaml`, checked, and the choice of notebooks for one run."""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field

from vpr_lib import paths
from vpr_lib.config import Profile, Strict, load_yaml


class UsageError(ValueError):
    """The run was asked for something that cannot be started: an unknown name, a bad file, an ill-typed parameter."""


def _relative(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.suffix:
        raise ValueError(f"'{name}' must be a file name with a suffix inside the profile's figures folder")
    return name


class Entry(Strict):
    """One notebook of the workbook."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_\-]*$")  # file name without .ipynb
    title: str
    needs: tuple[str, ...] = ()  # notebooks that must be green before this one starts
    after: tuple[str, ...] = ()  # and those that must have ended, green or not: it shows what there is of them
    makes: tuple[Annotated[str, AfterValidator(_relative)], ...] = ()  # files it must write below figures/<profile>/
    shows: tuple[str, ...] = ()  # those of `makes` that open the report; default: the first picture
    reads: tuple[str, ...] = ()  # other input files of the repository (globs below the project root), for resume
    always: bool = False  # run even if a need failed, and show the holes

    @property
    def path(self) -> Path:
        return paths.notebooks_root() / f"{self.name}.ipynb"

    @property
    def highlights(self) -> tuple[str, ...]:
        return self.shows or tuple(name for name in self.makes if name.endswith(".png"))[:1]


class Workbook(Strict):
    """The notebooks in the order in which they run."""

    notebooks: tuple[Entry, ...] = Field(min_length=1)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.notebooks)

    def find(self, text: str) -> Entry:
        """The notebook called `text`, or the only one whose name starts with it (`02`); else UsageError."""
        exact = [entry for entry in self.notebooks if entry.name == text]
        matches = exact or [entry for entry in self.notebooks if entry.name.startswith(text)]
        if len(matches) == 1:
            return matches[0]
        fault = "nothing starts with it" if not matches else "several start with it"
        raise UsageError(f"Unknown notebook '{text}': {fault}. The workbook has {', '.join(self.names)}.")


def load_workbook(path: Path | None = None) -> Workbook:
    """Read and check `notebooks/workbook.yaml`.

    Raises:
        UsageError: if it is absent, does not fit the schema, names a need or notebook that does not exist, has a cycle,
            lists a notebook before its needs, or declares one output twice.
    """
    path = path or paths.notebooks_root() / "workbook.yaml"
    if not path.is_file():
        raise UsageError(f"No workbook at {path}. Run from a checkout of the repository, or point VPR_HOME to one.")
    try:
        workbook = load_yaml(path, Workbook)
    except ValueError as error:
        raise UsageError(str(error)) from error
    faults = _faults(workbook)
    if faults:
        raise UsageError(f"{path} does not describe a workbook: {'; '.join(faults)}.")
    return workbook


def _faults(workbook: Workbook) -> list[str]:
    names, seen, made, faults = workbook.names, set(), {}, []
    for entry in workbook.notebooks:
        if entry.name in seen:
            faults.append(f"{entry.name} is listed twice")
        if not entry.path.is_file():
            faults.append(f"{entry.name} is listed, but {entry.path} does not exist")
        unknown = [need for need in (*entry.needs, *entry.after) if need not in names]
        faults += [f"{entry.name} needs '{need}', which is not listed ({', '.join(names)})" for need in unknown]
        faults += [
            f"{entry.name} shows '{name}', which it does not make" for name in entry.shows if name not in entry.makes
        ]
        faults += [f"{name} is made by {made[name]} and by {entry.name}" for name in entry.makes if name in made]
        seen.add(entry.name)
        made |= dict.fromkeys(entry.makes, entry.name)
    if cycle := _cycle(workbook):
        return [*faults, f"the needs form a cycle: {' -> '.join(cycle)}"]
    position = {name: number for number, name in enumerate(names)}
    for entry in workbook.notebooks:
        late = [need for need in (*entry.needs, *entry.after) if position.get(need, -1) > position[entry.name]]
        faults += [f"{entry.name} needs {need}, which is listed after it; list it before" for need in late]
    return faults


def _cycle(workbook: Workbook) -> list[str]:
    try:
        TopologicalSorter({entry.name: entry.needs for entry in workbook.notebooks}).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def check_profile(workbook: Workbook, profile: Profile) -> None:
    """Refuse a profile with settings for a notebook that the workbook does not have (UsageError)."""
    unknown = sorted(set(profile.notebooks) - set(workbook.names))
    if unknown:
        raise UsageError(
            f"Profile '{profile.name}' has settings for {', '.join(unknown)}; the workbook has {', '.join(workbook.names)}."
        )


def select(workbook: Workbook, only: list[str] | None = None, start_from: str | None = None) -> tuple[str, ...]:
    """Names of the notebooks to run, in order: those named by `only` (names or prefixes), or everything from
    `start_from` on, or all. Raises UsageError for an unknown name or when both are given."""
    if only and start_from:
        raise UsageError("--only and --from exclude each other: name single notebooks, or a start, not both.")
    if only:
        chosen = {workbook.find(text).name for text in only}
        return tuple(name for name in workbook.names if name in chosen)
    start = workbook.names.index(workbook.find(start_from).name) if start_from else 0
    return workbook.names[start:]
