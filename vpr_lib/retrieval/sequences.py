"""Sequence matching over traverses: a query is matched together with the frames before it.

Works on the similarities of any model: where both lists are drives in order, a true match lies on a line through the matrix
of similarities, a false one rarely. Method: SeqSLAM (Milford and Wyeth, ICRA 2012), Sec. III, without its local contrast.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from vpr_lib.retrieval.protocol import Evaluation, score
from vpr_lib.retrieval.search import Ranking

CHUNK = 256  # queries at a time: memory is CHUNK x database


def sequence_similarity(similarity: np.ndarray, length: int, speeds: Sequence[float] = (1.0,)) -> np.ndarray:
    """Mean similarity along the best line that ends at every cell: (Q, N) -> float32 (Q, N).

    Cell (i, j) looks back over query frames i - d and database frames j - round(speed d), d = 0 .. length - 1, as far as
    both lists reach, and keeps the best speed.

    Args:
        length: frames of a sequence; 1 changes nothing.
        speeds: database frames per query frame.
    Raises:
        ValueError: for a length below 1 or no speed.
    """
    if length < 1 or not len(speeds):
        raise ValueError(
            f"A sequence has at least one frame and one speed, got length={length}, speeds={list(speeds)}."
        )
    best = np.full(similarity.shape, -np.inf, np.float32)
    for speed in speeds:
        total, count = np.zeros_like(best), np.zeros(similarity.shape, np.int32)
        for back in range(min(length, len(similarity))):
            shift = round(speed * back)
            if shift >= similarity.shape[1]:
                break
            total[back:, shift:] += similarity[: len(similarity) - back, : similarity.shape[1] - shift]
            count[back:, shift:] += 1
        np.maximum(best, total / count, out=best)
    return best


def search_sequences(
    database: np.ndarray, queries: np.ndarray, top_k: int, length: int, speeds: Sequence[float] = (1.0,)
) -> Ranking:
    """The `top_k` database frames whose past looks most like the query's: descriptors (N, D) and (Q, D), both in order.

    Equal scores are ordered by database index.
    """
    indices, scores = [], []
    for part in _blocks(np.asarray(database, np.float32), np.asarray(queries, np.float32), length, speeds):
        indices.append(np.argsort(-part, axis=1, kind="stable")[:, :top_k])
        scores.append(np.take_along_axis(part, indices[-1], axis=1))
    return Ranking(np.concatenate(indices).astype(np.int64), np.concatenate(scores).astype(np.float32))


def _blocks(database: np.ndarray, queries: np.ndarray, length: int, speeds: Sequence[float]) -> Iterator[np.ndarray]:
    """Sequence similarities of some queries at a time, each block with the frames before it."""
    for first in range(0, len(queries), CHUNK):
        start = max(0, first - length + 1)
        yield sequence_similarity(queries[start : first + CHUNK] @ database.T, length, speeds)[first - start :]


def in_sequence(evaluation: Evaluation, length: int, speeds: Sequence[float] = (1.0,)) -> Evaluation:
    """An evaluation ranked anew by sequences, under the same protocols; the lists must be drives in order."""
    depth = evaluation.ranking.indices.shape[1]
    ranking = search_sequences(evaluation.database.array, evaluation.queries.array, depth, length, speeds)
    scores = tuple(score(ranking.indices, scored.protocol, tuple(scored.recall)) for scored in evaluation.scores)
    return replace(evaluation, ranking=ranking, scores=scores)
