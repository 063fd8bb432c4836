"""Oxford RobotCar and Boreas from the pickles that PointNetVLAD, MinkLoc++ and DistilVPR share. Spec: datasets §10-11, distilvpr §8."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.pickles import load_plain_pickle
from vpr_lib.data.readers.submaps import (
    OXFORD,
    Layout,
    build_run_pairs,
    read_nearest_images,
    run_card,
    submap_manifest,
)
from vpr_lib.data.run_pairs import RunPairs, make_run_pairs
from vpr_lib.data.tuples import TupleSet
from vpr_lib.paths import atomic_path

BOREAS = Layout(
    "boreas", 23, "npy", "boreas/{run}/camera_lidar_interval10/{stamp}.png", "boreas_lidar2image_ndx.pickle", (17, "T")
)
MODULES = ("datasets.oxford", "datasets.base_datasets", "dataset.oxford", "__main__")  # where the class may have lived


class TrainingTuple:
    """What a training pickle holds per submap; the restricted unpickler fills it in place of the authors' class."""

    id: int
    timestamp: int
    rel_scan_filepath: str
    positives: np.ndarray
    non_negatives: np.ndarray
    position: np.ndarray  # northing, easting


def read_oxford(root: Path, prefix: str = "oxford") -> RunPairs:
    """Oxford evaluation, from `oxford_evaluation_{database,query}.pickle`; without them the same is built from the tables.

    Databases are whole runs, queries the submaps in the test regions, positives within 25 m. Images: the nearest in time of
    `images/lidar2image_ndx.pickle`, in `images/<run>/`.

    Raises:
        FileNotFoundError, UnsafePickle, ValueError: what the pickles lack, by run and entry.
    """
    if not (Path(root) / f"{prefix}_evaluation_database.pickle").is_file():
        return build_run_pairs(root)
    return read_evaluation_pickles(root, OXFORD, prefix, 25.0)


def read_oxford_tuples(root: Path, candidates: int = 1, file: str = "training_queries_baseline.pickle") -> TupleSet:
    """Oxford training tuples; `candidates` images per cloud to choose from (MinkLoc++ 20, DistilVPR 1)."""
    return read_training_pickle(root, OXFORD, file, candidates)


def read_boreas(root: Path) -> RunPairs:
    """Boreas as DistilVPR cuts it: the queries of a run are its database; by which radius is known to the pickles alone."""
    return read_evaluation_pickles(root, BOREAS, "boreas", None)


def read_boreas_tuples(root: Path, candidates: int = 1) -> TupleSet:
    """Boreas training tuples of DistilVPR."""
    return read_training_pickle(root, BOREAS, "boreas_training_queries_baseline.pickle", candidates)


def read_evaluation_pickles(root: Path, layout: Layout, prefix: str, radius_m: float | None) -> RunPairs:
    """Run pairs from `<prefix>_evaluation_{database,query}.pickle`, each a list over runs of {index: record}."""
    files = [Path(root) / f"{prefix}_evaluation_{part}.pickle" for part in ("database", "query")]
    databases, queries = (_runs(load_plain_pickle(path), path) for path in files)
    if len(databases) != len(queries):
        raise ValueError(
            f"{files[0].name} has {len(databases)} runs, {files[1].name} {len(queries)}; they must be one release."
        )
    nearest = read_nearest_images(root, layout)
    names, manifests, rows = [], [], []
    for number, (database, asked) in enumerate(zip(databases, queries)):
        clouds, positions = _places(database, files[0], number)
        name = layout.run_of(clouds[0])
        if other := next((cloud for cloud in clouds if layout.run_of(cloud) != name), None):
            raise ValueError(f"{files[0]}: run {number} mixes {name} with '{other}'.")
        names.append(name)
        manifests.append(submap_manifest(root, layout, "test", "db", clouds, positions, nearest))
        rows.append(_rows(_places(asked, files[1], number)[0] if asked else [], clouds, files[1], name))
    positives = {
        (q, d): _matches(queries[q], d, len(manifests[d]), f"{files[1]}, run {names[q]}", names[d])
        for q in range(len(names)) for d in range(len(names)) if q != d
    }  # fmt: skip
    return make_run_pairs(prefix, names, manifests, rows, positives, run_card(prefix, layout.dataset, radius_m))


def read_training_pickle(root: Path, layout: Layout, file: str, candidates: int = 1) -> TupleSet:
    """Training tuples from a pickle {index: TrainingTuple}; images as `submap_manifest`."""
    path = Path(root) / file
    records = load_plain_pickle(path, {(module, "TrainingTuple"): TrainingTuple for module in MODULES})
    entries = _in_order(records, path, "the training set")
    for index, entry in enumerate(entries):
        if missing := [name for name in TrainingTuple.__annotations__ if not hasattr(entry, name)]:
            raise ValueError(f"{path}: entry {index} lacks {missing}; expected the TrainingTuple of PointNetVLAD.")
    positions = np.array([np.asarray(entry.position, np.float64)[::-1] for entry in entries])
    clouds = [entry.rel_scan_filepath for entry in entries]
    nearest = read_nearest_images(root, layout)
    manifest = submap_manifest(root, layout, "train", "train", clouds, positions, nearest, candidates)
    positives, non_negatives = (
        Positives.from_lists([getattr(entry, name) for entry in entries], len(entries))
        for name in ("positives", "non_negatives")
    )
    return TupleSet(manifest, manifest, positives, non_negatives)


def _runs(content: Any, path: Path) -> list[list[Mapping]]:
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path}: expected a list with one dictionary per run, got {type(content).__name__}.")
    return [_in_order(run, path, f"run {number}") if run else [] for number, run in enumerate(content)]


def _in_order(records: Any, path: Path, what: str) -> list:
    if not isinstance(records, dict) or set(records) != set(range(len(records))):
        raise ValueError(f"{path}: {what} is not a dictionary with the keys 0 to n - 1.")
    return [records[index] for index in range(len(records))]


def _places(records: Sequence[Mapping], path: Path, number: int) -> tuple[list[str], np.ndarray]:
    """Cloud paths and positions (easting, northing); the records name northing first."""
    try:
        positions = [[float(record["easting"]), float(record["northing"])] for record in records]
        return [str(record["query"]) for record in records], np.array(positions).reshape(-1, 2)
    except KeyError as error:
        raise ValueError(
            f"{path}: an entry of run {number} lacks {error}; expected query, northing, easting."
        ) from None


def _rows(clouds: Sequence[str], database: Sequence[str], path: Path, run: str) -> np.ndarray:
    """Row of every query in its own run's database."""
    place = {cloud: row for row, cloud in enumerate(database)}
    if missing := [cloud for cloud in clouds if cloud not in place]:
        raise ValueError(
            f"{path}: query '{missing[0]}' is not in the database of its run {run} ({len(missing)} are not)."
        )
    return np.array([place[cloud] for cloud in clouds], np.int64)


def _matches(records: Sequence[Mapping], run: int, n_database: int, where: str, name: str) -> Positives:
    if missing := [index for index, record in enumerate(records) if run not in record]:
        raise ValueError(
            f"{where}: {len(missing)} queries have no list of matches for run {run} ({name}), the first is query {missing[0]}; "
            "expected one list per other run. The pickle was made for other runs."
        )
    try:
        return Positives.from_lists([record[run] for record in records], n_database)
    except ValueError as error:
        raise ValueError(f"{where}, matches in {name}: {error}") from error


def write_evaluation_pickles(root: Path, runs: RunPairs, prefix: str = "oxford") -> list[Path]:
    """Write run pairs as `<prefix>_evaluation_{database,query}.pickle`, as the public scripts of PointNetVLAD do.

    With `build_run_pairs` before it this is the generator for raw runs: databases are whole runs, queries the submaps in the
    test regions, matches within 25 m. For Boreas, whose generator is not published, give every frame as a query and choose
    the radius (25 m is ours; spec distilvpr §8.2). Database and query lists are aligned by run.
    """
    databases, queries = [], []
    for number, manifest in enumerate(runs.databases):
        places = [
            {"query": cloud, "northing": float(north), "easting": float(east)}
            for cloud, (east, north) in zip(manifest.table["cloud_path"], manifest.positions())
        ]
        others = [other for other in range(len(runs.runs)) if other != number]
        databases.append(dict(enumerate(places)))
        queries.append({
            n: places[row] | {other: runs.positives[number, other][n].tolist() for other in others}
            for n, row in enumerate(runs.query_rows[number])
        })  # fmt: skip
    return [
        _write_pickle(Path(root) / f"{prefix}_evaluation_{part}.pickle", content)
        for part, content in (("database", databases), ("query", queries))
    ]


def write_training_pickle(root: Path, tuples: TupleSet, file: str = "training_queries_baseline.pickle") -> Path:
    """Write training tuples as the pickle {index: TrainingTuple} that `read_training_pickle` and the public code read.

    The class is recorded as `datasets.oxford.TrainingTuple`, the name the public trainers look for.
    """
    records = {}
    table, positions = tuples.database.table, tuples.database.positions()
    for index, (cloud, stamp) in enumerate(zip(table["cloud_path"], table["timestamp"])):
        record = _PublicTuple()
        record.id, record.timestamp, record.rel_scan_filepath = index, int(stamp), cloud
        record.positives = np.sort(tuples.positives[index].astype(np.int64))
        record.non_negatives = np.sort(tuples.non_negatives[index].astype(np.int64))
        record.position = positions[index][::-1].copy()  # northing first
        records[index] = record
    return _write_pickle(Path(root) / file, records)


class _PublicTuple:
    """A training tuple as `_PublicPickler` writes it."""


class _PublicPickler(pickle._Pickler):  # the Python one: the C pickler insists on importing the class it names
    def save_global(self, value: Any, name: str | None = None) -> None:
        if value is not _PublicTuple:
            return super().save_global(value, name)
        self.save(MODULES[0])
        self.save("TrainingTuple")
        self.write(pickle.STACK_GLOBAL)
        self.memoize(value)


def _write_pickle(path: Path, content: Any) -> Path:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        _PublicPickler(file, protocol=4).dump(content)
    return path
