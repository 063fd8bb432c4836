"""Queries in their own shape for networks that take one size: crops of it, and how their answers become one ranking.

The query is scaled until it covers the network's input, and crops of that size are cut out; the database is resized as ever.
Paper: Berton et al., Deep Visual Geo-localization Benchmark, CVPR 2022; dinomix §4. What the authors weigh votes with is not
known: here a crop has one vote for each of its first `VOTES`, and equal votes are ordered by the best similarity.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from vpr_lib.config import Compute
from vpr_lib.data.images import CROPS
from vpr_lib.registry import lookup
from vpr_lib.retrieval.describe import describe
from vpr_lib.retrieval.protocol import Evaluation, score
from vpr_lib.retrieval.search import Ranking, search

VOTES = 20
MODES: dict[str, tuple[str, ...]] = {  # the crops of each
    "central_crop": ("centre",),
    "five_crops": CROPS,  # one descriptor, the mean of the five
    "nearest_crop": CROPS,  # a database image counts as near as its nearest crop
    "majority_vote": CROPS,
}
POOLED = ("central_crop", "five_crops")  # one descriptor per query


def with_queries(
    evaluation: Evaluation, model: nn.Module, mode: str, cache: Path | None, compute: Compute
) -> Evaluation:
    """The evaluation with its queries brought as `mode` of MODES says, ranked exactly and scored under the same protocols.

    Raises:
        ValueError: for an unknown mode, listing the known ones. UnreadableImages as `describe`.
    """
    crops, queries = lookup(MODES, mode, "query mode"), evaluation.benchmark.queries
    specs = [replace(model.input_spec, resize="cover", crop=crop) for crop in crops]
    parts = [describe(model, queries, cache, spec=spec, **compute.model_dump()) for spec in specs]
    database, depth, described = evaluation.database.array, evaluation.ranking.indices.shape[1], evaluation.queries
    if mode in POOLED:
        mean = np.mean([part.array for part in parts], axis=0)
        described = replace(parts[0], array=mean / np.linalg.norm(mean, axis=1, keepdims=True).clip(min=1e-12))
        ranking = search(database, described.array, depth, device=compute.device)
    else:
        rankings = [search(database, part.array, depth, device=compute.device) for part in parts]
        ranking = merge(rankings, votes=VOTES if mode == "majority_vote" else 0)
    scores = tuple(score(ranking.indices, scored.protocol, tuple(scored.recall)) for scored in evaluation.scores)
    return replace(evaluation, ranking=ranking, queries=described, scores=scores)


def merge(rankings: Sequence[Ranking], votes: int = 0) -> Ranking:
    """One ranking (Q, R) of several of the same queries (Q, R): by the best score of each image, equal scores by index.

    Exact: what is among the first R by its best score is among the first R of the ranking that gave it.

    Args:
        votes: first order by how many rankings have an image among so many first ones.
    """
    indices, scores = [], []
    for rows, own in zip(*(np.stack([getattr(r, name) for r in rankings], 1) for name in ("indices", "scores"))):
        ids, place = np.unique(rows.ravel(), return_inverse=True)  # (n,), one row per ranking in `rows`
        best, counts = np.full(len(ids), -np.inf, np.float32), np.zeros(len(ids), np.int64)
        np.maximum.at(best, place, own.ravel())
        np.add.at(counts, place, (np.arange(rows.shape[1]) < votes)[None].repeat(len(rows), 0).ravel())
        order = np.lexsort((ids, -best, -counts))[: rows.shape[1]]
        indices.append(ids[order])
        scores.append(best[order])
    return Ranking(np.stack(indices), np.stack(scores))
