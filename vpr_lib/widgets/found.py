"""What a retrieval says about each query, for pages, maps and files: the best match, how sure, and where that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vpr_lib.data.manifest import Manifest
from vpr_lib.data.readers.geo import degrees
from vpr_lib.retrieval.folders import FolderRetrieval
from vpr_lib.retrieval.metrics import distances_m

Place = tuple[float, float]


@dataclass(frozen=True)
class Found:
    """One query. Places are (latitude, longitude) in degrees; None where they are not known."""

    query: str
    match: str
    similarity: float
    foreign: bool
    correct: bool | None
    distance_m: float | None
    query_place: Place | None
    match_place: Place | None
    heading_deg: float | None  # of the match

    def in_words(self) -> str:
        """'db/12.jpg, similarity 0.812, 3.1 m away, 48.510001 8.000120, heading 271°'."""
        if self.foreign:
            return f"not in this map (best similarity {self.similarity:.3f}, with {self.match})"
        words = [self.match, f"similarity {self.similarity:.3f}"]
        words += [f"{self.distance_m:.1f} m away"] if self.distance_m is not None else []
        words += ["{:.6f} {:.6f}".format(*self.match_place)] if self.match_place else []
        words += [f"heading {self.heading_deg:.0f}°"] if self.heading_deg is not None else []
        return ", ".join(words)


def find_all(found: FolderRetrieval) -> list[Found]:
    """Every query with its best match."""
    database, queries = found.benchmark.database, found.benchmark.queries
    best, scores = found.ranking.indices[:, 0], found.ranking.scores[:, 0]
    names = [side.table["image_path"].tolist() for side in (queries, database)]
    places = [_places(side) for side in (queries, database)]
    metres, looks = distances_m(database, queries, best[:, None])[:, 0], headings(database)
    return [
        Found(
            names[0][query], names[1][match], float(scores[query]), bool(found.foreign[query]),
            correct(found, query, match), _known(metres[query]), places[0][query], places[1][match], _known(looks[match]),
        )
        for query, match in enumerate(best)
    ]  # fmt: skip


def correct(found: FolderRetrieval, query: int, match: int) -> bool | None:
    """Whether a match is a positive; None without ground truth."""
    return bool(match in found.benchmark.positives[query]) if found.benchmark.protocols else None


def headings(side: Manifest) -> np.ndarray:
    """Where cameras look, degrees clockwise from north, (N,); NaN where nobody wrote it down."""
    table = side.table
    return table["heading_deg"].to_numpy(np.float64) if "heading_deg" in table else np.full(len(table), np.nan)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _places(side: Manifest) -> Sequence[Place | None]:
    found = degrees(side)
    if found is None:
        return [None] * len(side)
    return [(float(lat), float(lon)) if np.isfinite(lat) else None for lat, lon in found]
