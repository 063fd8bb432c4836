"""Recall: how often a correct database image is among the first k. Spec: mixvpr §4, datasets §0.2."""

from collections.abc import Sequence

import numpy as np

from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.positions import frames, on_ellipsoid, without_fix


def first_hit_ranks(ranking: np.ndarray, positives: Positives) -> np.ndarray:
    """Rank (from 1) of the first positive of each query, 0 where none is in the ranking.

    Args:
        ranking: database indices, best first, (Q, R); -1 marks an empty place.
    Returns:
        int64 (Q,).
    Raises:
        ValueError: if Q differs between the two inputs.
    """
    if len(ranking) != len(positives):
        raise ValueError(f"The ranking has {len(ranking)} queries, the ground truth {len(positives)}.")
    queries = np.broadcast_to(np.arange(len(ranking))[:, None], ranking.shape)
    hits = positives.contains(queries, ranking)  # (Q, R)
    return np.where(hits.any(1), hits.argmax(1) + 1, 0) if hits.shape[1] else np.zeros(len(hits), np.int64)


def recall_at_k(
    ranking: np.ndarray, positives: Positives, ks: Sequence[int] = (1, 5, 10), counted: np.ndarray | None = None
) -> dict[int, float]:
    """Share of the counted queries that have at least one positive among their first k database images.

    Args:
        ranking: database indices, best first, (Q, R).
        ks: cut-offs, none above R.
        counted: bool (Q,), the queries in the denominator; default all, so a query without positives is a miss.
    Returns:
        {k: recall between 0 and 1}; NaN when no query counts.
    Raises:
        ValueError: if Q differs between the inputs, or a cut-off exceeds R.
    Paper: NetVLAD (Arandjelovic et al., CVPR 2016), Sec. 5.1.
    """
    if ranking.shape[1] < max(ks):
        raise ValueError(
            f"recall@{max(ks)} needs {max(ks)} ranked images per query, got {ranking.shape[1]}; call "
            f"search(top_k={max(ks)}), or ask for less when the database is that small."
        )
    return recall_from_ranks(first_hit_ranks(ranking, positives), ks, counted)


def recall_from_ranks(ranks: np.ndarray, ks: Sequence[int], counted: np.ndarray | None = None) -> dict[int, float]:
    """Recall from `first_hit_ranks`, {k: value between 0 and 1}."""
    ranks = ranks if counted is None else ranks[counted]
    return {k: float(((ranks > 0) & (ranks <= k)).mean()) if ranks.size else float("nan") for k in ks}


def suppress_panoramas(ranking: np.ndarray, groups: np.ndarray, top_k: int) -> np.ndarray:
    """Keep the first result of every panorama: (Q, R) -> (Q, top_k), padded with -1 when panoramas run out.

    Args:
        groups: panorama of every database image, (N,).
    Spec: datasets §5.1; clusvpr §9.
    """
    suppressed = np.full((len(ranking), top_k), -1, np.int64)
    for row, ranked in enumerate(ranking):
        ranked = ranked[ranked >= 0]
        _, first = np.unique(groups[ranked], return_index=True)
        chosen = ranked[np.sort(first)[:top_k]]
        suppressed[row, : len(chosen)] = chosen
    return suppressed


def distances_m(database: Manifest, queries: Manifest, ranking: np.ndarray) -> np.ndarray:
    """Metres between every query and its ranked images, (Q, R); NaN for empty places and without metric positions."""
    if not (database.has_positions and queries.has_positions):
        return np.full(ranking.shape, np.nan)
    rows, own = np.maximum(ranking, 0), frames(database, queries)
    gaps = database.positions()[rows] - queries.positions()[:, None]
    metres = np.sqrt((gaps**2).sum(-1))
    if own is not None and (across := own[0][rows] != own[1][:, None]).any():
        points = [on_ellipsoid(side.positions(), frame) for side, frame in zip((database, queries), own)]
        straight = np.sqrt(((points[0][rows] - points[1][:, None]) ** 2).sum(-1))
        metres = np.where(across, straight, metres)
    lost = without_fix(database, queries)
    known = (ranking >= 0) & ~lost[0][rows] & ~lost[1][:, None]
    return np.where(known, metres, np.nan)
