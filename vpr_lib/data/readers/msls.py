"""Mapillary Street-Level Sequences, from the release's own tables. Spec: datasets §4."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vpr_lib.data.ground_truth import Benchmark, Protocol, make_protocol
from vpr_lib.data.manifest import Manifest, build_manifest
from vpr_lib.data.positions import radius_positives
from vpr_lib.data.readers.geo import utm_zone
from vpr_lib.data.readers.lists import read_csv

log = logging.getLogger(__name__)
CITIES = {
    "train": (
        *("trondheim", "london", "boston", "melbourne", "amsterdam", "helsinki", "tokyo", "toronto", "saopaulo"),
        *("moscow", "zurich", "paris", "bangkok", "budapest", "austin", "berlin", "ottawa", "phoenix", "goa", "amman"),
        *("nairobi", "manila"),
    ),
    "val": ("cph", "sf"),
    "test": ("miami", "athens", "buenosaires", "stockholm", "bengaluru", "kampala"),
}  # in the order of the official loader, which all lists follow
SUBTASKS = ("all", "s2w", "w2s", "o2n", "n2o", "d2n", "n2d")
POSITIONS = ("key", "easting", "northing", "control_panel", "night", "view_direction")
RAW = ("key", "lon", "lat", "ca", "captured_at", "pano")


@dataclass(frozen=True)
class Side:
    """Database or queries of some cities, without panoramas; `in_subtask` bool (N,) marks the rows of the subtask."""

    manifest: Manifest
    in_subtask: np.ndarray


def read_msls(
    root: Path, split: str = "val", cities: Sequence[str] | None = None, subtask: str = "all", name: str | None = None
) -> Benchmark:
    """Training, validation or test cities of MSLS, searched together in the order of the official loader.

    Validation carries several cards over one set of rankings. `<name>@740`: the subtask's queries that have a positive
    within 25 m, the official protocol (740 for subtask `all`); `@747` keeps the seven that have none. `@11k` and
    `@11k_matchable`: all queries that are no panoramas, as in the '@' layout. The database is the subtask's; where that is
    not the whole database, the 11k cards would be searched in too little and are left out. Other subtasks than `all` have
    `@matchable` and `@listed` in place of the first two.

    Training has `<name>@10m` (the official positives) and `<name>@25m`, every query counts. Test cities have `@matchable` and
    `@listed` where their `postprocessed.csv` and `raw.csv` are, as the other cities have them; without, no positions, no card.

    Args:
        cities: some cities of the split, as spelled on disk; one city alone is a per-city search. Default: all.
        subtask: all, or s2w, w2s, o2n, n2o, d2n, n2d, which filter the database as well.
    Raises:
        FileNotFoundError: for a city or table that is absent. ValueError: for an unknown split or subtask, a missing column,
            tables of a folder that do not list the same keys in the same order, or a subtask without queries.
    """
    if split not in CITIES or subtask not in SUBTASKS:
        raise ValueError(
            f"MSLS has the splits {tuple(CITIES)} and the subtasks {SUBTASKS}, got '{split}', '{subtask}'."
        )
    cities = tuple(cities or CITIES[split])
    name = name or f"msls_{split}" + ("" if subtask == "all" else f"_{subtask}")
    database, queries = (_read_side(Path(root), split, cities, role, subtask) for role in ("database", "query"))
    if split == "train":
        return Benchmark(name, database.manifest, queries.manifest, _train_cards(name, database, queries))
    whole = bool(database.in_subtask.all())
    for side, what in ((database, "database"), (queries, "query")):
        if not side.in_subtask.any():
            raise ValueError(f"{name}: no {what} image of {', '.join(cities)} is in the subtask '{subtask}'.")
    if split == "test":  # a submission names the official queries and no other
        chosen = np.flatnonzero(queries.in_subtask)
        queries = Side(queries.manifest.take(chosen), queries.in_subtask[chosen])
    searched = database.manifest if whole else database.manifest.take(np.flatnonzero(database.in_subtask))
    if not (searched.has_positions and queries.manifest.has_positions):
        return Benchmark(name, searched, queries.manifest.take(np.flatnonzero(queries.in_subtask)))
    validation = split == "val"
    if validation and not whole:
        log.warning("%s: the subtask holds %d of %d database images, so there are no 11k cards over it", name, len(searched),
                    len(database.manifest))  # fmt: skip
    labels = ("740", "747") if validation and subtask == "all" else ("matchable", "listed")
    cards = _cards(name, searched, queries, labels, validation and whole, joint=len(cities) > 1)
    return Benchmark(name, searched, queries.manifest, cards)


def write_msls_submission(path: Path, benchmark: Benchmark, ranking: np.ndarray, top_k: int = 20) -> Path:
    """The file that the MSLS challenge takes: a query key and its best database keys per line, without suffix.

    Args:
        ranking: database indices, best first, int64 (Q, R) with R >= top_k.
    Raises:
        ValueError: if the ranking does not fit the benchmark or is shorter than `top_k`.
    """
    from vpr_lib.paths import write_text

    if len(ranking) != len(benchmark.queries) or ranking.shape[1] < top_k or ranking[:, :top_k].min() < 0:
        raise ValueError(
            f"A submission needs {top_k} database images for each of the {len(benchmark.queries)} queries, got a ranking of "
            f"shape {ranking.shape}."
        )
    queries, database = (
        np.array([Path(image).stem for image in side.table["image_path"]])
        for side in (benchmark.queries, benchmark.database)
    )
    lines = (" ".join([query, *database[best]]) for query, best in zip(queries, ranking[:, :top_k]))
    return write_text(path, "\n".join(lines) + "\n")


def read_msls_submission(path: Path, benchmark: Benchmark) -> np.ndarray:
    """The ranking of a submission file, database indices best first, int64 (Q, k); `#` lines are headers.

    Raises:
        ValueError: naming the line, for a key that is not of the benchmark, a query that is missing or named twice, or lines
            of different length.
    """
    rows = {Path(image).stem: row for row, image in enumerate(benchmark.database.table["image_path"])}
    queries = [Path(image).stem for image in benchmark.queries.table["image_path"]]
    predictions, known = {}, set(queries)
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        query, *keys = line.split()
        if query.startswith("#"):
            continue
        if query in predictions or query not in known:
            raise ValueError(
                f"{path}, line {number}: query '{query}' is {'named twice' if query in predictions else 'unknown'}."
            )
        if unknown := [key for key in keys if key not in rows]:
            raise ValueError(f"{path}, line {number}: no database image '{unknown[0]}'.")
        predictions[query] = [rows[key] for key in keys]
    lengths = {len(found) for found in predictions.values()}
    if len(predictions) < len(queries) or len(lengths) != 1:
        raise ValueError(
            f"{path} names {len(predictions)} of {len(queries)} queries, with {sorted(lengths)} database images each."
        )
    return np.array([predictions[query] for query in queries], np.int64)


def _train_cards(name: str, database: Side, queries: Side) -> tuple[Protocol, ...]:
    sides = (database.manifest, queries.manifest)
    return tuple(
        make_protocol(
            *sides, radius_positives(*sides, radius_m, "city"), name=f"{name}@{radius_m:g}m", dataset="msls",
            rule="radius_m", threshold=radius_m,
        )
        for radius_m in (10.0, 25.0)
    )  # fmt: skip


def _cards(
    name: str, database: Manifest, queries: Side, labels: tuple[str, str], whole: bool, joint: bool
) -> tuple[Protocol, ...]:
    positives = radius_positives(database, queries.manifest, 25.0, "city")
    answerable = positives.counts > 0
    masks = {labels[0]: (queries.in_subtask & answerable, "with_positive"), labels[1]: (queries.in_subtask, "all")}
    if whole:
        masks |= {"11k": (np.ones(len(answerable), bool), "all"), "11k_matchable": (answerable, "with_positive")}
    if not masks[labels[0]][0].any():
        raise ValueError(f"{name}: no query of the subtask has a database image within 25 m.")
    return tuple(
        make_protocol(
            database, queries.manifest, positives, mask, name=f"{name}@{label}", dataset="msls", rule="radius_m",
            threshold=25.0, denominator=denominator, cross_city_distractors=joint,
        )
        for label, (mask, denominator) in masks.items()
    )  # fmt: skip


def _read_side(root: Path, split: str, cities: Sequence[str], role: str, subtask: str) -> Side:
    above = "test" if split == "test" else "train_val"
    tables = [_read_city(root, f"{above}/{city}/{role}", city, split, subtask) for city in cities]
    table = pd.concat(tables, ignore_index=True)
    kind = "gps" if "utm_east" in table and table["utm_east"].notna().all() else "none"
    columns = {column: table[column].to_numpy() for column in table.columns if column != "in_subtask"}
    manifest_role = "db" if role == "database" else "query"
    manifest = build_manifest(root, "msls", split, manifest_role, columns, position_kind=kind, keep_order=True)
    return Side(manifest, table["in_subtask"].to_numpy(bool))


def _read_city(root: Path, folder: str, city: str, split: str, subtask: str) -> pd.DataFrame:
    """One row per image that is no panorama, in the order of the tables."""
    place = root / folder
    sequences = read_csv(place / "seq_info.csv", ("key", "sequence_key", "frame_number"), text=("key", "sequence_key"))
    table = pd.DataFrame({
        "image_path": f"{folder}/images/" + sequences["key"] + ".jpg", "city": city,
        "run": sequences["sequence_key"], "frame_no": sequences["frame_number"].astype(np.int64),
    })  # fmt: skip
    table["in_subtask"] = True
    if split != "train":
        subtasks = read_csv(place / "subtask_index.csv", (subtask,), text=("key",))
        table["in_subtask"] = _booleans(_same_rows(subtasks, sequences, place, "subtask_index.csv")[subtask], place)
    if split == "test" and not (place / "postprocessed.csv").is_file():
        return table
    positions = read_csv(place / "postprocessed.csv", POSITIONS, ("key",), ("easting", "northing"))
    raw = read_csv(place / "raw.csv", RAW, ("key", "captured_at"), ("lon", "lat"))
    for other, file in ((positions, "postprocessed.csv"), (raw, "raw.csv")):
        _same_rows(other, sequences, place, file)
    table = table.assign(**_known_columns(positions, raw, place))
    return table[~_booleans(raw["pano"], place)]


def _known_columns(positions: pd.DataFrame, raw: pd.DataFrame, place: Path) -> dict[str, object]:
    zone, band = utm_zone(raw["lat"], raw["lon"])  # the tables do not store the zone of their eastings
    flags = {word: _booleans(positions[word], place) for word in ("night", "control_panel")}
    views = positions["view_direction"].str.lower()
    conditions = [
        ["night" if night else "day", view, *(["control_panel"] if panel else [])]
        for night, view, panel in zip(flags["night"], views, flags["control_panel"])
    ]
    return {
        "utm_east": positions["easting"], "utm_north": positions["northing"], "utm_zone": zone, "utm_band": band,
        "lat": raw["lat"], "lon": raw["lon"], "heading_deg": pd.to_numeric(raw["ca"], errors="coerce") % 360, "conditions": conditions,
        "timestamp": _days(raw["captured_at"]), "time_resolution": "day",
    }  # fmt: skip


def _days(dates: pd.Series) -> list[int | None]:
    """µs since 1970 of dates such as 2017-06-30, None where there is none."""
    days = pd.to_datetime(dates.str.slice(0, 10), format="%Y-%m-%d", errors="coerce")
    return [None if pd.isna(day) else int(day.timestamp()) * 1_000_000 for day in days]


def _booleans(values: pd.Series, place: Path) -> np.ndarray:
    words = values.astype(str).str.lower()
    if not words.isin(("true", "false", "1", "0")).all():
        odd = words[~words.isin(("true", "false", "1", "0"))].iloc[0]
        raise ValueError(f"{place}: column '{values.name}' holds '{odd}', expected True or False.")
    return words.isin(("true", "1")).to_numpy()


def _same_rows(table: pd.DataFrame, sequences: pd.DataFrame, place: Path, file: str) -> pd.DataFrame:
    """`table` again, once its rows are known to be those of seq_info.csv."""
    if len(table) != len(sequences):
        raise ValueError(
            f"{place}: {file} has {len(table)} rows, seq_info.csv {len(sequences)}; they must list the same images."
        )
    if "key" in table and (other := table["key"].to_numpy() != sequences["key"].to_numpy()).any():
        row = int(other.argmax())
        raise ValueError(
            f"{place}: line {row + 2} is '{table['key'][row]}' in {file} and '{sequences['key'][row]}' in seq_info.csv. The "
            "tables must list the same keys in the same order; get metadata.zip again."
        )
    return table
