"""Names and matches as NumPy arrays, the form of GSV-Cities, SALAD and OpenVPRLab. Spec: datasets §3, §4, §8."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vpr_lib.data.ground_truth import Benchmark, Positives, make_protocol
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.pickles import load_array
from vpr_lib.data.readers.lists import locate, read_names


def read_truth(path: Path, n_queries: int, n_database: int) -> Positives:
    """Positives from an array with one row per query: integers (Q, 1), or objects (Q,) that are lists of indices.

    Raises:
        FileNotFoundError: if it is absent. ValueError: if it has another number of rows than there are queries, its
            entries are no indices, or one points beyond the database: ground truth and lists belong to different sets.
    """
    rows = load_array(path)
    if rows.ndim == 0 or len(rows) != n_queries:
        raise ValueError(
            f"{path}: ground truth of shape {rows.shape} for {n_queries} queries; expected one row per query. Lists and "
            "ground truth must come from one release."
        )
    if rows.ndim == 2 and rows.shape[1] == n_database > 1 and np.isin(rows, (0, 1)).all():
        raise ValueError(
            f"{path}: a table of 0 and 1, one column per database image; expected lists of indices: numpy.flatnonzero of every row."
        )
    try:
        lists = [np.atleast_1d(np.asarray(row)) for row in rows]
        if not all(row.size == 0 or row.dtype.kind in "iu" for row in lists):
            raise ValueError("entries are not integers")
        return Positives.from_lists([row.astype(np.int64) for row in lists], n_database)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_arrays(
    root: Path,
    files: Sequence[str],
    name: str,
    metadata: Path | None = None,
    dataset: str | None = None,
    split: str = "test",
    folders: Sequence[str] = ("",),
    card: Mapping[str, object] | None = None,
) -> Benchmark:
    """A benchmark from three arrays: database names, query names, matches; the order of the arrays is kept.

    Args:
        root: folder of the images. files: file names of the three arrays; of a fourth, where the matches refer to positions
            in the list of queries that it holds (MSLS).
        metadata: folder of the arrays, default the root.
        folders: folders below the root to look for the named images in; the first that holds them is taken.
        card: fields of the protocol card; default `name=<name>@listed`, `rule="list"`.
    Raises:
        FileNotFoundError, ValueError: as `read_names` and `read_truth`.
    """
    folder, dataset = Path(metadata or root), dataset or name
    names = [read_names(folder / file) for file in files[:2]]
    for positions in files[3:]:
        names[1] = keep_listed(names[1], folder / positions)
    sides = [
        build_manifest(root, dataset, split, role, {"image_path": locate(root, listed, folders)}, keep_order=True)
        for role, listed in zip(("db", "query"), names)
    ]
    positives = read_truth(folder / files[2], len(names[1]), len(names[0]))
    card = dict(name=f"{name}@listed", dataset=dataset, rule="list") | dict(card or {})
    return Benchmark(name, *sides, (make_protocol(*sides, positives, **card),))


def keep_listed(names: Sequence[str], path: Path) -> list[str]:
    """The names that an array of positions keeps (ValueError unless they rise and lie inside the list)."""
    rows = load_array(path).ravel()
    if (
        rows.dtype.kind not in "iu"
        or (np.diff(rows) <= 0).any()
        or not len(rows)
        or rows[0] < 0
        or rows[-1] >= len(names)
    ):
        raise ValueError(
            f"{path}: expected rising positions between 0 and {len(names) - 1} in the list of queries, got "
            f"{rows.dtype} from {rows.min() if len(rows) else '-'} to {rows.max() if len(rows) else '-'}."
        )
    return [names[row] for row in rows]
