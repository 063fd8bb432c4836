import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import write_picture

from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.readers.folders import read_folders
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval import describe as describe_module
from vpr_lib.retrieval import exact
from vpr_lib.retrieval.describe import UnreadableImages, cache_key, describe
from vpr_lib.retrieval.folders import retrieve_folders
from vpr_lib.retrieval.metrics import first_hit_ranks, recall_at_k, suppress_panoramas
from vpr_lib.retrieval.protocol import evaluate
from vpr_lib.retrieval.search import CHUNKS, search
from vpr_lib.retrieval.store import StaleDescriptors


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# ---- metrics


def test_recall_counts_a_query_once():
    ranking, positives = np.array([[0, 1, 2], [2, 0, 1]]), Positives.from_lists([[1], [2, 0]], 3)
    assert recall_at_k(ranking, positives, ks=(1, 2)) == {1: 0.5, 2: 1.0}


def test_no_positives_is_a_miss_or_not_counted():
    ranking, positives = np.array([[0, 1], [1, 0]]), Positives.from_lists([[0], []], 2)
    assert recall_at_k(ranking, positives, (1,)) == {1: 0.5}
    assert recall_at_k(ranking, positives, (1,), counted=positives.counts > 0) == {1: 1.0}
    assert np.isnan(recall_at_k(ranking, positives, (1,), counted=np.zeros(2, bool))[1])


def test_recall_errors():
    positives = Positives.from_lists([[0]], 2)
    with pytest.raises(ValueError, match="needs 5 ranked images per query, got 2"):
        recall_at_k(np.array([[0, 1]]), positives, (5,))
    with pytest.raises(ValueError, match="has 2 queries, the ground truth 1"):
        first_hit_ranks(np.zeros((2, 1), int), positives)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_recall_never_falls_and_ignores_the_numbering(seed):
    rng = np.random.default_rng(seed)
    ranking = np.stack([rng.permutation(20)[:10] for _ in range(15)])
    lists = [rng.choice(20, rng.integers(0, 4), replace=False) for _ in range(15)]
    recalls = recall_at_k(ranking, Positives.from_lists(lists, 20), range(1, 11))
    assert list(recalls.values()) == sorted(recalls.values())
    new = rng.permutation(20)
    assert recall_at_k(new[ranking], Positives.from_lists([new[row] for row in lists], 20), range(1, 11)) == recalls


def test_panoramas_are_kept_once_and_padded():
    kept = suppress_panoramas(np.array([[5, 4, 0, 1, -1]]), np.array([7, 7, 8, 8, 9, 9]), 3)
    assert kept.tolist() == [[5, 0, -1]]


# ---- search


@pytest.mark.parametrize("device", ["cpu", "as on a gpu"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_search_is_exact_across_chunks(monkeypatch, metric, device):
    monkeypatch.setitem(CHUNKS, "cpu", (7, 11))
    if device != "cpu":
        monkeypatch.setattr(exact, "_propose_on_cpu", exact._propose_on_gpu)
        monkeypatch.setattr(exact, "_scores_on_cpu", exact._scores_on_gpu)
    rng = np.random.default_rng(0)
    database, queries = rng.normal(size=(50, 6)).astype(np.float32), rng.normal(size=(20, 6)).astype(np.float32)
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit(queries) @ unit(database).T
    scores = cosine if metric == "cosine" else -((queries[:, None] - database) ** 2).sum(-1)
    found = search(database, queries, 12, metric)
    assert (found.indices == np.argsort(-scores, axis=1)[:, :12]).all()
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :12], atol=1e-4)


def test_a_memory_mapped_database_is_read_once(monkeypatch):
    monkeypatch.setitem(CHUNKS, "cpu", (512, 4))
    read, rows = [], np.eye(10, dtype=np.float32)

    class Watched:
        shape = rows.shape

        def __len__(self):
            return len(rows)

        def __getitem__(self, part):
            read.append((part.start, part.stop))
            return rows[part]

    assert (search(Watched(), np.repeat(rows, 100, 0), 1).indices[:, 0] == np.repeat(np.arange(10), 100)).all()
    assert read == [(0, 4), (4, 8), (8, 12)]


def test_any_layout_and_number_type_can_be_searched():
    rows = torch.randn(30, 8, dtype=torch.float64, requires_grad=True)
    expected = search(rows[:, :4].detach().float().numpy().copy(), rows[:5, :4].detach().float().numpy().copy(), 3)
    assert (expected.indices[:, 0] == np.arange(5)).all()
    for view in (rows[:, :4], rows.detach().T.contiguous().T[:, :4]):
        assert (search(view, view[:5], 3).indices == expected.indices).all()


def test_equal_scores_are_ordered_by_index():
    assert search(np.ones((4, 2), np.float32), np.ones((1, 2), np.float32), 4).indices.tolist() == [[0, 1, 2, 3]]


def test_search_in_a_small_database_and_errors():
    rows = np.eye(3, dtype=np.float32)
    assert search(rows, rows, 10).indices.shape == (3, 3)
    assert search(rows, rows[:0], 2).indices.shape == (0, 2)
    with pytest.raises(ValueError, match="different models"):
        search(rows, rows[:, :2], 1)
    with pytest.raises(ValueError, match="and a database"):
        search(rows[:0], rows, 1)
    with pytest.raises(ValueError, match="top_k >= 1"):
        search(rows, rows, 0)


# ---- describing


@pytest.fixture
def benchmark(two_folders):
    return read_folders(*two_folders)


class Killed(Exception):
    pass


def counting(monkeypatch, stop_after=None):
    """Count images that go through a model; raise after `stop_after` of them, as a kill would."""
    calls, real = [], describe_module.describe_batch

    def wrapped(model, images, *rest):
        if stop_after is not None and sum(calls) >= stop_after:
            raise Killed
        calls.append(len(images))
        return real(model, images, *rest)

    monkeypatch.setattr(describe_module, "describe_batch", wrapped)
    return calls


def test_descriptors_are_reused_only_when_they_are_the_same(benchmark, tmp_path, monkeypatch):
    calls, model = counting(monkeypatch), build_model("gem_toy_160", image_size=(32, 32))
    first = describe(model, benchmark.database, tmp_path / "d", quiet=True)
    again = describe(model, benchmark.database, tmp_path / "d", quiet=True)
    assert sum(calls) == 12 and again.seconds == 0
    np.testing.assert_array_equal(first.array, again.array)
    np.testing.assert_allclose(np.linalg.norm(first.array, axis=1), 1, rtol=1e-5)
    describe(build_model("gem_toy_160", image_size=(32, 32), seed=1), benchmark.database, tmp_path / "d", quiet=True)
    assert sum(calls) == 24  # other weights
    describe(build_model("gem_toy_160", image_size=(40, 40)), benchmark.database, tmp_path / "d", quiet=True)
    assert sum(calls) == 36  # another size


def test_a_replaced_image_alone_is_described_again(benchmark, tmp_path, monkeypatch):
    calls, model = counting(monkeypatch), build_model("pixels")
    before = describe(model, benchmark.database, tmp_path / "d", quiet=True).array.copy()
    write_picture(benchmark.database.root / "03.png", 77)
    after = describe(model, benchmark.database, tmp_path / "d", quiet=True).array
    assert sum(calls) == 13
    assert [i for i in range(12) if not np.array_equal(before[i], after[i])] == [3]


def test_a_killed_description_goes_on_where_it_was(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr("vpr_lib.retrieval.store.SAVE_EVERY_S", 0)
    counting(monkeypatch, stop_after=8)
    with pytest.raises(Killed):
        describe(build_model("pixels"), benchmark.database, tmp_path / "d", batch_size=4, quiet=True)
    monkeypatch.undo()
    calls = counting(monkeypatch)
    found = describe(build_model("pixels"), benchmark.database, tmp_path / "d", batch_size=4, quiet=True)
    assert sum(calls) == 4
    np.testing.assert_array_equal(found.array, describe(build_model("pixels"), benchmark.database, quiet=True).array)


def test_a_file_made_from_something_else_is_refused(benchmark, tmp_path):
    model = build_model("pixels")
    path = describe(model, benchmark.database, tmp_path / "d", quiet=True).path
    about = path.with_suffix(".json")
    about.write_text(about.read_text().replace(benchmark.database.list_hash, "0" * 64))
    with pytest.raises(StaleDescriptors, match="another images"):
        describe(model, benchmark.database, tmp_path / "d", quiet=True)


def test_the_key_names_every_ingredient(benchmark):
    key = cache_key(build_model("pixels"), benchmark.database, "fp32")
    assert set(key) == {"weights", "model", "input", "images", "contents", "precision", "code"}


def test_unreadable_images_are_named_and_the_rest_is_kept(two_folders, tmp_path, monkeypatch):
    (two_folders[0] / "05.png").write_bytes(b"")
    benchmark, model = read_folders(*two_folders), build_model("pixels")
    calls = counting(monkeypatch)
    with pytest.raises(UnreadableImages, match=r"1 of 12 images(.|\n)*05.png: the file is empty"):
        describe(model, benchmark.database, tmp_path / "d", quiet=True)
    assert sum(calls) == 11
    found = describe(model, benchmark.database, tmp_path / "d", on_error="skip", quiet=True)
    assert sum(calls) == 11 and found.readable.sum() == 11
    write_picture(two_folders[0] / "05.png", 5)
    describe(model, benchmark.database, tmp_path / "d", quiet=True)
    assert sum(calls) == 12  # the mended one


def test_worker_processes_and_batch_size_change_nothing(benchmark):
    model = build_model("gem_toy_160", image_size=(32, 32))
    plain = describe(model, benchmark.database, quiet=True).array
    np.testing.assert_allclose(
        describe(model, benchmark.database, batch_size=5, workers=1, quiet=True).array, plain, atol=1e-6
    )


# ---- the whole path


def test_evaluate_finds_the_changed_copies(two_folders, tmp_path):
    table = tmp_path / "p.csv"
    lines = [f"{i:02d}.png,{100 * i},0" for i in range(12)] + [f"q{i}.png,{200 * i},0" for i in range(6)]
    table.write_text("image,easting,northing\n" + "\n".join(lines))
    benchmark = read_folders(*two_folders, table)
    result = evaluate(build_model("pixels"), benchmark, tmp_path / "d", ks=(1, 5, 50), quiet=True)
    assert result.recall == {1: 1.0, 5: 1.0}  # 50 is above the database of 12
    shuffled = [result.ranking.indices[(q + 1) % 6] for q in range(6)]
    assert recall_at_k(np.array(shuffled), benchmark.positives, (1,))[1] == 0


def test_evaluate_needs_ground_truth(benchmark):
    with pytest.raises(ValueError, match="no ground truth"):
        evaluate(build_model("pixels"), benchmark)


def test_folders_without_the_unreadable(two_folders):
    (two_folders[0] / "00.png").write_text("not an image")
    (two_folders[1] / "q1.png").write_bytes(b"")
    found = retrieve_folders(build_model("pixels"), read_folders(*two_folders), 3, None)
    assert len(found.left_out) == 2 and len(found.benchmark.database) == 11
    best = found.benchmark.database.table["image_path"].to_numpy()[found.ranking.indices[:, 0]]
    assert best.tolist()[1:] == ["04.png", "06.png", "08.png", "10.png"]
    for path in two_folders[1].iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="None of the 6 query images"):
        retrieve_folders(build_model("pixels"), read_folders(*two_folders), 3, None)


def test_half_precision_on_the_cpu_stays_close(benchmark):
    model = build_model("gem_toy_160", image_size=(32, 32))
    exact, half = (describe(model, benchmark.database, precision=p, quiet=True).array for p in ("fp32", "bf16"))
    assert torch.cosine_similarity(torch.from_numpy(exact), torch.from_numpy(half)).min() > 0.995


def test_cosine_does_not_depend_on_lengths():
    rng = np.random.default_rng(4)
    database, queries = rng.normal(size=(30, 6)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
    raw, normal = search(7 * database, 0.1 * queries, 30), search(unit(database), unit(queries), 30)
    assert np.array_equal(raw.indices, normal.indices) and np.allclose(raw.scores, normal.scores, atol=1e-6)
    database[3] = 0  # an unreadable image
    assert np.isfinite(search(database, queries, 30).scores).all()
