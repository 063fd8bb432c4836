"""Can a match be trusted? Precision and recall over the similarity of the best match, from records alone.

A query is accepted when its best match is similar enough. Precision is the share of accepted queries whose best match is
right; recall is the share of queries with a true match that are accepted and right, so it ends at recall@1. Queries without
a true match can only cost precision. Spec: the measures of VPR-Bench (Zaffar et al., IJCV 2021, Sec. 3.3).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve

from vpr_lib.results.tables import KEYS, refuse_mixed_cards

RESAMPLES = 300


@dataclass(frozen=True)
class PrecisionRecall:
    """Thresholds on the best similarity from the highest down, with precision and recall at each, float64 (T,)."""

    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def average_precision(self) -> float:
        """Sum of the steps in recall, each times the precision there."""
        return float((np.diff(self.recall, prepend=0.0) * self.precision).sum())

    @property
    def recall_at_full_precision(self) -> float:
        """The largest recall that costs no wrong match."""
        return float(self.recall[self.precision == 1].max(initial=0.0))

    def threshold_for(self, precision: float) -> float:
        """The lowest similarity to accept so that this precision holds; infinity when none does."""
        return float(self.threshold[self.precision >= precision].min(initial=np.inf))


def precision_recall(similarity: np.ndarray, correct: np.ndarray, matchable: np.ndarray) -> PrecisionRecall:
    """The curve of queries, (Q,) each.

    Args:
        similarity: of the best match.
        correct: whether it is right.
        matchable: whether the query has a true match at all.
    Raises:
        ValueError: for different lengths, similarities that are no numbers, or no query with a true match.
    """
    if not len(similarity) == len(correct) == len(matchable):
        raise ValueError(
            f"Got {len(similarity)} similarities, {len(correct)} verdicts, {len(matchable)} matchable flags."
        )
    if not np.isfinite(similarity).all():
        raise ValueError(
            "Precision needs the similarity of every best match; under panorama suppression none is recorded."
        )
    if not np.any(matchable):
        raise ValueError("No query has a true match: recall is not defined.")
    if not np.any(correct):
        return PrecisionRecall(np.sort(np.unique(similarity))[::-1], *np.zeros((2, len(np.unique(similarity)))))
    precision, recall, threshold = precision_recall_curve(correct, similarity)
    share = np.sum(correct) / np.sum(matchable)  # scikit-learn's recall is of the right matches alone
    return PrecisionRecall(threshold[::-1], precision[:-1][::-1], share * recall[:-1][::-1])


def best_matches(records: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Similarity and verdict of the best match, and whether there is a true match: of the counted queries, (Q,) each."""
    counted = records[records["counted"]]
    similarity = np.array([scores[0] for scores in counted["top_score"]], np.float64)
    correct = np.array([flags[0] for flags in counted["top_correct"]], bool)
    return similarity, correct, counted["n_positives"].to_numpy() > 0


def curve(records: pd.DataFrame) -> PrecisionRecall:
    """`precision_recall` of the records of one evaluation."""
    return precision_recall(*best_matches(records))


def mean_reciprocal_rank(first_hits: np.ndarray) -> float:
    """Mean over queries of 1 / rank of the first true match, 0 where the ranking has none."""
    return float(np.divide(1, first_hits, out=np.zeros(len(first_hits)), where=first_hits > 0).mean())


def one_percent(n_database: int) -> int:
    """How many images are one per cent of a database, at least one (PointNetVLAD's threshold)."""
    return max(round(n_database / 100), 1)


def trust_table(records: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """One row per data set, protocol, model and seed: AP, R@100P, MRR and R@1%, in per cent, each with a 95 % interval.

    Intervals are percentiles over queries drawn with replacement. `R@1%` is missing where the ranking may end before one
    per cent of the database.

    Raises:
        MixedProtocols: as `results.tables.recall_table`.
    """
    refuse_mixed_cards(records)
    rows = []
    for keys, group in records.groupby(KEYS, sort=False):
        rows.append(dict(zip(KEYS, keys)) | _measures(group, resamples, np.random.default_rng(seed)))
    return pd.DataFrame(rows)


def _measures(group: pd.DataFrame, resamples: int, generator: np.random.Generator) -> dict[str, float]:
    similarity, correct, matchable = best_matches(group)
    hits = group["first_hit"][group["counted"]].to_numpy()
    k = one_percent(group["n_database"].iloc[0])

    def measured(rows: np.ndarray) -> dict[str, float]:
        measures = {"MRR": mean_reciprocal_rank(hits[rows])}
        if k <= max(hits.max(initial=0), 25):
            measures["R@1%"] = float(((hits[rows] > 0) & (hits[rows] <= k)).mean())
        if np.isfinite(similarity).all() and matchable[rows].any():
            whole = precision_recall(similarity[rows], correct[rows], matchable[rows])
            measures |= {"AP": whole.average_precision, "R@100P": whole.recall_at_full_precision}
        return measures

    return with_intervals(measured, len(hits), resamples, generator) | {
        "queries": len(hits), "without a match": int((~matchable).sum()), "card": group["card"].iloc[0],
    }  # fmt: skip


def with_intervals(
    measured: Callable[[np.ndarray], dict[str, float]], queries: int, resamples: int, generator: np.random.Generator
) -> dict[str, float]:
    """Measures of all queries in per cent, with `<name> low` and `<name> high` from resampled ones.

    Source: the percentile bootstrap, Efron and Tibshirani, An Introduction to the Bootstrap, 1993, Sec. 13.3.
    """
    whole, row = measured(np.arange(queries)), {}
    drawn = pd.DataFrame([measured(generator.integers(0, queries, queries)) for _ in range(resamples)])
    for name, value in whole.items():
        row[name] = 100 * value
        row[f"{name} low"], row[f"{name} high"] = (100 * np.nanpercentile(drawn[name], (2.5, 97.5))).tolist()
    return row
