"""Tokyo 24/7 and Tokyo Time Machine. Spec: datasets §5."""

import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from vpr_lib.data.ground_truth import Benchmark, make_protocol
from vpr_lib.data.manifest import Manifest, build_manifest
from vpr_lib.data.positions import radius_positives
from vpr_lib.data.readers.berton import read_berton
from vpr_lib.data.readers.lists import first_file, locate
from vpr_lib.data.readers.mat import read_db_struct

log = logging.getLogger(__name__)
ZONE, BAND = 54, "S"
CROPS = 12  # per panorama, consecutive in the .mat
DATABASE_FOLDERS = ("", "database_gsv_vga", "database", "images")
QUERY_FOLDERS = ("", "247query_subset_v2", "247query_v3", "queries", "query", "images")
MAT_FOLDERS = ("", "datasets/", "raw/")


def read_tokyo247(root: Path, name: str = "tokyo247") -> Benchmark:
    """Tokyo 24/7 from `tokyo247.mat`, or in the '@' layout; 25 m, every query counts.

    Cards: `tokyo247` ranks all images; `tokyo247@nms` keeps the first hit of every panorama of 12 crops, as NetVLAD and
    ClusVPR do, which leaves recall@1 alone and raises the others; it needs panorama ids. The .mat lists `.jpg` names; the files are `.png`.

    Raises:
        FileNotFoundError: naming everything that was looked for. ValueError: as `read_db_struct`, or when the crops of a
            panorama do not stand together.
    """
    root = Path(root)
    names = [f"{place}test/{side}" for place in ("images/", "") for side in ("database", "gallery")]
    if any((root / place).is_dir() for place in names):
        benchmark = read_berton(root, name=name)
        if "pano_id" not in benchmark.database.table or benchmark.database.table["pano_id"].eq("").any():
            log.warning("%s: names carry no panorama ids, so there is no card with one hit per panorama", root)
            return _with_cards(benchmark.database, benchmark.queries, name)
        groups = benchmark.database.table["pano_id"].factorize()[0].astype(np.int64)
        database = Manifest(benchmark.database.table.assign(nms_group=groups), benchmark.database.root)
        return _with_cards(database, benchmark.queries, name)
    struct = read_db_struct(first_file(root, [f"{folder}tokyo247.mat" for folder in MAT_FOLDERS], "tokyo247.mat"))
    images = locate(root, struct.database, DATABASE_FOLDERS, suffixes=(".png", ".jpg"))
    positions, names = struct.database_positions, [PurePosixPath(path).stem for path in images]
    extra = {"nms_group": panorama_blocks(positions), "pano_id": [stem[:22] for stem in names]}
    angles = [stem.rsplit("_", 1)[-1] for stem in names]
    if all(angle.isdigit() for angle in angles):
        extra |= {"yaw_deg": [float(angle) for angle in angles], "tile": [int(angle) // 30 for angle in angles]}
    database = _manifest(root, name, "db", images, positions, "test", **extra)
    paths = locate(root, struct.queries, QUERY_FOLDERS)
    return _with_cards(database, _manifest(root, name, "query", paths, struct.query_positions, "test"), name)


def panorama_blocks(positions: np.ndarray) -> np.ndarray:
    """Panorama of every database image, int64 (N,): blocks of 12 consecutive rows with one position, float64 (N, 2).

    Panoramas are not told apart by position: 78 of the 6,332 share theirs with another one.

    Raises:
        ValueError: when a block has two positions: the rows are not in the order of the .mat.
    """
    blocks = np.arange(len(positions)) // CROPS
    moved = (positions != positions[blocks * CROPS]).any(axis=1)
    if moved.any():
        raise ValueError(
            f"Row {int(moved.argmax())} is not where the other crops of its panorama are: Tokyo 24/7 lists 12 crops of a "
            "panorama in a row. Panorama suppression needs the order of tokyo247.mat."
        )
    return blocks.astype(np.int64)


def read_tokyo_tm(root: Path, split: Literal["train", "val"] = "train", name: str | None = None) -> Benchmark:
    """Tokyo Time Machine, for training; a positive is within 25 m (or 10 m) and was taken at another time.

    Cards: `tokyotm_<split>@25m_other_time`, `tokyotm_<split>@10m_other_time`.

    Raises:
        FileNotFoundError without the .mat; ValueError: as `read_db_struct`, or when the time stamps are missing.
    """
    root, name = Path(root), name or f"tokyotm_{split}"
    path = first_file(root, [f"{folder}tokyoTM_{split}.mat" for folder in MAT_FOLDERS], f"tokyoTM_{split}.mat")
    struct = read_db_struct(path)
    if struct.database_times is None or struct.query_times is None:
        raise ValueError(f"{path} has no time stamps (dbTimeStamp, qTimeStamp); is it the .mat of another set?")
    places = ("", "images", "tokyoTM/images")
    database, queries = (
        _manifest(root, name, role, locate(root, names, places), positions, split, variant="timemachine")
        for role, names, positions in (
            ("db", struct.database, struct.database_positions),
            ("query", struct.queries, struct.query_positions),
        )
    )
    cards = []
    for radius_m in (struct.radius_m, 10.0):
        near = radius_positives(database, queries, radius_m)
        other_time = struct.query_times[near.rows] != struct.database_times[near.indices]
        card = dict(name=f"{name}@{radius_m:g}m_other_time", rule="radius_m", threshold=radius_m, dataset=name)
        cards.append(
            make_protocol(database, queries, near.where(other_time), notes="and taken at another time", **card)
        )
    return Benchmark(name, database, queries, tuple(cards))


def _manifest(
    root: Path, name: str, role: str, paths: Sequence[str], positions: np.ndarray, split: str, variant: str = "",
    **extra: object,
) -> Manifest:  # fmt: skip
    columns = {"image_path": paths, "utm_east": positions[:, 0], "utm_north": positions[:, 1], "utm_zone": ZONE,
               "utm_band": BAND} | extra  # fmt: skip
    return build_manifest(root, name, split, role, columns, variant, position_kind="gps", keep_order=True)


def _with_cards(database: Manifest, queries: Manifest, name: str) -> Benchmark:
    positives = radius_positives(database, queries, 25.0)
    card = dict(dataset=name, rule="radius_m", threshold=25.0)
    plain = make_protocol(database, queries, positives, name=name, **card)
    if "nms_group" not in database.table:
        return Benchmark(name, database, queries, (plain,))
    nms = make_protocol(database, queries, positives, name=f"{name}@nms", nms="panorama", **card)
    return Benchmark(name, database, queries, (plain, nms))
