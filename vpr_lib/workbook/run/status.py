"""The state of a run on disk: `runs/<run_id>/status.json`, the pointer `runs/latest`, and which notebooks are green.

Everything is written atomically after every notebook, so whatever kills the runner leaves a readable state behind.
"""

import os
import shutil
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from vpr_lib import paths
from vpr_lib.config import Strict
from vpr_lib.digests import digest_file
from vpr_lib.workbook.book.sentinel import (
    Checked,
    checked_path,
    first_fault,
    read_checked,
    read_json,
    read_sentinel,
    sentinel_path,
)
from vpr_lib.workbook.book.used import changed_use, used_path


class Status(StrEnum):
    """Where a notebook stands."""

    PENDING = "pending"
    RUNNING = "running"
    GREEN = "green"  # ran to its end and proved it
    RESUMED = "resumed"  # green earlier under the same key; outputs verified, nothing was started
    FAILED = "failed"  # a cell raised, a check did not hold, or the proof of the end is missing
    KILLED = "killed"  # the kernel or its process died
    TIMEOUT = "timeout"
    BLOCKED = "blocked"  # a notebook it needs is not green
    INVALID = "invalid"  # refused before the start: parameters
    ABSENT = "absent"  # nothing it asks for is on this disk: a hole, which blocks nobody
    SKIPPED = "skipped"  # not selected, not in the profile, or the run ended before its turn


SYMBOLS = {
    Status.PENDING: "·",
    Status.RUNNING: "▸",
    Status.GREEN: "✓",
    Status.RESUMED: "✓",
    Status.FAILED: "✗",
    Status.KILLED: "✗",
    Status.TIMEOUT: "✗",
    Status.BLOCKED: "⊘",
    Status.INVALID: "✗",
    Status.ABSENT: "○",
    Status.SKIPPED: "–",
}
GREENS = {Status.GREEN, Status.RESUMED}
BROKEN = {Status.FAILED, Status.KILLED, Status.TIMEOUT}
EXIT_CODES = {
    0: "every selected notebook is green",
    1: "a notebook failed, was killed or timed out, or the report could not be built",
    2: "refused before anything started: usage, workbook.yaml, profile or parameters",
    3: "nothing failed, but a notebook is blocked by one that is not green",
    4: "nightly: all green, but recall fell significantly against the last green night",
    5: "nightly: the disk is full",
    6: "nightly: all green, but a result of the last green night is gone or no longer comparable",
    130: "interrupted by Ctrl-C",
    143: "ended by SIGTERM or SIGHUP",
}


class NotebookStatus(Strict):
    """One line of the status table."""

    name: str
    title: str = ""
    status: Status = Status.PENDING
    reason: str = ""  # why it is not green, or where a resumed one comes from
    key: str | None = None
    from_run: str | None = None  # for a resumed notebook: the run that executed it
    minutes: float | None = None  # expected, from the profile
    seconds: float | None = None
    cells_done: int = 0
    cells: int = 0
    peak_memory_bytes: int | None = None
    retried: str = ""  # why a first attempt was given up and another one started
    headline: str = ""
    parameters: dict[str, Any] = {}


class RunStatus(Strict):
    """The whole of `status.json`."""

    run_id: str
    profile: str
    started: str
    finished: str | None = None
    exit_code: int | None = None
    runner_pid: int
    host: str
    boot: str = ""  # tells this machine's start, whatever its name is now
    git: str
    device: str
    command: str = ""
    notebooks: tuple[NotebookStatus, ...] = ()

    def with_line(self, name: str, **changes: Any) -> "RunStatus":
        """The status with the line of one notebook changed."""
        lines = (line.model_copy(update=changes) if line.name == name else line for line in self.notebooks)
        return self.model_copy(update={"notebooks": tuple(lines)})

    @property
    def state(self) -> str:
        """'running', 'finished', or 'interrupted' when the runner is gone without having said goodbye."""
        if self.finished:
            return "finished"
        return "running" if self._alive() else "interrupted"

    def _alive(self) -> bool:
        """Whether the runner may still be there: a process of that number that is younger than the run is another one."""
        if self.host != os.uname().nodename and self.boot != boot_id():
            return True  # another machine: it cannot be asked
        try:
            born = psutil.Process(self.runner_pid).create_time()
        except psutil.Error:
            return False
        return born <= datetime.fromisoformat(self.started).timestamp() + 2


def boot_id() -> str:
    """The kernel's name for this start of the machine; '' where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def exit_code(notebooks: tuple[NotebookStatus, ...]) -> int:
    """The exit code of a finished run; see EXIT_CODES."""
    statuses = {notebook.status for notebook in notebooks}
    if Status.INVALID in statuses:
        return 2
    if statuses & BROKEN:
        return 1
    return 3 if Status.BLOCKED in statuses else 0


def reserve_run(profile: str, run_id: str | None = None) -> str:
    """Make a run folder and return its id: the one asked for, or the local time and the profile, unique."""
    base = run_id or f"{datetime.now():%Y%m%d-%H%M%S}-{profile}"
    candidate, number = base, 1
    while True:
        try:
            (paths.runs_root() / candidate).mkdir(parents=True, exist_ok=run_id is not None)
            return candidate
        except FileExistsError:
            number += 1
            candidate = f"{base}-{number}"


def write_status(status: RunStatus) -> None:
    folder = paths.runs_root() / status.run_id
    paths.write_text(folder / "status.json", status.model_dump_json(indent=1))


def read_status(run: str | Path = "latest") -> RunStatus:
    """The status of a run by id, folder or 'latest' (FileNotFoundError if there is none, ValueError if damaged)."""
    path = find_run(run) / "status.json"
    if not path.is_file():
        raise FileNotFoundError(f"No status in {path.parent}. It is not the folder of a run of the workbook.")
    return read_json(path, RunStatus)


def find_run(run: str | Path = "latest") -> Path:
    """The folder of a run; FileNotFoundError lists the latest runs."""
    root = paths.runs_root()
    pointer = root / "latest"
    if str(run) == "latest" and pointer.is_file():  # a text file, where links are not to be had
        run = pointer.read_text(encoding="utf-8").strip()
    for folder in (root / run, Path(run)):
        if folder.is_dir():
            return folder.resolve()
    known = sorted(path.parent.name for path in root.glob("*/status.json") if not path.parent.is_symlink())[-5:]
    raise FileNotFoundError(f"No run '{run}' under {root}. Latest runs: {', '.join(known) or 'none'}.")


def point_latest(run_id: str) -> None:
    """Let `runs/latest` mean this run: a relative link, or a text file with the id where links are not to be had."""
    pointer = paths.runs_root() / "latest"
    temporary = pointer.with_name(f".latest-{os.getpid()}")
    try:
        temporary.symlink_to(run_id, target_is_directory=True)
        os.replace(temporary, pointer)
    except OSError:
        temporary.unlink(missing_ok=True)
        paths.write_text(pointer, run_id + "\n")


class Green(Strict):
    """The last time a notebook was green under a profile."""

    notebook: str
    profile: str
    key: str
    run_id: str  # the run folder that holds the executed notebook and its sentinel
    executed_in: str  # the run that executed it
    cost: dict[str, Any] = {}  # seconds, cells and memory of that execution, as in NotebookStatus
    executed_sha256: str = ""  # of the executed notebook


def _green_path(profile: str, notebook: str) -> Path:
    return paths.runs_root() / "green" / profile / f"{notebook}.json"


def remember_green(profile: str, notebook: str, key: str, run_id: str, cost: dict[str, Any]) -> None:
    """Note that the notebook is green under `key`, with its files in the folder of `run_id`, which executed it."""
    executed = paths.runs_root() / run_id / f"{notebook}.ipynb"
    digest = digest_file(executed) if executed.is_file() else ""
    _write_green(
        Green(
            notebook=notebook,
            profile=profile,
            key=key,
            run_id=run_id,
            executed_in=run_id,
            cost=cost,
            executed_sha256=digest,
        )
    )


def _write_green(green: Green) -> None:
    paths.write_text(_green_path(green.profile, green.notebook), green.model_dump_json(indent=1))


def greens() -> tuple[Green, ...]:
    """Every notebook that is green under some profile (ValueError if a note is damaged)."""
    return tuple(read_json(path, Green) for path in sorted((paths.runs_root() / "green").glob("*/*.json")))


def forget_green(profile: str, notebook: str, key: str) -> None:
    """A notebook that was green under `key` and now is not (a forced run) must not be resumed as if nothing had happened."""
    green, _ = recall_green(profile, notebook)
    if green and green.key == key:
        _green_path(profile, notebook).unlink(missing_ok=True)


def recall_green(profile: str, notebook: str) -> tuple[Green | None, str]:
    """The last green run of a notebook if its files are all still there and unchanged, else None and why not."""
    path = _green_path(profile, notebook)
    if not path.is_file():
        return None, "it has not been green yet"
    try:
        green = read_json(path, Green)
        folder = paths.runs_root() / green.run_id
        sentinel = read_sentinel(folder, notebook)
    except ValueError as error:
        return None, str(error)
    executed = folder / f"{notebook}.ipynb"
    if sentinel is None or not executed.is_file():
        return None, f"run {green.run_id}, in which it was green, has been removed"
    if green.executed_sha256 and digest_file(executed) != green.executed_sha256:
        return None, f"{executed} has changed since it was executed"
    fault = first_fault((*sentinel.outputs, *sentinel.made))
    if not fault and sentinel.used:
        fault = changed_use(folder, notebook, sentinel.used)
    return (None, fault) if fault else (green, "")


def checked_of(profile: str, notebook: str, run: Path) -> tuple[Checked, str]:
    """What a notebook checked and found in the run folder `run`, else in its last green run; with the run's id, or ''."""
    checked = read_checked(run, notebook)
    if checked.checks or checked.findings:
        return checked, run.name
    green, _ = recall_green(profile, notebook)
    return (read_checked(paths.runs_root() / green.run_id, notebook), green.run_id) if green else (Checked(), "")


def adopt(green: Green, run_id: str) -> None:
    """Copy an earlier executed notebook, its sentinel, checks, findings and log into this run, so that a run folder is complete."""
    source, target = paths.runs_root() / green.run_id, paths.runs_root() / run_id
    if source == target:
        return
    name = green.notebook
    for path in (
        source / f"{name}.ipynb",
        sentinel_path(source, name),
        checked_path(source, name),
        used_path(source, name),
        source / f"{name}.log",
    ):
        if path.is_file():
            with paths.atomic_path(target / path.name) as temporary:
                shutil.copyfile(path, temporary)
    _write_green(green.model_copy(update={"run_id": run_id}))
