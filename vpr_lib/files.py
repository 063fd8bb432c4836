"""Every file the package writes goes through here: whole or not at all, one writer at a time, known by its content."""

import errno
import fcntl
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from threading import Event

log = logging.getLogger(__name__)
_CHUNK = 2**22  # bytes read at a time
_SAVED = 500  # files hashed between two entries into the memory
_ASKED = 500  # files that the memory is asked for at a time; SQLite takes 999 values
PARQUET_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    NotImplementedError,
)  # what pyarrow raises for a damaged file
_SEAL = ".sum"  # in a folder: over the names and the content of all files below
_GRAIN_NS = 3 * 10**9  # a file changed this lately may change again under the same times (FAT counts in steps of 2 s)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a private hidden sibling of `path`; on success rename it over `path`, on an exception remove it.

    A reader sees the old file or the whole new one, whatever kills the writer: the bytes are on the disk (fsync) before the
    name is, so that a power cut leaves no empty file under a good name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:100]}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; others of the group read ours
        publish(temporary, path)
    except OSError as error:
        if error.filename is None and error.errno:  # of a full disk, which names no file
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Rename a whole file over `path` once its bytes, and then its name, are on the disk."""
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def publish_folder(temporary: Path, folder: Path) -> None:
    """Rename a whole folder into its place, where nothing is yet, once all its files are on the disk."""
    os.sync()  # one call for thousands of files
    os.rename(temporary, folder)
    _sync(folder.parent)


def write_text(path: Path, text: str) -> Path:
    """Write `text` to `path` atomically and return the path."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


@contextmanager
def locked(path: Path, doing: str = "", until: Event | None = None) -> Iterator[None]:
    """Be the only process that makes `path` (a file or a folder); others wait, and say so once.

    The lock is the hidden sibling `.<name>.lock`. The kernel gives it back when its holder dies, however it dies.

    Args:
        doing: what the other process is probably doing, for the message of the one that waits.
        until: ends the waiting when it is set; the block is then entered without the lock.
    """
    lock = try_lock(path)
    if lock is None:
        log.info("waiting for another process%s (%s)", f" that is {doing}" if doing else "", path)
        while until and lock is None and not until.wait(0.5):
            lock = try_lock(path)
        lock = lock if until else try_lock(path, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def try_lock(path: Path, wait: bool = False) -> int | None:
    """The lock of `path` as an open file handle (close it to give it back), or None while another holds it.

    Where a file system has no locks, nobody is kept out: private partial files keep writers apart there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.parent / f".{path.name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return handle
        os.close(handle)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return handle


def reserve(path: Path, size: int) -> None:
    """Make sure of `size` bytes on the disk for a file that is about to be mapped into memory.

    Writing to a map on a full disk kills the process (SIGBUS); asked for now, it is an error that can be told.

    Raises:
        OSError: when the disk has no room for it.
    """
    handle = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot promise
            raise OSError(error.errno, f"{os.strerror(error.errno)}: {size:,} bytes are needed", str(path)) from error
    finally:
        os.close(handle)


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder whose name fits, sorted; hidden ones, as a killed writer leaves them, are not."""
    files = (path for path in Path(folder).rglob(pattern) if path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def content_hashes(paths: Sequence[str | Path], memory: Path | None = None) -> list[int]:
    """xxh3 of the bytes of every file, or of the visible names in a folder, 63 bits; -1 where there is none.

    Args:
        memory: a file that remembers what was hashed, by device, inode, size and both times: unchanged files are not
            read again. One that changed within the last seconds is not remembered.
    Raises:
        OSError: when the process has too many open files (that says nothing about the file).
    """
    stats = [_stat(path) for path in paths]
    known = _recall(memory, [s for s in stats if s is not None])
    fresh = [row for row, s in enumerate(stats) if s is not None and s not in known]
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool:  # xxh3 and reading let go of Python's lock
        for start in range(0, len(fresh), _SAVED):
            rows = fresh[start : start + _SAVED]
            found = dict(zip((stats[row] for row in rows), pool.map(_hash, (paths[row] for row in rows))))
            known |= found
            settled = time.time_ns() - _GRAIN_NS
            _remember(memory, {s: value for s, value in found.items() if value >= 0 and max(s[-2:]) < settled})
    return [-1 if s is None else known[s] for s in stats]


def seal(folder: Path) -> None:
    """Write down which files a folder holds, and their content: see `check_seal`."""
    write_text(folder / _SEAL, _names_and_contents(folder, None))


@cache
def check_seal(folder: Path, memory: Path | None = None) -> None:
    """Once per process: a sealed folder must hold what it was sealed with; one that never was is taken as it is.

    Args:
        memory: as in `content_hashes`.
    Raises:
        ValueError: when files came, went or changed.
    """
    if (folder / _SEAL).is_file() and (folder / _SEAL).read_text() != _names_and_contents(folder, memory):
        raise ValueError(
            f"{folder}: files came, went or changed since it was made. Remove the folder, and it is made again."
        )


def _names_and_contents(folder: Path, memory: Path | None) -> str:
    files = visible_files(folder, "*")
    text = f"{[path.relative_to(folder).as_posix() for path in files]} {content_hashes(files, memory)}"
    return sha256(text.encode()).hexdigest()


_used: dict[str, int | None] = {}  # absolute path -> what it hashed to when it was used; None: not known yet


def use(paths: Sequence[str | Path], hashes: Sequence[int] | None = None) -> None:
    """Remember that what this process computes rests on these files, and on which names are in these folders.

    Args:
        hashes: their `content_hashes`, where they are known already; -1 is no file.
    """
    _used.update(zip(map(os.path.abspath, paths), hashes if hashes is not None else [None] * len(paths)))


def forget_used() -> None:
    """Begin anew: what was used before belongs to something else."""
    _used.clear()


def used_files(memory: Path | None = None) -> dict[str, int]:
    """The files that were used and are still there, by absolute path, with what they hashed to.

    Args:
        memory: as in `content_hashes`.
    """
    unknown = [path for path, value in _used.items() if value is None]
    found = _used | dict(zip(unknown, content_hashes(unknown, memory)))
    return {path: value for path, value in found.items() if value is not None and value >= 0 and os.path.exists(path)}


def _stat(path: str | Path) -> tuple[int, ...] | None:
    try:
        s = os.stat(path)
    except OSError:
        return None
    return (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)


def _hash(path: str | Path) -> int:
    import xxhash

    digest = xxhash.xxh3_64()
    try:
        if os.path.isdir(path):
            names = sorted(name for name in os.listdir(path) if not name.startswith("."))
            return xxhash.xxh3_64_intdigest(os.fsencode("/".join(names))) >> 1
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return -1
    return digest.intdigest() >> 1


def _key(stat: tuple[int, ...]) -> str:
    return " ".join(map(str, stat))


def _table(memory: Path) -> closing[sqlite3.Connection]:
    memory.parent.mkdir(parents=True, exist_ok=True)
    table = sqlite3.connect(memory, timeout=20)
    table.execute("CREATE TABLE IF NOT EXISTS content (file TEXT PRIMARY KEY, hash INTEGER) WITHOUT ROWID")
    return closing(table)


def _recall(memory: Path | None, stats: list[tuple[int, ...]]) -> dict[tuple[int, ...], int]:
    known: dict[tuple[int, ...], int] = {}
    if memory is None or not memory.is_file():
        return known
    try:
        with _table(memory) as table:
            for start in range(0, len(stats), _ASKED):
                asked = {_key(stat): stat for stat in stats[start : start + _ASKED]}
                places = ",".join("?" * len(asked))
                rows = table.execute(f"SELECT file, hash FROM content WHERE file IN ({places})", list(asked))
                known |= {asked[key]: value for key, value in rows}
    except (sqlite3.Error, OSError) as error:
        log.warning("%s cannot be read (%s): all files are hashed again. Remove it if that goes on.", memory, error)
    return known


def _remember(memory: Path | None, found: dict[tuple[int, ...], int]) -> None:
    if memory is None:
        return
    try:
        with _table(memory) as table:
            table.executemany("INSERT OR REPLACE INTO content VALUES (?, ?)", [(_key(s), v) for s, v in found.items()])
            table.commit()
    except (sqlite3.Error, OSError) as error:
        log.warning("%s cannot be written (%s): the files will be hashed again.", memory, error)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # a file system that cannot
            raise
    finally:
        os.close(handle)
