"""Progress that reads well in a terminal, in a notebook and in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str, total: int | None = None, quiet: bool = False) -> Iterator[Item]:
    """Iterate with a progress bar on a terminal; without one, log a line at most every ten seconds."""
    if quiet:
        yield from items
        return
    total = total if total is not None else len(items) if hasattr(items, "__len__") else None
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=description, total=total, leave=False, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if (now := time.monotonic()) - last > 10:
            last = now
            rate = count / (now - start)
            goal = f"/{total}, {(total - count) / rate:.0f} s left" if total else ""
            print(f"{description}: {count}{goal} ({rate:.1f} per s)", file=sys.stderr, flush=True)
