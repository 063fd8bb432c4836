"""Which files below a folder are images: by their suffix, through links, with a word on those that are left out."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)
IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".tga", ".mpo", ".avif", ".heic", ".heif"),
        *(".hif",),
    )
)
OTHER_PICTURES = frozenset(
    (  # what a camera or a program may leave beside them, and nothing here decodes
        *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".raw", ".exr", ".hdr", ".jxl", ".psd"),
        *(".svg", ".xcf", ".dds", ".pdf", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".insv"),
    )
)
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")  # of JPEG, PNG, GIF and TIFF
MOST_LOOKED_INTO = 1000  # files that are not named as pictures
OF_SYSTEMS = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"))  # copies and thumbnails


def list_images(folder: Path) -> list[str]:
    """Image files below `folder` as sorted POSIX paths relative to it; suffixes in any case, hidden files skipped.

    Folders that are links are followed, each once. Pictures and films that nothing here decodes are counted in one line.

    Raises:
        FileNotFoundError: if the folder does not exist. OSError: for one below it that cannot be read. ValueError: for a name
            that is not UTF-8.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder {folder}.")
    paths, others, strange = [], Counter(), []
    for place, names in _walk(folder):
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            others[suffix] += suffix in OTHER_PICTURES
            if suffix not in IMAGE_SUFFIXES | OTHER_PICTURES and len(strange) < MOST_LOOKED_INTO:
                strange.append(os.path.join(place, name))
            if suffix in IMAGE_SUFFIXES and _is_file_or_lost(os.path.join(place, name)):
                paths.append(Path(place, name).relative_to(folder).as_posix())
    if odd := [path for path in paths if not path.isascii() and path != path.encode("utf-8", "replace").decode()]:
        shown = odd[0].encode("utf-8", "backslashreplace").decode()
        raise ValueError(f"{folder}: {len(odd)} names are not UTF-8, for instance '{shown}'. Rename them (convmv).")
    if left := +others:
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in sorted(left.items()))
        log.warning("%s: %d files are left out, for nothing here decodes them: %s", folder, left.total(), kinds)
    if misnamed := [path for path in strange if _begins_as_picture(path)]:
        told = "%s: %d files are left out that begin as pictures and are not named as such, for instance '%s'"
        log.warning(told, folder, len(misnamed), misnamed[0])
    return sorted(paths)


def _begins_as_picture(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(6).startswith(BEGINNINGS)
    except OSError:
        return False


def _refuse_folder(error: OSError) -> None:
    """A folder that cannot be looked into holds images that would be left out (OSError)."""
    raise error


def _is_file_or_lost(path: str) -> bool:
    """A link to nothing is an image that is not there (git-annex, a disk that is not mounted): listed, it is missed by name."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder below with the names of its files, hidden ones skipped; links are followed, but never in a circle."""
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        fresh = {}
        for name in folders:
            real = os.path.realpath(os.path.join(place, name))
            hidden = name.startswith(".") or name in OF_SYSTEMS
            if not hidden and (real not in seen or not os.path.islink(os.path.join(place, name))):
                fresh[name] = real
        seen |= set(fresh.values())
        folders[:] = sorted(fresh)
        yield place, [name for name in names if not name.startswith(".")]
