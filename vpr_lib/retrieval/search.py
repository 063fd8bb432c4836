"""Exact nearest-neighbour search over descriptors, in chunks: memory never grows with queries x database.

The database is passed over once, whatever the number of queries: a memory map larger than memory streams from disk.
Where the processor has quicker low-precision products (int8 on x86 CPUs, fp16 on GPUs) they leave out what cannot be in
a ranking, and fp32 decides among the rest; a query they cannot thin out is searched in fp32 throughout.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import faiss
import numpy as np
import torch
from torch import Tensor, nn

from vpr_lib.retrieval.exact import decide, nearest, scores_of, sum_by_halves
from vpr_lib.retrieval.screen import BLOCK, HalfScreen, Int8Screen, above, highest, int8_levels

log = logging.getLogger(__name__)
# Queries and database rows at a time: their scores stay in a CPU's cache and its allocator's reach; a GPU is kept busy.
CHUNKS = {"cpu": (512, 8192), "cuda": (4096, 32_768)}
SCREENED = 256  # queries, from which on coding the database pays
CANDIDATES = 16  # a query with more than a 16th of the rows as candidates is quicker searched in fp32


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
        Ranking; equal scores are ordered by database index. Equal descriptors have equal scores, so they rank by index on
        every device and instruction set, with any block size and number of threads, in memory or on disk, screened or not.
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
    queries = _rows(queries, 0, len(queries), device, metric)
    scores = np.full((len(queries), top_k), -np.inf, np.float32)
    indices = np.full((len(queries), top_k), -1, np.int64)
    screen = _screen(queries, database, top_k, metric)
    query_chunk, database_chunk = CHUNKS[device.type]
    if device.type == "cpu" and screen is not None:
        query_chunk = max(1, min(query_chunk, -(-len(queries) // torch.get_num_threads())))
    parts = [slice(first, first + query_chunk) for first in range(0, len(queries), query_chunk)]

    def look(rows: Tensor, start: int, screened: bool, some: slice) -> int:
        """Bring the rankings of some queries up to date with a block; how many of them were searched in fp32."""
        so_far = torch.from_numpy(scores[some, -1].copy()).to(device)
        if screened:
            more, found, left = _screened(screen, queries, some, rows, so_far, top_k)
        else:
            (more, found), left = nearest(queries[some], rows, so_far, min(top_k, len(rows)), metric), 0
        found = torch.where(found < 0, -1, found + start).cpu().numpy()
        indices[some], scores[some] = _best(indices[some], scores[some], found, more.cpu().numpy(), top_k)
        return left

    with _full_precision(device), _each_on_one_thread(device) as spread:
        for start in range(0, len(database), database_chunk):  # outermost: a memory-mapped database is read once
            rows = _rows(database, start, database_chunk, device, metric)
            screened = screen is not None and screen.take(rows)
            unsure = sum((spread if screened else map)(partial(look, rows, start, screened), parts))
            if 2 * unsure > len(queries):
                log.info("low precision cannot tell most of these descriptors apart: fp32 from here on")
                screen = None
    return Ranking(indices, scores)


def _screen(queries: Tensor, database: np.ndarray | Tensor, top_k: int, metric: str) -> HalfScreen | Int8Screen | None:
    """What finds candidates in low precision, where that is quicker than fp32 alone."""
    few = len(queries) < SCREENED or len(database) < SCREENED * BLOCK or top_k > SCREENED
    if few or metric != "cosine" or not bool(torch.isfinite(queries).all()):
        return None
    if queries.device.type == "cuda":
        return HalfScreen(queries)
    return Int8Screen(queries) if int8_levels() else None


def _screened(
    screen: HalfScreen | Int8Screen, queries: Tensor, some: slice, rows: Tensor, so_far: Tensor, top_k: int
) -> tuple[Tensor, Tensor, int]:
    """Exact scores and rows (q, R) of what can still enter some queries' rankings; the third: queries searched in fp32.

    Args:
        so_far: the last score of each ranking, float32 (q,); -inf where it is not full yet.
    Returns:
        R is at most top_k; -inf and -1 fill up shorter lists.
    """
    part = queries[some]
    y, unit, shift, error = screen.scores(some)
    beat = so_far
    if bool(torch.isinf(beat).any()) and len(rows) >= top_k:  # the worst of any top_k exact scores is a bound as well
        beat = torch.maximum(beat, scores_of(part, rows, highest(y, top_k), "cosine").amin(1))
    ids, unsure = above(y, (beat - shift - error) / unit, len(rows) // CANDIDATES)
    scores, ids = decide(part, rows, ids, top_k, "cosine")
    left = unsure.nonzero()[:, 0]
    if len(left):
        width = min(top_k, len(rows))
        missing = (0, max(0, width - ids.shape[1]))
        scores, ids = nn.functional.pad(scores, missing, value=-torch.inf), nn.functional.pad(ids, missing, value=-1)
        scores[left, :width], ids[left, :width] = nearest(part[left], rows, so_far[left], width, "cosine")
    return scores, ids, len(left)


@contextmanager
def _each_on_one_thread(device: torch.device) -> Iterator[Callable[..., Iterable[int]]]:
    """`map` over as many threads as torch has, each computing alone.

    The many small steps of a screened block would otherwise wait for each other: torch and faiss bring an OpenMP of their
    own each, whose idle threads spin while the other's work.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield map
        return

    def alone() -> None:
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)

    with ThreadPoolExecutor(threads, initializer=alone) as pool:
        try:
            yield pool.map
        finally:
            torch.set_num_threads(threads)  # a part of that setting is shared by all threads


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """fp32 means fp32: on GPUs neither TF32 products nor fp16 sums inside fp16 products, whatever the caller had set."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction
    matmul.allow_tf32 = matmul.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction = before


def _rows(rows: np.ndarray | Tensor, start: int, count: int, device: torch.device, metric: str) -> Tensor:
    part = rows[start : start + count]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # a memory map; nothing writes to it
        tensor = part if isinstance(part, Tensor) else torch.from_numpy(np.ascontiguousarray(part))
    tensor = tensor.detach().to(device, torch.float32).contiguous()
    if metric == "euclidean":
        return tensor
    norm = tensor.norm(dim=1)  # unit rows stay as they are, zeros (unreadable images) too
    other = ((norm - 1).abs() > 1e-3) & (norm > 0)
    if bool(other.any()):
        tensor = torch.where(other[:, None], tensor / sum_by_halves(tensor.square()).sqrt()[:, None], tensor)
    return tensor


def _best(indices, scores, more_indices, more_scores, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top_k` best of two lists per query, equal scores ordered by index."""
    scores, indices = np.concatenate([scores, more_scores], 1), np.concatenate([indices, more_indices], 1)
    order = np.lexsort((indices, -scores), axis=1)[:, :top_k]
    return np.take_along_axis(indices, order, 1), np.take_along_axis(scores, order, 1)
