"""Bring one notebook of a run to its final status: blocked, resumed, or executed and judged."""

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpr_lib import paths
from vpr_lib.config import Profile
from vpr_lib.files import locked
from vpr_lib.workbook.book.sentinel import checked_path, read_sentinel, sentinel_path
from vpr_lib.workbook.run import status as state
from vpr_lib.workbook.run.keys import notebook_key, threads_each
from vpr_lib.workbook.run.plan import Entry
from vpr_lib.workbook.run.prepare import Plan, Request
from vpr_lib.workbook.run.process import Child, Ended, Job, follow
from vpr_lib.workbook.run.status import NotebookStatus, RunStatus, Status
from vpr_lib.workbook.run.terminal import Display
from vpr_lib.workbook.run.verify import Verdict, judge

_BY_CHANCE = {Status.KILLED, Status.TIMEOUT}  # another attempt may end otherwise


@dataclass
class Run:
    """One run in the making: the plan, and the status that is written after every change."""

    plan: Plan
    parameters: dict[str, dict[str, Any]]
    request: Request
    child: Child
    display: Display
    status: RunStatus
    keys: dict[str, str | None] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)  # ends what is at work
    _lock: threading.Lock = field(default_factory=threading.Lock)  # notebooks run side by side

    @property
    def folder(self) -> Path:
        return paths.runs_root() / self.status.run_id

    @property
    def profile(self) -> Profile:
        return self.plan.profile

    def line(self, name: str) -> NotebookStatus:
        return next(line for line in self.status.notebooks if line.name == name)

    def set(self, name: str, **changes: Any) -> None:
        """Change the line of one notebook, show it, and write the status."""
        with self._lock:
            self.status = self.status.with_line(name, **changes)
            self.display.update(self.line(name))
            state.write_status(self.status)


def run_one(run: Run, entry: Entry) -> None:
    """Bring one notebook to its final status."""
    line = run.line(entry.name)
    if line.status == Status.SKIPPED:
        green, reason = state.recall_green(run.profile.name, entry.name)
        run.keys[entry.name] = green.key if green else None
        note = f"; green in run {green.executed_in}" if green else f"; {reason}"
        run.set(entry.name, reason=line.reason + note)
        return
    if line.status == Status.ABSENT:
        run.keys[entry.name] = f"absent: {line.reason}"  # a need that is known to be missing blocks nobody
        run.set(entry.name, reason=line.reason)
        return
    failed = [ln.name for ln in run.status.notebooks if ln.status in state.BROKEN]
    if failed and not run.request.keep_going and not entry.always:
        run.set(entry.name, status=Status.SKIPPED, reason=f"the run stops at the first failure ({failed[0]})")
        return
    if not entry.always and (missing := [need for need in entry.needs if run.keys.get(need) is None]):
        run.set(entry.name, status=Status.BLOCKED, reason=_blocked(run, missing))
        return
    needs = {need: run.keys.get(need) for need in entry.needs}
    key = notebook_key(entry, run.profile, run.parameters[entry.name], needs)
    run.set(entry.name, key=key, parameters=run.parameters[entry.name])
    # records, figures and tables of a profile have one place: another run of it may be writing them
    place = paths.cache_root() / run.profile.name / "records" / entry.name
    with locked(place, f"executing {entry.name} of profile {run.profile.name}", run.stopped):
        if run.stopped.is_set():
            return
        if run.request.force or None in needs.values() or not _resume(run, entry, key):
            _start(run, entry, key, whole=None not in needs.values())


def _blocked(run: Run, missing: Sequence[str]) -> str:
    reasons = []
    for need in missing:
        line = run.line(need)
        aside = line.status == Status.SKIPPED
        reasons.append(f"{need} ({line.reason}; run it first)" if aside else f"{need} ({line.status})")
    return f"needs {', '.join(reasons)}"


def _resume(run: Run, entry: Entry, key: str) -> bool:
    """Take over an earlier green run under the same key, if its files are still there."""
    green, _ = state.recall_green(run.profile.name, entry.name)
    if green is None or green.key != key:
        return False
    state.adopt(green, run.status.run_id)
    run.keys[entry.name] = key
    run.set(
        entry.name,
        status=Status.RESUMED,
        from_run=green.executed_in,
        reason=f"nothing has changed since run {green.executed_in}",
        headline=read_sentinel(run.folder, entry.name).headline,
        **green.cost,
    )
    return True


def _start(run: Run, entry: Entry, key: str, whole: bool) -> None:
    """Execute one notebook and judge it. `whole`: everything it needs was green, so that it may be resumed later."""
    name, settings = entry.name, run.profile.notebooks[entry.name]
    limit = run.request.limits.get(name, settings.timeout_s)
    job = Job(
        name=name,
        source=entry.path,
        run=run.folder,
        cwd=paths.notebooks_root(),
        parameters=run.parameters[name],
        timeout_s=limit,
        wall_s=max(2 * limit, 10 * 60 * settings.minutes),
        key=key,
        home=paths.project_root(),
        threads=threads_each(run.profile),
    )
    for attempt in range(run.child.retries + 1):
        ended, verdict = _attempt(run, entry, job)
        if run.stopped.is_set():
            return  # whoever stopped the run says so
        if verdict.status not in _BY_CHANCE or attempt == run.child.retries:
            break
        shutil.copyfile(job.log, job.log.with_suffix(f".attempt{attempt + 1}.log"))
        run.set(name, retried=f"attempt {attempt + 1}: {verdict.reason}")
    cost = {
        "seconds": round(ended.seconds, 2),
        "cells_done": ended.progress.cells_done,
        "cells": ended.progress.cells,
        "peak_memory_bytes": ended.progress.peak_memory_bytes,
    }
    if verdict.status == Status.GREEN:
        run.keys[name] = key
        if whole:
            state.remember_green(run.profile.name, name, key, run.status.run_id, cost)
    else:
        state.forget_green(run.profile.name, name, key)
    headline = verdict.sentinel.headline if verdict.sentinel else ""
    run.set(name, status=verdict.status, reason=verdict.reason, headline=headline, **cost)


def _attempt(run: Run, entry: Entry, job: Job) -> tuple[Ended, Verdict]:
    """Execute a notebook once, with nothing left of an earlier attempt."""
    for path in (sentinel_path(run.folder, job.name), checked_path(run.folder, job.name), job.output):
        path.unlink(missing_ok=True)
    run.set(job.name, status=Status.RUNNING, reason="")
    ended = follow(job, run.child, lambda progress: run.display.cell(job.name, progress), run.stopped)
    return ended, judge(entry, job, ended, run.profile.name, run.status.run_id)
