"""Run pairs and training tuples from tables of submap locations, by the rules of PointNetVLAD. Spec: datasets §10."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.manifest import Manifest, build_manifest
from vpr_lib.data.pickles import load_plain_pickle
from vpr_lib.data.readers.lists import read_csv
from vpr_lib.data.run_pairs import RunPairs, make_run_pairs
from vpr_lib.data.tuples import TupleSet, radius_tuples

EVALUATION_RUNS = (  # hard-coded: the public script takes them from a directory listing by position
    *("2014-11-14-16-34-33", "2014-11-18-13-20-12", "2014-12-02-15-30-08", "2014-12-09-13-21-02"),
    *("2014-12-10-18-10-50", "2014-12-12-10-45-15", "2014-12-16-09-14-09", "2014-12-16-18-44-24"),
    *("2015-02-03-08-45-10", "2015-02-10-11-58-05", "2015-02-13-09-16-26", "2015-02-17-14-42-12"),
    *("2015-03-10-14-18-10", "2015-03-17-11-08-44", "2015-05-19-14-06-38", "2015-06-09-15-06-29"),
    *("2015-08-12-15-04-18", "2015-08-13-16-02-58", "2015-08-14-14-54-57", "2015-08-28-09-50-22"),
    *("2015-10-30-13-52-14", "2015-11-12-11-22-05", "2015-11-13-10-28-08"),
)
CLOUD_BYTES = 4096 * 3 * 8  # of a bin_f64x3 submap


@dataclass(frozen=True)
class Regions:
    """Squares around (northing, easting); queries come from inside them, training submaps from outside."""

    centres: tuple[tuple[float, float], ...]
    half_width_m: float = 150.0

    def contain(self, positions: np.ndarray) -> np.ndarray:
        """Which positions (easting, northing), float64 (N, 2), lie strictly inside a square, bool (N,)."""
        centres = np.array(self.centres)[:, ::-1]  # to easting, northing
        return (np.abs(positions[:, None] - centres) < self.half_width_m).all(-1).any(-1)


OXFORD_REGIONS = Regions((
    (5735712.768124, 620084.402381), (5735611.299219, 620540.270327),
    (5735237.358209, 620543.094379), (5734749.303802, 619932.693364),
))  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Where a set of submaps keeps its clouds, and its image of a given time; paths are below the data set's root."""

    dataset: str
    run_length: int  # characters of a run's name
    cloud_format: str
    images: str  # with {run} and {stamp}
    lidar2image: str
    zone: tuple[int, str] | None = None

    def run_of(self, cloud: str) -> str:
        """The run a cloud belongs to, from its path (ValueError when that is no run name)."""
        parts = PurePosixPath(cloud).parts
        if len(parts) < 3 or len(parts[-3]) != self.run_length:
            raise ValueError(
                f"'{cloud}' is not <run>/<folder>/<time stamp>.{self.cloud_format[:3]} with a run name of "
                f"{self.run_length} characters."
            )
        return parts[-3]


OXFORD = Layout(
    "oxford", 19, "bin_f64x3", "images/{run}/{stamp}.png", "images/lidar2image_ndx.pickle", (30, "U")
)  # fmt: skip


def submap_manifest(
    root: Path,
    layout: Layout,
    split: str,
    role: str,
    clouds: Sequence[str],
    positions: np.ndarray,
    nearest: dict[int, list[int]] | None = None,
    candidates: int = 1,
) -> Manifest:
    """Rows in the order of `clouds`, positions (easting, northing) float64 (N, 2).

    Args:
        nearest: per cloud time the image times, nearest first; None for sets without images.
        candidates: how many images per cloud a training run may choose from; above 1 they fill `image_candidates`.
    Raises:
        ValueError: when a cloud has no image.
    """
    stamps = [int(PurePosixPath(cloud).stem) for cloud in clouds]
    runs = [layout.run_of(cloud) for cloud in clouds]
    columns: dict[str, object] = {
        "cloud_path": clouds, "cloud_format": layout.cloud_format, "utm_east": positions[:, 0],
        "utm_north": positions[:, 1], "run": runs, "timestamp": stamps, "time_resolution": "µs",
    }  # fmt: skip
    if layout.zone:
        columns |= {"utm_zone": layout.zone[0], "utm_band": layout.zone[1]}
    if nearest is not None:
        if missing := [cloud for cloud, stamp in zip(clouds, stamps) if not nearest.get(stamp)]:
            raise ValueError(
                f"{len(missing)} of {len(clouds)} clouds have no image in {layout.lidar2image}, for instance '{missing[0]}'; "
                "the file was made for other clouds."
            )
        name = lambda run, stamp: layout.images.format(run=run, stamp=stamp)
        columns["image_path"] = [name(run, nearest[stamp][0]) for run, stamp in zip(runs, stamps)]
        if candidates > 1:
            columns["image_candidates"] = [
                [{"path": name(run, image), "dt_us": abs(image - stamp)} for image in nearest[stamp][:candidates]]
                for run, stamp in zip(runs, stamps)
            ]
    kind = "gps" if layout.zone else "local_metric"
    return build_manifest(root, layout.dataset, split, role, columns, position_kind=kind, keep_order=True)


def read_nearest_images(root: Path, layout: Layout) -> dict[int, list[int]] | None:
    """Image times per cloud time, nearest first; None where the file is absent: clouds alone can still be compared."""
    path = Path(root) / layout.lidar2image
    if not path.is_file():
        return None
    nearest = load_plain_pickle(path)
    if not isinstance(nearest, dict) or not all(isinstance(stamp, int) for stamp in nearest):
        raise ValueError(
            f"{path}: expected a dictionary from cloud times to lists of image times, got {type(nearest).__name__}."
        )
    return {stamp: [int(image) for image in images] for stamp, images in nearest.items()}


def read_locations(root: Path, layout: Layout, run: str, folder: str) -> tuple[list[str], np.ndarray]:
    """Cloud paths and positions (easting, northing) of a run from its table, whose columns are northing first."""
    above = f"{layout.dataset}/{run}"
    table = read_csv(
        Path(root) / above / f"{folder.replace('pointcloud', 'pointcloud_locations')}.csv",
        ("timestamp", "northing", "easting"), ("timestamp",), ("northing", "easting"),
    )  # fmt: skip
    clouds = [f"{above}/{folder}/{stamp}.bin" for stamp in table["timestamp"]]
    return clouds, table[["easting", "northing"]].to_numpy(np.float64)


def build_run_pairs(
    root: Path,
    runs: Sequence[str] | None = None,
    regions: Regions = OXFORD_REGIONS,
    layout: Layout = OXFORD,
    radius_m: float = 25.0,
    folder: str = "pointcloud_20m",
    name: str = "oxford",
) -> RunPairs:
    """Evaluation runs from their tables: databases are whole runs, queries the submaps inside the test regions.

    Args:
        runs: default the 23 of PointNetVLAD.
    Raises:
        FileNotFoundError: for a run without a table. ValueError: when a run has no submap inside the regions.
    """
    nearest = read_nearest_images(root, layout)
    runs = list(runs or EVALUATION_RUNS)
    databases = tuple(
        submap_manifest(root, layout, "test", "db", *read_locations(root, layout, run, folder), nearest) for run in runs
    )
    rows = tuple(np.flatnonzero(regions.contain(database.positions())) for database in databases)
    if empty := [run for run, own in zip(runs, rows) if not len(own)]:
        raise ValueError(
            f"{len(empty)} runs have no submap inside the test regions, for instance {empty[0]}: northing and easting "
            "exchanged, or regions of another area?"
        )
    positives = {
        (q, d): Positives.from_radius(databases[d].positions(), databases[q].positions()[rows[q]], radius_m)
        for q in range(len(runs)) for d in range(len(runs)) if q != d
    }  # fmt: skip
    return make_run_pairs(name, runs, databases, rows, positives, run_card(name, layout.dataset, radius_m))


def run_card(name: str, dataset: str, radius_m: float | None) -> dict[str, object]:
    """Fields of the card of run pairs: queries without a positive in a run are skipped there."""
    rule = dict(rule="radius_m", threshold=radius_m) if radius_m is not None else dict(rule="list")
    label = f"{radius_m:g}m" if radius_m is not None else "listed"
    notes = "ordered pairs of different runs, unweighted mean"
    return dict(name=f"{name}@pairs_{label}", dataset=dataset, denominator="with_positive", notes=notes) | rule


def build_training_tuples(
    root: Path,
    runs: Sequence[str],
    regions: Regions = OXFORD_REGIONS,
    layout: Layout = OXFORD,
    positive_m: float = 10.0,
    non_negative_m: float = 50.0,
    folder: str = "pointcloud_20m_10overlap",
    candidates: int = 1,
) -> TupleSet:
    """Training submaps outside the test regions, with positives within 10 m and negatives beyond 50 m."""
    tables = [read_locations(root, layout, run, folder) for run in runs]
    clouds = [cloud for names, _ in tables for cloud in names]
    positions = np.concatenate([own for _, own in tables])
    outside = ~regions.contain(positions)
    if not outside.any():
        raise ValueError(
            f"All {len(clouds)} submaps of {len(runs)} runs lie inside the test regions; none is left to train on."
        )
    clouds = [cloud for cloud, keep in zip(clouds, outside) if keep]
    nearest = read_nearest_images(root, layout)
    manifest = submap_manifest(root, layout, "train", "train", clouds, positions[outside], nearest, candidates)
    return radius_tuples(manifest, manifest, positive_m, non_negative_m)


def read_toy_runs(root: Path, name: str = "toycity_runs") -> RunPairs:
    """The toy city's drives: the same tables, regions from its description."""
    return build_run_pairs(root, run_folders(root), read_regions(root), name=name)


def read_toy_tuples(root: Path, candidates: int = 1) -> TupleSet:
    """Training submaps of the toy city's drives."""
    return build_training_tuples(root, run_folders(root), read_regions(root), candidates=candidates)


def read_regions(root: Path) -> Regions:
    """Test regions from `toycity.json`."""
    squares = json.loads((Path(root) / "toycity.json").read_text(encoding="utf-8"))["test_regions"]
    return Regions(tuple(tuple(centre) for centre in squares["centres"]), squares["half_width_m"])


def run_folders(root: Path, layout: Layout = OXFORD) -> list[str]:
    """Names of the runs that are there, sorted; other folders are not runs."""
    folder = Path(root) / layout.dataset
    folders = folder.iterdir() if folder.is_dir() else ()
    runs = sorted(path.name for path in folders if path.is_dir() and len(path.name) == layout.run_length)
    if not runs:
        raise FileNotFoundError(
            f"No runs under {folder}: expected folders with names of {layout.run_length} characters."
        )
    return runs
