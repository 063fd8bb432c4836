"""Queries that the map does not show: the similarity of the best match, below which a query is called foreign."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.manifest import Manifest
from vpr_lib.retrieval.describe import describe
from vpr_lib.retrieval.protocol import Evaluation
from vpr_lib.retrieval.search import search

FAR_M = 100.0  # database images further away than this show another place
REFUSED = 0.95  # of the foreign queries fall below the threshold
RECALL = 0.95  # of the map's own queries are kept where precision is stated


@dataclass(frozen=True)
class Foreign:
    """How well the best similarity tells queries of the map from foreign ones.

    `auroc` is the chance that one of the map scores above a foreign one; `precision` is the share of the map's among all
    that are kept where 95 % of the map's are; at `threshold` REFUSED of the foreign ones fall out and `kept` of the map's
    stay. `numbers` counts both kinds, which precision depends on.
    """

    auroc: float
    precision: float
    threshold: float
    kept: float
    numbers: tuple[int, int]


def tell_foreign(own: np.ndarray, foreign: np.ndarray) -> Foreign:
    """The threshold and the measures from the best similarities alone.

    Args:
        own, foreign: best similarity of every query that the map shows (n,) and does not show (m,).
    Raises:
        ValueError: when one of the two is empty.
    """
    if not len(own) or not len(foreign):
        raise ValueError(
            f"A threshold needs queries of both kinds, got {len(own)} of the map and {len(foreign)} foreign."
        )
    below = [np.searchsorted(np.sort(foreign), own, side) for side in ("left", "right")]  # a level pair counts half
    most = np.sort(own)[int(len(own) * (1 - RECALL))]
    right, wrong = (own >= most).sum(), (foreign >= most).sum()
    threshold = np.quantile(foreign, REFUSED)
    measures = np.mean(below) / len(foreign), right / (right + wrong), threshold, (own >= threshold).mean()
    return Foreign(*map(float, measures), (len(own), len(foreign)))


def against(model: nn.Module, result: Evaluation, foreign: Manifest, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Best similarity in the database of every query that has a positive (n,), and of every foreign one (m,).

    Args:
        result: of the plain model: no whitening, no other order of the ranking.
        foreign: images that show nothing of the database; unreadable ones are left out.
        options: of `describe`.
    """
    shown = np.array([len(positives) > 0 for positives in result.benchmark.positives])
    found = describe(model, foreign, on_error="skip", **options)
    own, others = result.queries.array[shown], found.array[found.readable]
    best = [search(result.database.array, side, 1).scores[:, 0] if len(side) else np.zeros(0) for side in (own, others)]
    return best[0], best[1]


def calibrate(model: nn.Module, benchmark: Benchmark, **options: Any) -> Foreign:
    """`tell_foreign` on one benchmark with positions: a query is foreign to the database images further than FAR_M from it.

    Args:
        options: of `describe`.
    Raises:
        ValueError: without positions in metres.
    """
    sides = [describe(model, side, **options).array for side in (benchmark.database, benchmark.queries)]
    similarity = sides[1] @ sides[0].T  # (Q, N)
    database, queries = benchmark.database.positions(), benchmark.queries.positions()
    far = np.linalg.norm(queries[:, None] - database[None], axis=2) > FAR_M
    shown = np.array([len(positives) > 0 for positives in benchmark.positives])
    return tell_foreign(similarity[shown].max(axis=1), np.where(far, similarity, -1).max(axis=1)[far.any(axis=1)])
