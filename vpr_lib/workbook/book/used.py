"""Which files a notebook computed with (pictures, weights, descriptors, prepared sets), and whether they are still the same."""

import gzip
import json
import os
from pathlib import Path

from vpr_lib import paths
from vpr_lib.digests import digest_file
from vpr_lib.files import content_hashes, used_files


def used_path(run: Path, notebook: str) -> Path:
    return Path(run) / f"{notebook}.files.gz"


def write_used(run: Path, notebook: str) -> str:
    """Keep the list of files beside the notebook's sentinel; returns its SHA-256, which the sentinel holds.

    Those of the package itself are left out: its digest is part of every key, wherever it is installed.
    """
    root, package = (f"{folder}{os.sep}" for folder in (paths.project_root(), Path(paths.__file__).parent))
    found = {
        path.removeprefix(root): value
        for path, value in used_files(paths.content_memory()).items()
        if not path.startswith(package)
    }
    with paths.atomic_path(used_path(run, notebook)) as temporary, gzip.open(temporary, "wt", encoding="ascii") as file:
        json.dump(found, file)
    return digest_file(used_path(run, notebook))


def changed_use(run: Path, notebook: str, digest: str) -> str:
    """The first file of the list that is gone or has other bytes now, in words; empty when all are as they were."""
    path = used_path(run, notebook)
    if not path.is_file() or digest_file(path) != digest:
        return f"{path} is gone or has changed"
    with gzip.open(path, "rt", encoding="ascii") as file:
        found = json.load(file)
    files = [os.path.join(paths.project_root(), name) for name in found]
    hashes = content_hashes(files, paths.content_memory())
    for file, then, now in zip(files, found.values(), hashes):
        if then != now:
            return f"{file}, which it computed with, {'is gone' if now < 0 else 'has changed'}"
    return ""
