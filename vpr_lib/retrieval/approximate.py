"""faiss beside our own search: its flat index, and IVF-PQ for databases that exact search is too slow or too large for.

With faiss-gpu (extra `gpu`, environment.yml) both use the GPU; faiss-cpu, the default, has the same import.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import faiss
import numpy as np
import torch

from vpr_lib.paths import atomic_path
from vpr_lib.retrieval.search import Ranking

LEAST = 39 * 256  # rows from which on faiss can learn the 256 codes of each part of a descriptor well
ADDED = 65_536  # rows read at a time


@cache
def _resources() -> "faiss.StandardGpuResources":
    return faiss.StandardGpuResources()  # must outlive every index on the GPU


def gpus() -> int:
    """GPUs that faiss can use: none with faiss-cpu, which has the same `import faiss` as faiss-gpu."""
    return faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0


def on_gpu(index: faiss.Index) -> faiss.Index:
    """The index on the first GPU, or itself where there is none or the GPU has no such index (IVF-PQ: some code sizes)."""
    if not gpus():
        return index
    try:
        return faiss.index_cpu_to_gpu(_resources(), 0, index)
    except RuntimeError:
        return index


def flat_index(database: np.ndarray) -> faiss.Index:
    """faiss's flat index of unit-length rows (N, D): on the GPU where faiss sees one, on the CPU otherwise."""
    index = on_gpu(faiss.IndexFlatIP(database.shape[1]))
    for start in range(0, len(database), ADDED):
        index.add(np.ascontiguousarray(database[start : start + ADDED], np.float32))
    return index


def flat(database: np.ndarray, queries: np.ndarray, top_k: int) -> Ranking:
    """faiss's own exhaustive search; equal scores by index. `search` also ranks twins alike on every machine, this does not."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    scores, rows = flat_index(database).search(np.ascontiguousarray(queries, np.float32), min(top_k, len(database)))
    order = np.lexsort((rows, -scores), axis=1)
    return Ranking(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


@dataclass(frozen=True)
class IvfPq:
    """Rows in `lists` cells, each held as `row_bytes` bytes of product-quantised residual and an 8-byte number.

    Paper: Jegou et al., Product Quantization for Nearest Neighbor Search, TPAMI 2011.
    """

    index: faiss.IndexIVFPQ

    @classmethod
    def build(
        cls,
        database: np.ndarray,
        row_bytes: int = 64,
        lists: int | None = None,
        learn_from: int = 200_000,
        seed: int = 0,
    ) -> "IvfPq":
        """Learn cells and codes from a sample of the rows, then add all rows in blocks.

        Args:
            database: (N, D) descriptors of unit length; may be a memory map.
            row_bytes: bytes of a row's code; the largest number up to it that divides D is taken.
            lists: cells; default 4 sqrt(N), never more than a 39th of the sample.
        Raises:
            ValueError: for fewer rows than the codes can be learned from.
        """
        count, width = database.shape
        if count < LEAST:
            raise ValueError(
                f"IVF-PQ learns its codes from at least {LEAST:,} descriptors, this database has {count:,}: "
                "exact search is quick at that size."
            )
        rows = np.sort(np.random.default_rng(seed).permutation(count)[: max(LEAST, learn_from)])
        lists = min(lists or round(4 * math.sqrt(count)), len(rows) // 39)
        parts = max(part for part in range(1, row_bytes + 1) if width % part == 0)
        cells = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFPQ(cells, width, lists, parts, 8, faiss.METRIC_INNER_PRODUCT)
        index.own_fields = True
        cells.this.disown()  # now the index frees them
        index.cp.seed = index.pq.cp.seed = seed + 1234
        faiss.omp_set_num_threads(torch.get_num_threads())
        worker = on_gpu(
            index
        )  # faiss-gpu learns and fills the index where there is one; it comes back to be searched and saved
        worker.train(np.ascontiguousarray(database[rows], np.float32))
        for start in range(0, count, ADDED):
            worker.add(np.ascontiguousarray(database[start : start + ADDED], np.float32))
        return cls(index if worker is index else faiss.index_gpu_to_cpu(worker))

    @classmethod
    def load(cls, path: Path) -> "IvfPq":
        """Raises FileNotFoundError without a file; ValueError for one that holds no such index."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"No index {path}: build one with IvfPq.build and save it.")
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise ValueError(f"{path} is not an index that faiss can read: build it again.") from error
        if not isinstance(index, faiss.IndexIVFPQ):
            raise ValueError(f"{path} holds a {type(index).__name__}, not an IndexIVFPQ: build it again.")
        return cls(index)

    def save(self, path: Path) -> Path:
        with atomic_path(path) as temporary:
            faiss.write_index(self.index, str(temporary))
        return Path(path)

    @property
    def memory_bytes(self) -> int:
        """Codes, numbers and cells, without what faiss keeps around them."""
        return self.index.ntotal * (self.index.code_size + 8) + 4 * self.index.nlist * self.index.d

    def search(
        self,
        queries: np.ndarray,
        top_k: int,
        database: np.ndarray | None = None,
        probes: int | None = None,
        rescored: int | None = None,
    ) -> Ranking:
        """Rank the rows of the `probes` cells nearest to each query.

        Args:
            queries: (Q, D) of unit length.
            database: the descriptors that were indexed; with them the best `rescored` (default 4 top_k, at least 100)
                are scored exactly and ordered by that. Only those rows are read from a memory map.
            probes: default a 16th of the cells, at most 64.
        Returns:
            Ranking; -1 and -inf fill up where the cells held fewer than top_k rows.
        """
        faiss.omp_set_num_threads(torch.get_num_threads())
        top_k = min(top_k, self.index.ntotal)
        self.index.nprobe = probes or max(1, min(64, self.index.nlist // 16))
        wanted = top_k if database is None else min(self.index.ntotal, rescored or max(100, 4 * top_k))
        queries = np.ascontiguousarray(queries, np.float32)
        scores, rows = self.index.search(queries, max(top_k, wanted))
        if database is not None:
            # row by row: a product's last bits depend on a row's place in it
            scores = np.stack([(database[np.maximum(found, 0)] * query).sum(1) for found, query in zip(rows, queries)])
        scores[rows < 0] = -np.inf
        order = np.lexsort((rows, -scores), axis=1)[:, :top_k]
        return Ranking(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


def found_of_exact(approximate: np.ndarray, exact: np.ndarray, ks: tuple[int, ...] = (1, 10)) -> dict[int, float]:
    """Share of the first k rows of exact rankings (Q, R) that are among the first k of approximate ones, {k: 0 to 1}."""
    ks = tuple(k for k in ks if k <= exact.shape[1])
    shared = lambda k: np.mean([len(np.intersect1d(a[:k], e[:k])) for a, e in zip(approximate, exact)]) / k
    return {k: float(shared(k)) for k in ks}
