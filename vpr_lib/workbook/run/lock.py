"""Who may use the project's runs: plain runs side by side, or one night alone."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from vpr_lib import paths
from vpr_lib.workbook.run import status as state
from vpr_lib.workbook.run.plan import UsageError

_log = logging.getLogger(__name__)


class Overlap(UsageError):
    """A night is at work, or a plain run in the way of a night."""


@contextmanager
def night_lock() -> Iterator[str]:
    """Hold the project's lock alone, for one machine has one night at a time; yields who died holding it, or ''.

    The kernel gives the lock back when its holder dies, however it dies: a stale one cannot lock anybody out.

    Raises:
        Overlap: while another night or a plain run is at work.
    """
    with _opened() as stream:
        if not _locked(stream, fcntl.LOCK_EX):
            plain = _locked(stream, fcntl.LOCK_SH)  # shared with plain runs; a night shares with nobody
            who = f"another run of the workbook is still at work ({_running()}" if plain else _night(stream)
            raise Overlap(f"{who}; lock {stream.name}). Wait for it, or end that process.")
        stream.seek(0)
        dead = stream.read().strip()
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {os.uname().nodename} since {state.now()}")
        stream.flush()
        if dead:
            _log.warning("took over the nightly lock of a run that died: %s", dead)
        try:
            yield dead
        finally:
            stream.truncate(0)


@contextmanager
def run_lock() -> Iterator[None]:
    """Share the project's lock with other plain runs; while it is held, no night starts.

    Raises:
        Overlap: while a night is at work: it compares what the runs folder and the figures hold.
    """
    with _opened() as stream:
        if not _locked(stream, fcntl.LOCK_SH):
            raise Overlap(
                f"{_night(stream)}; lock {stream.name}), and a run beside it would spoil its times and its comparison. Wait for it, "
                "or end that process."
            )
        yield


def _locked(stream: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opened() -> TextIO:
    path = paths.runs_root() / ".nightly.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+", encoding="utf-8")


def _night(stream: TextIO) -> str:
    stream.seek(0)
    return f"another nightly run is still at work ({stream.read().strip() or 'it has not told its name'}"


def _running() -> str:
    """The runs whose status says so: id and process."""
    running = []
    for path in sorted(paths.runs_root().glob("*/status.json")):
        try:
            status = state.read_status(path.parent)
        except (ValueError, FileNotFoundError):
            continue
        if not path.parent.is_symlink() and status.state == "running":
            running.append(f"{status.run_id}, process {status.runner_pid}")
    return "; ".join(running) or "it has not told its name"
