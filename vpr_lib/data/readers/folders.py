"""Any two folders of images, with or without positions: '@' names, a CSV, or nothing at all."""

import csv
from pathlib import Path

import numpy as np

from vpr_lib.data.ground_truth import Benchmark, Positives, Protocol, make_protocol
from vpr_lib.data.images import list_images
from vpr_lib.data.manifest import Manifest, build_manifest
from vpr_lib.data.readers.names import columns_from_names, is_at_name
from vpr_lib.data.readers.vpr_bench import read_matches


def read_folders(
    database: Path,
    queries: Path,
    positions: Path | None = None,
    radius_m: float = 25.0,
    name: str = "folders",
    split: str = "test",
    matches: Path | None = None,
) -> Benchmark:
    """Two folders, searched recursively, as a benchmark.

    Ground truth (25 m, all queries count) is built when every image has a position: from '@' names, or from a CSV with
    the columns `image` and `easting, northing` (metres) or `lat, lon` (degrees), where `image` is the path below its
    folder. `matches` names a VPR-Bench `ground_truth_new.npy` over the sorted images instead. Without either, the benchmark
    can be retrieved from, not evaluated.

    Raises:
        FileNotFoundError: if a folder or the CSV is absent. ValueError: if a folder holds no image, or the CSV lacks a
            column or an image.
    """
    table = _read_positions(Path(positions)) if positions is not None else None
    sides = [_side(Path(folder), role, name, split, table) for folder, role in ((database, "db"), (queries, "query"))]
    if matches is not None:
        listed = read_matches(Path(matches), len(sides[1]), len(sides[0]))
        return Benchmark(name, *sides, (make_protocol(*sides, listed, name="listed", dataset=name, rule="list"),))
    return Benchmark(name, *sides, _radius_protocol(*sides, radius_m, name))


def _side(folder: Path, role: str, name: str, split: str, table: dict[str, dict[str, float]] | None) -> Manifest:
    paths = list_images(folder)
    if not paths:
        raise ValueError(f"No image under {folder}: expected files ending in .jpg, .png and the like.")
    columns, kind = {"image_path": paths}, "none"
    if table is not None:
        columns, kind = {"image_path": paths, **_positions_of(paths, table, folder)}, "gps"
    elif all(is_at_name(path) for path in paths):
        columns = columns_from_names(paths)
        kind = "gps" if "utm_zone" in columns else "local_metric"
    return build_manifest(folder, name, split, role, columns, position_kind=kind)


def _radius_protocol(database: Manifest, queries: Manifest, radius_m: float, name: str) -> tuple[Protocol, ...]:
    if not (database.has_positions and queries.has_positions):
        return ()
    groups = [side.table["utm_zone"].to_numpy() if "utm_zone" in side.table else None for side in (database, queries)]
    positives = Positives.from_radius(database.positions(), queries.positions(), radius_m, *groups)
    return (
        make_protocol(
            database, queries, positives, name=f"{radius_m:g}m", dataset=name, rule="radius_m", threshold=radius_m
        ),
    )


def _read_positions(path: Path) -> dict[str, dict[str, float]]:
    if not path.is_file():
        raise FileNotFoundError(f"No file of positions {path}.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = {column.strip().lower() for column in reader.fieldnames or []}
        if "image" not in columns or not ({"easting", "northing"} <= columns or {"lat", "lon"} <= columns):
            raise ValueError(
                f"{path} needs the columns image and easting, northing (or lat, lon); it has {sorted(columns)}."
            )
        rows = [{key.strip().lower(): value for key, value in row.items() if key} for row in reader]
    try:
        return {
            row["image"]: {k: float(row[k]) for k in ("easting", "northing", "lat", "lon") if row.get(k)}
            for row in rows
        }
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _positions_of(paths: list[str], table: dict[str, dict[str, float]], folder: Path) -> dict[str, object]:
    if missing := [path for path in paths if path not in table]:
        raise ValueError(
            f"{len(missing)} images under {folder} have no row in the file of positions, for instance '{missing[0]}'."
        )
    rows = [table[path] for path in paths]
    if "easting" in rows[0]:
        return {"utm_east": [r["easting"] for r in rows], "utm_north": [r["northing"] for r in rows]}
    import utm

    lat, lon = np.array([r["lat"] for r in rows]), np.array([r["lon"] for r in rows])
    converted = [utm.from_latlon(*point) for point in zip(lat, lon)]
    return {
        "lat": lat,
        "lon": lon,
        "utm_east": [c[0] for c in converted],
        "utm_north": [c[1] for c in converted],
        "utm_zone": [c[2] for c in converted],
        "utm_band": [c[3] for c in converted],
    }
