"""Any two folders of images, with or without positions: '@' names, a CSV, EXIF GPS, or nothing at all."""

from pathlib import Path

import numpy as np
import pandas as pd

from vpr_lib.data.ground_truth import Benchmark, make_protocol
from vpr_lib.data.manifest import Manifest, build_manifest
from vpr_lib.data.readers.cards import radius_cards
from vpr_lib.data.readers.exif import gps_columns
from vpr_lib.data.readers.geo import utm_columns
from vpr_lib.data.readers.lists import list_paths, read_csv
from vpr_lib.data.readers.names import are_at_names, columns_from_names
from vpr_lib.data.readers.vpr_bench import read_matches

DEGREES, METRES = ("lat", "lon"), ("easting", "northing")


def read_folders(
    database: Path,
    queries: Path,
    positions: Path | None = None,
    radius_m: float = 25.0,
    name: str = "folders",
    split: str = "test",
    matches: Path | None = None,
    dataset: str | None = None,
    matchable: bool = False,
) -> Benchmark:
    """Two folders, searched recursively, as a benchmark.

    Ground truth (25 m, all queries count) is built when every image has a position: from '@' names, or from a CSV with
    the columns `image` and `easting, northing` (metres) or `lat, lon` (degrees), where `image` is the path below its
    folder; photos that all carry GPS in their EXIF need neither. `matches` names a VPR-Bench `ground_truth_new.npy` over the sorted images instead. Without either, the benchmark
    can be retrieved from, not evaluated.

    Args:
        dataset: name in the manifests; query sets that share one database share it, and so its descriptors.
        matchable: also a card over the queries that have a positive.
    Raises:
        FileNotFoundError: if a folder or the CSV is absent. ValueError: if a folder holds no image, or the CSV lacks a
            column or an image.
    """
    dataset = dataset or name
    table = _read_positions(Path(positions)) if positions is not None else None
    sides = [
        folder_manifest(Path(folder), role, dataset, split, table)
        for folder, role in ((database, "db"), (queries, "query"))
    ]
    if matches is not None:
        listed = read_matches(Path(matches), len(sides[1]), len(sides[0]))
        card = make_protocol(*sides, listed, name=f"{name}@listed", dataset=dataset, rule="list")
        return Benchmark(name, *sides, (card,))
    return Benchmark(name, *sides, radius_cards(*sides, name, dataset, radius_m, matchable))


def folder_manifest(
    folder: Path,
    role: str,
    dataset: str,
    split: str,
    positions: pd.DataFrame | None = None,
    position_kind: str | None = None,
) -> Manifest:
    """The images of one folder, sorted by path, with positions where a table, their names or their EXIF have them.

    Args:
        positions: manifest columns of a table, indexed by image.
        position_kind: what '@' names mean here, where it is neither GPS nor metres.
    """
    paths = list_paths(folder)
    if not paths:
        raise ValueError(f"No image under {folder}: expected files ending in .jpg, .png and the like.")
    columns, kind = {"image_path": paths}, "none"
    if positions is not None:
        columns, kind = {"image_path": paths, **_positions_of(paths, positions, folder)}, "gps"
    elif are_at_names(paths):
        columns = columns_from_names(paths)
        kind = position_kind or ("gps" if "utm_zone" in columns else "local_metric")
    elif (gps := gps_columns([folder / path for path in paths])) is not None:
        columns, kind = columns | gps, "gps"
    return build_manifest(folder, dataset, split, role, columns, position_kind=kind)


def _read_positions(path: Path) -> pd.DataFrame:
    has = set(read_csv(path, ()).columns)
    known = next((pair for pair in (METRES, DEGREES) if {"image", *pair} <= has), None)
    if known is None:
        raise ValueError(f"{path} needs the columns image and easting, northing (or lat, lon); it has {sorted(has)}.")
    table = read_csv(path, ("image", *known), text=("image",), numbers=known)
    if (again := table["image"].duplicated()).any():
        raise ValueError(f"{path} names '{table['image'][again].iloc[0]}' twice.")
    first, second = (table[column].to_numpy(np.float64) for column in known)
    columns = {"utm_east": first, "utm_north": second} if known == METRES else utm_columns(first, second)
    return pd.DataFrame(columns, index=table["image"])


def _positions_of(paths: list[str], table: pd.DataFrame, folder: Path) -> dict[str, object]:
    if missing := [path for path in paths if path not in table.index]:
        raise ValueError(
            f"{len(missing)} images under {folder} have no row in the file of positions, for instance '{missing[0]}'."
        )
    return {column: values.to_numpy() for column, values in table.loc[paths].items()}
