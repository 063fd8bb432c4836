import numpy as np
import pytest

from vpr_lib.data.readers.folders import read_folders
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval import sequences
from vpr_lib.retrieval.protocol import evaluate
from vpr_lib.retrieval.search import search
from vpr_lib.retrieval.sequences import in_sequence, search_sequences, sequence_similarity


def by_loop(similarity, length, speeds):
    q, n = similarity.shape
    best = np.empty((q, n))
    for i in range(q):
        for j in range(n):
            means = []
            for speed in speeds:
                cells = [(i - d, j - round(speed * d)) for d in range(length)]
                values = [similarity[a, b] for a, b in cells if a >= 0 and b >= 0]
                means.append(sum(values) / len(values))
            best[i, j] = max(means)
    return best


@pytest.mark.parametrize(("length", "speeds"), [(1, (1.0,)), (3, (1.0,)), (4, (0.5, 1.0, 1.5)), (30, (1.0, 2.0))])
def test_agrees_with_a_plain_loop(length, speeds):
    similarity = np.random.default_rng(length).random((13, 11)).astype(np.float32)
    assert np.allclose(sequence_similarity(similarity, length, speeds), by_loop(similarity, length, speeds), atol=1e-6)


def test_blocks_see_the_frames_before_them(monkeypatch):
    generator = np.random.default_rng(0)
    database, queries = generator.normal(size=(20, 4)), generator.normal(size=(17, 4))
    whole = search_sequences(database, queries, 5, length=4)
    monkeypatch.setattr(sequences, "CHUNK", 3)
    parts = search_sequences(database, queries, 5, length=4)
    assert np.array_equal(whole.indices, parts.indices) and np.allclose(whole.scores, parts.scores, atol=1e-6)


def test_a_sequence_of_one_frame_is_the_plain_search():
    generator = np.random.default_rng(1)
    database, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in generator.normal(size=(2, 30, 8)))
    assert np.array_equal(search_sequences(database, queries, 30, 1).indices, search(database, queries, 30).indices)


def test_longer_sequences_find_the_place_through_noise():
    generator = np.random.default_rng(2)
    database = generator.normal(size=(200, 16))
    queries = database + 2.5 * generator.normal(size=database.shape)
    right = [(search_sequences(database, queries, 1, n).indices[:, 0] == np.arange(200)).mean() for n in (1, 3, 9)]
    assert right[0] < right[1] < right[2]


def test_no_frame_and_no_speed_are_refused():
    with pytest.raises(ValueError, match="at least one frame"):
        sequence_similarity(np.zeros((2, 2)), 0)
    with pytest.raises(ValueError, match=r"speeds=\[\]"):
        sequence_similarity(np.zeros((2, 2)), 2, ())


def test_one_frame_per_frame_is_the_default_speed_and_protocols_stay(two_folders, tmp_path):
    lines = [f"{i:02d}.png,{100 * i},0" for i in range(12)] + [f"q{i}.png,{200 * i},0" for i in range(6)]
    (tmp_path / "p.csv").write_text("image,easting,northing\n" + "\n".join(lines))
    single = evaluate(build_model("pixels"), read_folders(*two_folders, tmp_path / "p.csv"), ks=(1, 5), quiet=True)
    found = in_sequence(single, 3)
    assert np.array_equal(found.ranking.indices, in_sequence(single, 3, (1.0,)).ranking.indices)
    assert not np.array_equal(found.ranking.indices, in_sequence(single, 3, (0.0,)).ranking.indices)
    assert found.ranking.indices.shape == single.ranking.indices.shape and set(found.recall) == {1, 5}
    assert [scored.protocol for scored in found.scores] == [scored.protocol for scored in single.scores]
    similarity = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    assert np.array_equal(sequence_similarity(similarity, 3), sequence_similarity(similarity, 3, (1.0,)))
    by_hand = found.scores[0].protocol.positives.contains(np.arange(6)[:, None], found.ranking.indices[:, :1]).mean()
    assert found.recall[1] == by_hand
