"""Data sets read once and kept as Parquet: where they lie, and when what is kept still fits the folder it came from."""

import json
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vpr_lib.data.ground_truth import BUILDER_VERSION, Benchmark
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.readers.exif import has_gps
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.data.tuples import TupleSet
from vpr_lib.digests import digest_code
from vpr_lib.files import content_hashes, locked, use, visible_files, write_text
from vpr_lib.paths import cache_root, content_memory

Content = Benchmark | Manifest | RunPairs | TupleSet
STAMP, AUDIT = "stamp.json", "audit.parquet"


def prepared_folder(name: str) -> Path:
    """Where a prepared data set is kept."""
    return cache_root() / "benchmarks" / name


def manifests_of(content: Content) -> dict[str, Manifest]:
    """The tables of a data set by what they are: database and queries, train, or one per run."""
    if isinstance(content, Benchmark):
        return {"database": content.database, "queries": content.queries}
    if isinstance(content, RunPairs):
        return dict(zip(content.runs, content.databases))
    if isinstance(content, TupleSet):
        same = content.database is content.queries
        return {"train": content.database} if same else {"database": content.database, "queries": content.queries}
    return {"train": content}


def save_prepared(name: str, content: Content, root: Path, reading: dict[str, Any], metadata: Sequence[str]) -> Path:
    """Keep a data set with a stamp of what it was read from; the stamp comes last, so half of one is never believed.

    Args:
        reading: reader and arguments; read with others, it is another set.
        metadata: patterns of the files that the reader looks at, relative to the root.
    """
    folder = prepared_folder(name)
    with locked(folder, "preparing it"):
        (folder / STAMP).unlink(missing_ok=True)
        if isinstance(content, Manifest):
            content.save(folder / "manifest.parquet")
        else:
            content.save(folder)
        stamp = {"root": str(root), "reading": reading, "code": code_version(), "metadata": list(metadata),
                 "files": _files(root, metadata), "folders": _folders(content), "photos": _photos(content),
                 "kept": _kept(folder)}  # fmt: skip
        write_text(folder / STAMP, json.dumps(stamp, indent=1))
    return folder


def load_prepared(name: str, kind: type[Content], root: Path, reading: dict[str, Any]) -> Content | None:
    """What was kept under that name, or None when there is nothing or it does not fit any more: another root, reader or
    code, a table of the data set or a photo with its position that changed, an image folder in which files came or went, or
    what was kept itself is damaged."""
    folder = prepared_folder(name)
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        fits = (
            (stamp["root"], stamp["reading"], stamp["code"])
            == (str(root), json.loads(json.dumps(reading)), code_version())
            and stamp["files"] == _files(root, stamp["metadata"])
            and all(_changed(place) == when for place, when in stamp["folders"].items())
            and stamp["photos"] == _hashes(stamp["photos"])
            and stamp["kept"] == _kept(folder)
        )
    except (OSError, ValueError, KeyError):
        return None
    if not fits:
        return None
    use(list(stamp["kept"]), list(stamp["kept"].values()))
    if kind is Manifest:
        return Manifest.load(folder / "manifest.parquet", root)
    return kind.load(folder)  # ty: ignore[missing-argument]  (the other kinds know their roots)


def use_dataset(content: Content, root: Path, metadata: Sequence[str]) -> None:
    """Remember that what is computed rests on the lists and tables of a data set, and on which images are in its folders."""
    use([*_lists(root, metadata), *_folders(content)])


@lru_cache(maxsize=1)
def code_version() -> str:
    """16 hex digits over the code that reads data sets: other code, read again."""
    here = Path(__file__).parent
    sources = [*sorted((here / "readers").glob("*.py")), *(here / f"{name}.py" for name in _PARTS)]
    return f"{digest_code(sources)}-{BUILDER_VERSION}"


_LISTS = (".txt", ".csv", ".mat", ".npy", ".npz", ".json", ".pickle", ".pkl", ".parquet")
_SPLIT_PARENTS = ("images",)  # images/<split>/database_images_paths.txt
_PARTS = ("manifest", "ground_truth", "run_pairs", "tuples", "pickles")


def _files(root: Path, patterns: Iterable[str]) -> dict[str, int]:
    """Hash of every file that a reader may look at, by its path below the root."""
    return {os.path.relpath(path, root): value for path, value in _hashes(_lists(root, patterns)).items()}


def _lists(root: Path, patterns: Iterable[str]) -> list[str]:
    """Every file that a reader may look at: those that match, and every list, table and array beside them and beside the
    folders of images."""
    files = {path for pattern in patterns for path in Path(root).glob(pattern) if path.is_file()}
    places = {Path(root), *(path.parent for path in files), *(path for path in Path(root).glob("*") if path.is_dir())}
    places |= {path for path in Path(root).glob("*/*") if path.is_dir() and path.parent.name in _SPLIT_PARENTS}
    files |= {path for place in places for suffix in _LISTS for path in place.glob(f"*{suffix}") if path.is_file()}
    return sorted(map(str, files))


def _hashes(paths: Iterable[str]) -> dict[str, int]:
    paths = list(paths)
    return dict(zip(paths, content_hashes(paths, content_memory())))


def _kept(folder: Path) -> dict[str, int]:
    """Hash of every file of a prepared set; of the stamp itself and the audit there is none."""
    return _hashes(str(path) for path in visible_files(folder, "*") if path.name not in (STAMP, AUDIT))


def _photos(content: Content) -> dict[str, int]:
    """Hash of every image of the lists that have their positions from EXIF."""
    with_degrees = [m for m in manifests_of(content).values() if {"lat", "image_path"} <= set(m.table)]
    return _hashes(path for m in with_degrees if has_gps(m.image_paths()) for path in m.image_paths())


def _folders(content: Content) -> dict[str, list[int]]:
    """Last change of every folder that holds a listed file, and of those above up to the root."""
    folders: dict[str, None] = {}
    for manifest in manifests_of(content).values():
        for column in ("image_path", "cloud_path"):
            if column in manifest.table:
                paths = pa.array(manifest.table[column], pa.large_string())
                parents = pc.unique(pc.replace_substring_regex(paths, r"/?[^/]*$", "")).to_pylist()
                folders |= {place: None for parent in parents for place in _above(manifest.root, parent)}
                folders |= {place: None for known in list(folders) for place in _empty_below(known)}
    return {place: _changed(place) for place in sorted(folders)}


def _above(root: Path, parent: str) -> list[str]:
    steps = parent.split("/") if parent else []
    return [str(Path(root, *steps[:depth])) for depth in range(len(steps) + 1)]


def _empty_below(place: str) -> list[str]:
    """Folders beside the images without a file yet: what comes into them later changes nothing above."""
    try:
        return [entry.path for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []


def _changed(place: str) -> list[int]:
    """Which folder it is, and when it last changed by a time that no program can set back; [] for none."""
    try:
        return [(stat := os.stat(place)).st_ino, stat.st_ctime_ns]
    except OSError:
        return []
