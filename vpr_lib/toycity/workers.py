"""Rendering in several processes.

Workers are plain child processes that read "first last" lines and answer one line each: they do not import the caller's
main module (so notebooks and scripts without a guard work), never fork a process that holds threads, and end when their
caller dies, because their standard input closes.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from vpr_lib.toycity.city import ToyCitySpec

_CHUNK = 16  # frames per request; neighbours share a street
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def render_in_workers(spec: ToyCitySpec, subset: str, folder: Path, count: int, workers: int) -> Iterator[None]:
    """Render the `count` frames of a subset into `folder`; yields once per frame.

    Raises:
        RuntimeError: with the worker's traceback, if one fails.
    """
    chunks: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for first in range(0, count, _CHUNK):
        chunks.put((first, min(first + _CHUNK, count)))
    answers: queue.SimpleQueue[int | str] = queue.SimpleQueue()
    processes = [_start(spec, subset, folder) for _ in range(workers)]
    try:
        for process in processes:
            threading.Thread(target=_feed, args=(process, chunks, answers), daemon=True).start()
        done = 0
        while done < count:
            answer = answers.get()
            if isinstance(answer, str):
                raise RuntimeError(f"A worker of the toy city failed.\n{answer}")
            done += answer
            yield from [None] * answer
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _start(spec: ToyCitySpec, subset: str, folder: Path) -> subprocess.Popen:
    package_root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", f"{__package__}.worker", json.dumps(asdict(spec)), subset, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path})  # fmt: skip


def _feed(process: subprocess.Popen, chunks: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
    """Hand chunks to one worker until none is left; report frames done, or what went wrong."""
    while True:
        try:
            first, last = chunks.get_nowait()
        except queue.Empty:
            return
        try:
            process.stdin.write(f"{first} {last}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except (OSError, ValueError) as error:
            answer = json.dumps(repr(error))
        result = json.loads(answer) if answer else f"It ended while rendering frames {first} to {last - 1}."
        answers.put(result)
        if isinstance(result, str):
            return
