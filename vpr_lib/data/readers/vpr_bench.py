"""VPR-Bench folders: ref/, query/ and ground_truth_new.npy, with all their traps. Spec: datasets §8."""

import logging
import re
from pathlib import Path

import numpy as np

from vpr_lib.data.ground_truth import Benchmark, Positives, make_protocol
from vpr_lib.data.images import list_images
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.pickles import load_array
from vpr_lib.data.readers.arrays import read_arrays

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
    references, queries = (with_gaps(list_images(root / folder), root / folder) for folder in ("ref", "query"))
    if not references or not queries:
        raise ValueError(f"{root}: {len(references)} images in ref/ and {len(queries)} in query/; both need some.")
    positives = read_matches(root / TRUTH, len(queries), len(references))
    sides = [
        build_manifest(root, name, "test", role, {"image_path": [f"{folder}/{path}" for path in paths]})
        for role, folder, paths in (("db", "ref", references), ("query", "query", queries))
    ]
    return Benchmark(name, *sides, (make_protocol(*sides, positives, **fields),))


def with_gaps(paths: list[str], folder: Path) -> list[str]:
    """The images of a folder whose names are their indices, with those that are missing in between.

    The ground truth refers to numbers: one lost file, and a plain listing would shift every later index by one. Here it stays
    in the list, so that `vpr data check` names it and describing it fails. Other names, time stamps among them, are left as
    they are; VPR-Bench's seven digits begin with 0, others where they begin.
    """
    matches = [re.fullmatch(r"(\d+)(\.\w+)", path) for path in paths]
    by_number = {int(match[1]): match[0] for match in matches if match}
    if not paths or len(by_number) < len(paths) or max(by_number) > 2 * len(paths) + 10:
        return paths
    width, suffix = len(matches[0][1]), matches[0][2]
    numbers = range(0 if width == 7 else min(by_number), max(by_number) + 1)
    if missing := [number for number in numbers if number not in by_number]:
        log.warning("%s: %d images are missing, the first is number %d", folder, len(missing), missing[0])
    return [by_number.get(number, f"{number:0{width}d}{suffix}") for number in numbers]


def read_matches(path: Path, n_queries: int, n_references: int) -> Positives:
    """Positives from a `ground_truth_new.npy`; see `read_vpr_bench` for its traps and errors."""
    rows = _read_rows(path, n_queries)
    if beyond := [q for q, row in enumerate(rows) if any(index >= n_references for index in row)]:
        log.warning(
            "%s: %d rows point beyond the %d references; those indices are dropped", path, len(beyond), n_references
        )
    positives = Positives.from_lists(rows, n_references, out_of_range="drop")
    if len(positives.indices) == 0:
        raise ValueError(f"{path}: no row names one of the {n_references} references.")
    return positives


def _read_rows(path: Path, n_queries: int) -> list[list[int]]:
    """One list of reference indices per query, in query order; sentinels and out-of-range indices still inside."""
    if not path.is_file():
        raise FileNotFoundError(
            f"No ground truth {path}; VPR-Bench keeps one per data set in https://github.com/MubarizZaffar/VPR-Bench."
        )
    table = load_array(path)
    if table.ndim != 2 or table.shape[1] != 2:
        raise ValueError(f"{path}: expected rows of (query, list of references), got an array of shape {table.shape}.")
    rows: dict[int, list[int]] = {}
    for query, references in table:
        query = int(query)
        if query in rows or not 0 <= query < n_queries:
            raise ValueError(
                f"{path}: row for query {query}, but the {n_queries} images in query/ are numbered 0 to "
                f"{n_queries - 1}, once each. Ground truth and images belong to different sets."
            )
        rows[query] = np.atleast_1d(np.asarray(references)).astype(int).ravel().tolist()
    if len(rows) != n_queries:
        raise ValueError(f"{path}: {len(rows)} rows for {n_queries} images in query/.")
    return [rows[query] for query in range(n_queries)]
