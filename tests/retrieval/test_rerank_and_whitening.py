"""k-reciprocal re-ranking against the text-book loops; whitening fitted once and never wrongly reused."""

import numpy as np
import pytest
import torch

from vpr_lib.data.ground_truth import Benchmark, Positives, make_protocol
from vpr_lib.data.manifest import build_manifest
from vpr_lib.models.whitening import Whitening
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval import rerank as module
from vpr_lib.retrieval.protocol import evaluate
from vpr_lib.retrieval.rerank import k_reciprocal_distances, rerank, reranked
from vpr_lib.retrieval.whitening import _sample, whiten


def unit(rng, n, d=8):
    rows = rng.normal(size=(n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def literal(database, queries, k1, k2, weight):
    """The published procedure, over the whole matrix."""
    rows = np.concatenate([queries, database]).astype(np.float64)
    n, q = len(rows), len(queries)
    original = ((rows[:, None] - rows[None]) ** 2).sum(2) ** 2
    original = (original / original.max(axis=0)).T
    rank = original.argsort(axis=1)
    v = np.zeros((n, n))
    mutual = lambda i, k: np.array([j for j in rank[i, : k + 1] if i in rank[j, : k + 1]])
    for i in range(n):
        members = own = mutual(i, k1)
        for candidate in own:
            theirs = mutual(candidate, int(np.around(k1 / 2)))
            if len(np.intersect1d(theirs, own)) > 2 / 3 * len(theirs):
                members = np.union1d(members, theirs)
        weights = np.exp(-original[i, members.astype(int)])
        v[i, members.astype(int)] = weights / weights.sum()
    if k2 > 1:
        v = np.stack([v[rank[i, :k2]].mean(axis=0) for i in range(n)])
    smaller = np.minimum(v[:q, None], v[None, q:]).sum(2)
    return (1 - weight) * (1 - smaller / (2 - smaller)) + weight * original[:q, q:]


@pytest.mark.parametrize(("k1", "k2", "weight"), [(6, 1, 0.0), (7, 1, 0.1), (5, 3, 0.3)])
def test_bounded_form_is_the_literal_one(k1, k2, weight, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 5)  # several blocks
    rng = np.random.default_rng(k1)
    database, queries = unit(rng, 40), unit(rng, 12)
    expected = literal(database, queries, k1, k2, weight)
    assert np.allclose(k_reciprocal_distances(database, queries, k1, k2, weight), expected, atol=1e-5)
    ranking = rerank(database, queries, 10, k1, k2, weight)
    assert ranking.indices.shape == (12, 10)
    assert np.allclose(-ranking.scores, np.sort(expected, axis=1)[:, :10], atol=1e-5)


def test_a_database_that_queries_itself_and_a_choice_of_rows():
    database = unit(np.random.default_rng(3), 30)
    full = k_reciprocal_distances(database, None, 6, 1, 0.2)
    assert full.shape == (30, 30) and np.allclose(np.diag(full), 0, atol=1e-6)
    assert np.allclose(k_reciprocal_distances(database, None, 6, 1, 0.2, rows=np.array([4, 11])), full[[4, 11]])
    queries = unit(np.random.default_rng(4), 8)
    rows = np.array([7, 0])
    assert np.allclose(
        k_reciprocal_distances(database, queries, 6, rows=rows), k_reciprocal_distances(database, queries, 6)[rows]
    )


def test_an_evaluation_can_be_ranked_anew(two_folders):
    database, queries = (manifest(folder, role) for folder, role in zip(two_folders, ("db", "query")))
    positives = Positives.from_lists([[2 * q] for q in range(6)], 12)
    protocol = make_protocol(database, queries, positives, name="two", dataset="two", rule="list")
    first = evaluate(build_model("pixels"), Benchmark("two", database, queries, (protocol,)), None, (1, 5), quiet=True)
    again = reranked(first, k1=3)
    expected = rerank(first.database.array, first.queries.array, 5, 3)
    assert again.recall.keys() == first.recall.keys()
    assert again.recall[1] == pytest.approx((expected.indices[:, 0] == 2 * np.arange(6)).mean())
    assert np.array_equal(again.ranking.indices, expected.indices)
    assert again.scores[0].protocol.card == first.scores[0].protocol.card


def test_bad_arguments():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="one length and k1, k2 >= 1"):
        rerank(unit(rng, 5), unit(rng, 2, 9), 3)
    with pytest.raises(ValueError, match="k1=0"):
        rerank(unit(rng, 5), unit(rng, 2), 3, k1=0)


def manifest(folder, role):
    return build_manifest(folder, "two", "train", role, {"image_path": sorted(p.name for p in folder.iterdir())})


def test_whitening_is_fitted_once(two_folders, tmp_path, monkeypatch):
    sides = [manifest(folder, role) for folder, role in zip(two_folders, ("db", "query"))]
    model, cache = build_model("avg_toy_160"), tmp_path / "pca"
    first = whiten(model, sides, 6, cache, quiet=True)
    images = torch.rand(2, 3, 112, 112)
    assert first.dim == 6 and first(images).shape == (2, 6)
    assert torch.allclose(first(images).norm(dim=1), torch.ones(2), atol=1e-5)
    monkeypatch.setattr("vpr_lib.retrieval.whitening.describe", None)  # a second call describes nothing
    assert torch.equal(whiten(model, sides, 6, cache, quiet=True).matrix, first.matrix)
    monkeypatch.undo()
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:2000])
    again = whiten(model, sides, 6, cache, quiet=True)  # damaged: fitted anew, and kept
    assert torch.equal(again.matrix, first.matrix) and Whitening.load(file).key
    with torch.no_grad():
        model.backbone.model.conv1.weight.add_(0.1)  # other weights, another file
    assert not torch.equal(whiten(model, sides, 6, cache, quiet=True).matrix, first.matrix)
    assert len(list(cache.iterdir())) == 2
    with pytest.raises(ValueError, match="span 17 directions"):
        whiten(model, sides, 100, quiet=True)


def test_sample_spreads_over_both_lists():
    rows = _sample([10, 5], 8, 1)
    assert sum(map(len, rows)) == 8 and rows[0].max() < 10 and rows[1].max() < 5
    assert [part.tolist() for part in _sample([3, 2], 99, 1)] == [[0, 1, 2], [0, 1]]
