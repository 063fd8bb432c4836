"""Is a notebook green? Judged by what cannot be pretended: exit code, sentinel, execution counts, files on disk.

papermill marks every cell 'completed' after a dead kernel, after a time-out and after `exit()`; its metadata is not read.
"""

import signal
from dataclasses import dataclass

from vpr_lib import paths
from vpr_lib.workbook.book.sentinel import Sentinel, first_fault, read_sentinel, sentinel_path
from vpr_lib.workbook.run.execute import EXITS
from vpr_lib.workbook.run.parameters import read_cells
from vpr_lib.workbook.run.plan import Entry, UsageError
from vpr_lib.workbook.run.process import Ended, Job
from vpr_lib.workbook.run.status import Status


@dataclass(frozen=True)
class Verdict:
    """What the runner makes of a notebook that has ended."""

    status: Status
    reason: str = ""
    sentinel: Sentinel | None = None


def judge(entry: Entry, job: Job, ended: Ended, profile: str, run_id: str) -> Verdict:
    """The verdict on a notebook whose process has ended."""
    where = f"cell {ended.progress.cell} of {ended.progress.cells}" if ended.progress.cell else "before its first cell"
    if ended.overdue and ended.seconds > job.wall_s:
        return Verdict(Status.TIMEOUT, f"the notebook took longer than {_span(job.wall_s)} in all, {where}")
    if ended.overdue:
        return Verdict(
            Status.TIMEOUT, f"nothing heard for longer than a cell may take ({_span(job.timeout_s)}), {where}"
        )
    if ended.returncode != EXITS["ok"]:
        return _broken(job, ended, where)
    try:
        sentinel = read_sentinel(job.run, entry.name)
    except ValueError as error:
        return Verdict(Status.FAILED, str(error))
    early = sentinel is not None and bool(sentinel.stopped)
    fault = ("" if early else _not_run(job)) or _not_proved(entry, job, sentinel, profile, run_id)
    return Verdict(Status.FAILED, fault) if fault else Verdict(Status.GREEN, sentinel=sentinel)


def _broken(job: Job, ended: Ended, where: str) -> Verdict:
    failure, code = ended.progress.failure, ended.returncode
    message = f"{failure.get('ename')}: {failure.get('evalue')}"
    if code == EXITS["timeout"]:
        return Verdict(
            Status.TIMEOUT, f"{where} ran longer than its limit of {_span(job.timeout_s)}: {ended.progress.line}"
        )
    if code == EXITS["dead"]:
        died = _died(ended.progress.kernel_returncode)
        return Verdict(Status.KILLED, f"the kernel died in {where}{died}: {ended.progress.line}")
    if code == EXITS["error"] and failure.get("ename") == "CheckFailed":
        return Verdict(Status.FAILED, failure["evalue"])
    if code == EXITS["error"] and failure:
        tail = "\n".join(failure["tail"])
        return Verdict(Status.FAILED, f"{where} raised {message}" + (f"\n{tail}" if tail else ""))
    if code < 0 or code > 128:
        died = _died(code if code < 0 else 128 - code)
        return Verdict(Status.KILLED, f"the process that executes the notebook died in {where}{died}; see {job.log}")
    return Verdict(Status.FAILED, f"{message if failure else f'exit code {code}'}, {where}; see {job.log}")


def _died(returncode: int | None) -> str:
    if returncode is None or returncode >= 0:
        return "" if returncode is None else f" (exit code {returncode})"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hint = ", often the system's out-of-memory killer: try a smaller batch" if name == "SIGKILL" else ""
    return f" ({name}{hint})"


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _not_run(job: Job) -> str:
    """Which code cells of the executed notebook did not run; empty if all did."""
    try:
        executed, source = read_cells(job.output), read_cells(job.source)
    except (UsageError, OSError) as error:
        return f"the executed notebook cannot be read: {error}"
    cells = [cell for cell in executed if cell["cell_type"] == "code" and cell["source"].strip()]
    expected = 1 + sum(cell["cell_type"] == "code" and bool(cell["source"].strip()) for cell in source)
    missing = [number for number, cell in enumerate(cells, 1) if not cell.get("execution_count")]
    if missing:
        cell = cells[missing[0] - 1]["source"].strip().splitlines()[0]
        return f"{len(missing)} of {len(cells)} code cells did not run, the first is cell {missing[0]}: {cell}"
    return (
        "" if len(cells) >= expected else f"{len(cells)} code cells ran, the source has {expected} with the parameters"
    )


def _not_proved(entry: Entry, job: Job, sentinel: Sentinel | None, profile: str, run_id: str) -> str:
    """Why the sentinel and the outputs do not prove the end of this very run; empty if they do."""
    if sentinel is None:
        return f"it wrote no {sentinel_path(job.run, entry.name).name}: end the notebook with book.finish(...)"
    told = (sentinel.notebook, sentinel.run_id, sentinel.profile, sentinel.key)
    if told != (entry.name, run_id, profile, job.key):
        return (
            f"its sentinel belongs to notebook {sentinel.notebook}, run {sentinel.run_id}, profile {sentinel.profile}, "
            f"key {sentinel.key[:8] or 'none'}; expected {entry.name}, {run_id}, {profile}, {job.key[:8]}. "
            "Pass the injected profile and run_id to open_notebook."
        )
    if broken := [check for check in sentinel.checks if not (check.holds or check.skipped)]:
        told = "; ".join(f"{check.key} is {check.measured:g}, expected {check.target}" for check in broken)
        return f"a failed check was swallowed, the notebook went on to its end: {told}"
    made = {output.name for output in sentinel.outputs}
    missing = [name for name in entry.makes if not (name in made or name in sentinel.holes or sentinel.stopped)]
    if missing:
        folder = paths.figures_root() / profile
        stale = [name for name in missing if (folder / name).is_file()]
        note = f" ({', '.join(stale)} on disk is of an earlier run)" if stale else ""
        return f"declared in workbook.yaml but not made by this run: {', '.join(missing)}{note}"
    return first_fault((*sentinel.outputs, *sentinel.made))
