"""SF-XL: validation, the four test query sets, and the small set under its own name. Spec: datasets §7."""

from pathlib import Path
from typing import Literal

import numpy as np

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.readers.berton import read_berton, split_folders

CROP_FOV_DEG = 360.0 * 512 / 3328  # a crop is 512 columns of a panorama of 3328
QUERY_SETS = ("queries_v1", "queries_v2", "queries_night", "queries_occlusion")


def read_sfxl(
    root: Path,
    split: Literal["val", "test"] = "test",
    queries: str = "queries_v1",
    size: Literal["processed", "small"] = "processed",
    name: str | None = None,
) -> Benchmark:
    """A split of SF-XL: 25 m, cards `<name>@25m` over all queries and `<name>@25m_matchable`.

    The query sets of a split share their database and therefore its descriptors. `small` has its own, 27,191 images: a
    number on it is no number on SF-XL, so its name says so (`sfxl_small_v1`).

    Lists `database_images_paths.txt` beside the folders are used where they are. Headings of the database count anticlockwise
    from north at the left edge of a crop; here they are clockwise, at its centre.

    Raises:
        FileNotFoundError, ValueError: as `read_berton`.
    """
    folder = next((path for path in (Path(root) / size, Path(root)) if (path / split).is_dir()), Path(root))
    dataset = "sfxl" if size == "processed" else "sfxl_small"
    name = name or "_".join([dataset, split, *queries.split("_")[1:]])
    if not split_folders(folder, split, queries)[1].is_dir() and not _is_listed(folder / split, queries):
        raise FileNotFoundError(
            f"No folder '{queries}' under {folder / split}; query sets are {', '.join(QUERY_SETS)}."
        )
    benchmark = read_berton(folder, split, name=name, queries=queries, dataset=dataset, matchable=True)
    return Benchmark(name, _turned(benchmark.database), _unturned(benchmark.queries), benchmark.protocols)


def _is_listed(folder: Path, queries: str) -> bool:
    return (folder / f"{queries}_images_paths.txt").is_file()


def _turned(database: Manifest) -> Manifest:
    if "heading_deg" not in database.table:
        return database
    centre = (CROP_FOV_DEG / 2 - database.table["heading_deg"].to_numpy()) % 360
    table = database.table.assign(heading_deg=centre, heading_convention="anticlockwise at the left edge, converted")
    return Manifest(table, database.root)


def _unturned(queries: Manifest) -> Manifest:
    """Queries are photographs; what their heading token means is not documented."""
    if "heading_deg" not in queries.table:
        return queries
    return Manifest(queries.table.assign(heading_deg=np.nan, heading_convention="undocumented"), queries.root)
