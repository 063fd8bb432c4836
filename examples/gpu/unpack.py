"""unpack.py WHEELS FOLDER: what `pip install --no-index --no-deps --target FOLDER WHEELS/*.whl` leaves, without pip, in seconds."""

import shutil
import sys
import zipfile
from pathlib import Path


def unpack(wheels: Path, target: Path) -> int:
    """Unpack every wheel that FOLDER does not hold yet; returns how many there are."""
    found = sorted(wheels.glob("*.whl"))
    for wheel in found:
        with zipfile.ZipFile(wheel) as archive:
            if not (target / archive.namelist()[0]).exists():
                archive.extractall(target)
    for extra in target.glob("*.data/*"):  # {purelib, platlib, data}; scripts are not needed
        if extra.name in ("purelib", "platlib", "data"):
            shutil.copytree(extra, target, dirs_exist_ok=True)
    return len(found)


if __name__ == "__main__":
    if not unpack(Path(sys.argv[1]), Path(sys.argv[2])):
        sys.exit(f"No wheels in {sys.argv[1]}.")
