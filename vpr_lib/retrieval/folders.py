"""Retrieval between two image folders: what cannot be read is left out and named, everything else is searched."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn

from vpr_lib.data.ground_truth import Benchmark, Positives, make_protocol
from vpr_lib.data.manifest import Manifest
from vpr_lib.retrieval.describe import Descriptors, advice, describe, of_described, same_files
from vpr_lib.retrieval.indexes import rank
from vpr_lib.retrieval.protocol import score
from vpr_lib.retrieval.search import Ranking

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderRetrieval:
    """Rankings over the readable images; `benchmark` holds exactly those."""

    benchmark: Benchmark
    ranking: Ranking
    left_out: dict[str, str] = field(default_factory=dict)  # path -> reason
    recall: dict[int, float] = field(default_factory=dict)  # empty without positions
    describe_s: float = 0.0
    search_s: float = 0.0
    described: tuple[int, int] = (0, 0)  # database and query images described in this call; the others came from disk
    per_image_ms: tuple[float, float] = (
        float("nan"),
        float("nan"),
    )  # of those, decoding included; NaN when there are none
    found_of_exact: dict[int, float] = field(default_factory=dict)  # k -> share, where the index was not exact
    foreign_below: float | None = (
        None  # best similarity under which a query is called foreign; None: nobody measured it
    )

    @property
    def foreign(self) -> np.ndarray:
        """bool (Q,): queries that are probably not in this map."""
        return self.ranking.scores[:, 0] < (-np.inf if self.foreign_below is None else self.foreign_below)


def retrieve_folders(
    model: nn.Module,
    benchmark: Benchmark,
    top_k: int,
    cache: Path | None,
    device: str = "cpu",
    precision: str = "fp32",
    index: str = "exact",
    foreign_below: float | None = None,
) -> FolderRetrieval:
    """Describe both folders and rank the database for every query.

    Raises:
        ValueError: if no database image or no query is readable.
    """
    options = dict(cache=cache, device=device, precision=precision, on_error="skip")
    sides = [(manifest, describe(model, manifest, **options)) for manifest in (benchmark.database, benchmark.queries)]
    left_out = {path: reason for manifest, found in sides for path, reason in _unreadable(manifest, found).items()}
    for role, (manifest, found) in zip(("database", "query"), sides):
        if not found.readable.any():
            first = next(iter(found.errors.values()), "")
            raise ValueError(
                f"None of the {len(manifest)} {role} images under {manifest.root} can be read; the first: {first}.{advice(found.errors)}"
            )
    kept = of_described(_keep(benchmark, *(found.readable for _, found in sides)), *(found for _, found in sides))
    start = time.perf_counter()
    ranking, found_of_exact = rank(index, *(found.array[found.readable] for _, found in sides), top_k, device)
    search_s = time.perf_counter() - start
    if told := same_files(kept, ranking.scores):
        log.warning("%s: %s", benchmark.name, told)
    recall = score(ranking.indices, kept.protocol, (1, 5, 10)).recall if kept.protocols else {}
    found = [found for _, found in sides]
    return FolderRetrieval(
        kept,
        ranking,
        left_out,
        recall,
        describe_s=sum(f.seconds for f in found),
        search_s=search_s,
        described=tuple(f.described for f in found),
        per_image_ms=tuple(1000 * f.seconds / f.described if f.described else float("nan") for f in found),
        found_of_exact=found_of_exact,
        foreign_below=foreign_below,
    )


def _unreadable(manifest: Manifest, found: Descriptors) -> dict[str, str]:
    paths = manifest.image_paths()
    return {paths[row]: reason for row, reason in found.errors.items()}


def _keep(benchmark: Benchmark, database: np.ndarray, queries: np.ndarray) -> Benchmark:
    if database.all() and queries.all():
        return benchmark
    sides = [benchmark.database.take(np.flatnonzero(database)), benchmark.queries.take(np.flatnonzero(queries))]
    if not benchmark.protocols:
        return Benchmark(benchmark.name, *sides)
    number = np.where(database, np.cumsum(database) - 1, -1)  # old database row -> new
    rows = [number[row] for keep, row in zip(queries, benchmark.positives) if keep]
    positives = Positives.from_lists(rows, int(database.sum()))
    card = benchmark.protocol.card
    kept_fields = {"name", "dataset", "rule", "threshold", "denominator"}
    return Benchmark(
        benchmark.name, *sides, (make_protocol(*sides, positives, **card.model_dump(include=kept_fields)),)
    )
