"""A night of the workbook: one at a time, a second attempt where chance may help, compared with the last green night.

    vpr run --profile light --nightly

The exit code tells how bad it is (`status.EXIT_CODES`): 0 same as the last green night or better; 1 a notebook failed;
2 refused, also because another night or run is at work; 3 only blocked; 4 recall fell significantly; 5 the disk is full;
6 a result of the last green night is gone or was scored otherwise; 130 and 143 interrupted. Only a night that ended with
0 becomes the reference of later ones, so that a regression is told every night until it is repaired, or accepted with
`--accept`. What is green already under the same content key is resumed as in every run; `--force` executes all anew.
"""

import errno
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vpr_lib import paths
from vpr_lib.workbook.book.sentinel import read_json
from vpr_lib.workbook.night.night import Comparison, Failure, Night
from vpr_lib.workbook.night.nightly_compare import compare_nights, keep
from vpr_lib.workbook.run import status as state
from vpr_lib.workbook.run.lock import night_lock
from vpr_lib.workbook.run.plan import UsageError
from vpr_lib.workbook.run.prepare import Request, make_plan
from vpr_lib.workbook.run.process import Child
from vpr_lib.workbook.run.runner import RunResult, run_workbook
from vpr_lib.workbook.run.status import BROKEN, EXIT_CODES, NotebookStatus, RunStatus, Status
from vpr_lib.workbook.run.terminal import Display

_log = logging.getLogger(__name__)
_FULL = os.strerror(errno.ENOSPC)  # 'No space left on device'


@dataclass(frozen=True)
class NightResult(RunResult):
    """What a night came to."""

    night: Night | None = None

    @property
    def exit_code(self) -> int:
        return self.night.exit_code or 0


def run_nightly(
    request: Request,
    report: bool = True,
    display: Display | None = None,
    keep_runs: int = 14,
    accept: bool = False,
    child: Child = Child(),
) -> NightResult:
    """Run the whole workbook as a night and compare it with the last green one.

    Args:
        keep_runs: keep the folders of so many green and so many other nights of the profile.
        accept: take this night as the reference even if recall fell, provided that all notebooks are green.
        request, display, child: see `run_workbook`; a notebook that chance may have ended is started a second time.
    Raises:
        Overlap: if another night, or a plain run, holds the lock.
        UsageError: if nothing can be started, or only a part of the workbook is asked for.
    """
    if keep_runs < 1:
        raise UsageError(f"--keep must be at least 1 (nights to keep), got {keep_runs}.")
    if request.only or request.start_from:
        raise UsageError("--nightly runs the whole workbook: a part of it cannot be the next night's reference.")
    name = make_plan(request).profile.name
    with night_lock() as dead:
        removed = retire(name, keep_runs)
        run_id = state.reserve_run(f"{name}-nightly", request.run_id)
        folder = paths.runs_root() / run_id
        night = Night(run_id=run_id, profile=name, started=state.now(), removed=removed, taken_over=dead)
        _write(folder, night)
        try:
            asked = replace(request, run_id=run_id)
            result = run_workbook(asked, display=display, child=replace(child, retries=1), alone=True)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            status = state.read_status(run_id)  # the last that could be written
            result = RunResult(status, folder, paths.figures_root() / name, None, f"The run stopped: {error}.")
        return _finish(result, night, accept, report)


def nights(profile: str) -> list[Night]:
    """The nights of a profile, latest first; a folder with a damaged `nightly.json` is left alone.

    A night that says it began later than now ran under a wrong clock: it counts as older than all others.
    """
    past, today = [], state.now()
    for path in paths.runs_root().glob("*/nightly.json"):
        if path.parent.is_symlink():
            continue
        try:
            night = read_json(path, Night)
        except ValueError as error:
            _log.warning("%s", error)
            continue
        if night.profile == profile and night.run_id == path.parent.name:
            past.append(night)
    return sorted(past, key=lambda night: (night.started <= today, night.started, night.run_id), reverse=True)


def reference(profile: str, run_id: str) -> Night | None:
    """The last green or accepted night of the profile before `run_id`."""
    return next((n for n in nights(profile) if (n.green or n.accepted) and n.run_id != run_id), None)


def retire(profile: str, keep_runs: int) -> tuple[str, ...]:
    """Delete the folders of old nights; returns their ids.

    The latest `keep_runs` green and `keep_runs` other nights stay, and so does every run that `latest`, the green
    notebooks of any profile, or the comparison point to. Runs that were not nights are never touched.
    """
    try:
        needed = {green.run_id for green in state.greens()}
        if os.path.lexists(paths.runs_root() / "latest"):
            needed.add(state.find_run("latest").name)
    except (ValueError, FileNotFoundError) as error:
        _log.warning("no old runs are deleted, since it is not clear which are in use: %s", error)
        return ()
    past = nights(profile)
    last = next((night.run_id for night in past if night.green or night.accepted), None)
    kinds = [[n for n in past if n.green], [n for n in past if not n.green]]
    old = [n.run_id for kind in kinds for n in kind[keep_runs:] if n.run_id not in needed | {last}]
    for run_id in old:
        shutil.rmtree(paths.runs_root() / run_id, ignore_errors=True)
    return tuple(old)


def failure_kind(line: NotebookStatus) -> str:
    """The class of a failure, from the runner's verdict."""
    if line.status != Status.FAILED:
        return str(line.status)
    signs = {
        _FULL: "disk",
        "OutOfMemoryError": "gpu memory",
        "checks do not hold": "check",
        "did not measure the checks": "check",
    }
    return next((kind for sign, kind in signs.items() if sign in line.reason), "error")


def severity(status: RunStatus, failures: Sequence[Failure], comparison: Comparison | None, problem: str) -> int:
    """The exit code of a night: the worst of what happened."""
    code = status.exit_code or 0
    if code >= 128 or code == 2:
        return code
    if _FULL in problem or any(failure.kind == "disk" for failure in failures):
        return 5
    if code or problem:
        return code or 1
    if comparison and comparison.of("regressed"):
        return 4
    return 6 if comparison and (comparison.gone or comparison.incomparable) else 0


def _finish(result: RunResult, night: Night, accept: bool, report: bool) -> NightResult:
    """Compare, write everything, and make room. A fault here is told, and costs nothing of what was computed."""
    from vpr_lib.workbook.night.nightly_pages import write_pages
    from vpr_lib.workbook.report.build import build_report

    status, problem, comparison, page = result.status, result.problem, None, None
    failures = tuple(
        Failure(notebook=line.name, kind=failure_kind(line), reason=line.reason)
        for line in status.notebooks
        if line.status in BROKEN | {Status.BLOCKED, Status.INVALID}
    )
    last = reference(night.profile, night.run_id)
    try:
        if status.finished and status.exit_code != 2:
            keep(result.folder, status)
            comparison = compare_nights(paths.runs_root() / last.run_id, result.folder) if last else None
    except (OSError, ValueError) as error:
        problem = problem or f"The comparison with {last.run_id if last else 'earlier nights'} failed: {error}"
    code = severity(status, failures, comparison, problem)
    night = night.model_copy(
        update={
            "finished": state.now(),
            "exit_code": code,
            "accepted": accept and code in {4, 6},
            "git": status.git,
            "device": status.device,
            "failures": failures,
            "retried": {line.name: line.retried for line in status.notebooks if line.retried},
            "comparison": comparison,
            "problem": problem,
        }
    )
    night = _told(night, status)
    try:
        if status.finished:
            state.write_status(status.model_copy(update={"exit_code": code}))
        _write(result.folder, night)
        write_pages(result.folder, night, status)
        page = build_report(result.folder) if report and code not in {2, 130, 143} else None
    except Exception as error:  # a page that cannot be made must not hide what the night found
        problem = f"{night.problem} The pages could not be written ({type(error).__name__}: {error}).".strip()
        code = severity(status, failures, comparison, problem) if code in {0, 4, 6} else code
        night = _told(night.model_copy(update={"problem": problem, "exit_code": code, "accepted": False}), status)
        _try_write(result.folder, night)
    return NightResult(
        status.model_copy(update={"exit_code": code}), result.folder, result.figures, page, problem, night
    )


def _told(night: Night, status: RunStatus) -> Night:
    """The night with its meaning and a summary of one line per fact."""
    green = sum(line.status in state.GREENS for line in status.notebooks)
    selected = sum(line.status != Status.SKIPPED for line in status.notebooks)
    lines = [f"{green} of {selected} notebooks are green"]
    lines += [f"{f.notebook}: {f.kind}: {(f.reason.splitlines() or ['no reason given'])[0]}" for f in night.failures]
    lines += [f"{name} was started again ({reason.splitlines()[0]})" for name, reason in night.retried.items()]
    if night.comparison:
        lines += _compared(night.comparison)
    elif not night.problem:
        lines.append("no green night to compare with")
    if night.accepted:
        lines.append("accepted as the new reference")
    if night.problem:
        lines.append(night.problem)
    return night.model_copy(update={"summary": tuple(lines), "meaning": EXIT_CODES[night.exit_code]})


def _compared(found: Comparison) -> list[str]:
    lines = [
        f"recall {change.verdict}: {change.name}: R@1 {change.before['R@1']:.1f} to {change.after['R@1']:.1f}, "
        f"{change.lost} queries lost, {change.gained} gained, adjusted p {change.p_adjusted:.2g}"
        for change in (*found.of("regressed"), *found.of("improved"))
    ]
    same, noise = len(found.of("same")), len(found.of("within noise"))
    lines.append(f"{same} of {len(found.recalls)} evaluations as in {found.reference}, {noise} within noise")
    lines += [f"gone: {name}" for name in found.gone] + [f"not comparable: {text}" for text in found.incomparable]
    lines += [f"{cost.notebook}: {cost.remark}" for cost in found.costs if cost.remark]
    counts = {
        "figure or table": found.files,
        "check value": found.checks,
        "verdict of a finding": found.findings,
        "fact of the environment": found.environment,
    }
    return lines + [f"changed: {what} ({len(values)})" for what, values in counts.items() if values]


def _write(folder: Path, night: Night) -> None:
    paths.write_text(folder / "nightly.json", night.model_dump_json(indent=1) + "\n")


def _try_write(folder: Path, night: Night) -> None:
    try:
        _write(folder, night)
    except OSError as error:
        _log.error("nightly.json could not be written: %s", error)
