"""Content keys: two runs of a notebook with the same key would compute the same thing, so the second is not needed."""

import hashlib
import json
import os
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
_SOURCES = {".py", ".yaml", ".yml", ".csv", ".json", ".safetensors", ".npz", ".npy"}


def digest(*parts: Any) -> str:
    """A 64-character hash of anything JSON can hold, plus paths and tuples."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _library_files(library: Path) -> Iterator[Path]:
    for path in sorted(library.rglob("*")):
        inside = path.relative_to(library).parts
        aside = inside[0] == "cli" or inside[:2] == ("configs", "profiles")
        aside |= inside[0] == "workbook" and inside[1:2] != ("book",)  # the runner and its report change no number
        if path.suffix in _SOURCES and not aside and path.is_file():
            yield path


def library_digest(library: Path = LIBRARY) -> str:
    """Hash of every source, table and weight file of vpr_lib that a notebook can use.

    Left out: the command line, the runner, its report, and the profiles (the part of a profile that concerns a notebook
    is hashed with that notebook).
    """
    return digest([[str(path.relative_to(library)), digest_file(path)] for path in _library_files(library)])


def notebook_digest(path: Path) -> str:
    """Hash of what a notebook says: cell types, sources and tags, not its outputs or counts."""
    cells = read_cells(path)
    return digest([[cell["cell_type"], cell["source"], cell.get("metadata", {}).get("tags", [])] for cell in cells])


def notebook_key(entry: Entry, profile: Profile, parameters: Mapping[str, Any], needs: Mapping[str, str | None]) -> str:
    """The content key of one notebook: its source, vpr_lib, its part of the profile, its parameters, the keys of what it
    needs, its declared inputs and outputs, the kind of device and the versions of the numeric packages.

    Args:
        parameters: the checked values to inject; `run_id` takes no part, nor where the profile's file lies.
        needs: key of every needed notebook; None for one that is not green.
    """
    settings = profile.notebooks[entry.name]
    reads = {
        str(p): digest_file(p) for text in entry.reads for p in sorted(paths.project_root().glob(text)) if p.is_file()
    }
    return digest(
        entry.name,
        notebook_digest(entry.path),
        library_digest(),
        {"name": profile.name, "device": profile.device, "precision": profile.precision, "seed": profile.seed},
        {name: told.model_dump() for part in (settings.checks, settings.findings) for name, told in part.items()},
        {name: value for name, value in parameters.items() if name not in {"run_id", "profile"}},
        dict(needs),
        [entry.makes, reads, os.environ.get("VPR_DATA", "")],
        [device_kind(profile.device), numeric_versions()],
    )
