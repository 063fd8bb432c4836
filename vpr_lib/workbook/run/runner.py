"""Run the workbook: notebooks in order, each in its own process, resumable, and believed only when proved.

A notebook is executed when its content key differs from that of its last green run. A failure blocks what depends on
it; everything independent still runs, and notebooks marked `always` run in any case and show the holes.
"""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from vpr_lib import paths
from vpr_lib.workbook.run import status as state
from vpr_lib.workbook.run.environment import environment
from vpr_lib.workbook.run.lock import run_lock
from vpr_lib.workbook.run.plan import Entry
from vpr_lib.workbook.run.prepare import Plan, Request, check_parameters, first_lines, make_plan
from vpr_lib.workbook.run.process import Child
from vpr_lib.workbook.run.status import NotebookStatus, RunStatus, Status, boot_id
from vpr_lib.workbook.run.steps import Run, run_one
from vpr_lib.workbook.run.terminal import Display

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a run of the workbook came to."""

    status: RunStatus
    folder: Path
    figures: Path
    report: Path | None = None
    problem: str = ""  # what kept the run from starting, or the report from being built

    @property
    def run_id(self) -> str:
        return self.status.run_id

    @property
    def profile(self) -> str:
        return self.status.profile

    @property
    def exit_code(self) -> int:
        return self.status.exit_code or 0

    @property
    def notebooks(self) -> tuple[NotebookStatus, ...]:
        return self.status.notebooks


class _Interrupted(BaseException):
    def __init__(self, code: int):
        self.code = code


def run_workbook(
    request: Request,
    report: Callable[[Path], Path] | None = None,
    display: Display | None = None,
    child: Child = Child(),
    alone: bool = False,
) -> RunResult:
    """Run the workbook, or a part of it, under a profile.

    Args:
        report: builds the pages of the finished run's folder and returns the first one (`build_report`); default: none.
        display: shows the progress; default: nothing.
        alone: the caller holds the night's lock; otherwise the run shares the lock with other runs.
    Raises:
        Overlap: while a night is at work.
        UsageError: if nothing can be started: unknown names, a bad workbook.yaml or profile, two exclusive options.
    """
    plan = make_plan(request)
    with nullcontext() if alone else run_lock():
        status, folder = _open_run(plan, request.run_id)
        parameters, problem, status = check_parameters(plan, status)
        return _run(Run(plan, parameters, request, child, display or Display(), status), folder, problem, report)


def _run(run: Run, folder: Path, problem: str, report: Callable[[Path], Path] | None) -> RunResult:
    code = None if problem else _execute(run)
    code = state.exit_code(run.status.notebooks) if code is None else code
    run.status = run.status.model_copy(update={"finished": state.now(), "exit_code": code})
    state.write_status(run.status)
    page = None
    if report and not problem and code < 128:
        page, problem = _report(report, folder)
    if problem and code == 0:
        run.status = run.status.model_copy(update={"exit_code": 1})
        state.write_status(run.status)
    return RunResult(run.status, folder, paths.figures_root() / run.profile.name, page, problem)


def _open_run(plan: Plan, run_id: str | None) -> tuple[RunStatus, Path]:
    """Make the run's folder with its first status and the description of the machine."""
    machine = environment(plan.profile.device)
    run_id = state.reserve_run(plan.profile.name, run_id)
    folder = paths.runs_root() / run_id
    paths.write_text(folder / "env.json", json.dumps(machine, indent=1))
    status = RunStatus(
        run_id=run_id,
        profile=plan.profile.name,
        started=state.now(),
        runner_pid=os.getpid(),
        boot=boot_id(),
        host=os.uname().nodename,
        git=machine["git"],
        device=machine["device"],
        command=" ".join(["vpr", *sys.argv[1:]]) if sys.argv[0].endswith("vpr") else "",
        notebooks=first_lines(plan),
    )
    state.write_status(status)
    state.point_latest(run_id)
    return status, folder


def _execute(run: Run) -> int | None:
    """Run every selected notebook; the exit code if the run was interrupted, else None."""
    with run.display.live(run.status, run.plan.selected):
        try:
            with _signals():
                _side_by_side(run, list(run.plan.workbook.notebooks))
        except (KeyboardInterrupt, _Interrupted) as error:
            _stop(run)
            return getattr(error, "code", 130)
    return None


def _side_by_side(run: Run, waiting: list[Entry]) -> None:
    """Start every notebook once what it needs has ended and one of the profile's places is free; of several the longest."""
    at_work: dict[Future, str] = {}
    with ThreadPoolExecutor(run.profile.side_by_side) as pool:
        try:
            while waiting or at_work:
                open_ = {*at_work.values(), *(entry.name for entry in waiting)}
                ready = [entry for entry in waiting if not open_ & {*entry.needs, *entry.after}]
                if run.profile.side_by_side > 1:
                    ready.sort(key=lambda entry: -(run.line(entry.name).minutes or 0))
                for entry in ready[: run.profile.side_by_side - len(at_work)]:
                    waiting.remove(entry)
                    at_work[pool.submit(run_one, run, entry)] = entry.name
                for future in wait(at_work, return_when=FIRST_COMPLETED).done:
                    at_work.pop(future)
                    future.result()
        except BaseException:
            run.stopped.set()
            raise


@contextmanager
def _signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an orderly end, where Python allows it (the main thread)."""

    def interrupt(signum, frame):
        raise _Interrupted(143)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}  # nohup lets SIGHUP be ignored
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(run: Run) -> None:
    """After an interruption: what ran is killed, what had not started is skipped; what is green stays green."""
    for line in run.status.notebooks:
        if line.status == Status.RUNNING:
            run.set(line.name, status=Status.KILLED, reason="the run was interrupted")
        elif line.status == Status.PENDING:
            run.set(line.name, status=Status.SKIPPED, reason="the run was interrupted before its turn")


def _report(build: Callable[[Path], Path], folder: Path) -> tuple[Path | None, str]:
    """Build the report; a fault there is told, and costs nothing of what was computed."""
    try:
        return build(folder), ""
    except Exception as error:
        return None, f"The report could not be built ({type(error).__name__}: {error}). Try: vpr report {folder.name}"
