"""Training by tuples: a query, images of its place, and images that surely show another one. Spec: datasets §1.3, §13.2."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.readers.geo import utm_columns
from vpr_lib.paths import atomic_path, write_text


@dataclass(frozen=True)
class TupleSet:
    """What a query may be pulled towards and must not be pushed from.

    `positives` (the inner radius, 10 m) may serve as positives; everything outside `non_negatives` (25 m, Oxford 50 m) as a
    negative; the ring between the two is neither. For sets where every image is query and database, pass one manifest
    twice.
    """

    database: Manifest
    queries: Manifest
    positives: Positives
    non_negatives: Positives

    def __post_init__(self) -> None:
        inner, outer = self.positives, self.non_negatives
        if (len(inner), inner.n_database) != (len(outer), outer.n_database):
            raise ValueError(
                f"Positives are {len(inner)} x {inner.n_database}, non-negatives {len(outer)} x {outer.n_database}."
            )
        inside = outer.contains(inner.rows, inner.indices)
        if not inside.all():
            raise ValueError(
                f"{int((~inside).sum())} positives are not among the non-negatives, the first is database image "
                f"{int(inner.indices[inside.argmin()])} of query {int(inner.rows[inside.argmin()])}: they could be drawn "
                "as negatives of the same query."
            )

    @property
    def manifests(self) -> list[Manifest]:
        """Every list of images once."""
        return [self.database] if self.queries is self.database else [self.database, self.queries]

    def save(self, folder: Path) -> Path:
        """Write tables and pairs below `folder`; `load` reads them back."""
        folder = Path(folder)
        self.database.save(folder / "database.parquet")
        if own := self.queries is not self.database:
            self.queries.save(folder / "queries.parquet")
        pairs = {"positives": self.positives, "non_negatives": self.non_negatives}
        arrays = {
            f"{name}_{part}": getattr(found, part) for name, found in pairs.items() for part in ("indptr", "indices")
        }
        with atomic_path(folder / "tuples.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        roots = [str(side.root) for side in (self.database, self.queries)]
        write_text(folder / "tuples.json", json.dumps({"roots": roots, "own_queries": own}))
        return folder

    @classmethod
    def load(cls, folder: Path) -> "TupleSet":
        """Read what `save` wrote (ValueError if a table was edited)."""
        folder = Path(folder)
        about = json.loads((folder / "tuples.json").read_text(encoding="utf-8"))
        database = Manifest.load(folder / "database.parquet", about["roots"][0])
        queries = Manifest.load(folder / "queries.parquet", about["roots"][1]) if about["own_queries"] else database
        with np.load(folder / "tuples.npz", allow_pickle=False) as arrays:
            pairs = [
                Positives(arrays[f"{name}_indptr"], arrays[f"{name}_indices"], len(database))
                for name in ("positives", "non_negatives")
            ]
        return cls(database, queries, *pairs)

    @cached_property
    def usable(self) -> np.ndarray:
        """Queries with at least one positive and one negative, int64, rising; training takes only these."""
        counts = self.non_negatives.counts
        return np.flatnonzero((self.positives.counts > 0) & (counts < self.non_negatives.n_database))

    def draw_negatives(self, query: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` different negatives at random, int64; all there are when that is fewer.

        Drawn without listing the database: near images are skipped over by their rank.
        """
        near = self.non_negatives[query].astype(np.int64)
        available = self.non_negatives.n_database - len(near)
        ranks = np.sort(rng.choice(available, min(count, available), replace=False))
        # the k-th image that is not near: k plus the near images at or before it
        return ranks + np.searchsorted(near - np.arange(len(near)), ranks, side="right")


def radius_tuples(
    database: Manifest,
    queries: Manifest,
    positive_m: float = 10.0,
    non_negative_m: float = 25.0,
    group: str | None = None,
) -> TupleSet:
    """Tuples by distance: positives within `positive_m`, no negatives within `non_negative_m`, both thresholds included.

    A query is never its own positive, nor its own negative, when both sides are one manifest.

    Args:
        group: column whose values are never compared (`city`); images of another group are negatives.
    Raises:
        ValueError: if the radii are not in order, or a side has no positions in metres.
    """
    if not 0 < positive_m <= non_negative_m:
        raise ValueError(f"Expected 0 < positive_m <= non_negative_m, got {positive_m:g} and {non_negative_m:g}.")
    rings = radius_rings(database, queries, (positive_m, non_negative_m), group)
    positives = rings[positive_m]
    if database.list_hash == queries.list_hash:
        positives = positives.where(positives.rows != positives.indices)
    return TupleSet(database, queries, positives, rings[non_negative_m])


def place_tuples(manifest: Manifest, non_negative_m: float = 25.0) -> TupleSet:
    """Tuples from places in the GSV-Cities manner: the other images of a place are its positives, and no negative shares
    the place or lies within `non_negative_m` of the query.

    Raises:
        ValueError: if the manifest has no place ids, or neither metres nor degrees.
    """
    if missing := {"place_id", "lat", "lon"} - set(manifest.table):
        raise ValueError(f"Tuples of places need the columns place_id, lat and lon; missing: {sorted(missing)}.")
    table = manifest.table
    columns = utm_columns(table["lat"].to_numpy(), table["lon"].to_numpy())
    positions = np.stack([columns["utm_east"], columns["utm_north"]], axis=1)
    groups = table["city"].to_numpy() if "city" in table else np.zeros(len(table), np.int64)
    near = Positives.from_radius(positions, positions, non_negative_m, groups, groups)
    place = np.unique(table["place_id"].to_numpy(str), return_inverse=True)[1]
    members = np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])
    same = Positives.from_lists([members[p] for p in place], len(table))
    others = same.where(same.rows != same.indices)
    both = Positives.from_lists([np.union1d(a, b) for a, b in zip(near, same)], len(table))
    return TupleSet(manifest, manifest, others, both)


def radius_rings(
    database: Manifest, queries: Manifest, radii_m: Sequence[float] = (10.0, 25.0, 50.0), group: str | None = None
) -> dict[float, Positives]:
    """All pairs within each of some radii, the threshold included; what lies between two of them is a ring.

    Raises:
        ValueError: when a side has no positions in metres: mock and frame coordinates only look like some.
    """
    for side in (database, queries):
        if not side.has_positions:
            raise ValueError(
                f"The {len(side)} images under {side.root} have no positions in metres, so no radius applies."
            )
    column = group or ("utm_zone" if all("utm_zone" in side.table for side in (database, queries)) else None)
    groups = [side.table[column].to_numpy() if column else None for side in (database, queries)]
    return {
        radius: Positives.from_radius(database.positions(), queries.positions(), radius, *groups) for radius in radii_m
    }
