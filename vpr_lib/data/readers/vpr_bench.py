"""VPR-Bench folders: ref/, query/ and ground_truth_new.npy, with all their traps. Spec: datasets §8."""

import logging
from pathlib import Path

import numpy as np

from vpr_lib.data.ground_truth import Benchmark, Positives, make_protocol
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.pickles import load_array
from vpr_lib.data.readers.arrays import read_arrays
from vpr_lib.data.readers.image_files import list_images
from vpr_lib.data.readers.numbers import numbered

log = logging.getLogger(__name__)
TRUTH = "ground_truth_new.npy"


def read_vpr_bench(
    root: Path, name: str | None = None, metadata: Path | None = None, arrays: str | None = None, card: str = "listed"
) -> Benchmark:
    """A VPR-Bench data set: `ref/`, `query/` and `ground_truth_new.npy`.

    The ground truth is an object array (N, 2): query index, list of acceptable reference indices. `[-1]` marks a query
    without a match; it stays in the denominator. Indices beyond the references (17 Places, GardensPoint) are dropped
    with a warning that counts them.

    Args:
        arrays: stem of the three arrays that GSV-Cities and SALAD ship for the same images (`SPED_dbImages.npy`,
            `SPED_qImages.npy`, `SPED_gt.npy`); they are read where there is no `ground_truth_new.npy`.
        metadata: folder of the arrays, default the root.
        card: second half of the card's name, `<name>@listed`.
    Raises:
        FileNotFoundError: if a folder or the ground truth is absent. ValueError: if the ground truth does not describe
            these images (another number of queries, nothing left after dropping).
    """
    root = Path(root)
    name = name or root.name
    fields = dict(name=f"{name}@{card}", dataset=name, rule="list")
    if arrays is not None and not (root / TRUTH).is_file() and (Path(metadata or root) / f"{arrays}_gt.npy").is_file():
        files = [f"{arrays}_{part}.npy" for part in ("dbImages", "qImages", "gt")]
        return read_arrays(root, files, name, metadata, card=fields)
    references, queries, positives = read_numbered(root / "ref", root / "query", root / TRUTH)
    sides = [
        build_manifest(
            root, name, "test", role, {"image_path": [f"{folder}/{path}" for path in paths]}, keep_order=True
        )
        for role, folder, paths in (("db", "ref", references), ("query", "query", queries))
    ]
    return Benchmark(name, *sides, (make_protocol(*sides, positives, **fields),))


def read_numbered(references: Path, queries: Path, truth: Path) -> tuple[list[str], list[str], Positives]:
    """Reference and query images of two folders in the order that the ground truth counts them in, and the positives.

    Raises:
        FileNotFoundError, ValueError: as `read_vpr_bench`, and for names that cannot be counted (`numbers.numbered`).
    """
    sides = {folder: list_images(folder) for folder in (references, queries)}
    if not all(sides.values()):
        counts = " and ".join(f"{len(paths)} images in {folder.name}/" for folder, paths in sides.items())
        raise ValueError(f"{references.parent}: {counts}; both need some.")
    rows = _read_table(truth)
    asked = numbered(sides[queries], queries, sides[references], len(rows))
    needed = 1 + max((int(_indices(truth, row).max(initial=-1)) for _, row in rows), default=-1)
    there = numbered(sides[references], references, sides[queries], needed=needed)
    return there, asked, _positives(truth, rows, len(asked), len(there))


def _positives(path: Path, table: np.ndarray, n_queries: int, n_references: int) -> Positives:
    rows = _rows(path, table, n_queries)
    if beyond := [q for q, row in enumerate(rows) if any(index >= n_references for index in row)]:
        log.warning(
            "%s: %d rows point beyond the %d references; those indices are dropped", path, len(beyond), n_references
        )
    positives = Positives.from_lists(rows, n_references, out_of_range="drop")
    if len(positives.indices) == 0:
        raise ValueError(f"{path}: no row names one of the {n_references} references.")
    return positives


def _read_table(path: Path) -> np.ndarray:
    """Rows of (query, list of references), an object array (Q, 2)."""
    if not path.is_file():
        raise FileNotFoundError(
            f"No ground truth {path}; VPR-Bench keeps one per data set in https://github.com/MubarizZaffar/VPR-Bench."
        )
    table = load_array(path)
    if table.ndim != 2 or table.shape[1] != 2:
        raise ValueError(f"{path}: expected rows of (query, list of references), got an array of shape {table.shape}.")
    return table


def _rows(path: Path, table: np.ndarray, n_queries: int) -> list[list[int]]:
    """One list of reference indices per query, in query order; sentinels and out-of-range indices still inside."""
    rows: dict[int, list[int]] = {}
    for number, references in table:
        query = int(_indices(path, number).item())
        if query in rows or not 0 <= query < n_queries:
            raise ValueError(
                f"{path}: row for query {query}, but the {n_queries} images in query/ are numbered 0 to "
                f"{n_queries - 1}, once each. Ground truth and images belong to different sets."
            )
        rows[query] = _indices(path, references).tolist()
    if len(rows) != n_queries:
        raise ValueError(f"{path}: {len(rows)} rows for {n_queries} images in query/.")
    return [rows[query] for query in range(n_queries)]


def _indices(path: Path, values: object) -> np.ndarray:
    """What a cell of the ground truth holds, a number or a list of numbers, int64 (n,) (ValueError when those are no indices)."""
    row = np.array(np.atleast_1d(np.asarray(values)).ravel().tolist())  # an array of objects gets a type
    if row.dtype.kind in "US":
        raise ValueError(
            f"{path}: the rows name files ('{row[0]}'), expected numbers: the index of a query and a list of indices of "
            "references, both in the order of the images' numbers."
        )
    if row.size and (row.dtype.kind not in "iuf" or not (np.isfinite(row) & (row == np.rint(row))).all()):
        raise ValueError(
            f"{path}: {row.tolist()} are no indices; expected whole numbers, -1 for a query without a match."
        )
    return row.astype(np.int64)
