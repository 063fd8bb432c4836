"""The child process that executes one notebook with papermill: `python -m vpr_lib.workbook.run.execute < job`.

The job is one line of JSON on standard input. Standard input stays open while the runner lives: its end means that the
runner is gone, and then the kernel must not go on alone. Progress goes as JSON lines to the job's events file, the
cells' output to its log. The exit code names the class of failure (EXITS); the runner decides what is green.
"""

import json
import os
import re
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from vpr_lib.paths import write_text

EXITS = {"ok": 0, "error": 1, "timeout": 3, "dead": 4, "broken": 5}
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")  # what a progress bar painted over
_kernel_group: list[int] = []


@contextmanager
def without_heavy_imports() -> Iterator[None]:
    """Hide two optional packages while papermill or nbconvert is imported: they cost more than running a small notebook.

    `rfc3987_syntax` (JSON-schema's check of IRIs) builds a grammar for 1.6 s; `pyarrow` serves papermill's HDFS paths.
    """
    hidden = [name for name in ("rfc3987_syntax", "pyarrow") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


class Journal:
    """The events file and the log of one notebook."""

    def __init__(self, events: Path, log: Path):
        self.events: TextIO = events.open("a", encoding="utf-8", buffering=1)
        self.log: TextIO = log.open("a", encoding="utf-8", buffering=1, errors="replace")

    def event(self, name: str, **values: Any) -> None:
        self.events.write(json.dumps({"event": name, "time": time.time(), **values}) + "\n")

    def text(self, text: str) -> None:
        self.log.write(_OVERWRITTEN.sub("", _ANSI.sub("", text)))


def _watch_runner(stdin: TextIO, sockets: Path) -> None:
    stdin.read()  # returns at end of file: the runner closed the pipe or died
    for group in _kernel_group:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue
    shutil.rmtree(sockets, ignore_errors=True)
    os._exit(143)


def _own_kernelspec(folder: Path) -> None:
    """Let `python3` mean the interpreter that runs this, whatever kernels the user has installed under that name."""
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    write_text(folder / "kernels" / "python3" / "kernel.json", json.dumps(spec))
    others = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = str(folder) + (os.pathsep + others if others else "")


def _client(journal: Journal, sockets: str) -> type:
    """A papermill client that reports the kernel's process and every cell as it starts and ends."""
    from papermill.clientwrap import PapermillNotebookClient

    class Client(PapermillNotebookClient):
        process, count, total = None, 0, 0

        def create_kernel_manager(self):
            # Ports are chosen free and bound a second later: of two kernels that start side by side one may die of it.
            manager = super().create_kernel_manager()
            if len(os.fsencode(sockets)) < 90:  # a socket's path, with a number behind it, has 103 bytes or more
                manager.transport, manager.ip = "ipc", sockets
            return manager

        def start_new_kernel(self, **kwargs):
            super().start_new_kernel(**kwargs)
            self.process = getattr(self.km.provisioner, "process", None)
            if self.process:
                _kernel_group.append(os.getpgid(self.process.pid))
                journal.event("kernel", pid=self.process.pid, group=_kernel_group[-1])

        def execute_cell(self, cell, cell_index, **kwargs):
            if cell.cell_type != "code" or not cell.source.strip():
                return super().execute_cell(cell, cell_index, **kwargs)
            self.count += 1
            line = cell.source.strip().splitlines()[0]
            journal.event("cell", number=self.count, line=line[:80])
            journal.text(f"\n── cell {self.count} of {self.total}: {line}\n")
            result = super().execute_cell(cell, cell_index, **kwargs)
            journal.event("cell_done", number=self.count)
            return result

        def log_output_message(self, output):
            if output.output_type == "stream":
                journal.text("".join(output.text))
            elif output.output_type == "error":
                journal.text("\n".join(output.traceback) + "\n")
            elif "data" in output and "text/plain" in output.data:
                journal.text("".join(output.data["text/plain"]) + "\n")

    return Client


def _register_engine(Client: type, journal: Journal) -> None:
    """Let papermill execute with this client; a kernel that dies before it answers has run nothing: it is started once more."""
    from papermill.engines import NBClientEngine, papermill_engines

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, *, execution_timeout, start_timeout, **kwargs):
            limits = {"timeout": execution_timeout, "startup_timeout": start_timeout, "iopub_timeout": 60}
            limits["shutdown_kernel"] = "immediate"  # asked kindly, one that holds torch takes three seconds to go
            for last in (False, True):
                client = Client(nb_man, kernel_name=kernel_name, log_output=True, **limits)
                client.total = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in nb_man.nb.cells)
                journal.event("start", cells=client.total)
                try:
                    return client.execute()
                except RuntimeError as error:  # of jupyter_client, while it waits for the kernel's first answer
                    if last or client.count:
                        raise
                    journal.text(f"{error}; it is started once more\n")
                finally:
                    journal.event("kernel_end", returncode=client.process.poll() if client.process else None)

    papermill_engines.register("vpr", Engine)


def _tail(error: Any) -> list[str]:
    """The last lines of a traceback, without its decoration and without the message, which is told anyway."""
    lines = [line for line in _ANSI.sub("", "\n".join(error.traceback)).splitlines() if line.strip(" -")]
    lines = [line for line in lines if not line.endswith("Traceback (most recent call last)")]
    return [line for line in lines if line != f"{error.ename}: {error.evalue}"][-6:]


def _describe(error: BaseException) -> tuple[str, dict[str, Any]]:
    """The class of failure and what the runner should say about it."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    if isinstance(error, PapermillExecutionError):
        return "error", {"ename": error.ename, "evalue": error.evalue, "tail": _tail(error)}
    if isinstance(error, CellTimeoutError):
        return "timeout", {"ename": "CellTimeoutError", "evalue": str(error).splitlines()[0], "tail": []}
    if isinstance(error, DeadKernelError):
        return "dead", {"ename": "DeadKernelError", "evalue": str(error), "tail": []}
    return "broken", {"ename": type(error).__name__, "evalue": str(error), "tail": []}


def execute(job: dict[str, Any], journal: Journal) -> str:
    """Run one job; returns the class of failure, 'ok' for none."""
    import papermill

    _register_engine(_client(journal, job["sockets"]), journal)
    braces = str.maketrans({"{": "{{", "}": "}}"})  # papermill formats its paths
    try:
        papermill.execute_notebook(
            job["source"].translate(braces),
            job["output"].translate(braces),
            parameters=job["parameters"],
            engine_name="vpr",
            kernel_name="python3",
            cwd=job["cwd"],
            progress_bar=False,
            start_timeout=180,
            execution_timeout=job["timeout_s"],
        )
    except Exception as error:
        kind, facts = _describe(error)
        if facts["ename"] == "Stopped":  # of book.stop: the notebook's own end, proved by its sentinel
            return "ok"
        journal.text(f"\n{type(error).__name__}: {error}\n" if kind != "error" else "")
        journal.event("failure", kind=kind, **facts)
        return kind
    return "ok"


def main() -> None:
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_watch_runner, args=(sys.stdin, Path(job["sockets"]).parent), daemon=True).start()
    journal = Journal(Path(job["events"]), Path(job["log"]))
    _own_kernelspec(Path(job["jupyter"]))
    with without_heavy_imports():  # papermill is imported on the way
        kind = execute(job, journal)
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    journal.event("end", kind=kind, peak_memory_bytes=used)
    os._exit(EXITS[kind])  # the watching thread sits in read(); nothing is left to flush


if __name__ == "__main__":
    main()
