"""Ground truth as others published it, in small files without a single image: enough to check our own building of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpr_lib.data.ground_truth import Positives


@dataclass(frozen=True)
class PublishedTruth:
    """Positives of one evaluation set, built by our rules from published lists.

    `database` and `queries` are positions in metres, (N, 2) and (Q, 2), or None where the files hold matches only.
    `expected` is the number of positive pairs that datasets §16 gives.
    """

    name: str
    rule: str
    positives: Positives
    expected: int
    database: np.ndarray | None = None
    queries: np.ndarray | None = None

    @property
    def row(self) -> dict[str, object]:
        """A table row: sizes, pairs found and expected."""
        return {
            "set": self.name, "rule": self.rule, "queries": len(self.positives), "database": self.positives.n_database,
            "positives": len(self.positives.indices), "expected": self.expected,
            "agrees": len(self.positives.indices) == self.expected,
        }  # fmt: skip


def read_published(folder: str | Path) -> Iterator[PublishedTruth]:
    """Every set of datasets §16 whose files are in `folder`, in the layout of the two repositories that publish them.

    Those are Patch-NetVLAD's `<set>.npz` and name lists, and the arrays of `gsv_cities/<set>/`. Files that are absent are
    passed over; a damaged one is a ValueError that names it. FileNotFoundError when there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder {folder} with published ground truth.")
    for mark, read in _READERS.items():
        if (folder / mark).exists():
            yield read(folder)


def _npz(name: str, rule: str, expected: int, positions: bool = True) -> Callable[[Path], PublishedTruth]:
    def read(folder: Path) -> PublishedTruth:
        from vpr_lib.data.readers.pittsburgh import read_npz_positions

        database, queries, radius = read_npz_positions(folder / f"{name}.npz")
        positives = Positives.from_radius(database, queries, radius)
        return PublishedTruth(name, rule, positives, expected, *((database, queries) if positions else (None, None)))

    return read


def _msls(folder: Path) -> PublishedTruth:
    from vpr_lib.data.readers.msls_arrays import read_official_matches

    _, scored, positives = read_official_matches(folder / "gsv_cities/msls_val", 18_871)
    return PublishedTruth("msls_val", f"listed, {len(scored)} queries", positives, 7_955)


def _nordland(folder: Path) -> PublishedTruth:
    from vpr_lib.data.readers.nordland import read_nordland_2760

    return PublishedTruth(
        "nordland_2760", "± 1 frame", read_nordland_2760(folder / "gsv_cities/Nordland").positives, 8_279
    )


def _sped(folder: Path) -> PublishedTruth:
    from vpr_lib.data.readers.vpr_bench import read_vpr_bench

    benchmark = read_vpr_bench(folder / "gsv_cities/SPED", "sped", arrays="SPED")
    return PublishedTruth("sped", "listed", benchmark.positives, 607)


_READERS: dict[str, Callable[[Path], PublishedTruth]] = {
    "pitts30k_test.npz": _npz("pitts30k_test", "within 25 m", 968_448),
    "tokyo247.npz": _npz("tokyo247", "within 25 m", 37_260),
    "nordland.npz": _npz("nordland", "± 7 frames, published as 10", 413_824, positions=False),
    "gsv_cities/msls_val": _msls,
    "gsv_cities/Nordland": _nordland,
    "gsv_cities/SPED": _sped,
}
