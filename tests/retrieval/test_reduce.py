"""PCA of descriptors by a second way, and what must not change."""

import numpy as np
import pytest
from pictures import write_places
from sklearn.decomposition import PCA

from vpr_lib.data.ground_truth import Benchmark, Positives, make_protocol
from vpr_lib.models.whitening import fit_whitening
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.protocol import evaluate
from vpr_lib.retrieval.reduce import project, reduce_dimensions


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_projection_by_scikit_learn():
    rng = np.random.default_rng(0)
    base, queries = unit(rng.normal(size=(60, 12)) * np.arange(1, 13)), unit(rng.normal(size=(7, 12)))
    pca = fit_whitening(base.astype(np.float32), 6)
    for dim in (2, 6):
        expected = unit(PCA(dim).fit(base).transform(queries))
        found = project(queries.astype(np.float32), pca, dim).numpy()
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)  # signs are free


@pytest.fixture
def evaluation(tmp_path):
    """Six places: three images of each in the database, the fourth asks."""
    manifest, rows = write_places(tmp_path, places=6, images=4).manifest, np.arange(24)
    database, queries = (manifest.take(rows[keep]) for keep in (rows % 4 < 3, rows % 4 == 3))
    positives = Positives.from_lists([[3 * q, 3 * q + 1, 3 * q + 2] for q in range(6)], 18)
    protocol = make_protocol(database, queries, positives, name="t", dataset="t", rule="list")
    return evaluate(
        build_model("pixels"), Benchmark("t", database, queries, (protocol,)), ks=(1, 5), batch_size=8, quiet=True
    )


def test_fewer_numbers_same_protocol(evaluation):
    found = reduce_dimensions(evaluation, [1, 5, 17])
    assert list(found) == [1, 5, 17]
    for dim, reduced in found.items():
        assert reduced.database.array.shape == (18, dim) and reduced.queries.array.shape == (6, dim)
        assert reduced.scores[0].protocol is evaluation.scores[0].protocol and list(reduced.recall) == [1, 5]
        np.testing.assert_allclose(np.linalg.norm(reduced.queries.array, axis=1), 1, rtol=1e-5)
    pca = fit_whitening(evaluation.database.array, 17)
    scores = project(evaluation.queries.array, pca, 5) @ project(evaluation.database.array, pca, 5).T
    assert found[5].ranking.indices[:, 0].tolist() == scores.argmax(dim=1).tolist()
    assert evaluation.recall[1] == found[17].recall[1] == 1.0 > found[1].recall[1]


def test_directions_may_come_from_elsewhere(evaluation):
    shuffled = evaluation.database.array[::-1]
    same = reduce_dimensions(evaluation, [4], fit_on=shuffled)[4]
    np.testing.assert_array_equal(same.ranking.indices, reduce_dimensions(evaluation, [4])[4].ranking.indices)
    with pytest.raises(ValueError, match="18 descriptors of 1024 numbers span 17 directions, 18 were asked for"):
        reduce_dimensions(evaluation, [18])
