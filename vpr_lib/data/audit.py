"""Every file of a data set opened once, completely: what is missing, empty or damaged, and what the pictures are."""

import hashlib
import io
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from vpr_lib.data.images import ImageError, check_size, image_errors, know_heif
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.pixels import CUT_SHORT, is_turned, is_whole
from vpr_lib.files import PARQUET_ERRORS, atomic_path
from vpr_lib.progress import track

COLUMNS = ("path", "bytes", "changed_ns", "width", "height", "mode", "sha256", "fault")
MISSING, EMPTY = "missing", "empty"  # the short faults; others say what a decoder said
CLOUD_BYTES = {"bin_f64x3": 4096 * 3 * 8}  # exactly; other formats are only opened
_CHUNK = 512  # files handed to the threads at once
_SAVE_S = 60.0


def inspect_file(path: str) -> tuple:
    """One row of the audit, as COLUMNS: size and time, then width, height, mode and SHA-256, or a fault in words.

    An image is decoded to its last line; a JPEG must also have its end marker after the last scan: decoders take the zeros
    that an unfinished copy leaves for picture. A cloud must have its size and hold finite numbers.
    """
    try:
        stat = os.stat(path)
    except OSError:
        return (path, -1, 0, -1, -1, "", "", MISSING)
    if stat.st_size == 0:
        return (path, 0, stat.st_ctime_ns, -1, -1, "", "", EMPTY)
    try:
        data = Path(path).read_bytes()
        inspect = _inspect_cloud if path.endswith((".bin", ".npy")) else _inspect_image
        width, height, mode = inspect(path, data)
        fault = ""
    except (ImageError, OSError, ValueError, MemoryError) as error:
        width, height, mode, data, fault = -1, -1, "", b"", str(error).removeprefix(f"{path}: ")
    digest = hashlib.sha256(data).hexdigest() if data else ""
    return (path, stat.st_size, stat.st_ctime_ns, width, height, mode, digest, fault)


def _inspect_image(path: str, data: bytes) -> tuple[int, int, str]:
    know_heif(path)
    with image_errors(path), warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked
        check_size(image, path)
        turned = is_turned(image)
        image.load()
        if not is_whole(data, image.format):
            raise ImageError(f"{path}: damaged ({CUT_SHORT}).")
        return (*image.size, f"{image.mode}, turned by its EXIF orientation" if turned else image.mode)


def _inspect_cloud(path: str, data: bytes) -> tuple[int, int, str]:
    if path.endswith(".npy"):
        points = np.load(io.BytesIO(data), allow_pickle=False)
    elif len(data) != CLOUD_BYTES["bin_f64x3"]:
        raise ValueError(
            f"damaged ({len(data)} bytes, expected {CLOUD_BYTES['bin_f64x3']}: 4096 points of three float64)."
        )
    else:
        points = np.frombuffer(data, "<f8").reshape(-1, 3)
    if not np.isfinite(points).all():
        raise ValueError("damaged (holds numbers that are not finite).")
    return -1, -1, f"cloud {points.shape[0]}"


def inspect_files(
    paths: Sequence[str], kept: Path | None = None, workers: int | None = None, quiet: bool = False
) -> pd.DataFrame:
    """The audit of some files, one row each in their order, indexed by path, columns as COLUMNS.

    Files are read in threads: decoders and hashes let go of Python's lock. What is in the table `kept` and did not change
    since, by size and time of change (which no program can set back), is not opened again; the table is written every
    minute, so a killed check goes on where it was.
    """
    table = load_audit(kept)
    times = dict(zip(table.index, zip(table["bytes"], table["changed_ns"])))
    fresh = [path for path in dict.fromkeys(paths) if times.get(path) != _size_and_time(path)]
    rows, saved = [], time.monotonic()
    for row in track(_in_threads(fresh, workers), "checking files", len(fresh), quiet):
        rows.append(row)
        if time.monotonic() - saved > _SAVE_S:
            table, rows, saved = _save(kept, table, rows), [], time.monotonic()
    return _save(kept, table, rows).loc[list(paths)]


def load_audit(kept: Path | None) -> pd.DataFrame:
    """The audit that was kept, indexed by path; empty when there is none, or a damaged one."""
    table = pd.DataFrame(columns=COLUMNS)
    if kept is not None and kept.is_file():
        with suppress(*PARQUET_ERRORS):
            table = pd.read_parquet(kept, page_checksum_verification=True)[list(COLUMNS)]
    return table.set_index("path")


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return (-2, 0)  # never what is kept: look again
    return stat.st_size, stat.st_ctime_ns


def _in_threads(paths: list[str], workers: int | None) -> Iterator[tuple]:
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        for start in range(0, len(paths), _CHUNK):  # a few at a time: a task per file of SF-XL would fill the memory
            yield from pool.map(inspect_file, paths[start : start + _CHUNK])


def _save(kept: Path | None, table: pd.DataFrame, rows: list[tuple]) -> pd.DataFrame:
    if not rows:
        return table
    added = pd.DataFrame(rows, columns=COLUMNS).set_index("path")
    table = added if table.empty else pd.concat([table.drop(added.index, errors="ignore"), added])
    if kept is not None:
        with atomic_path(kept) as temporary:
            table.reset_index().to_parquet(temporary, write_page_checksum=True)
    return table


def file_paths(manifest: Manifest) -> list[str]:
    """Absolute path of every image and cloud that the manifest lists."""
    columns = [column for column in ("image_path", "cloud_path") if column in manifest.table]
    return [f"{manifest.root}/{path}" for column in columns for path in manifest.table[column]]


def with_audit(manifest: Manifest, audit: pd.DataFrame) -> Manifest:
    """The manifest with image_bytes, width, height, mode, image_sha256 and, where a file is no use, exclude_reason.

    Args:
        audit: indexed by path; images that are not in it get empty cells.
    """
    if "image_path" not in manifest.table:
        return manifest
    rows = audit.reindex(manifest.image_paths())
    number = lambda column: pd.array(rows[column].where(rows[column] >= 0).tolist(), dtype="Int64")
    text = lambda column: rows[column].where(rows[column].fillna("") != "", None).tolist()
    table = manifest.table.assign(
        image_bytes=number("bytes"), width=number("width"), height=number("height"), mode=text("mode"),
        image_sha256=text("sha256"), exclude_reason=text("fault"),
    )  # fmt: skip
    return Manifest(table, manifest.root)
