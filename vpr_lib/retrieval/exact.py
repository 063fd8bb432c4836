"""The scores that decide a ranking: each of one query and one row alone, in an order of additions that nothing else changes.

A matrix product adds up differently with a row's place in it, the block, the threads and the instruction set, so that equal
descriptors may score differently in the last bit. Products therefore only propose rows; `decide` is the one place that ranks
them, and equal descriptors come out by database index wherever and however they were found.
"""

import faiss
import torch
from torch import Tensor

from vpr_lib.retrieval.screen import SLACK, above

SPARE = 8  # proposed beyond the ranking, so that its end is rarely in doubt
GATHERED = 2**27  # numbers copied together on a GPU, 512 MB
DOUBTED = 64  # queries looked at together when the end of their rankings is in doubt


def decide(queries: Tensor, rows: Tensor, ids: Tensor, top_k: int, metric: str) -> tuple[Tensor, Tensor]:
    """The best `top_k` of each query's candidates `ids` (q, M): scores and ids (q, min(M, top_k)), equal scores by index.

    Candidates come in rising order, -1 anywhere is none; it and rows that are no numbers come out last, as -inf and -1.
    """
    scores = scores_of(queries, rows, ids, metric)
    scores.masked_fill_((ids < 0) | scores.isnan(), -torch.inf)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    scores, ids = scores[:, :top_k], ids.gather(1, order[:, :top_k])
    return scores, ids.masked_fill(scores == -torch.inf, -1)


def scores_of(queries: Tensor, rows: Tensor, ids: Tensor, metric: str) -> Tensor:
    """fp32 scores (q, M) of each query with its own rows `ids` (q, M); what comes for -1 means nothing."""
    return (_scores_on_cpu if rows.device.type == "cpu" else _scores_on_gpu)(queries, rows, ids, metric)


def _scores_on_cpu(queries: Tensor, rows: Tensor, ids: Tensor, metric: str) -> Tensor:
    """faiss takes the rows one by one, without copying them."""
    scores = torch.empty(ids.shape, dtype=torch.float32)
    kernel = faiss.fvec_inner_products_by_idx if metric == "cosine" else faiss.fvec_L2sqr_by_idx
    kernel(*(faiss.swig_ptr(a.numpy()) for a in (scores, queries, rows, ids)), rows.shape[1], *ids.shape)
    return scores if metric == "cosine" else scores.neg_()


def _scores_on_gpu(queries: Tensor, rows: Tensor, ids: Tensor, metric: str) -> Tensor:
    scores = torch.empty(ids.shape, dtype=torch.float32, device=rows.device)
    step = max(1, GATHERED // (ids.shape[1] * rows.shape[1]))
    for first in range(0, len(ids), step):
        some = slice(first, first + step)
        chosen, asked = rows[ids[some].clamp(min=0)], queries[some, None]
        scores[some] = sum_by_halves(chosen * asked if metric == "cosine" else -(chosen - asked).square())
    return scores


def sum_by_halves(terms: Tensor) -> Tensor:
    """Sums over the last axis in an order that depends on its length alone; that of torch's sum depends on the shape too."""
    while terms.shape[-1] > 1:
        half, odd = divmod(terms.shape[-1], 2)
        sums = terms[..., :half] + terms[..., half : 2 * half]
        if odd:
            sums[..., 0] += terms[..., -1]
        terms = sums
    return terms[..., 0]


def nearest(queries: Tensor, rows: Tensor, so_far: Tensor, top_k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Scores and rows (q, R) that can enter rankings whose last scores are `so_far` (q,), found in fp32 alone.

    R is at most top_k; -inf and -1 fill up shorter lists. Rows beyond the proposed ones are looked at where rounding could
    have kept them out.
    """
    width = min(top_k + SPARE, len(rows))
    rough, ids = (_propose_on_cpu if rows.device.type == "cpu" else _propose_on_gpu)(queries, rows, width, metric)
    ids = ids.masked_fill(rough < (so_far - _slack(queries, so_far, metric))[:, None], -1)  # most of later blocks
    scores, found = decide(queries, rows, ids.sort(dim=1).values, top_k, metric)
    if width == len(rows):
        return scores, found
    beat = torch.maximum(so_far, scores[:, -1])
    least = beat - _slack(queries, beat, metric)
    doubted = (rough[:, -1] >= least).nonzero()[:, 0]
    for first in range(0, len(doubted), DOUBTED):
        some = doubted[first : first + DOUBTED]
        listed, _ = above(_products(queries[some], rows, metric), least[some], len(rows))
        more, ids = decide(queries[some], rows, listed, top_k, metric)
        scores[some], found[some] = -torch.inf, -1
        scores[some, : more.shape[1]], found[some, : more.shape[1]] = more, ids
    return scores, found


def _slack(queries: Tensor, score: Tensor, metric: str) -> Tensor | float:
    """What a product may be off for a row of at least that score (q,): lengths are 1, or follow from the distance."""
    if metric == "cosine":
        return SLACK
    return SLACK * (2 * queries.norm(dim=1) + (-score).clamp(min=0).sqrt()).square()


def _products(queries: Tensor, rows: Tensor, metric: str) -> Tensor:
    """Scores (q, N) by a matrix product."""
    scores = queries @ rows.T
    if metric == "euclidean":
        scores = 2 * scores - rows.square().sum(1) - queries.square().sum(1, keepdim=True)
    return scores.masked_fill_(scores.isnan(), -torch.inf)


def _propose_on_cpu(queries: Tensor, rows: Tensor, count: int, metric: str) -> tuple[Tensor, Tensor]:
    """faiss has the quicker kernels there, keeps no copy and no score matrix."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    scores, found = (torch.from_numpy(a) for a in faiss.knn(queries.numpy(), rows.numpy(), count, metric=kind))
    return scores if metric == "cosine" else -scores, found


def _propose_on_gpu(queries: Tensor, rows: Tensor, count: int, metric: str) -> tuple[Tensor, Tensor]:
    return _products(queries, rows, metric).topk(count, dim=1)
