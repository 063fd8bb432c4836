"""Drives through the same streets, compared two at a time: Oxford RobotCar and Boreas. Spec: datasets §10, §13.2."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vpr_lib.data.ground_truth import Positives, ProtocolCard
from vpr_lib.data.manifest import Manifest
from vpr_lib.paths import atomic_path, write_text


@dataclass(frozen=True)
class RunPairs:
    """Several runs; the queries of each are searched in the database of every other one.

    Args:
        runs: their names, R.
        databases: per run all its submaps, with cloud_path, image_path and positions.
        query_rows: per run the rows of its own database that are queries, int64 (Q,).
        positives: (query run, database run) -> Positives, Q x D, for every ordered pair of different runs.
        card: how it is scored; a query without a positive in a database does not count there, and the pairs are averaged
            without weights.
    """

    name: str
    runs: tuple[str, ...]
    databases: tuple[Manifest, ...]
    query_rows: tuple[np.ndarray, ...]
    positives: Mapping[tuple[int, int], Positives]
    card: ProtocolCard

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Ordered pairs (query run, database run), by query run."""
        return ((q, d) for q in range(len(self.runs)) for d in range(len(self.runs)) if q != d)

    def queries(self, run: int) -> Manifest:
        """The queries of a run as a manifest of their own."""
        return self.databases[run].take(self.query_rows[run])

    def same_places(self, count: int) -> np.ndarray:
        """Up to `count` evenly spaced queries of the first run, and the submap of every run nearest to each: database rows,
        int64 (places, R). Queries that some run has no match for are left out."""
        own, others = self.query_rows[0], range(1, len(self.runs))
        seen = np.logical_and.reduce([self.positives[0, run].counts > 0 for run in others])
        chosen = own[seen][np.unique(np.linspace(0, seen.sum() - 1, min(count, seen.sum())).astype(int))]
        places = self.databases[0].positions()[chosen]
        nearest = [((run.positions()[None] - places[:, None]) ** 2).sum(-1).argmin(1) for run in self.databases[1:]]
        return np.stack([chosen, *nearest], 1)

    @cached_property
    def counted(self) -> dict[tuple[int, int], int]:
        """Per pair how many queries have a positive; the others are skipped there."""
        return {pair: int((self.positives[pair].counts > 0).sum()) for pair in self.pairs()}

    def save(self, folder: Path) -> Path:
        """Write tables and matches below `folder`; `load` reads them back."""
        folder = Path(folder)
        for index, database in enumerate(self.databases):
            database.save(folder / "runs" / f"{index:03d}.parquet")
        arrays = {f"rows_{index}": rows for index, rows in enumerate(self.query_rows)}
        for (query, database), found in self.positives.items():
            arrays |= {f"indptr_{query}_{database}": found.indptr, f"indices_{query}_{database}": found.indices}
        with atomic_path(folder / "pairs.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        about = {"name": self.name, "runs": self.runs, "roots": [str(database.root) for database in self.databases]}
        write_text(folder / "run_pairs.json", json.dumps(about | {"card": self.card.model_dump()}))
        return folder

    @classmethod
    def load(cls, folder: Path) -> "RunPairs":
        """Read what `save` wrote (ValueError if tables and matches do not belong together)."""
        folder = Path(folder)
        about = json.loads((folder / "run_pairs.json").read_text(encoding="utf-8"))
        databases = tuple(
            Manifest.load(folder / "runs" / f"{index:03d}.parquet", root) for index, root in enumerate(about["roots"])
        )
        n = len(databases)
        with np.load(folder / "pairs.npz", allow_pickle=False) as arrays:
            rows = tuple(arrays[f"rows_{index}"] for index in range(n))
            positives = {
                (q, d): Positives(arrays[f"indptr_{q}_{d}"], arrays[f"indices_{q}_{d}"], len(databases[d]))
                for q in range(n) for d in range(n) if q != d
            }  # fmt: skip
        stored = ProtocolCard.model_validate(about["card"])
        made = make_run_pairs(about["name"], about["runs"], databases, rows, positives, _own_fields(stored))
        if made.card != stored:
            raise ValueError(f"{folder}: matches and tables do not belong together; prepare the data set again.")
        return made


def make_run_pairs(
    name: str,
    runs: list[str],
    databases: tuple[Manifest, ...],
    query_rows: tuple[np.ndarray, ...],
    positives: Mapping[tuple[int, int], Positives],
    card: Mapping[str, object],
) -> RunPairs:
    """Run pairs whose card, with the fields in `card`, carries the hashes of what it was built from.

    Raises:
        ValueError: when the matches of a pair are missing or do not fit its runs.
    """
    for query, database in ((q, d) for q in range(len(runs)) for d in range(len(runs)) if q != d):
        matches = positives.get((query, database))
        expected = (len(query_rows[query]), len(databases[database]))
        if matches is None or (len(matches), matches.n_database) != expected:
            came = "nothing" if matches is None else f"{len(matches)} x {matches.n_database}"
            raise ValueError(
                f"{name}: queries of {runs[query]} in {runs[database]} need matches of {expected[0]} x {expected[1]}, got {came}."
            )
    full = ProtocolCard(
        database_hash=_hash(database.list_hash for database in databases),
        query_hash=_hash(rows.astype(np.int64).tobytes().hex() for rows in query_rows),
        positives_hash=_hash(positives[pair].hash for pair in sorted(positives)),
        **card,
    )
    return RunPairs(name, tuple(runs), tuple(databases), tuple(query_rows), positives, full)


def _own_fields(card: ProtocolCard) -> dict[str, object]:
    return card.model_dump(exclude={"database_hash", "query_hash", "positives_hash"})


def _hash(texts: Iterator[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
