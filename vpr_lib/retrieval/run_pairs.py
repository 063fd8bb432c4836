"""Drives compared two at a time: descriptors of submaps, recall per ordered pair of runs and its mean. Spec: distilvpr §9."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Unpack

import numpy as np
import torch
from torch import nn

from vpr_lib.config import ComputeOptions
from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.models.heatmaps import channel_norm, unit_range, upsample
from vpr_lib.retrieval.describe import describe
from vpr_lib.retrieval.metrics import first_hit_ranks, recall_from_ranks
from vpr_lib.retrieval.search import Ranking, search

log = logging.getLogger(__name__)
TOP = 25
Pair = tuple[int, int]  # (query run, database run)


def one_percent_of(n_database: int) -> int:
    """How many results "1 %" of a database is: rounded half to even, at least 1, at most the 25 that are ranked."""
    return min(max(round(n_database / 100), 1), TOP)


@dataclass(frozen=True)
class PairScores:
    """Rankings and recalls of every ordered pair of runs, by database run, then query run.

    Attributes:
        rankings: per pair the best database rows of every query, at most 25.
        first_hits: per pair the rank of the first positive from 1, 0 for none, (Q,).
        counted: per pair the queries with a positive in that database; a pair without any is skipped.
    """

    metric: str
    pairs: tuple[Pair, ...]
    sizes: tuple[int, ...]  # of the databases, by run
    rankings: Mapping[Pair, Ranking]
    first_hits: Mapping[Pair, np.ndarray]
    counted: Mapping[Pair, np.ndarray]

    @cached_property
    def recall(self) -> np.ndarray:
        """Per cent of the counted queries found among the first 1 to 25, (pairs, 25); NaN for a skipped pair."""
        ks = range(1, TOP + 1)
        return np.array([list(self._shares(pair, ks).values()) for pair in self.pairs]).reshape(-1, TOP) * 100

    @cached_property
    def one_percent(self) -> np.ndarray:
        """Per cent found among the first hundredth of the database, (pairs,)."""
        return 100 * np.array(
            [self._shares(pair, [self.threshold(pair[1])])[self.threshold(pair[1])] for pair in self.pairs]
        )

    def threshold(self, run: int) -> int:
        """How many results "1 %" of a run's database is."""
        return one_percent_of(self.sizes[run])

    @property
    def average_recall(self) -> np.ndarray:
        """AR@1 to AR@25 in per cent: the unweighted mean over the pairs that count, (25,)."""
        return np.nanmean(self.recall, axis=0)

    @property
    def average_one_percent(self) -> float:
        """AR@1 % in per cent."""
        return float(np.nanmean(self.one_percent))

    @property
    def per_database_run(self) -> np.ndarray:
        """Mean recall of the pairs with each run as the database, (runs, 25)."""
        database = np.array([d for _, d in self.pairs])
        return np.array([np.nanmean(self.recall[database == run], axis=0) for run in range(len(self.sizes))])

    @property
    def skipped(self) -> list[Pair]:
        """Pairs in which no query has a positive."""
        return [pair for pair in self.pairs if not self.counted[pair].any()]

    def _shares(self, pair: Pair, ks: Sequence[int]) -> dict[int, float]:
        return recall_from_ranks(self.first_hits[pair], ks, self.counted[pair])


def score_pairs(
    databases: Sequence[np.ndarray],
    queries: Sequence[np.ndarray],
    positives: Mapping[Pair, Positives],
    metric: Literal["cosine", "euclidean"] = "cosine",
    device: str | torch.device = "cpu",
) -> PairScores:
    """Rank the queries of every run in the database of every other one.

    Args:
        databases, queries: per run the raw descriptors, (N_r, D) and (Q_r, D).
        positives: (query run, database run) -> matches, Q_r x N_d.
        metric: "cosine" on normalised rows (DistilVPR) or "euclidean" on raw ones (MinkLoc++).
    Raises:
        ValueError: when fewer than two runs are given, or no pair has a query to count.
    """
    if len(databases) < 2:
        raise ValueError(f"Pairs of runs need two runs or more, got {len(databases)}.")
    pairs = tuple((q, d) for d in range(len(databases)) for q in range(len(queries)) if q != d)
    rankings = {(q, d): search(databases[d], queries[q], TOP, metric, device) for q, d in pairs}
    hits = {pair: first_hit_ranks(rankings[pair].indices, positives[pair]) for pair in pairs}
    counted = {pair: positives[pair].counts > 0 for pair in pairs}
    scores = PairScores(metric, pairs, tuple(map(len, databases)), rankings, hits, counted)
    if len(scores.skipped) == len(pairs):
        raise ValueError(
            f"No query has a positive in any of {len(pairs)} pairs of runs: do the runs cover the same streets?"
        )
    if scores.skipped:
        log.warning(
            "%d of %d pairs of runs are skipped: no query has a positive there", len(scores.skipped), len(pairs)
        )
    if (smallest := min(scores.sizes)) < TOP:
        log.warning(
            "the smallest database has %d submaps: recall beyond @%d is recall over all of it", smallest, smallest
        )
    return scores


def evaluate_run_pairs(
    model: nn.Module,
    runs: RunPairs,
    cache: Path | None = None,
    metric: Literal["cosine", "euclidean"] = "cosine",
    device: str | torch.device = "cpu",
    columns: slice = slice(None),
    **compute: Unpack[ComputeOptions],
) -> PairScores:
    """Describe every submap once, then `score_pairs`; queries are rows of their own run's database.

    Args:
        columns: numbers of the descriptors that are compared, for instance the cloud half of MinkLoc++.
    """
    databases = [describe(model, manifest, cache, device, **compute).array[:, columns] for manifest in runs.databases]
    queries = [rows[own] for rows, own in zip(databases, runs.query_rows)]
    return score_pairs(databases, queries, runs.positives, metric, device)


def describe_places(
    model: nn.Module, runs: RunPairs, rows: np.ndarray, cache: Path | None = None, device: str | torch.device = "cpu"
) -> np.ndarray:
    """Raw descriptors of submaps that `RunPairs.same_places` chose, place by place: (places x R, D)."""
    described = [
        describe(model, database.take(rows[:, run]), cache, device, quiet=True).array
        for run, database in enumerate(runs.databases)
    ]
    return np.stack(described, 1).reshape(rows.size, -1)


def energy_maps(model: nn.Module, images: torch.Tensor, device: str | torch.device = "cpu") -> np.ndarray:
    """Where an image model's features are strong: norms of its feature map, scaled to 0..1 per image, (B, H, W).

    Args:
        images: uint8 (B, 3, H, W) of the model's input size; the maps are brought to that size.
        device: the model is moved there.
    """
    model.eval().to(device)  # outside inference mode, where moved weights could not be trained any more
    with torch.inference_mode():
        features = model.feature_map(model.input_spec.normalise(images.to(device))).float()
        return unit_range(upsample(channel_norm(features), images.shape[2:])).cpu().numpy()
