"""Archives from outside, unpacked without trusting them: no paths that lead out, no links, no bombs, all or nothing."""

import errno
import io
import lzma
import shutil
import stat
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MOST_FILES = 10_000_000
RATIO = 20  # pictures hardly shrink: an archive that grows twentyfold holds something else
FLOOR_BYTES = 1 << 30
IGNORED = ("__MACOSX", ".DS_Store")
BLOCK = 1 << 20
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, RuntimeError,
          NotImplementedError, UnicodeError)  # fmt: skip
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)  # the disk, not the archive


class ArchiveError(ValueError):
    """An archive that is damaged or must not be unpacked; nothing of it is left on disk."""


@dataclass(frozen=True)
class Member:
    """One file of an archive."""

    path: PurePosixPath
    size: int
    source: object  # what the archive knows it by


def unpack(archive: Path, folder: Path, limit_bytes: int | None = None, inner: Sequence[str] = ()) -> Path:
    """Unpack a .zip or .tar (gz, bz2, xz) as `folder`, which must not exist or be empty.

    It is written beside its place and renamed when complete. A single folder that holds everything is left out, so the
    files are where they are expected whether the archive has one or not.

    Args:
        limit_bytes: refuse what unpacks to more; default 20 times the archive, at least 1 GB.
        inner: archives inside the archive, to be unpacked into the same folder.
    Raises:
        ArchiveError: when it is damaged, encrypted, too large, or holds a link, a device or a path that leads out.
        FileExistsError: when the folder holds something.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; move it away before unpacking {archive.name} there.")
    limit = limit_bytes or max(FLOOR_BYTES, RATIO * archive.stat().st_size)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        place = Path(temporary) / "content"
        limit -= _extract(archive, place, limit)
        for name in inner:
            inside = next(iter(sorted(place.rglob(name))), None)
            if inside is None:
                raise ArchiveError(f"{archive.name} holds no {name}.")
            limit -= _extract(inside, place, limit)
            inside.unlink()
        place = _without_wrapper(place)
        if folder.is_dir():
            folder.rmdir()
        place.rename(folder)
    return folder


def _without_wrapper(place: Path) -> Path:
    entries = list(place.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else place


def _extract(archive: Path, folder: Path, limit: int) -> int:
    """Write all files below `folder`; returns their bytes."""
    folder.mkdir(exist_ok=True)
    with _damage(archive), _open(archive) as (members, open_member):
        _check_members(archive, members, limit, shutil.disk_usage(folder).free)
        written = 0
        for member in members:
            target = folder / member.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member(member.source) as source, target.open("xb") as file:
                while block := source.read(BLOCK):
                    written += len(block)
                    if written > limit:  # counted, because headers can lie
                        raise ArchiveError(f"{archive.name} unpacks to more than {limit:,} bytes; it was not unpacked.")
                    file.write(block)
    return written


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    """What the archive modules raise for a damaged file becomes one message."""
    try:
        yield
    except DAMAGE as error:
        if getattr(error, "errno", None) in DISK:
            raise
        raise ArchiveError(
            f"{archive} is damaged, encrypted or no archive that can be read ({error}). Delete it and get it again."
        ) from error


@contextmanager
def _open(archive: Path) -> Iterator[tuple[list[Member], object]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield [m for info in file.infolist() if (m := _zip_member(archive, info))], file.open
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as file:
            members = [m for info in file if (m := _tar_member(archive, info))]
            _check_end(archive, file)
            yield members, file.extractfile
    else:
        raise ArchiveError(
            f"{archive} is no .zip or .tar archive; perhaps a page that says why there is no file. Look into it."
        )


def _check_end(archive: Path, file: tarfile.TarFile) -> None:
    """tarfile takes a damaged header for the end, and never reads the sum at the end of a compressed stream: both are
    looked at here."""
    while file.fileobj.read(BLOCK):  # raises when the stream is cut short or its sum is wrong
        pass
    if isinstance(file.fileobj, io.BufferedReader):
        file.fileobj.seek(file.offset)
        if file.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ArchiveError(f"{archive} is damaged: it does not end where a tar ends. Delete it and get it again.")


def _zip_member(archive: Path, info: zipfile.ZipInfo) -> Member | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind and kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(f"{archive.name} holds '{info.filename}', which is a link or a device; it was not unpacked.")
    return None if info.is_dir() else _member(archive, info.filename, info.file_size, info)


def _tar_member(archive: Path, info: tarfile.TarInfo) -> Member | None:
    if not (info.isreg() or info.isdir()):
        raise ArchiveError(f"{archive.name} holds '{info.name}', which is a link or a device; it was not unpacked.")
    return None if info.isdir() else _member(archive, info.name, info.size, info)


def _member(archive: Path, name: str, size: int, source: object) -> Member | None:
    path = PurePosixPath(name)
    foreign = "\\" in name or "\0" in name or ":" in name.split("/")[0]  # what another system takes for a path
    if foreign or not path.parts or path.is_absolute() or ".." in path.parts:
        raise ArchiveError(f"{archive.name} holds '{name}', which leads out of its folder; it was not unpacked.")
    return None if set(path.parts) & set(IGNORED) else Member(path, size, source)


def _check_members(archive: Path, members: Sequence[Member], limit: int, free: int) -> None:
    total = sum(member.size for member in members)
    if total > limit or len(members) > MOST_FILES:
        raise ArchiveError(
            f"{archive.name} unpacks to {total:,} bytes in {len(members):,} files, more than the limit of {limit:,}; it was not "
            "unpacked."
        )
    if total > free:
        raise ArchiveError(f"{archive.name} unpacks to {total / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free.")
    names = {unicodedata.normalize("NFC", str(member.path)) for member in members}
    if len(names) < len(members):
        raise ArchiveError(f"{archive.name} holds {len(members) - len(names)} names twice; it was not unpacked.")
    if not members:
        raise ArchiveError(f"{archive.name} holds no file.")
