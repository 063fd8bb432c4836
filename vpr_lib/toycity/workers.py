"""Rendering in several processes, by joblib's loky: its workers do not import the caller's main module, so notebooks and
scripts without a guard work, and never are forks of a process that holds threads.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

_CHUNK = 16  # frames per request; neighbours share a street


def in_workers(task: Callable[[Any], None], items: Sequence[Any], workers: int) -> Iterator[None]:
    """Do `task` on every item in so many processes; yields once per item. The processes end with the work.

    Raises:
        RuntimeError: if one fails, with its reason; the traceback is its cause.
    """
    chunks = [items[first : first + _CHUNK] for first in range(0, len(items), _CHUNK)]
    parallel = Parallel(workers, return_as="generator_unordered", batch_size=1)
    try:
        for done in parallel(delayed(_each)(task, chunk) for chunk in chunks):
            yield from [None] * done
    except Exception as error:
        raise RuntimeError(f"A worker of the toy city failed: {type(error).__name__}: {error}") from error
    finally:
        get_reusable_executor().shutdown(kill_workers=True)


def _each(task: Callable[[Any], None], items: Sequence[Any]) -> int:
    for item in items:
        task(item)
    return len(items)
