"""k-reciprocal re-ranking in bounded memory: no matrix of (queries + database) squared. Spec: clusvpr §8.5.

Paper: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy import sparse

from vpr_lib.retrieval.protocol import Evaluation, score
from vpr_lib.retrieval.search import Ranking

CHUNK = 512  # rows of the distance matrix that exist at a time


def rerank(
    database: np.ndarray,
    queries: np.ndarray,
    top_k: int,
    k1: int = 25,
    k2: int = 1,
    weight: float = 0.0,
    device: str = "cpu",
) -> Ranking:
    """The `top_k` best database rows of every query after re-ranking; `scores` are negative distances.

    Args:
        database, queries: unit-norm descriptors, (N, D) and (Q, D).
        k1: neighbours that must be mutual. k2: rows averaged for query expansion, 1 for none.
        weight: share of the original distance (lambda); 0 is the pure Jaccard distance.
    Raises:
        ValueError: if the widths differ, k1 or k2 is below 1, or a descriptor is not finite.
    """
    for what, rows in (("database", database), ("query", queries)):
        if not (finite := np.isfinite(rows).all(1)).all():
            raise ValueError(
                f"{int((~finite).sum())} of {len(rows)} {what} descriptors are not finite: they cannot be ranked."
            )
    indices, scores = [], []
    top_k = min(top_k, len(database))
    for block in _blocks(database, queries, k1, k2, weight, device):
        order = np.argsort(block, axis=1, kind="stable")[:, :top_k]
        indices.append(order)
        scores.append(-np.take_along_axis(block, order, 1))
    return Ranking(np.concatenate(indices), np.concatenate(scores).astype(np.float32))


def reranked(evaluation: Evaluation, k1: int = 25, k2: int = 1, weight: float = 0.0, device: str = "cpu") -> Evaluation:
    """An evaluation with its whole database ranked anew and scored under the same protocols; the authors' test option."""
    database, queries = evaluation.database.array, evaluation.queries.array
    ranking = rerank(database, queries, evaluation.ranking.indices.shape[1], k1, k2, weight, device)
    scores = tuple(score(ranking.indices, scored.protocol, tuple(scored.recall)) for scored in evaluation.scores)
    return replace(evaluation, ranking=ranking, scores=scores)


def k_reciprocal_distances(
    database: np.ndarray,
    queries: np.ndarray | None = None,
    k1: int = 20,
    k2: int = 1,
    weight: float = 0.1,
    device: str = "cpu",
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Re-ranked distances to the whole database, float32 (len(rows), N), as tuple mining needs them.

    Args:
        queries: None where every database image is a query too.
        rows: queries to return, default all; the others still take part as neighbours.
        k1, k2, weight, device: as `rerank`.
    """
    return np.concatenate(list(_blocks(database, queries, k1, k2, weight, device, rows)))


def _blocks(database, queries, k1, k2, weight, device, rows=None) -> Iterator[np.ndarray]:
    """Re-ranked distances of some queries at a time, float32 (<= CHUNK, N)."""
    widths = {part.shape[1] for part in (database, queries) if part is not None}
    if len(widths) > 1 or k1 < 1 or k2 < 1:
        raise ValueError(
            f"Re-ranking needs descriptors of one length and k1, k2 >= 1; got {sorted(widths)} numbers, k1={k1}, k2={k2}."
        )
    first = 0 if queries is None else len(queries)  # of the database
    everything = database if queries is None else np.concatenate([queries, database])
    x = torch.from_numpy(np.asarray(everything, np.float32)).to(device)
    k1, k2 = min(k1, len(x) - 1), min(k2, len(x))
    nearest, largest = _nearest(x, max(k1 + 1, k2))
    encoding = _encode(x, nearest, largest, k1)
    if k2 > 1:
        encoding = (_pattern(nearest[:, :k2], len(x)) @ encoding).multiply(1 / k2).tocsr()
    by_column = encoding[first:].tocsc()
    rows = np.arange(first or len(x)) if rows is None else np.asarray(rows)
    for start in range(0, len(rows), CHUNK):
        chosen = rows[start : start + CHUNK]
        block = np.stack([_jaccard(encoding[row], by_column) for row in chosen])
        if weight:
            distances = _distances(x[torch.from_numpy(chosen)], x[first:]).cpu().numpy()
            block = (1 - weight) * block + weight * distances / largest[chosen, None]
        yield block.astype(np.float32)


def _distances(some: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances, squared once more as published, (S, n)."""
    squared = some.square().sum(1, keepdim=True) + rows.square().sum(1) - 2 * some @ rows.T
    return squared.clamp(min=0).square()


def _nearest(rows: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of every row, itself first, int64 (n, k), and its largest distance (n,)."""
    nearest, largest = [], []
    for start in range(0, len(rows), CHUNK):
        distances = _distances(rows[start : start + CHUNK], rows)
        own = torch.arange(start, start + len(distances), device=rows.device)
        distances[torch.arange(len(distances), device=rows.device), own] = -1  # a row is its own nearest, twins or not
        nearest.append(distances.topk(k, dim=1, largest=False).indices.cpu().numpy())
        largest.append(distances.amax(dim=1).cpu().numpy())
    return np.concatenate(nearest), np.concatenate(largest).clip(min=1e-12)


def _pattern(neighbours: np.ndarray, n: int) -> sparse.csr_matrix:
    """0/1 matrix (n, n) with the neighbours of row i in row i."""
    indptr = np.arange(len(neighbours) + 1) * neighbours.shape[1]
    return sparse.csr_matrix((np.ones(neighbours.size, np.float32), neighbours.ravel(), indptr), (len(neighbours), n))


def _encode(rows: torch.Tensor, nearest: np.ndarray, largest: np.ndarray, k1: int) -> sparse.csr_matrix:
    """Every row as weights over its k-reciprocal neighbours, (n, n) sparse, rows summing to one."""
    n = len(rows)
    mutual = _mutual(nearest[:, : k1 + 1], n)
    close = _mutual(nearest[:, : round(k1 / 2) + 1], n)
    # a mutual neighbour brings its own close ones along when more than two thirds of them are mutual neighbours already
    shared = (mutual @ close.T).multiply(mutual).tocsr()
    shared.data = (shared.data > 2 / 3 * np.asarray(close.sum(axis=1)).ravel()[shared.indices]).astype(np.float32)
    expanded = (mutual + shared @ close).tocsr()
    expanded.sort_indices()
    row = np.repeat(np.arange(n), np.diff(expanded.indptr))
    expanded.data = np.exp(-_pair_distances(rows, row, expanded.indices) / largest[row])
    return sparse.diags(1 / np.asarray(expanded.sum(axis=1)).ravel()) @ expanded


def _mutual(neighbours: np.ndarray, n: int) -> sparse.csr_matrix:
    pattern = _pattern(neighbours, n)
    return pattern.multiply(pattern.T).tocsr()


def _pair_distances(rows: torch.Tensor, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    parts = []
    for start in range(0, len(first), 8192):
        pair = (torch.from_numpy(part[start : start + 8192]).long().to(rows.device) for part in (first, second))
        a, b = (rows[index] for index in pair)
        parts.append((a - b).square().sum(1).square().cpu().numpy())
    return np.concatenate(parts)


def _jaccard(encoded: sparse.csr_matrix, by_column: sparse.csc_matrix) -> np.ndarray:
    """1 - sum min / sum max between one encoded query and every database row, (N,)."""
    starts, stops = by_column.indptr[encoded.indices], by_column.indptr[encoded.indices + 1]
    lengths = stops - starts
    places = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    smaller = np.minimum(by_column.data[places], np.repeat(encoded.data, lengths))
    overlap = np.bincount(by_column.indices[places], weights=smaller, minlength=by_column.shape[0])
    return 1 - overlap / (2 - overlap)
