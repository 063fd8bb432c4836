"""Exact nearest-neighbour search over descriptors, in chunks: memory never grows with queries x database."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

QUERY_CHUNK, DATABASE_CHUNK = 512, 65_536


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
    top_k = min(top_k, len(database))
    found = [
        _search_chunk(database, _rows(queries, start, QUERY_CHUNK, device, metric), top_k, metric)
        for start in range(0, len(queries), QUERY_CHUNK)
    ]
    if not found:
        return Ranking(np.empty((0, top_k), np.int64), np.empty((0, top_k), np.float32))
    return Ranking(np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found]))


def _rows(rows: np.ndarray | Tensor, start: int, count: int, device: str | torch.device, metric: str) -> Tensor:
    part = rows[start : start + count]
    tensor = part if isinstance(part, Tensor) else torch.from_numpy(np.ascontiguousarray(part))
    tensor = tensor.to(device, torch.float32)
    if metric == "euclidean":
        return tensor
    norm = tensor.norm(dim=1, keepdim=True)  # unit rows stay as they are, zeros (unreadable images) too
    return torch.where(((norm - 1).abs() > 1e-3) & (norm > 0), tensor / norm, tensor)


def _search_chunk(database, queries: Tensor, top_k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    best_scores = queries.new_empty((len(queries), 0))
    best_indices = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    for start in range(0, len(database), DATABASE_CHUNK):
        rows = _rows(database, start, DATABASE_CHUNK, queries.device, metric)
        scores = queries @ rows.T
        if metric == "euclidean":
            scores = 2 * scores - rows.square().sum(1) - queries.square().sum(1, keepdim=True)
        scores, indices = scores.topk(min(top_k, len(rows)), dim=1)
        scores = torch.cat([best_scores, scores], dim=1)
        indices = torch.cat([best_indices, indices + start], dim=1)
        best_scores, keep = scores.topk(min(top_k, scores.shape[1]), dim=1)
        best_indices = indices.gather(1, keep)
    scores, indices = best_scores.cpu().numpy(), best_indices.cpu().numpy()
    order = np.lexsort((indices, -scores), axis=1)
    return np.take_along_axis(indices, order, 1), np.take_along_axis(scores, order, 1)
