"""Pittsburgh 30k and 250k from NetVLAD's .mat files, from stored arrays, or in the '@' layout. Spec: datasets §3."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.manifest import Manifest, build_manifest
from vpr_lib.data.pickles import load_arrays
from vpr_lib.data.readers.arrays import read_arrays
from vpr_lib.data.readers.berton import read_berton
from vpr_lib.data.readers.cards import radius_cards
from vpr_lib.data.readers.lists import first_file, locate, read_names
from vpr_lib.data.readers.mat import read_db_struct

ZONE, BAND = 17, "T"
DATABASE_FOLDERS = ("", "images", "Pittsburgh/images", "Pittsburgh250k")  # NetVLAD, OpenIBL
QUERY_FOLDERS = ("queries_real", "queries", "Pittsburgh/queries", "Pittsburgh250k/queries_real")
MAT_FOLDERS = ("datasets", "", "raw")
_NAME = re.compile(r"(\d+)/(\d+)_pitch(\d+)_yaw(\d+)\.\w+$")


def read_pittsburgh(
    root: Path,
    size: Literal["30k", "250k"] = "30k",
    split: Literal["train", "val", "test"] = "test",
    metadata: Path | None = None,
) -> Benchmark:
    """A split of Pittsburgh, whichever way it is on disk; the card is `pitts30k_test@25m` and so on.

    Looked for in this order: `datasets/pitts30k_test.mat`, the arrays `pitts30k_test_{dbImages,qImages,gt}.npy` of
    GSV-Cities (or `_gt_25m.npy` of OpenVPRLab), and `images/test/{database,queries}` with '@' names. All give the same
    positives: 25 m, inclusive, every query counts.

    Args:
        metadata: folder of the .mat or .npy files, where it is not the root.
    Raises:
        FileNotFoundError: naming everything that was looked for.
    """
    name = f"pitts{size}_{split}"
    folder = Path(metadata or root)
    mats = [f"{place}/{name}.mat".lstrip("/") for place in MAT_FOLDERS]
    truths = [f"{name}_gt.npy", f"{name}_gt_25m.npy"]
    if not metadata and any((Path(root) / place / split / "database").is_dir() for place in ("images", "")):
        return read_berton(root, split, name=name)
    matches = first_file(folder, [*mats, *truths], f"{name} (nor images/{split}/database with '@' names)")
    if matches.suffix == ".mat":
        return _from_mat(Path(root), matches, name, split)
    files = (f"{name}_dbImages.npy", f"{name}_qImages.npy", matches.name)
    card = dict(name=f"{name}@25m", rule="radius_m", threshold=25.0)
    return read_arrays(root, files, name, folder, split=split, folders=DATABASE_FOLDERS, card=card)


def read_patchnetvlad(
    root: Path, positions: Path, database: Path, queries: Path, name: str = "pitts30k_test", split: str = "test"
) -> Benchmark:
    """Pitts30k from Patch-NetVLAD's metadata: two lists of names and an .npz of positions (utmDb, utmQ, posDistThr).

    The names begin with the folder `Pittsburgh250k/`, which is where the root may be or be the parent of.
    """
    names = [[path.removeprefix("Pittsburgh250k/") for path in read_names(file)] for file in (database, queries)]
    utm_database, utm_queries, radius_m = read_npz_positions(positions)
    names[1] = [path.removeprefix("queries_real/") for path in names[1]]
    sides = [
        pittsburgh_manifest(root, name, split, role, listed, places, utm)
        for role, listed, places, utm in (
            ("db", names[0], DATABASE_FOLDERS, utm_database),
            ("query", names[1], QUERY_FOLDERS, utm_queries),
        )
    ]
    return Benchmark(name, *sides, radius_cards(*sides, name, name, radius_m))


def read_npz_positions(path: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Database and query positions, float64 (N, 2), and the threshold of a Patch-NetVLAD .npz.

    Raises:
        FileNotFoundError, or ValueError when an array is missing.
    """
    arrays = load_arrays(path, {"utmDb", "utmQ", "posDistThr"})
    database, queries = (arrays[key].astype(np.float64) for key in ("utmDb", "utmQ"))
    return database, queries, float(arrays["posDistThr"])


def _from_mat(root: Path, path: Path, name: str, split: str) -> Benchmark:
    struct = read_db_struct(path)
    database = pittsburgh_manifest(
        root, name, split, "db", struct.database, DATABASE_FOLDERS, struct.database_positions
    )
    queries = pittsburgh_manifest(root, name, split, "query", struct.queries, QUERY_FOLDERS, struct.query_positions)
    return Benchmark(name, database, queries, radius_cards(database, queries, name, name, struct.radius_m))


def pittsburgh_manifest(
    root: Path,
    name: str,
    split: str,
    role: str,
    names: Sequence[str],
    folders: Sequence[str],
    positions: np.ndarray,
) -> Manifest:
    """Rows in the order of the list. `pano_id` begins with the role: both sides number their panoramas on their own."""
    paths = locate(root, names, folders)
    if len(positions) != len(paths):
        raise ValueError(f"{len(positions)} positions for {len(paths)} images of {name} ({role}): the lists differ.")
    parts = [_NAME.search(path) for path in paths]
    if not all(parts):
        odd = paths[parts.index(None)]
        raise ValueError(f"'{odd}' is no Pittsburgh name; expected 000/000829_pitch1_yaw1.jpg and the like.")
    pano = [f"{role}/{part[1]}/{part[2]}" for part in parts]
    yaw = np.array([int(part[4]) for part in parts])
    columns = {
        "image_path": paths, "utm_east": positions[:, 0], "utm_north": positions[:, 1], "utm_zone": ZONE, "utm_band": BAND,
        "pano_id": pano, "nms_group": np.unique(pano, return_inverse=True)[1].astype(np.int64),
        "tile": np.array([(int(part[3]) - 1) * 24 for part in parts]) + yaw - 1, "yaw_deg": 30.0 * (yaw - 1),
    }  # fmt: skip
    return build_manifest(root, name, split, role, columns, position_kind="gps", keep_order=True)
