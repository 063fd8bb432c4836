"""Rankings scored under protocol cards, and the whole path from a model and a benchmark to its recalls."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import nn

from vpr_lib.config import ComputeOptions
from vpr_lib.data.ground_truth import Benchmark, Protocol
from vpr_lib.retrieval.describe import Descriptors, describe, of_described, same_files
from vpr_lib.retrieval.indexes import rank
from vpr_lib.retrieval.metrics import first_hit_ranks, recall_from_ranks, suppress_panoramas
from vpr_lib.retrieval.search import Ranking

log = logging.getLogger(__name__)
KS = (1, 5, 10, 15, 20, 25, 50, 100)
CROPS_PER_PANORAMA = 12  # Tokyo 24/7; the candidates that panorama suppression may use up (datasets §5.1)


@dataclass(frozen=True)
class Scored:
    """What one protocol says about a ranking."""

    protocol: Protocol
    ranking: np.ndarray  # (Q, R) after suppression; -1 where panoramas ran out
    first_hits: np.ndarray  # rank of the first positive from 1, 0 for none, (Q,)
    counted: np.ndarray  # bool (Q,), the denominator
    recall: dict[int, float]  # k -> share between 0 and 1


@dataclass(frozen=True)
class Evaluation:
    """A model's rankings on a benchmark with their score under every protocol card of the set."""

    benchmark: Benchmark
    ranking: Ranking
    database: Descriptors
    queries: Descriptors
    scores: tuple[Scored, ...]
    found: dict[int, float] = field(
        default_factory=dict
    )  # k -> share of the exact first k, where the index was not exact

    @property
    def recall(self) -> dict[int, float]:
        """Under the default protocol."""
        return self.scores[0].recall


def score(ranking: np.ndarray, protocol: Protocol, ks: Sequence[int] = KS) -> Scored:
    """Score a ranking (Q, R) under one protocol; cut-offs above what the ranking holds are left out."""
    if protocol.card.nms == "panorama":
        ranking = suppress_panoramas(ranking, protocol.nms_groups, max(1, ranking.shape[1] // CROPS_PER_PANORAMA))
    first_hits = first_hit_ranks(ranking, protocol.positives)
    ks = [k for k in ks if k <= ranking.shape[1]]
    counted = protocol.counted
    return Scored(protocol, ranking, first_hits, counted, recall_from_ranks(first_hits, ks, counted))


def unanswerable(protocol: Protocol) -> str:
    """In words, how many queries of the denominator no database image can answer; '' when all have a positive."""
    none = int((protocol.counted & (protocol.positives.counts == 0)).sum())
    share = f"{none} of {int(protocol.counted.sum())} queries that count"
    return f"{share} have no positive in the database: they are misses whatever is found." if none else ""


def ranking_depth(benchmark: Benchmark, ks: Sequence[int] = KS) -> int:
    """How many database images per query the scores need: max(ks), times the crops where panoramas are suppressed."""
    suppressed = any(protocol.card.nms == "panorama" for protocol in benchmark.protocols)
    return max(ks) * (CROPS_PER_PANORAMA if suppressed else 1)


def evaluate(
    model: nn.Module,
    benchmark: Benchmark,
    cache: Path | None = None,
    ks: Sequence[int] = KS,
    device: str | torch.device = "cpu",
    index: str = "exact",
    **compute: Unpack[ComputeOptions],
) -> Evaluation:
    """Describe, search, score.

    Cut-offs above the size of the database are left out, and a warning says so.

    Args:
        index: how the database is ranked, a name of retrieval/indexes.py.

    Raises:
        UnreadableImages: after everything readable is described and kept; ValueError without ground truth.
    """
    if not benchmark.protocols:
        raise ValueError(f"'{benchmark.name}' has no ground truth: it can be retrieved from, but not evaluated.")
    database = describe(model, benchmark.database, cache, device, **compute)
    queries = describe(model, benchmark.queries, cache, device, spec=getattr(model, "query_spec", None), **compute)
    return evaluate_described(benchmark, database, queries, ks, device, index, compute.get("quiet", False))


def evaluate_described(
    benchmark: Benchmark, database: Descriptors, queries: Descriptors, ks: Sequence[int] = KS,
    device: str | torch.device = "cpu", index: str = "exact", quiet: bool = False,
) -> Evaluation:  # fmt: skip
    """Search and score what is described; see `evaluate`."""
    if too_large := [k for k in ks if k > len(benchmark.database)]:
        log.warning("recall at %s left out: the database has %d images", too_large, len(benchmark.database))
    ranking, found = rank(index, database.array, queries.array, ranking_depth(benchmark, ks), device)
    if not quiet and (told := same_files(benchmark, ranking.scores)):
        log.warning("%s: %s", benchmark.name, told)
    for protocol in benchmark.protocols:
        if told := unanswerable(protocol):
            log.warning("%s: %s", protocol.card.name, told)
    benchmark = of_described(benchmark, database, queries)
    scores = tuple(score(ranking.indices, protocol, ks) for protocol in benchmark.protocols)
    return Evaluation(benchmark, ranking, database, queries, scores, found)
