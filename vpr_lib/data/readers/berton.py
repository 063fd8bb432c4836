"""Data sets in the '@' layout: images/{train,val,test}/{database,queries}. Spec: datasets §1.1."""

from pathlib import Path

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.readers.folders import read_folders


def read_berton(root: Path, split: str = "test", radius_m: float = 25.0, name: str | None = None) -> Benchmark:
    """One split of a data set in the '@' layout; `gallery` is accepted for `database` (SVOX).

    Raises:
        FileNotFoundError, ValueError: as `read_folders`, or when a name carries no position.
    """
    folder = Path(root) / "images" / split
    if not folder.is_dir():
        folder = Path(root) / split
    database = next(
        (folder / part for part in ("database", "gallery") if (folder / part).is_dir()), folder / "database"
    )
    benchmark = read_folders(database, folder / "queries", radius_m=radius_m, name=name or Path(root).name, split=split)
    if not benchmark.protocols:
        raise ValueError(f"{folder}: some names carry no '@easting@northing@' position, so there is no ground truth.")
    return benchmark
