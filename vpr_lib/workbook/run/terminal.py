"""Live progress in the terminal: one line per notebook; plain lines where the output is not a terminal."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from vpr_lib.workbook.run.process import Progress
from vpr_lib.workbook.run.status import BROKEN, GREENS, SYMBOLS, NotebookStatus, RunStatus, Status

_STYLES = {Status.RUNNING: "bold cyan", Status.BLOCKED: "yellow", Status.INVALID: "bold red"}
_STYLES |= dict.fromkeys(GREENS, "green") | dict.fromkeys(BROKEN, "bold red")


def duration(seconds: float | None) -> str:
    """'0:07', '12:30' or '3:02:10'; an empty string for None."""
    if seconds is None:
        return ""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def brief(seconds: float) -> str:
    """'2.31 s' or '231.0 ms'."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _gist(line: NotebookStatus) -> str:
    return line.headline or line.reason.partition("\n")[0]


class Display:
    """What shows the progress of a run; this one shows nothing."""

    @contextmanager
    def live(self, status: RunStatus, selected: Sequence[str]) -> Iterator[None]:
        """Show the run while the block lasts."""
        yield

    def update(self, line: NotebookStatus) -> None:
        """A notebook changed its status."""

    def cell(self, name: str, progress: Progress) -> None:
        """A notebook started or finished a cell."""


class PlainDisplay(Display):
    """A line when a notebook starts and ends, and at most every 30 seconds in between; for logs and pipes."""

    def __init__(self, stream: TextIO | None = None, every_s: float = 30.0):
        self.stream, self.every_s = stream or sys.stdout, every_s
        self.shown: dict[str, Status] = {}
        self.started: dict[str, float] = {}
        self.spoken: dict[str, float] = {}

    def update(self, line: NotebookStatus) -> None:
        if self.shown.get(line.name) == line.status or line.status in {Status.PENDING, Status.SKIPPED}:
            return
        self.shown[line.name] = line.status
        if line.status == Status.RUNNING:
            self.started[line.name] = self.spoken[line.name] = time.monotonic()
            note = f"expected {duration(60 * line.minutes)}" if line.minutes else ""
        else:
            took = duration(line.seconds) if line.status != Status.RESUMED else ""
            note = "  ".join(part for part in (took, _gist(line)) if part)
        print(f"{SYMBOLS[line.status]} {line.name}  {line.status}  {note}".rstrip(), file=self.stream, flush=True)

    def cell(self, name: str, progress: Progress) -> None:
        if (now := time.monotonic()) - self.spoken.setdefault(name, now) >= self.every_s:
            self.spoken[name] = now
            where = f"cell {progress.cell}/{progress.cells}"
            print(f"  {name}  {where}  {duration(now - self.started.get(name, now))}", file=self.stream, flush=True)


class LiveDisplay(Display):
    """A table that is drawn over itself four times a second."""

    def __init__(self, console=None):
        from rich.console import Console

        self.console = console or Console()
        self.lines: dict[str, NotebookStatus] = {}
        self.progress: dict[str, Progress] = {}
        self.started: dict[str, float] = {}

    @contextmanager
    def live(self, status: RunStatus, selected: Sequence[str]) -> Iterator[None]:
        from rich.live import Live

        self.lines = {line.name: line for line in status.notebooks if line.name in selected}
        with Live(get_renderable=self.table, console=self.console, refresh_per_second=4):
            yield

    def update(self, line: NotebookStatus) -> None:
        if line.name in self.lines:
            self.lines[line.name] = line
        if line.status == Status.RUNNING:
            self.started[line.name] = time.monotonic()

    def cell(self, name: str, progress: Progress) -> None:
        self.progress[name] = progress

    def table(self):
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1))
        for line in self.lines.values():
            style = _STYLES.get(line.status, "dim")
            label = Text(f"{SYMBOLS[line.status]} {line.status}", style=style)
            table.add_row(
                label,
                line.name,
                self._time(line),
                Text(self._note(line), style="dim", no_wrap=True, overflow="ellipsis"),
            )
        return table

    def _time(self, line: NotebookStatus) -> str:
        expected = f" / {duration(60 * line.minutes)}" if line.minutes else ""
        if line.status == Status.RUNNING:
            return duration(time.monotonic() - self.started.get(line.name, time.monotonic())) + expected
        return duration(line.seconds) + expected if line.seconds and line.status != Status.RESUMED else ""

    def _note(self, line: NotebookStatus) -> str:
        progress = self.progress.get(line.name)
        if line.status == Status.RUNNING and progress and progress.cell:
            return f"cell {progress.cell}/{progress.cells}  {progress.line}"
        return _gist(line)


def print_status(status: RunStatus) -> None:
    """The state of a run as a table."""
    from rich.console import Console

    took = f", exit code {status.exit_code}" if status.exit_code is not None else ""
    console, table = Console(), LiveDisplay()
    console.print(
        f"{status.run_id}: {status.state}{took}, profile {status.profile}, {status.device}, source {status.git}"
    )
    table.lines = {line.name: line for line in status.notebooks}
    console.print(table.table())


def choose_display() -> Display:
    """The live table on a terminal, plain lines elsewhere."""
    return LiveDisplay() if sys.stdout.isatty() else PlainDisplay()
