"""Start the process of one notebook, follow it, and leave nothing of it behind."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXECUTE = (sys.executable, "-m", "vpr_lib.workbook.run.execute")
_POLL_S = 0.1
_START_S = 240  # a kernel on a loaded machine may take minutes to answer
_TEXT = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}  # whatever the terminal of the runner can show


@dataclass(frozen=True)
class Job:
    """What the child process needs to know."""

    name: str
    source: Path
    run: Path  # the run folder; everything the child writes has the notebook's name in it
    cwd: Path
    parameters: dict[str, Any]
    timeout_s: float  # per cell
    wall_s: float = math.inf  # for the whole notebook
    key: str = ""
    home: Path = Path()
    threads: str = ""  # OMP_NUM_THREADS; '' leaves it as it is

    @property
    def output(self) -> Path:
        return self.run / f"{self.name}.ipynb"

    @property
    def log(self) -> Path:
        return self.run / f"{self.name}.log"

    @property
    def events(self) -> Path:
        return self.run / f"{self.name}.events.jsonl"

    def line(self, sockets: str) -> str:
        """The job as the child reads it. `sockets`: how the paths of the kernel's sockets begin; ports instead where it is long."""
        names = ("source", "output", "log", "events", "cwd")
        files = {name: str(getattr(self, name)) for name in names} | {"jupyter": str(self.run / ".jupyter")}
        values = {"parameters": self.parameters, "timeout_s": max(1, round(self.timeout_s)), "sockets": sockets}
        return json.dumps(files | values) + "\n"


@dataclass(frozen=True)
class Child:
    """How the process of a notebook is started and ended."""

    command: Sequence[str] = EXECUTE
    grace_s: float = 5.0  # between SIGTERM and SIGKILL
    slack_s: float = 60.0  # how much longer than a cell's time-out it may be silent, before it is taken for stuck
    retries: int = 0  # further attempts for a notebook whose kernel died or ran out of time; never for one that raised


@dataclass
class Progress:
    """What the child has reported so far."""

    cells: int = 0
    cell: int = 0  # the code cell that runs, counted from 1
    cells_done: int = 0
    line: str = ""  # its first line
    failure: dict[str, Any] = field(default_factory=dict)
    groups: list[int] = field(default_factory=list)  # process groups of kernels
    kernel_returncode: int | None = None
    peak_memory_bytes: int | None = None
    last_event: float = field(default_factory=time.monotonic)

    def take(self, event: dict[str, Any]) -> None:
        self.last_event = time.monotonic()
        match event["event"]:
            case "start":
                self.cells = event["cells"]
            case "kernel":
                self.groups.append(event["group"])
            case "cell":
                self.cell, self.line = event["number"], event["line"]
            case "cell_done":
                self.cells_done = event["number"]
            case "kernel_end":
                self.kernel_returncode = event["returncode"]
            case "failure":
                self.failure = event
            case "end":
                self.peak_memory_bytes = event["peak_memory_bytes"]


@dataclass(frozen=True)
class Ended:
    """How the child ended."""

    returncode: int
    seconds: float
    progress: Progress
    # the runner had to end it: nothing was heard for longer than a cell may take, or `wall_s` passed
    overdue: bool = False


def follow(job: Job, how: Child, on_progress: Callable[[Progress], None], stopped: threading.Event) -> Ended:
    """Run the job in a session of its own until it ends, or `stopped` is set; no process of it survives this call."""
    started, progress = time.monotonic(), Progress()
    threads = {"OMP_NUM_THREADS": job.threads} if job.threads else {}
    job.events.write_bytes(b"")
    job.log.write_bytes(b"")
    with (
        tempfile.TemporaryDirectory(prefix="vpr-", ignore_cleanup_errors=True) as sockets,
        job.log.open("ab") as log,
        job.events.open(encoding="utf-8") as events,
    ):
        child = subprocess.Popen(
            how.command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **_TEXT, "VPR_HOME": str(job.home), "VPR_NOTEBOOK_KEY": job.key, **threads},
        )
        try:
            _send(child, job.line(f"{sockets}/kernel"))
            overdue = _wait(child, job, events, progress, on_progress, how.slack_s, stopped)
        finally:
            _end(child, progress.groups, how.grace_s)
            _read_events(events, progress)
            _kill_groups(progress.groups)
    on_progress(progress)
    return Ended(child.returncode, time.monotonic() - started, progress, overdue)


def _send(child: subprocess.Popen, line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # it died at once; its exit code and log say why
        child.stdin.write(line.encode())
        child.stdin.flush()


def _wait(child, job, events, progress, on_progress, slack_s, stopped) -> bool:
    """Wait for the child or for `stopped`; True if it was silent, or at work, for too long."""
    started = time.monotonic()
    while child.poll() is None and not stopped.is_set():
        if _read_events(events, progress):
            on_progress(progress)
        allowed = job.timeout_s if progress.cell else max(job.timeout_s, _START_S)
        now = time.monotonic()
        if now - progress.last_event > allowed + slack_s or now - started > job.wall_s:
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_POLL_S)
    return False


def _read_events(events, progress: Progress) -> bool:
    """Take the complete lines that have come since the last call."""
    any_event = False
    while True:
        position = events.tell()
        line = events.readline()
        if not line.endswith("\n"):
            events.seek(position)
            return any_event
        any_event = True
        progress.take(json.loads(line))


def _end(child: subprocess.Popen, groups: Sequence[int], grace_s: float) -> None:
    """SIGTERM to the child's group and its kernels', then SIGKILL to whatever is left."""
    if child.poll() is None:
        _kill_groups([child.pid, *groups], signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    _kill_groups([child.pid, *groups])
    child.wait()
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()


def _kill_groups(groups: Sequence[int], signum: int = signal.SIGKILL) -> None:
    for group in groups:
        try:
            os.killpg(group, signum)
        except (ProcessLookupError, PermissionError):
            continue  # gone already, or (macOS) only a zombie is left
