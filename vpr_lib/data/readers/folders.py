"""Any two folders of images, with or without positions: '@' names, a CSV, EXIF GPS, or nothing at all."""

import logging
import unicodedata
from difflib import get_close_matches
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
from vpr_lib.data.readers.vpr_bench import read_numbered

log = logging.getLogger(__name__)
DEGREES, METRES = ("lat", "lon"), ("easting", "northing")


def read_folders(
    database: Path,
    queries: Path,
    positions: Path | None = None,
    radius_m: float = 25.0,
    name: str = "folders",
    matches: Path | None = None,
) -> Benchmark:
    """Two folders, searched recursively, as a benchmark.

    Ground truth (25 m, all queries count) is built when every image has a position: from '@' names, or from a CSV with
    the columns `image` and `easting, northing` (metres; with `utm_zone`, `utm_band` where there are several) or `lat, lon`
    (degrees), where `image` is the path below its folder, or begins with the folder's name; photos with GPS in their EXIF
    need neither, and those without one are as of a camera without a fix. `matches` names a VPR-Bench
    `ground_truth_new.npy` over the numbered images instead. Without either, the benchmark can be retrieved from, not
    evaluated.

    Raises:
        FileNotFoundError: if a folder or the CSV is absent. ValueError: if a folder holds no image, or the CSV lacks a
            column or an image.
    """
    if matches is not None:
        *listed, positives = read_numbered(Path(database), Path(queries), Path(matches))
        sides = [
            build_manifest(Path(folder), name, "test", role, {"image_path": paths}, keep_order=True)
            for folder, role, paths in zip((database, queries), ("db", "query"), listed)
        ]
        card = make_protocol(*sides, positives, name=f"{name}@listed", dataset=name, rule="list")
        return Benchmark(name, *sides, (card,))
    table = _read_positions(Path(positions)) if positions is not None else None
    sides = [
        folder_manifest(Path(folder), role, name, "test", table)
        for folder, role in ((database, "db"), (queries, "query"))
    ]
    if table is not None:
        _tell_shared(*sides, table)
    if sides[0].has_positions != sides[1].has_positions:
        without = sides[int(sides[0].has_positions)].root
        log.info("%s: only the other folder's images have positions: nothing is scored by them", without)
    return Benchmark(name, *sides, radius_cards(*sides, name, name, radius_m))


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
        told = "expected files ending in .jpg, .png and the like; a film is named itself, not its folder"
        raise ValueError(f"No image under {folder}: {told}.")
    columns, kind = {"image_path": paths}, "none"
    if positions is not None:
        columns, kind = {"image_path": paths, **_positions_of(paths, positions, folder)}, "gps"
    elif odd := _odd_names(paths):
        shown = ", ".join(f"'{path}'" for path in odd[:3])
        log.warning(
            "%s: %d of %d names carry no '@easting@northing@' position, for instance %s: positions are not used, and nothing can "
            "be scored by them", folder, len(odd), len(paths), shown,
        )  # fmt: skip
    elif are_at_names(paths):
        columns = columns_from_names(paths)
        kind = position_kind or ("gps" if "utm_zone" in columns else "local_metric")
    elif (gps := gps_columns([folder / path for path in paths])) is not None:
        columns, kind = columns | gps, "gps"
    return build_manifest(folder, dataset, split, role, columns, position_kind=kind)


def _odd_names(paths: list[str]) -> list[str]:
    """The names without a position among others that have one."""
    odd = [path for path in paths if not are_at_names([path])] if not are_at_names(paths) else []
    return odd if len(odd) < len(paths) else []


def _read_positions(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"No table of positions {path}.")
    has = set(read_csv(path, ()).columns)
    known = next((pair for pair in (METRES, DEGREES) if {"image", *pair} <= has), None)
    if known is None:
        raise ValueError(f"{path} needs the columns image and easting, northing (or lat, lon); it has {sorted(has)}.")
    zone = ("utm_zone",) if known == METRES and "utm_zone" in has else ()
    table = read_csv(path, ("image", *known), text=("image", "utm_band"), numbers=(*known, *zone))
    table["image"] = table["image"].map(_same)
    if (again := table["image"].duplicated()).any():
        raise ValueError(f"{path} names '{table['image'][again].iloc[0]}' twice.")
    first, second = (table[column].to_numpy(np.float64) for column in known)
    columns = utm_columns(first, second) if known == DEGREES else {"utm_east": first, "utm_north": second}
    if known == METRES and "utm_zone" in table:
        columns["utm_zone"] = table["utm_zone"].to_numpy(np.int64)
    if known == METRES and "utm_band" in table:
        columns["utm_band"] = table["utm_band"].to_numpy(object)
    return pd.DataFrame(columns, index=table["image"])


def _positions_of(paths: list[str], table: pd.DataFrame, folder: Path) -> dict[str, object]:
    """Rows of the table for these images; names are compared in Unicode's composed form, with / for every separator."""
    keys = [_key(path, folder, table.index) for path in paths]
    if missing := [path for path, key in zip(paths, keys) if key not in table.index]:
        hint, base = "", missing[0].rsplit("/", 1)[-1]
        if close := get_close_matches(_same(missing[0]), list(table.index), 1):
            hint = f" The file has '{close[0]}'."
        elif any(name.rsplit("/", 1)[-1] == _same(base) for name in table.index):
            hint = f" The column image holds paths below {folder}."
        raise ValueError(
            f"{len(missing)} images under {folder} have no row in the file of positions, for instance '{missing[0]}'.{hint}"
        )
    return {column: values.to_numpy() for column, values in table.loc[keys].items()}


def _key(path: str, folder: Path, names: pd.Index) -> str:
    """How the table calls an image: by its path below the folder, or with the folder's name before it."""
    inside = _same(f"{folder.resolve().name}/{path}")
    return inside if inside in names else _same(path)


def _tell_shared(database: Manifest, queries: Manifest, table: pd.DataFrame) -> None:
    """Say when one row of the table is the position of an image in either folder."""
    keys = [{_key(path, side.root, table.index) for path in side.table["image_path"]} for side in (database, queries)]
    if shared := sorted(keys[0] & keys[1]):
        log.warning(
            "%d names, for instance '%s', are in both folders, and the file of positions has one row for both: they stand at the "
            "same place. If they do not, write %s/... and %s/... in the column image", len(shared), shared[0],
            database.root.name, queries.root.name,
        )  # fmt: skip


def _same(name: str) -> str:
    """A name as it is compared: accents composed, whatever the file system or the spreadsheet makes of them."""
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/").removeprefix("./"))
