"""The rows of `vpr bench` about rankings: exact search and scoring."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from vpr_lib.bench.measure import Comparison, Size, Way
from vpr_lib.data.ground_truth import Positives
from vpr_lib.retrieval.metrics import first_hit_ranks, recall_from_ranks
from vpr_lib.retrieval.protocol import KS
from vpr_lib.retrieval.screen import int8_levels
from vpr_lib.retrieval.search import search

TOP_K = 25


def unit_rows(count: int, width: int, seed: int) -> np.ndarray:
    """Random descriptors, float32 (count, width), unit norm; made in blocks to stay within their own memory."""
    rng, rows = np.random.default_rng(seed), np.empty((count, width), np.float32)
    for start in range(0, count, 8192):
        block = rows[start : start + 8192]
        rng.standard_normal(out=block, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def same_ranking(
    database: np.ndarray | Tensor, queries: np.ndarray | Tensor
) -> Callable[[np.ndarray, np.ndarray], tuple[dict[str, Any], bool]]:
    """Share of queries whose lists hold the same images and, for the others, how much worse ours are by exact scores.

    Lists may differ where fp32 cannot tell two images apart: rounding of the other way's sums decides. float64 settles it.
    """
    database, queries = torch.as_tensor(database), torch.as_tensor(queries)

    def exact(query: int, rows: np.ndarray) -> Tensor:
        products = database[torch.from_numpy(rows).to(database.device)].double() @ queries[query].double()
        return products.sort(descending=True).values

    def parity(theirs: np.ndarray, ours: np.ndarray) -> tuple[dict[str, Any], bool]:
        other = np.flatnonzero((np.sort(theirs, 1) != np.sort(ours, 1)).any(1))
        worse = max((float((exact(q, theirs[q]) - exact(q, ours[q])).max()) for q in other), default=0.0)
        same = {f"same top-{TOP_K}": 1 - len(other) / len(ours), "same order": float((theirs == ours).all(1).mean())}
        return same | {"others worse by": worse}, worse < 1e-6

    return parity


def search_cpu(size: Size, folder: Path, width: int) -> Comparison:
    database, queries = unit_rows(size.database, width, 0), unit_rows(size.queries, width, 1)
    index = faiss.IndexFlatL2(width)
    index.add(database)
    levels = int8_levels()
    bound = {
        127: "int8 matrix product; at 512-d also listing and re-scoring of the candidates",
        63: "int8 matrix product without VNNI: twice the fp32 rate at best; at 512-d also listing and re-scoring",
        None: "fp32 matrix product of faiss, which is what runs here",
    }[levels]
    return Comparison(
        f"exact search on CPU, {width}-d", f"{size.queries:,} x {size.database:,}, top {TOP_K}",
        Way("faiss IndexFlatL2, built before", lambda: index.search(queries, TOP_K)[1], _faiss_threads),
        Way("search()", lambda: search(database, queries, TOP_K).indices), same_ranking(database, queries),
        {127: 2.4, 63: 1.4, None: None}[levels], bound, gflop=2e-9 * size.queries * size.database * width,
    )  # fmt: skip


def _faiss_threads() -> None:
    faiss.omp_set_num_threads(torch.get_num_threads())


def scoring(size: Size, folder: Path) -> Comparison:
    rng, database = np.random.default_rng(0), 84_000
    lists = [np.unique(rng.integers(0, database, rng.integers(1, 60))) for _ in range(size.scored)]
    ranking = rng.integers(0, database, (size.scored, max(KS)))
    for query in range(0, size.scored, 2):  # half of the queries have a hit somewhere
        ranking[query, rng.integers(0, max(KS))] = rng.choice(lists[query])
    positives = Positives.from_lists(lists, database)

    def peers() -> dict[int, float]:
        correct = np.zeros(len(KS))
        for query, ranked in enumerate(ranking):
            for position, k in enumerate(KS):
                if np.any(np.isin(ranked[:k], lists[query])):
                    correct[position:] += 1
                    break
        return dict(zip(KS, (correct / len(ranking)).tolist()))

    def parity(theirs: dict[int, float], ours: dict[int, float]) -> tuple[dict[str, Any], bool]:
        apart = max(abs(theirs[k] - ours[k]) for k in KS)
        return {"recall apart": apart, "recall@100": ours[100]}, apart < 1e-12

    return Comparison(
        "score a ranking", f"{size.scored:,} queries x {max(KS)}", Way("Python loop with isin", peers),
        Way("first_hit_ranks", lambda: recall_from_ranks(first_hit_ranks(ranking, positives), KS)), parity, 5.0,
        "binary searches in the sorted pairs, one per ranked image",
    )  # fmt: skip
