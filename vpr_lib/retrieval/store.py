"""The file descriptors are written to: a memory map under a key, finished row by row, renamed when it is whole."""

import hashlib
import json
import logging
import os
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xxhash

from vpr_lib.files import atomic_path, content_hashes, publish, reserve, try_lock, use, write_text
from vpr_lib.paths import content_memory

log = logging.getLogger(__name__)
SAVE_EVERY_S = 20.0


OF_THE_LIST = ("images", "contents")  # the parts of a key that say which files; rows may come from another list


class StaleDescriptors(ValueError):
    """A descriptor file that was made from something else than what is asked for now."""


def file_fingerprints(paths: Sequence[str]) -> np.ndarray:
    """int64 (N,) from the bytes of every file; -1 where it is missing. Unchanged files are not read again."""
    found = content_hashes(paths, content_memory())
    use(paths, found)
    return np.array(found, np.int64).reshape(len(paths))


def joint_fingerprints(*columns: np.ndarray) -> np.ndarray:
    """One int64 (N,) for rows that are made from several files each; -1 where one of them is missing."""
    rows = np.stack(columns, 1)
    prints = [xxhash.xxh3_64_intdigest(row.tobytes()) >> 1 for row in np.ascontiguousarray(rows)]
    return np.where((rows < 0).any(1), -1, np.array(prints, np.int64).reshape(len(rows)))


class DescriptorStore:
    """Rows (N, D) of one key; `done` says which are valid, `errors` maps unreadable rows to the reason.

    On disk: `<key>.npy` when whole and `<key>.partial.npy` before, `<key>.npz` with the state of every row, and `<key>.json`
    in words, with the sum of the whole file. Rows of files with the same bytes are taken from files of the same model and
    transform, whatever the names, so that one replaced image alone is described again.

    One process writes a key (`files.try_lock`); another one that does not wait works in a private file without a name.
    """

    def __init__(self, array: np.ndarray, done: np.ndarray, fingerprints: np.ndarray, path: Path | None):
        self.array, self.done, self.fingerprints, self.path = array, done, fingerprints, path
        self.errors: dict[int, str] = {}
        self._saved, self._lock, self._parts = time.monotonic(), None, {}
        self._earlier: list[Path] = []

    @classmethod
    def open(
        cls,
        folder: Path | None,
        parts: dict[str, Any],
        fingerprints: np.ndarray,
        dim: int,
        dtype: type = np.float32,
        wait: bool = False,
    ) -> "DescriptorStore":
        """Open, resume or create the file of this key below `folder`; without a folder, plain memory.

        Args:
            dtype: of the rows.
            wait: until another process that writes this key is done, instead of working beside it.
        Raises:
            StaleDescriptors: if the file names other ingredients or another shape than `parts`. OSError: when the disk has
                no room for all rows.
        """
        n = len(fingerprints)
        if folder is None:
            return cls(np.zeros((n, dim), dtype), np.zeros(n, bool), fingerprints, None)
        parts = parts | ({} if dtype == np.float32 else {"dtype": np.dtype(dtype).name})
        family = {name: value for name, value in parts.items() if name not in OF_THE_LIST}
        content = hashlib.sha256(fingerprints.tobytes()).hexdigest()
        path = Path(folder) / f"{_hash(family)[:10]}-{_hash([parts, content])[:14]}.npy"
        if (array := _read_whole(path, parts, (n, dim))) is not None:
            return cls(array, np.ones(n, bool), fingerprints, path)
        lock = try_lock(path)
        if lock is None and wait:
            log.info("waiting for another process that describes the same images (%s)", path)
            lock = try_lock(path, wait=True)
            if (array := _read_whole(path, parts, (n, dim))) is not None:
                os.close(lock)
                return cls(array, np.ones(n, bool), fingerprints, path)
        array, done = (
            _partial(path, parts, fingerprints, dim) if lock is not None else (_private(path, (n, dim), dtype), None)
        )
        store = cls(
            array, np.zeros(n, bool) if done is None else done, fingerprints, path if lock is not None else None
        )
        store._lock, store._parts = lock, parts
        store._adopt(path)
        return store

    def _adopt(self, path: Path) -> None:
        """Take over the rows of files with the same bytes from what the same model, transform and code described before."""
        bases = {other.name.split(".")[0] for other in path.parent.glob(f"{path.name[:10]}-*.npy")} - {path.stem}
        for base in sorted(bases):
            if self.done.all():
                return
            other = path.with_name(f"{base}.npy")
            array, prints = _rows_of(other, self.array.shape[1])
            if len(array) == 0:
                continue
            order = np.argsort(prints)
            place = order[np.minimum(np.searchsorted(prints[order], self.fingerprints), len(order) - 1)]
            rows = np.flatnonzero((prints[place] == self.fingerprints) & ~self.done & (self.fingerprints >= 0))
            self.array[rows] = array[place[rows]]
            self.done[rows] = True
            about = _load_about(other.with_suffix(".json")) or {}
            if len(rows) and about.get("key", {}).get("images") == self._parts.get("images", ""):
                self._earlier.append(other)  # an earlier state of this very list

    def missing_rows(self) -> list[int]:
        return np.flatnonzero(~self.done).tolist()

    def write(self, rows: np.ndarray, descriptors: np.ndarray) -> None:
        self.array[rows] = descriptors
        self.done[rows] = True
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save_progress()

    def forget_changed(self, fingerprints: np.ndarray) -> list[int]:
        """Rows whose files have other bytes by now than when the store was opened: what was read is unknown, so they count as
        not described."""
        changed = np.flatnonzero(fingerprints != self.fingerprints)
        if len(changed):
            self.done[changed] = False
        return changed.tolist()

    def save_progress(self) -> None:
        """Make everything written so far survive a kill."""
        if self.path is None or self._lock is None:
            return
        self.array.flush()
        with atomic_path(self.path.with_suffix(".npz")) as temporary:
            state = {"done": self.done, "fingerprints": self.fingerprints, "sum": _sum(self.array, self.done)}
            np.savez(temporary, **state)
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Publish a whole file; one with unreadable images stays partial, so that mended ones are described later."""
        self.save_progress()
        if self.path is not None and self._lock is not None and self.done.all():
            partial = self.path.with_suffix(".partial.npy")
            about = _about(self._parts, self.array.shape) | {"sum": content_hashes([partial])[0]}
            write_text(self.path.with_suffix(".json"), json.dumps(about, indent=1))
            publish(partial, self.path)
            use([self.path], [about["sum"]])
            for path in self._earlier:
                _remove(path)
        self.close()

    def close(self) -> None:
        """Let others write this key; what is not saved is described again."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> "DescriptorStore":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _about(parts: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    return {"key": parts, "shape": list(shape), "dtype": parts.get("dtype", "float32")}


def _read_whole(path: Path, parts: dict[str, Any], shape: tuple[int, int]) -> np.ndarray | None:
    """The finished file of a key, or None where there is none or it is damaged (then it is removed, and said)."""
    if not path.is_file():
        return None
    about = _load_about(path.with_suffix(".json"))
    if about is not None:
        _check(path, about, parts, shape)
        use([path], [about.get("sum", -1)])
    if about is not None and _is_sound(path) and _load_state(path.with_suffix(".npz")) is not None:
        return np.load(path, mmap_mode="r")
    log.warning("%s or its companions were damaged or changed since they were written: described again", path)
    _remove(path)
    return None


def _remove(path: Path) -> None:
    for suffix in (".npy", ".partial.npy", ".npz", ".json"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def _rows_of(path: Path, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows (n, D) that are done in a finished or unfinished file, and the fingerprints of their files; n = 0 where
    there is nothing that can be believed."""
    state, nothing = _load_state(path.with_suffix(".npz")), (np.zeros((0, dim), np.float32), np.zeros(0, np.int64))
    whole = path.is_file()
    file = path if whole else path.with_suffix(".partial.npy")
    if state is None or (whole and not _is_sound(path)):
        return nothing
    try:
        array = np.load(file, mmap_mode="r")
    except (OSError, ValueError):
        return nothing
    if array.shape != (len(state["done"]), dim) or (not whole and _sum(array, state["done"]) != state["sum"]):
        return nothing
    return (array, state["fingerprints"]) if state["done"].all() else (
        array[state["done"]], state["fingerprints"][state["done"]]
    )  # fmt: skip


def _sum(array: np.ndarray, done: np.ndarray) -> int:
    """xxh3 of the rows that are done."""
    digest = xxhash.xxh3_64()
    for start in range(0, len(array), 65_536):
        rows = array[start : start + 65_536]
        digest.update(np.ascontiguousarray(rows[done[start : start + 65_536]]).data)
    return digest.intdigest() >> 1


def _is_sound(path: Path) -> bool:
    """Whether a finished file still holds the bytes that were written."""
    about = _load_about(path.with_suffix(".json"))
    return about is not None and about.get("sum") == content_hashes([path], content_memory())[0]


def _load_about(path: Path) -> dict[str, Any] | None:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None


def _load_state(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as state:
            return {name: state[name] for name in ("done", "fingerprints", "sum")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _partial(path: Path, parts: dict[str, Any], fingerprints: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """The unfinished file of a key, with the rows that are done in it; a new one where there is none that can be used."""
    partial, shape = path.with_suffix(".partial.npy"), (len(fingerprints), dim)
    state, about = _load_state(path.with_suffix(".npz")), _load_about(path.with_suffix(".json"))
    if partial.is_file() and state is not None and about is not None:
        _check(path, about, parts, shape)
        try:
            array = np.lib.format.open_memmap(partial, mode="r+")
        except (OSError, ValueError):
            array = None
        sound = array is not None and array.shape == shape and len(state["done"]) == len(fingerprints)
        if sound and _sum(array, state["done"]) == state["sum"]:
            return array, state["done"]
    if partial.is_file() and path.with_suffix(".npz").is_file():
        log.warning("%s or its companions were damaged or changed since they were written: described again", partial)
    path.with_suffix(".npz").unlink(missing_ok=True)
    write_text(path.with_suffix(".json"), json.dumps(_about(parts, shape), indent=1))
    return _new_map(partial, shape, parts.get("dtype", np.float32)), np.zeros(len(fingerprints), bool)


def _new_map(path: Path, shape: tuple[int, int], dtype: Any) -> np.ndarray:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    try:
        reserve(path, path.stat().st_size)
    except OSError:
        path.unlink()
        raise
    return array


def _private(path: Path, shape: tuple[int, int], dtype: Any) -> np.ndarray:
    """A map in a file that has no name any more: gone with the process, whatever ends it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".private.", suffix=".npy")
    os.close(handle)
    try:
        return _new_map(Path(name), shape, dtype)
    finally:
        Path(name).unlink(missing_ok=True)


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
