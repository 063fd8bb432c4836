"""A film as a folder of photos: frames at even times, the time in their names, the place of a GPX track in their EXIF."""

import logging
import shutil
from collections.abc import Iterator
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from vpr_lib.data.readers.exif import gps_exif
from vpr_lib.data.readers.gpx import Track, read_gpx, seconds
from vpr_lib.files import check_seal, content_hashes, locked, publish_folder, seal
from vpr_lib.paths import cache_root, content_memory

log = logging.getLogger(__name__)
FILMS = frozenset(
    f".{suffix}" for suffix in ("mp4", "m4v", "mov", "3gp", "avi", "mkv", "webm", "mpg", "mpeg", "mts", "ts")
)
LONGEST = 1280  # pixels of a frame's longer side that are kept; models look at half of that


def folder_of(path: Path, frames_per_second: float = 1.0) -> Path:
    """A folder as it is; for a film, the folder in the cache that its frames are kept in.

    A frame is named after the film and its time in seconds. `<film>.gpx` beside the film gives positions: by the film's
    clock where it says one that the track covers, otherwise the track begins with the film.

    Raises:
        ValueError: for a film without PyAV, one that cannot be decoded, a rate that is not positive, or
            kept frames that came, went or changed.
        FileNotFoundError: without the path.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() not in FILMS:
        return path
    if not path.is_file():
        raise FileNotFoundError(f"No film {path}.")
    if not frames_per_second > 0:
        raise ValueError(f"A film is read at a positive number of frames per second, got {frames_per_second:g}.")
    gpx = next((beside for suffix in (".gpx", ".GPX") if (beside := path.with_suffix(suffix)).is_file()), None)
    track = read_gpx(gpx) if gpx else None
    hashes = content_hashes([path, *([gpx] if gpx else [])], content_memory())
    key = sha256(f"{hashes} {frames_per_second} {LONGEST} 1".encode()).hexdigest()[:12]
    folder = cache_root() / "frames" / f"{path.stem}-{key}"
    with locked(folder, "reading the same film"):
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(mkdtemp(dir=folder.parent, prefix=f".{path.stem}-"))
            try:
                count = _write_frames(path, temporary, frames_per_second, track)
                seal(temporary)
                publish_folder(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            log.info("%s: %d frames at %g per second, kept in %s", path.name, count, frames_per_second, folder)
    check_seal(folder, content_memory())
    return folder


def _write_frames(path: Path, folder: Path, frames_per_second: float, track: Track | None) -> int:
    name, count, place = path.stem.replace("@", "_"), 0, np.full(2, np.nan)  # an '@' in a name would begin a position
    start = _start_on(track, path) if track is not None else 0.0
    for time, image in _frames(path, frames_per_second):
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        if track is not None:
            place = track.at(np.array([start + time]))[0]
        image.save(folder / f"{name}_{time:08.2f}s.jpg", quality=95, exif=gps_exif(*place))
        count += 1
    if count == 0:
        raise ValueError(f"{path} holds no frame.")
    return count


def _start_on(track: Track, path: Path) -> float:
    """When the first frame was taken, in seconds since 1970."""
    with _opened(path) as container:
        clock, length = container.metadata.get("creation_time"), (container.duration or 0) / 1e6
    if clock and track.times[0] - length <= (start := seconds(clock)) <= track.times[-1]:
        return start
    log.warning(
        "%s: its clock is none that the track covers; the track's first point is taken for its first frame", path
    )
    return float(track.times[0])


def _frames(path: Path, frames_per_second: float) -> Iterator[tuple[float, Image.Image]]:
    """Time in seconds and upright picture of the first frame at or after every even time."""
    with _opened(path) as container:
        if not container.streams.video:
            raise ValueError(f"{path} cannot be read as a film: there are no pictures in it.")
        stream, first, due = container.streams.video[0], None, 0.0
        stream.thread_type = "AUTO"
        for frame in _decoded(container, stream, path):
            first = frame.time if first is None else first
            time = frame.time - first
            if time < due - 1e-3:
                continue
            yield time, frame.to_image().rotate(frame.rotation, expand=True)
            due = (np.floor((time + 1e-3) * frames_per_second) + 1) / frames_per_second


def _decoded(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """The frames that can be decoded and say when they are; damage ends them."""
    count = 0
    try:
        for frame in container.decode(stream):
            if frame.time is not None:
                yield frame
                count += 1
    except pyav().FFmpegError as error:
        if count == 0:
            raise ValueError(f"{path} cannot be read as a film: {error}") from error
        log.warning("%s: damaged after %d frames (%s); those are used", path.name, count, error)


def _opened(path: Path) -> Any:
    """The film's container, to be closed; ValueError for a file that is no film."""
    try:
        return pyav().open(str(path))
    except pyav().FFmpegError as error:
        raise ValueError(f"{path} cannot be read as a film: {error}") from error


def pyav() -> ModuleType:
    """Raises ValueError, saying what to install."""
    if find_spec("av") is None:
        raise ValueError("Films are read by PyAV: pip install 'vpr-workbook[video]'.")
    return import_module("av")
