"""Shorter descriptors after the fact: PCA of an evaluation's descriptors, searched and scored again."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vpr_lib.models.whitening import Whitening, fit_whitening
from vpr_lib.retrieval.protocol import Evaluation, score
from vpr_lib.retrieval.search import search


def project(descriptors: np.ndarray | Tensor, pca: Whitening, dim: int) -> Tensor:
    """The first `dim` principal components of descriptors (N, D), unscaled, brought back to unit length: (N, dim)."""
    centred = torch.as_tensor(np.asarray(descriptors)) - pca.mean
    return F.normalize(centred @ pca.components[:, :dim], dim=1)


def reduce_dimensions(
    evaluation: Evaluation,
    dims: Sequence[int],
    fit_on: np.ndarray | None = None,
    device: str | torch.device = "cpu",
) -> dict[int, Evaluation]:
    """The evaluation with its descriptors cut to each of `dims` by one PCA, ranked and scored under the same protocols.

    Args:
        fit_on: descriptors (N, D) that the directions are taken from; default the database's, known before any query
            comes. Queries are never used.
    Raises:
        ValueError: when a number of dims exceeds what the descriptors span.
    """
    pca = fit_whitening(np.ascontiguousarray(evaluation.database.array if fit_on is None else fit_on), max(dims))
    depth, ks, evaluations = evaluation.ranking.indices.shape[1], list(evaluation.recall), {}
    for dim in dims:
        database, queries = (
            replace(side, array=project(side.array, pca, dim).numpy(), path=None, seconds=0.0)
            for side in (evaluation.database, evaluation.queries)
        )
        ranking = search(database.array, queries.array, depth, device=device)
        scores = tuple(score(ranking.indices, scored.protocol, ks) for scored in evaluation.scores)
        evaluations[dim] = Evaluation(evaluation.benchmark, ranking, database, queries, scores)
    return evaluations
