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


class ProgressLine:
    """One live line with a count, the time left and a few values; a log line every ten seconds without a terminal."""

    def __init__(self, description: str, total: int, quiet: bool = False):
        self.description, self.total, self.quiet = description, total, quiet
        self._start = self._last = time.monotonic()
        self._first: int | None = None
        self._bar = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=description, leave=False, dynamic_ncols=True)

    def update(self, count: int, values: dict[str, str]) -> None:
        """Show that `count` of `total` are done."""
        if self._first is None:
            self._first = count - 1
        if self._bar is not None:
            self._bar.n = count
            self._bar.set_postfix(values)
        elif not self.quiet and (now := time.monotonic()) - self._last > 10:
            self._last = now
            left = (self.total - count) * (now - self._start) / (count - self._first)
            words = ", ".join(f"{name} {value}" for name, value in values.items())
            print(f"{self.description}: {count}/{self.total}, {words}, {left:.0f} s left", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
