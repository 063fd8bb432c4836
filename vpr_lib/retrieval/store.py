"""The file descriptors are written to: a memory map under a key, finished row by row, renamed when it is whole."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vpr_lib.paths import atomic_path, write_text

SAVE_EVERY_S = 20.0


class StaleDescriptors(ValueError):
    """A descriptor file that was made from something else than what is asked for now."""


def file_fingerprints(paths: list[str]) -> np.ndarray:
    """int64 (N,) from size and modification time; -1 where the file is missing. A replaced image changes its number."""
    prints = np.full(len(paths), -1, np.int64)
    for row, path in enumerate(paths):
        try:
            status = os.stat(path)
        except OSError:
            continue
        digest = hashlib.blake2b(f"{status.st_size} {status.st_mtime_ns}".encode(), digest_size=8).digest()
        prints[row] = int.from_bytes(digest, "little") >> 1
    return prints


class DescriptorStore:
    """Rows (N, D) of one key; `done` says which are valid, `errors` maps unreadable rows to the reason.

    On disk: `<key>.npy` when whole and `<key>.partial.npy` before, `<key>.npz` with the state of every row, and
    `<key>.json` in words. Rows whose image file changed since are described again, all others are kept.
    """

    def __init__(self, array: np.ndarray, done: np.ndarray, fingerprints: np.ndarray, path: Path | None):
        self.array, self.done, self.fingerprints, self.path = array, done, fingerprints, path
        self.errors: dict[int, str] = {}
        self._saved = time.monotonic()

    @classmethod
    def open(
        cls, folder: Path | None, parts: dict[str, Any], fingerprints: np.ndarray, dim: int, dtype: type = np.float32
    ) -> "DescriptorStore":
        """Open, resume or create the file of this key below `folder`; without a folder, plain memory.

        Raises:
            StaleDescriptors: if the file names other ingredients or another shape than `parts`.
        """
        n = len(fingerprints)
        if folder is None:
            return cls(np.zeros((n, dim), dtype), np.zeros(n, bool), fingerprints, None)
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
        path = Path(folder) / f"{key}.npy"
        partial, about = path.with_suffix(".partial.npy"), path.with_suffix(".json")
        done = np.zeros(n, bool)
        if about.is_file() and path.with_suffix(".npz").is_file() and (path.is_file() or partial.is_file()):
            _check(path, json.loads(about.read_text()), parts, (n, dim))
            with np.load(path.with_suffix(".npz")) as state:
                done = state["done"] & (state["fingerprints"] == fingerprints)
            if path.is_file():
                if done.all():
                    return cls(np.load(path, mmap_mode="r"), done, fingerprints, path)
                os.replace(path, partial)
            return cls(np.lib.format.open_memmap(partial, mode="r+"), done, fingerprints, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=(n, dim))
        write_text(about, json.dumps({"key": parts, "shape": [n, dim], "dtype": np.dtype(dtype).name}, indent=1))
        return cls(array, done, fingerprints, path)

    def missing_rows(self) -> list[int]:
        return np.flatnonzero(~self.done).tolist()

    def write(self, rows: np.ndarray, descriptors: np.ndarray) -> None:
        self.array[rows] = descriptors
        self.done[rows] = True
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save_progress()

    def save_progress(self) -> None:
        """Make everything written so far survive a kill."""
        if self.path is None:
            return
        self.array.flush()
        with atomic_path(self.path.with_suffix(".npz")) as temporary:
            np.savez(temporary, done=self.done, fingerprints=self.fingerprints)
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Publish a whole file; one with unreadable images stays partial, so that mended ones are described later."""
        self.save_progress()
        if self.path is not None and self.done.all():
            os.replace(self.path.with_suffix(".partial.npy"), self.path)


class Shards:
    """Descriptor files (.npy) one after the other as one database (N, D), memory-mapped: `search` streams through them.

    Reads slices and arrays of rows, float32 (n, D).

    Raises:
        ValueError: for no file, one that holds no table, or tables of different widths.
    """

    def __init__(self, files: Sequence[Path]):
        self.arrays = [np.load(file, mmap_mode="r") for file in files]
        widths = {array.shape[1:] for array in self.arrays}
        if len(widths) != 1 or len(next(iter(widths))) != 1:
            shapes = ", ".join(f"{file}: {array.shape}" for file, array in zip(files, self.arrays))
            raise ValueError(f"Shards are one or more (N, D) arrays of the same width D, got {shapes or 'none'}.")
        self.starts = np.cumsum([0, *(len(array) for array in self.arrays)])
        self.shape = (int(self.starts[-1]), self.arrays[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            first, last, _ = rows.indices(len(self))
            inside = [array[max(0, first - s) : max(0, last - s)] for s, array in zip(self.starts, self.arrays)]
            inside = [part for part in inside if len(part)]
            return (
                inside[0] if len(inside) == 1 else np.concatenate([np.zeros((0, self.shape[1]), np.float32), *inside])
            )
        found, shard = np.empty((len(rows), self.shape[1]), np.float32), np.searchsorted(self.starts, rows, "right") - 1
        for number in np.unique(shard):
            found[shard == number] = self.arrays[number][rows[shard == number] - self.starts[number]]
        return found


def _check(path: Path, about: dict[str, Any], parts: dict[str, Any], shape: tuple[int, int]) -> None:
    differing = [name for name in parts if about.get("key", {}).get(name) != parts[name]]
    differing += [] if about.get("shape") == list(shape) else ["shape"]
    if differing:
        raise StaleDescriptors(
            f"{path} says it was made with another {', '.join(differing)}; remove it and its "
            "companions to describe again."
        )
