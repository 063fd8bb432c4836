"""Everything that can be refused before a kernel starts: names, profile, parameters."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpr_lib.config import Profile, load_profile
from vpr_lib.workbook.run.needs import absent
from vpr_lib.workbook.run.parameters import Raw, parse_overrides, resolve
from vpr_lib.workbook.run.plan import Entry, UsageError, Workbook, check_profile, load_workbook, select
from vpr_lib.workbook.run.status import NotebookStatus, RunStatus, Status

_RUN_ID = re.compile(r"(?!(latest|green)$)[A-Za-z0-9][A-Za-z0-9._\-]*")


@dataclass(frozen=True)
class Request:
    """What a run is asked for.

    Attributes:
        only: names or prefixes of the notebooks to run; what they need must have been green before, under any key.
        start_from: run this notebook and everything after it.
        overrides: parameters as `02.epochs=3`.
        force: run also what is green already.
        keep_going: after a failure, still run what does not depend on it.
        run_id: default: time and profile. An existing run is continued in its folder.
        jobs: notebooks side by side; default: the profile's.
        limits: seconds that a cell of a notebook may take; default: what the profile says.
    """

    profile: str | Path = "toy"
    only: Sequence[str] | None = None
    start_from: str | None = None
    overrides: Sequence[str] = ()
    force: bool = False
    keep_going: bool = True
    run_id: str | None = None
    jobs: int | None = None
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    workbook: Workbook
    profile: Profile
    given: str | Path  # the profile as it was named
    selected: tuple[str, ...]
    overrides: Mapping[str, Mapping[str, Raw]]  # per notebook

    @property
    def injected_profile(self) -> str:
        """What a notebook hands to `open_notebook`; a file must be found from the notebooks' folder too."""
        return str(Path(self.given).resolve()) if Path(self.given).suffix in {".yaml", ".yml"} else str(self.given)


def make_plan(request: Request) -> Plan:
    """Read the workbook and the profile and choose the notebooks; UsageError if anything does not fit."""
    if request.run_id is not None and not _RUN_ID.fullmatch(request.run_id):
        rule = "A run id has letters, digits, '.', '_' and '-' and is not 'latest' or 'green'"
        raise UsageError(f"{rule}; got '{request.run_id}'.")
    workbook = load_workbook()
    try:
        settings = load_profile(request.profile)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    settings = settings.model_copy(update={"side_by_side": request.jobs or settings.side_by_side})
    check_profile(workbook, settings)
    selected, parsed = select(workbook, list(request.only or []), request.start_from), {}
    for notebook, name, value in parse_overrides(request.overrides):
        target = workbook.find(notebook).name
        if target not in selected or target not in settings.notebooks:
            raise UsageError(f"--set {notebook}.{name}: {target} is not part of this run; it would have no effect.")
        parsed.setdefault(target, {})[name] = value
    return Plan(workbook, settings, request.profile, selected, parsed)


def first_lines(plan: Plan) -> tuple[NotebookStatus, ...]:
    """The status table before anything runs."""
    return tuple(_first_line(plan, entry) for entry in plan.workbook.notebooks)


def _first_line(plan: Plan, entry: Entry) -> NotebookStatus:
    settings = plan.profile.notebooks.get(entry.name)
    status, reason = Status.PENDING, ""
    if settings is None:
        status, reason = Status.SKIPPED, f"profile '{plan.profile.name}' has no settings for it"
    elif entry.name not in plan.selected:
        status, reason = Status.SKIPPED, "not selected"
    minutes = settings.minutes if settings else None
    return NotebookStatus(name=entry.name, title=entry.title, status=status, reason=reason, minutes=minutes)


def check_parameters(plan: Plan, status: RunStatus) -> tuple[dict[str, dict[str, Any]], str, RunStatus]:
    """Check the parameters of every notebook that is to run.

    Returns:
        the values to inject per notebook; the faults of all notebooks in one message, empty if there are none; and the
        status, in which the notebooks with a fault are invalid and then nothing else is started, and those that find nothing
        of what they ask for on this disk are absent.
    """
    injected = {"profile": plan.injected_profile, "run_id": status.run_id}
    values, faults = {}, {}
    for entry, line in zip(plan.workbook.notebooks, status.notebooks):
        if line.status != Status.PENDING:
            continue
        try:
            own = plan.profile.notebooks[entry.name].parameters
            values[entry.name] = resolve(entry.path, own, plan.overrides.get(entry.name, {}), injected)
        except UsageError as error:
            faults[entry.name] = str(error)
            continue
        if why := absent(entry, values[entry.name]):
            status = status.with_line(entry.name, status=Status.ABSENT, reason=why)
    for line in status.notebooks if faults else ():
        if line.name in faults:
            status = status.with_line(line.name, status=Status.INVALID, reason=faults[line.name])
        elif line.status == Status.PENDING:
            reason = "nothing was started: parameters of another notebook are invalid"
            status = status.with_line(line.name, status=Status.SKIPPED, reason=reason)
    return values, "\n".join(faults.values()), status
