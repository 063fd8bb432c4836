"""Exact nearest-neighbour search over descriptors, in chunks: memory never grows with queries x database.

The database is passed over once, whatever the number of queries: a memory map larger than memory streams from disk.
"""

from dataclasses import dataclass
from typing import Literal

import faiss
import numpy as np
import torch
from torch import Tensor

QUERY_CHUNK, DATABASE_CHUNK = 512, 16_384


@dataclass(frozen=True)
class Ranking:
    """`indices` int64 (Q, R), best first, and `scores` float32 (Q, R): similarity, larger is better."""

    indices: np.ndarray
    scores: np.ndarray


def search(
    database: np.ndarray | Tensor,
    queries: np.ndarray | Tensor,
    top_k: int,
    metric: Literal["cosine", "euclidean"] = "cosine",
    device: str | torch.device = "cpu",
) -> Ranking:
    """The `top_k` most similar database rows of every query.

    Args:
        database: (N, D) descriptors; may be a memory map, read in chunks.
        queries: (Q, D) descriptors.
        top_k: at most this many per query; a smaller database gives N columns.
        metric: "cosine" is the dot product of rows at unit length; "euclidean" scores are negative squared distances.
    Returns:
        Ranking; equal scores are ordered by database index.
    Raises:
        ValueError: if the widths differ, an input is empty, or top_k is below 1.
    """
    if database.shape[1] != queries.shape[1]:
        raise ValueError(
            f"Database descriptors have {database.shape[1]} dimensions, queries {queries.shape[1]}: they "
            "come from different models."
        )
    if top_k < 1 or len(database) == 0:
        raise ValueError(f"Search needs top_k >= 1 and a database, got top_k={top_k} and {len(database)} rows.")
    top_k, device = min(top_k, len(database)), torch.device(device)
    scores = np.full((len(queries), top_k), -np.inf, np.float32)
    indices = np.full((len(queries), top_k), -1, np.int64)
    nearest, query_chunk = (_faiss, len(queries)) if device.type == "cpu" else (_torch, QUERY_CHUNK)
    for start in range(0, len(database), DATABASE_CHUNK):  # outermost: a memory-mapped database is read once
        rows = _rows(database, start, DATABASE_CHUNK, device, metric)
        for first in range(0, len(queries), max(1, query_chunk)):
            some = slice(first, first + query_chunk)
            new_scores, found = nearest(
                _rows(queries, first, query_chunk, device, metric), rows, min(top_k, len(rows)), metric
            )
            indices[some], scores[some] = _best(indices[some], scores[some], found + start, new_scores, top_k)
    return Ranking(indices, scores)


def _rows(rows: np.ndarray | Tensor, start: int, count: int, device: torch.device, metric: str) -> Tensor:
    part = rows[start : start + count]
    tensor = part if isinstance(part, Tensor) else torch.from_numpy(np.ascontiguousarray(part))
    tensor = tensor.detach().to(device, torch.float32).contiguous()
    if metric == "euclidean":
        return tensor
    norm = tensor.norm(dim=1, keepdim=True)  # unit rows stay as they are, zeros (unreadable images) too
    other = ((norm - 1).abs() > 1e-3) & (norm > 0)
    return tensor / torch.where(other, norm, torch.ones_like(norm)) if bool(other.any()) else tensor


def _best(indices, scores, more_indices, more_scores, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top_k` best of two lists per query, equal scores ordered by index."""
    scores, indices = np.concatenate([scores, more_scores], 1), np.concatenate([indices, more_indices], 1)
    order = np.lexsort((indices, -scores), axis=1)[:, :top_k]
    return np.take_along_axis(indices, order, 1), np.take_along_axis(scores, order, 1)


def _faiss(queries: Tensor, rows: Tensor, top_k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows (Q, R) on the CPU: faiss has the quicker fp32 kernels there, keeps no copy and no score matrix."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    scores, found = faiss.knn(queries.numpy(), rows.numpy(), top_k, metric=kind)
    return (scores if metric == "cosine" else -scores), found


def _torch(queries: Tensor, rows: Tensor, top_k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The same on a GPU."""
    scores = queries @ rows.T
    if metric == "euclidean":
        scores = 2 * scores - rows.square().sum(1) - queries.square().sum(1, keepdim=True)
    scores, found = scores.topk(top_k, dim=1)
    return scores.cpu().numpy(), found.cpu().numpy()
