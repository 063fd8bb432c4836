"""Equal descriptors rank by database index, however they are searched."""

import numpy as np
import pytest
import torch

from vpr_lib.retrieval import exact
from vpr_lib.retrieval import search as search_module
from vpr_lib.retrieval.screen import HalfScreen, Int8Screen, int8_levels
from vpr_lib.retrieval.search import search

WAYS = ["fp32", "as on a gpu", HalfScreen,
        pytest.param(Int8Screen, marks=pytest.mark.skipif(int8_levels() is None, reason="no int8 products on this CPU"))]  # fmt: skip


def copies(distinct: int, count: int, width: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """`count` rows (count, width) that repeat `distinct` ones in any order, and which one each is."""
    rng = np.random.default_rng(0)
    rows, which = rng.normal(size=(distinct, width)), rng.integers(0, distinct, count)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) * scale
    return rows.astype(np.float32)[which], which


def wanted(database: np.ndarray, which: np.ndarray, queries: np.ndarray, top_k: int, metric: str) -> np.ndarray:
    """Rankings by float64 scores, one per distinct row, so that copies tie exactly."""
    first = np.unique(which, return_index=True)[1]
    rows, asked = database[first].astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        scores = asked @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
    else:
        scores = -np.square(asked[:, None] - rows).sum(2)
    return np.argsort(-scores[:, which], axis=1, kind="stable")[:, :top_k]


@pytest.fixture
def way(request, monkeypatch):
    """Search by one of WAYS, screens at small sizes too."""
    monkeypatch.setattr(search_module, "_screen", lambda queries, database, top_k, metric: None)
    if request.param == "as on a gpu":
        monkeypatch.setattr(exact, "_propose_on_cpu", exact._propose_on_gpu)
        monkeypatch.setattr(exact, "_scores_on_cpu", exact._scores_on_gpu)
    elif request.param != "fp32":
        monkeypatch.setattr(search_module, "_screen", lambda queries, *rest: request.param(queries))


@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.parametrize(("width", "scale"), [(37, 1.0), (129, 3.7), (512, 1.0)])
def test_copies_rank_by_index_in_any_blocks_and_threads(way, monkeypatch, width, scale, tmp_path):
    database, which = copies(150, 2000, width, scale)
    queries = np.concatenate([database[:40], copies(150, 40, width)[0] + 0.01]).astype(np.float32)
    expected = wanted(database, which, queries, 30, "cosine")
    np.save(tmp_path / "database.npy", database)
    on_disk, threads, scores = np.load(tmp_path / "database.npy", mmap_mode="r"), torch.get_num_threads(), []
    try:
        for blocks, count, rows in (((512, 8192), 1, database), ((64, 700), 3, on_disk), ((7, 333), 2, database)):
            monkeypatch.setitem(search_module.CHUNKS, "cpu", blocks)
            torch.set_num_threads(count)
            found = search(rows, queries, 30)
            assert (found.indices == expected).all()
            scores.append(found.scores)
    finally:
        torch.set_num_threads(threads)
    assert (scores[0] == scores[1]).all() and (scores[0] == scores[2]).all()


@pytest.mark.parametrize("way", WAYS[:2], indirect=True)
def test_copies_rank_by_index_by_distance_too(way, monkeypatch):
    database, which = copies(150, 2000, 129, 9.0)
    queries = database[:50] + np.float32(0.01)
    for blocks in ((512, 8192), (7, 333)):
        monkeypatch.setitem(search_module.CHUNKS, "cpu", blocks)
        assert (
            search(database, queries, 30, "euclidean").indices == wanted(database, which, queries, 30, "euclidean")
        ).all()


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_one_image_a_thousand_times_gives_the_first_of_them(way, monkeypatch):
    """More copies than are proposed beside a ranking: which of them enters it is still settled by index."""
    monkeypatch.setitem(search_module.CHUNKS, "cpu", (16, 400))
    database, _ = copies(1, 1000, 256)
    found = search(database, np.concatenate([database[:20], np.zeros((1, 256), np.float32)]), 12)
    assert (found.indices == np.arange(12)).all() and (found.scores[:, :1] == found.scores).all()


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_what_is_no_number_is_left_out(way, monkeypatch):
    monkeypatch.setitem(search_module.CHUNKS, "cpu", (16, 40))
    database, _ = copies(100, 100, 32)
    database[[0, *range(45, 80)]] = np.nan
    clean = np.flatnonzero(np.isfinite(database).all(1))
    found = search(database, database[1:21], 70).indices
    assert (np.sort(found[:, : len(clean)]) == clean).all() and (found[:, len(clean) :] == -1).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_rough_scores_are_the_exact_ones_but_for_rounding(metric):
    queries, rows = (torch.from_numpy(copies(count, count, 24, 3.7)[0]) for count in (5, 40))
    by_hand = queries @ rows.T if metric == "cosine" else -torch.cdist(queries, rows).square()
    for propose in (exact._propose_on_cpu, exact._propose_on_gpu):
        scores, ids = propose(queries, rows, 6, metric)
        torch.testing.assert_close(scores, by_hand.gather(1, ids), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(scores, by_hand.topk(6, dim=1).values, rtol=1e-4, atol=1e-3)


def test_no_candidate_and_no_number_come_out_last_and_as_none():
    rows = torch.tensor([[1.0, 0.0], [torch.nan, 0.0], [0.6, 0.8]])
    scores, ids = exact.decide(rows[:1], rows, torch.tensor([[-1, 0, 1, 2]]), 4, "cosine")
    assert ids.tolist() == [[0, 2, -1, -1]] and scores[0, :2].tolist() == pytest.approx([1, 0.6])
    assert (scores[0, 2:] == -torch.inf).all()


def test_sums_by_halves():
    for width in (1, 2, 3, 7, 64, 129):
        terms = torch.randn(5, 4, width, generator=torch.Generator().manual_seed(width))
        torch.testing.assert_close(exact.sum_by_halves(terms), terms.sum(2))
