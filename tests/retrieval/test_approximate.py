"""Databases too large for exact search: shards, IVF-PQ, an engine, each beside the exact ranking."""

import faiss
import numpy as np
import pytest

from vpr_lib.retrieval import engine as engine_module
from vpr_lib.retrieval.approximate import LEAST, IvfPq, flat, found_of_exact, gpus
from vpr_lib.retrieval.engine import Milvus
from vpr_lib.retrieval.indexes import rank
from vpr_lib.retrieval.search import CHUNKS, search
from vpr_lib.retrieval.store import Shards


def places(database: int, queries: int, width: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Ten noisy views of each place and one more per query: neighbours as descriptors have them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(database // 10 + 1, width))

    def view(rows):
        found = centres[rows] + 0.4 * rng.normal(size=(len(rows), width))
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    return view(np.arange(database) // 10), view(rng.integers(0, database // 10, queries))


@pytest.fixture(scope="module")
def town():
    return places(LEAST + 200, 300)


@pytest.fixture(scope="module")
def index(town):
    return IvfPq.build(town[0], row_bytes=16, lists=64)


def test_shards_are_one_database(tmp_path, monkeypatch):
    database, queries = places(103, 20)
    for number, (first, last) in enumerate([(0, 40), (40, 41), (41, 103)]):
        np.save(tmp_path / f"{number}.npy", database[first:last])
    shards = Shards([tmp_path / f"{number}.npy" for number in range(3)])
    assert shards.shape == (103, 32) and len(shards) == 103
    for part in (slice(0, 40), slice(10, 20), slice(38, 60), slice(100, 200), slice(0, 103), slice(7, 7)):
        np.testing.assert_array_equal(shards[part], database[part])
    assert shards[5:9].base is not None, "rows of one shard are not copied"
    rows = np.array([102, 0, 40, 41, 39, 40])
    np.testing.assert_array_equal(shards[rows], database[rows])
    monkeypatch.setitem(CHUNKS, "cpu", (8, 30))
    found, expected = search(shards, queries, 7), search(database, queries, 7)
    assert (found.indices == expected.indices).all()
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_shards_have_one_width(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    np.save(tmp_path / "b.npy", np.zeros((2, 4), np.float32))
    np.save(tmp_path / "c.npy", np.zeros(3, np.float32))
    for files in (["a.npy", "b.npy"], ["c.npy"], []):
        with pytest.raises(ValueError, match=r"same width D, got .*(\(2, 4\)|\(3,\)|none)"):
            Shards([tmp_path / file for file in files])


def test_most_neighbours_are_found_and_more_cells_find_more(town, index):
    exact = search(*town, 10).indices
    few, many = (found_of_exact(index.search(town[1], 10, town[0], probes).indices, exact)[10] for probes in (1, 16))
    assert few < many and many > 0.9
    assert found_of_exact(index.search(town[1], 10, town[0], 64, rescored=2000).indices, exact)[10] > 0.995


def test_rescoring_orders_by_exact_scores(town, index):
    database, queries = town
    coded, rescored = index.search(queries, 10), index.search(queries, 10, database)
    true = np.take_along_axis(queries @ database.T, rescored.indices, 1)
    np.testing.assert_allclose(rescored.scores, true, atol=1e-5)
    assert (np.diff(rescored.scores, axis=1) <= 0).all()
    exact = search(database, queries, 10).indices
    assert found_of_exact(rescored.indices, exact)[1] > found_of_exact(coded.indices, exact)[1]


def test_an_index_is_small_and_survives_the_disk(town, index, tmp_path):
    assert index.memory_bytes == len(town[0]) * (16 + 8) + 64 * 32 * 4
    again = IvfPq.load(index.save(tmp_path / "places.index"))
    assert (again.search(town[1], 5).indices == index.search(town[1], 5).indices).all()
    with pytest.raises(FileNotFoundError, match=r"IvfPq\.build"):
        IvfPq.load(tmp_path / "none.index")
    (tmp_path / "text.index").write_text("no index")
    with pytest.raises(ValueError, match="not an index"):
        IvfPq.load(tmp_path / "text.index")


def test_short_cells_leave_places_empty(town, index):
    found = index.search(town[1][:5], 1000, probes=1)
    assert found.indices.shape == (5, 1000) and (found.indices[:, 0] >= 0).all()
    assert (found.indices[:, -1] == -1).all() and np.isneginf(found.scores[:, -1]).all()


def test_a_small_database_is_refused():
    with pytest.raises(ValueError, match="exact search is quick"):
        IvfPq.build(np.zeros((LEAST - 1, 8), np.float32))


def test_found_of_exact_by_hand():
    found = found_of_exact(np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 3, 9], [5, 4, 7]]), (1, 2, 3, 5))
    assert found == {1: 0.5, 2: 0.75, 3: 2 / 3}


def test_rank_by_name(town):
    database, queries = town
    exact, nothing = rank("exact", database, queries, 5)
    assert nothing == {} and (exact.indices == search(database, queries, 5).indices).all()
    ranking, found = rank("ivfpq", database, queries, 20)
    assert ranking.indices.shape == (300, 20)
    assert found == found_of_exact(ranking.indices, search(database, queries, 10).indices) and set(found) == {1, 10}
    with pytest.raises(ValueError, match=r"Unknown index 'ivf'.*'ivfpq'"):
        rank("ivf", database, queries, 5)


def test_engines_are_imported_only_when_asked_for():
    import subprocess
    import sys

    code = "import sys, vpr_lib.retrieval.protocol, vpr_lib.retrieval.indexes; print('pymilvus' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_missing_engine_is_named(monkeypatch, tmp_path):
    def missing(name):
        raise ImportError(name=name)

    monkeypatch.setattr(engine_module, "import_module", missing)
    with pytest.raises(ValueError, match=r"'pymilvus': pip install 'vpr-workbook\[engine\]'"):
        Milvus(tmp_path / "x.db", 8)


def test_milvus_embedded(tmp_path, monkeypatch):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    monkeypatch.setattr(engine_module, "ADDED", 70)
    monkeypatch.setattr(engine_module, "ASKED", 7)
    database, queries = places(200, 15)
    exact = search(database, queries, 6)
    with Milvus(tmp_path / "deep" / "places.db", 32) as milvus:
        milvus.add(database[:150])
        milvus.add(database[150:], first=150)
        assert len(milvus) == 200
        found = milvus.search(queries, 6)
    assert (found.indices == exact.indices).all()
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-5)
    with Milvus(tmp_path / "deep" / "places.db", 32) as milvus:  # another process would find it so
        milvus.add(database[:10])
        assert len(milvus) == 200, "the same rows again are replaced"
        assert (milvus.search(queries, 300).indices[:, 200:] == -1).all()
    with pytest.raises(ValueError, match="holds descriptors of 32 numbers, not 16"):
        Milvus(tmp_path / "deep" / "places.db", 16)
    ranking, share = rank("milvus", database, queries, 6)
    assert (ranking.indices == exact.indices).all() and share == {1: 1.0, 10: pytest.approx(share[10])}


def test_one_import_serves_both_packages(town, monkeypatch):
    """With faiss-cpu nothing is asked of a GPU; with faiss-gpu the index is learned there and comes back."""
    from vpr_lib.retrieval import approximate

    calls = []
    assert approximate.gpus() == 0 or hasattr(approximate.faiss, "StandardGpuResources")
    monkeypatch.setattr(approximate.faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(approximate.faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(approximate.faiss, "index_cpu_to_gpu", lambda *on: calls.append(on[:2]) or on[2], raising=False)
    approximate._resources.cache_clear()
    index = approximate.faiss.IndexFlatIP(8)
    assert approximate.on_gpu(index) is index and calls == [("resources", 0)]

    def refused(*_):
        raise RuntimeError("no such code size on a GPU")

    monkeypatch.setattr(approximate.faiss, "index_cpu_to_gpu", refused, raising=False)
    assert approximate.on_gpu(index) is index  # the CPU does what the GPU cannot
    approximate._resources.cache_clear()


def test_flat_is_exhaustive_and_goes_where_faiss_sees_a_gpu(monkeypatch):
    database, queries = places(103, 20)
    plain, expected = flat(database, queries, 7), search(database, queries, 7)
    assert (plain.indices == expected.indices).all() and np.allclose(plain.scores, expected.scores, atol=1e-6)
    assert rank("flat", database, queries, 10)[1] == {1: 1.0, 10: 1.0} and not gpus()  # faiss-cpu

    moved = []
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda *given: moved.append(given[:2]) or given[2], raising=False)
    for count in (0, 1):
        monkeypatch.setattr(faiss, "get_num_gpus", lambda count=count: count, raising=False)
        assert gpus() == count and (flat(database, queries, 7).indices == plain.indices).all()
    assert moved == [("resources", 0)]
