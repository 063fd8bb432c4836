"""Ways to rank a database by name, for the commands' --index: exact, by faiss, or approximate with what it misses measured."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from vpr_lib.registry import lookup
from vpr_lib.retrieval.approximate import IvfPq, flat, found_of_exact
from vpr_lib.retrieval.engine import Milvus
from vpr_lib.retrieval.search import Ranking, search

SAMPLE = 1000  # queries that are searched exactly as well


def _ivfpq(database: np.ndarray, queries: np.ndarray, top_k: int) -> Ranking:
    return IvfPq.build(database).search(queries, top_k, database)


def _milvus(database: np.ndarray, queries: np.ndarray, top_k: int) -> Ranking:
    with tempfile.TemporaryDirectory() as folder, Milvus(Path(folder) / "places.db", database.shape[1]) as places:
        places.add(database)
        return places.search(queries, top_k)


INDEXES: dict[str, Callable[[np.ndarray, np.ndarray, int], Ranking] | None] = {
    "exact": None, "flat": flat, "ivfpq": _ivfpq, "milvus": _milvus,
}  # fmt: skip


def rank(
    index: str, database: np.ndarray, queries: np.ndarray, top_k: int, device: str | torch.device = "cpu"
) -> tuple[Ranking, dict[int, float]]:
    """A ranking by the index of that name (`INDEXES`).

    Args:
        database: (N, D) and queries (Q, D), unit length.
    Returns:
        the ranking and, for other indexes than "exact", the share of the exact first k among its first k, k = 1 and 10,
        over up to 1,000 evenly spread queries.
    Raises:
        ValueError: for an unknown index, descriptors that are not finite, or what the index needs and this database or machine has not.
    """
    way = lookup(INDEXES, index, "index")
    if way is None:
        return search(database, queries, top_k, device=device), {}
    for what, rows in (("database", database), ("query", queries)):
        if odd := int((~np.isfinite(rows.sum(1))).sum()):
            raise ValueError(f"{odd} of {len(rows)} {what} descriptors are not finite: '{index}' cannot rank them.")
    ranking = way(database, queries, top_k)
    sample = np.unique(np.linspace(0, len(queries) - 1, min(SAMPLE, len(queries))).round().astype(int))
    exact = search(database, queries[sample], 10, device=device)
    return ranking, found_of_exact(ranking.indices[sample], exact.indices)
