"""Who counts as correct: positives as a sparse matrix, the protocol card that says by which rule, and the benchmark."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from vpr_lib.config import Strict
from vpr_lib.data.manifest import Manifest
from vpr_lib.paths import atomic_path, write_text

BUILDER_VERSION = 1  # raise when a rule below changes its result


@dataclass(frozen=True)
class Positives:
    """Per query the sorted database indices that count as correct, in compressed sparse rows.

    `indptr` is int64 (Q+1), `indices` int32; row q is `indices[indptr[q]:indptr[q+1]]`. Spec: datasets §13.2.
    """

    indptr: np.ndarray
    indices: np.ndarray
    n_database: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, query: int) -> np.ndarray:
        return self.indices[self.indptr[query] : self.indptr[query + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[query] for query in range(len(self)))

    @cached_property
    def counts(self) -> np.ndarray:
        """Number of positives per query, int64 (Q,)."""
        return np.diff(self.indptr)

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.indptr.tobytes() + self.indices.tobytes()).hexdigest()

    def contains(self, queries: np.ndarray, database: np.ndarray) -> np.ndarray:
        """For arrays of equal shape: is database[...] a positive of queries[...]? Negative indices never are."""
        codes = self.rows * self.n_database + self.indices
        wanted = queries.astype(np.int64) * self.n_database + database
        place = np.searchsorted(codes, wanted)
        inside = place < len(codes)
        inside[inside] = codes[place[inside]] == wanted[inside]
        return inside & (database >= 0)

    @cached_property
    def rows(self) -> np.ndarray:
        """The query of every pair, int64 and as long as `indices`."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.counts)

    def where(self, keep: np.ndarray) -> "Positives":
        """Only the pairs that `keep` marks, bool and as long as `indices`: "and at another time", "and looking there"."""
        counts = np.bincount(self.rows[keep], minlength=len(self))
        return Positives(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), self.indices[keep], self.n_database)

    def take(self, queries: np.ndarray) -> "Positives":
        """The rows of some queries, in that order."""
        counts = self.counts[queries]
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        place = np.repeat(self.indptr[queries] - indptr[:-1], counts) + np.arange(indptr[-1])
        return Positives(indptr, self.indices[place], self.n_database)

    @classmethod
    def from_lists(
        cls, lists: Sequence[Sequence[int]], n_database: int, out_of_range: Literal["raise", "drop"] = "raise"
    ) -> "Positives":
        """From one list of database indices per query; repeats are merged.

        Negative numbers are the sentinel for "has no match" and are dropped. Indices of `n_database` and above are an
        error unless `out_of_range` is "drop". Spec: datasets §13.3 rule 6.
        """
        rows = [np.unique(np.asarray(row, np.int64).ravel()) for row in lists]
        rows = [row[row >= 0] for row in rows]
        if out_of_range == "drop":
            rows = [row[row < n_database] for row in rows]
        elif bad := [q for q, row in enumerate(rows) if row.size and row[-1] >= n_database]:
            raise ValueError(
                f"{len(bad)} rows of the ground truth point beyond the {n_database} database images, the first is "
                f"row {bad[0]} with index {rows[bad[0]][-1]}."
            )
        indptr = np.concatenate([[0], np.cumsum([row.size for row in rows])]).astype(np.int64)
        indices = np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int32)
        return cls(indptr, indices, n_database)

    @classmethod
    def from_radius(
        cls,
        database: np.ndarray,
        queries: np.ndarray,
        radius_m: float,
        database_groups: np.ndarray | None = None,
        query_groups: np.ndarray | None = None,
    ) -> "Positives":
        """All database images within `radius_m` metres, the threshold included.

        Args:
            database, queries: positions, float64 (N, 2) and (Q, 2). Lower precision is refused: float32 northings
                have 0.5 m steps and flip hundreds of decisions on Pitts30k.
            database_groups, query_groups: UTM zone or city per row; positions of different groups are never compared.
        Spec: datasets §1.3.
        """
        if database.dtype != np.float64 or queries.dtype != np.float64:
            raise ValueError(f"Positions must be float64, got {database.dtype} and {queries.dtype}.")
        if database_groups is None or query_groups is None:
            return cls.from_lists(list(_within_radius(database, queries, radius_m)), len(database))
        rows: list[np.ndarray] = [np.empty(0, np.int64)] * len(queries)
        for group in np.unique(query_groups):
            db_rows, q_rows = np.flatnonzero(database_groups == group), np.flatnonzero(query_groups == group)
            for q, near in zip(q_rows, _within_radius(database[db_rows], queries[q_rows], radius_m)):
                rows[q] = db_rows[near]
        return cls.from_lists(rows, len(database))

    @classmethod
    def from_window(
        cls, centres: np.ndarray, half_width: int, n_database: int, section: int | None = None
    ) -> "Positives":
        """Frame `centres[q]` and `half_width` frames to either side, clipped to the database.

        Args:
            section: frames per section of the drive; windows do not reach from one section into the next.
        """
        centres = np.asarray(centres, np.int64)
        low, high = 0, n_database
        if section is not None:
            low = centres // section * section
            high = np.minimum(low + section, n_database)
        first, stop = np.maximum(low, centres - half_width), np.minimum(high, centres + half_width + 1)
        counts = np.maximum(stop - first, 0)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        inside = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts)
        return cls(indptr, (np.repeat(first, counts) + inside).astype(np.int32), n_database)


def _within_radius(database: np.ndarray, queries: np.ndarray, radius_m: float) -> Iterator[np.ndarray]:
    # Street View crops share positions (24 per panorama): search each distinct position once.
    places, place_of = np.unique(queries, axis=0, return_inverse=True)
    if len(database) == 0 or len(queries) == 0:
        yield from (np.empty(0, np.int64) for _ in range(len(queries)))
        return
    near = cKDTree(database).query_ball_point(places, radius_m * (1 + 1e-9) + 1e-6)
    exact = []
    for place, rows in zip(places, near):
        rows = np.asarray(rows, np.int64)
        exact.append(rows[((database[rows] - place) ** 2).sum(1) <= radius_m**2])
    yield from (exact[place] for place in place_of.ravel())


class ProtocolCard(Strict):
    """By which rule an answer counts as correct, and over which lists. Two numbers compare only under equal cards."""

    name: str
    dataset: str
    variant: str = ""
    rule: Literal["radius_m", "frame_window", "list", "place_id"]
    threshold: float | None = None  # metres or frames
    inclusive: bool = True
    angle_deg: float | None = None
    same_zone_required: bool = True
    cross_city_distractors: bool = True  # the whole database is searched, not only the query's city
    nms: Literal["none", "panorama"] = "none"
    denominator: Literal["all", "with_positive"] = "all"
    database_hash: str = ""
    query_hash: str = ""
    positives_hash: str = ""
    images_hash: str = ""  # over the bytes of both lists' images as they were described, where they were
    notes: str = ""
    transform: str = (
        ""  # how images reach the model, where that is part of a paper's protocol (retrieval/transforms.py)
    )
    builder_version: int = BUILDER_VERSION

    @property
    def hash(self) -> str:
        """16 hex digits over every field but the notes, and but transform and images_hash where they are empty."""
        silent = {"notes", *(name for name in ("transform", "images_hash") if not getattr(self, name))}
        values = json.dumps(self.model_dump(exclude=silent), sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()[:16]

    def rule_in_words(self) -> str:
        """One line for captions: '25 m, all 6816 queries'-style, without the count."""
        rule = {
            "radius_m": f"within {self.threshold:g} m" if self.threshold is not None else "",
            "frame_window": f"within {self.threshold:g} frames" if self.threshold is not None else "",
            "list": "listed matches",
            "place_id": "same place id",
        }[self.rule]
        counted = "every query counts" if self.denominator == "all" else "queries without a positive are left out"
        more = ["one hit per panorama"] if self.nms == "panorama" else []
        return ", ".join([rule, counted, *more] + ([self.transform] if self.transform else []))


@dataclass(frozen=True)
class Protocol:
    """A protocol card with the ground truth it describes.

    `query_mask` (Q,) marks the queries this protocol looks at; `nms_groups` (N,) is the panorama of every database
    image and is needed when the card says `nms="panorama"`.
    """

    card: ProtocolCard
    positives: Positives
    query_mask: np.ndarray
    nms_groups: np.ndarray | None = None

    def of_images(self, images_hash: str) -> "Protocol":
        """The same protocol over these very pictures: equal names in another folder are another card."""
        return replace(self, card=self.card.model_copy(update={"images_hash": images_hash}))

    @property
    def counted(self) -> np.ndarray:
        """Queries in the denominator, bool (Q,)."""
        if self.card.denominator == "all":
            return self.query_mask
        return self.query_mask & (self.positives.counts > 0)


def make_protocol(
    database: Manifest,
    queries: Manifest,
    positives: Positives,
    query_mask: np.ndarray | None = None,
    **card_fields: object,
) -> Protocol:
    """A protocol whose card carries the hashes of the lists it was built from; `card_fields` as in ProtocolCard.

    Only queries inside `query_mask` enter the hashes: 740 queries out of 11,084 are the same protocol as a list of 740.
    """
    if len(positives) != len(queries) or positives.n_database != len(database):
        raise ValueError(
            f"Ground truth is {len(positives)} x {positives.n_database}, the lists are "
            f"{len(queries)} x {len(database)}."
        )
    mask = np.ones(len(queries), bool) if query_mask is None else np.asarray(query_mask, bool)
    looked_at = positives if mask.all() else positives.take(np.flatnonzero(mask))
    card = ProtocolCard(
        database_hash=database.list_hash,
        query_hash=queries.list_hash if mask.all() else queries.take(np.flatnonzero(mask)).list_hash,
        positives_hash=looked_at.hash,
        **card_fields,
    )
    groups = None
    if card.nms == "panorama":
        if "nms_group" not in database.table:
            raise ValueError(f"Protocol '{card.name}' suppresses panoramas, but the database has no nms_group column.")
        groups = database.table["nms_group"].to_numpy(np.int64)
    return Protocol(card, positives, mask, groups)


@dataclass(frozen=True)
class Benchmark:
    """A database, the queries to localise in it, and one or more protocols; the first protocol is the default."""

    name: str
    database: Manifest
    queries: Manifest
    protocols: tuple[Protocol, ...] = field(default=())

    @property
    def protocol(self) -> Protocol:
        """The default protocol (ValueError when there is no ground truth, as for two plain folders)."""
        if not self.protocols:
            raise ValueError(f"'{self.name}' has no ground truth: it can be retrieved from, but not evaluated.")
        return self.protocols[0]

    @property
    def positives(self) -> Positives:
        return self.protocol.positives

    def save(self, folder: Path) -> Path:
        """Write the tables and every protocol below `folder`; `load` reads them back."""
        folder = Path(folder)
        self.database.save(folder / "database.parquet")
        self.queries.save(folder / "queries.parquet")
        for protocol in self.protocols:
            place = folder / "protocols" / protocol.card.name
            with atomic_path(place / "positives.npz") as temporary, temporary.open("wb") as file:
                np.savez_compressed(
                    file,
                    indptr=protocol.positives.indptr,
                    indices=protocol.positives.indices,
                    query_mask=protocol.query_mask,
                )
            write_text(place / "protocol.json", protocol.card.model_dump_json(indent=1))
        roots = {"database": str(self.database.root), "queries": str(self.queries.root)}
        order = [protocol.card.name for protocol in self.protocols]
        write_text(folder / "benchmark.json", json.dumps({"name": self.name, "roots": roots, "protocols": order}))
        return folder

    @classmethod
    def load(cls, folder: Path) -> "Benchmark":
        """Read what `save` wrote (ValueError if a table does not match the hashes of a card)."""
        folder = Path(folder)
        about = json.loads((folder / "benchmark.json").read_text(encoding="utf-8"))
        database = Manifest.load(folder / "database.parquet", about["roots"]["database"])
        queries = Manifest.load(folder / "queries.parquet", about["roots"]["queries"])
        protocols = []
        for name in about["protocols"]:
            stored = ProtocolCard.model_validate_json(
                (folder / "protocols" / name / "protocol.json").read_text(encoding="utf-8")
            )
            with np.load(folder / "protocols" / name / "positives.npz", allow_pickle=False) as arrays:
                positives = Positives(arrays["indptr"], arrays["indices"], len(database))
                hashes = {"database_hash", "query_hash", "positives_hash"}
                built = make_protocol(
                    database, queries, positives, arrays["query_mask"], **stored.model_dump(exclude=hashes)
                )
            if built.card != stored:
                raise ValueError(f"{folder}: protocol '{name}' was built from other lists; prepare the data set again.")
            protocols.append(built)
        return cls(about["name"], database, queries, tuple(protocols))
