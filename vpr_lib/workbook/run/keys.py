"""Content keys: two runs of a notebook with the same key would compute the same thing, so the second is not needed."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vpr_lib import paths
from vpr_lib.config import Profile
from vpr_lib.digests import digest_file
from vpr_lib.workbook.run.environment import device_kind, numeric_versions
from vpr_lib.workbook.run.parameters import read_cells
from vpr_lib.workbook.run.plan import Entry

LIBRARY = Path(__file__).resolve().parents[2]
_COMPILED = {".pyc", ".pyo", ".so"}
_OF_WORKBOOK = re.compile(r"vpr_lib\.workbook\.(?:run|report|night)\.\w+")


def digest(*parts: Any) -> str:
    """A 64-character hash of anything JSON can hold, plus paths and tuples."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _library_files(library: Path) -> Iterator[Path]:
    seen = _imported_by_notebooks(library)
    for path in sorted(library.rglob("*")):
        inside = path.relative_to(library).parts
        aside = inside[0] == "cli" or inside[:2] == ("configs", "profiles") or "__pycache__" in inside
        if inside[0] == "workbook" and inside[1:2] != ("book",):  # the runner and its report change no number
            aside |= path not in seen
        if path.suffix not in _COMPILED and not aside and path.is_file():
            yield path


def _imported_by_notebooks(library: Path) -> set[Path]:
    """Modules of the runner that notebooks, or what they import, use all the same."""
    todo, seen = [*paths.notebooks_root().glob("*.ipynb"), *(library / "workbook" / "book").glob("*.py")], set()
    while todo:
        for name in set(_OF_WORKBOOK.findall(todo.pop().read_text(encoding="utf-8"))):
            path = library.joinpath(*name.split(".")[1:]).with_suffix(".py")
            if path.is_file() and path not in seen:
                seen.add(path)
                todo.append(path)
    return seen


def library_digest(library: Path = LIBRARY) -> str:
    """Hash of every file of vpr_lib that a notebook can use: sources, tables, weights, pages and scripts.

    Left out: the command line, the runner, its report, and the profiles (the part of a profile that concerns a notebook
    is hashed with that notebook).
    """
    return digest([[str(path.relative_to(library)), digest_file(path)] for path in _library_files(library)])


def notebook_digest(path: Path) -> str:
    """Hash of what a notebook says: cell types, sources and tags, not its outputs or counts."""
    cells = read_cells(path)
    return digest([[cell["cell_type"], cell["source"], cell.get("metadata", {}).get("tags", [])] for cell in cells])


def _place(folder: Path) -> str:
    """A folder by its path in the project, where it is there: a moved checkout has the same keys."""
    root = paths.project_root()
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder)


def threads_each(profile: Profile) -> str:
    """What OMP_NUM_THREADS is for a notebook: what the caller set, else its share beside others; '' leaves it to torch."""
    asked, cores = os.environ.get("OMP_NUM_THREADS", ""), len(os.sched_getaffinity(0))
    return asked or (str(max(1, cores // profile.side_by_side)) if profile.side_by_side > 1 else "")


def notebook_key(entry: Entry, profile: Profile, parameters: Mapping[str, Any], needs: Mapping[str, str | None]) -> str:
    """The content key of one notebook: its source, vpr_lib, its part of the profile, its parameters, the keys of what it
    needs, its declared inputs and outputs, data and cache folders, threads, the kind of device, the numeric packages' versions.

    Args:
        parameters: the checked values to inject; `run_id` takes no part, nor where the profile's file lies.
        needs: key of every needed notebook; None for one that is not green.
    """
    settings = profile.notebooks[entry.name]
    reads = {
        _place(p): digest_file(p)
        for text in entry.reads
        for p in sorted(paths.project_root().glob(text))
        if p.is_file()
    }
    return digest(
        entry.name,
        notebook_digest(entry.path),
        library_digest(),
        {"name": profile.name, "device": profile.device, "precision": profile.precision, "seed": profile.seed},
        {name: told.model_dump() for part in (settings.checks, settings.findings) for name, told in part.items()},
        {name: value for name, value in parameters.items() if name not in {"run_id", "profile"}},
        dict(needs),
        [entry.makes, reads, _place(paths.data_root()), _place(paths.cache_root())],
        [threads_each(profile), len(os.sched_getaffinity(0))],  # sums round otherwise
        [device_kind(profile.device), numeric_versions()],
    )
