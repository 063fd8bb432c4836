"""Scores under a protocol card: panoramas count once, what is left out moves nothing, cut-offs end where the ranking does."""

from dataclasses import replace

import numpy as np
import pytest
from pictures import write_picture

from vpr_lib.data.ground_truth import Positives, make_protocol
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.readers.folders import read_folders
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.folders import retrieve_folders
from vpr_lib.retrieval.metrics import distances_m, recall_at_k, suppress_panoramas
from vpr_lib.retrieval.protocol import CROPS_PER_PANORAMA, Benchmark, evaluate, ranking_depth, score, unanswerable

CROPS = CROPS_PER_PANORAMA


def benchmark_of(root, positives, panoramas=3, **card):
    """Panoramas of twelve crops each, and one query per list of positives (crops)."""
    crops = [f"{p}/{c:02d}" for p in range(panoramas) for c in range(CROPS)]
    groups = [int(name[0]) for name in crops]
    database = build_manifest(root, "s", "test", "db", {"image_path": crops, "nms_group": groups})
    queries = build_manifest(root, "s", "test", "query", {"image_path": [f"q{n}" for n in range(len(positives))]})
    given = Positives.from_lists(positives, len(crops))
    cards = [dict(name="plain"), dict(name="nms", nms="panorama")]
    made = [make_protocol(database, queries, given, dataset="s", rule="list", **one | card) for one in cards]
    return Benchmark("s", database, queries, tuple(made))


def test_crops_of_one_panorama_count_once(tmp_path):
    benchmark = benchmark_of(tmp_path, [[12], [2 * CROPS]])
    ranking = np.stack([np.arange(3 * CROPS)] * 2)  # panorama after panorama
    plain, nms = (score(ranking, protocol, (1, 2, 3, 20)) for protocol in benchmark.protocols)
    assert plain.first_hits.tolist() == [13, 25] and plain.recall == {1: 0, 2: 0, 3: 0, 20: 0.5}
    assert nms.ranking.tolist() == [[0, 12, 24]] * 2  # one place for every twelve crops that were ranked
    assert nms.first_hits.tolist() == [2, 3] and nms.recall == {1: 0, 2: 0.5, 3: 1.0}


def test_suppression_needs_twelve_crops_per_place(tmp_path):
    benchmark = benchmark_of(tmp_path, [[0]])
    assert ranking_depth(benchmark, (1, 5)) == 5 * CROPS
    assert ranking_depth(Benchmark("s", benchmark.database, benchmark.queries, benchmark.protocols[:1]), (1, 5)) == 5
    assert score(np.arange(CROPS - 1)[None], benchmark.protocols[1], (1,)).recall == {1: 1.0}  # one place at least


def test_queries_that_do_not_count_are_not_missed(tmp_path):
    ranking = np.zeros((3, 1), np.int64)
    every = benchmark_of(tmp_path, [[0], [], [5]]).protocols[0]
    matchable = benchmark_of(tmp_path, [[0], [], [5]], denominator="with_positive").protocols[0]
    assert score(ranking, every, (1,)).recall[1] == pytest.approx(1 / 3)
    assert score(ranking, matchable, (1,)).recall[1] == 0.5
    assert unanswerable(every).startswith("1 of 3 queries") and unanswerable(matchable) == ""


@pytest.mark.parametrize("lost_database", [(), ("00.png",), ("01.png", "06.png", "11.png")])
@pytest.mark.parametrize("lost_queries", [(), ("q0.png",), ("q1.png", "q4.png")])
def test_positives_follow_what_is_left_out(two_folders, tmp_path, lost_database, lost_queries):
    for folder, lost in zip(two_folders, (lost_database, lost_queries)):
        for name in lost:
            (folder / name).write_bytes(b"no picture")
    lines = [f"{i:02d}.png,{100 * i},0" for i in range(12)] + [f"q{i}.png,{200 * i},0" for i in range(6)]
    (tmp_path / "p.csv").write_text("image,easting,northing\n" + "\n".join(lines))
    benchmark = read_folders(*two_folders, tmp_path / "p.csv")
    kept = retrieve_folders(build_model("pixels"), benchmark, 10, None)
    names = [side.table["image_path"].tolist() for side in (kept.benchmark.database, kept.benchmark.queries)]
    found = {query: [names[0][row] for row in rows] for query, rows in zip(names[1], kept.benchmark.positives)}
    expected = {
        f"q{i}.png": [f"{2 * i:02d}.png"] * (f"{2 * i:02d}.png" not in lost_database)
        for i in range(6)
        if f"q{i}.png" not in lost_queries
    }
    assert found == expected and names[0] == [f"{i:02d}.png" for i in range(12) if f"{i:02d}.png" not in lost_database]
    assert kept.recall[1] == np.mean([bool(rows) for rows in expected.values()])  # what is there is found
    assert (
        list(kept.recall) == [k for k in (1, 5, 10) if k <= len(names[0])] and not kept.foreign.any()
    )  # nobody measured what is foreign
    best, second = kept.ranking.scores[:, :2].T
    assert replace(kept, foreign_below=np.median(best)).foreign.tolist() == (best < np.median(best)).tolist()
    assert not replace(kept, foreign_below=best.min()).foreign.any() and second.min() < best.min()
    together_s = sum(ms * count / 1000 for ms, count in zip(kept.per_image_ms, kept.described))
    assert kept.described == tuple(map(len, names)) and together_s == pytest.approx(kept.describe_s)
    assert kept.benchmark.protocol.card.threshold == benchmark.protocol.card.threshold


def test_a_mended_image_comes_back(two_folders):
    (two_folders[0] / "03.png").write_bytes(b"")
    model = build_model("pixels")
    assert len(retrieve_folders(model, read_folders(*two_folders), 3, None).benchmark.database) == 11
    write_picture(two_folders[0] / "03.png", 3)
    assert len(retrieve_folders(model, read_folders(*two_folders), 3, None).benchmark.database) == 12


def test_cut_offs_above_the_database_are_left_out_and_told(two_folders, tmp_path, caplog):
    lines = [f"{i:02d}.png,{100 * i},0" for i in range(12)] + [f"q{i}.png,{200 * i},0" for i in range(6)]
    (tmp_path / "p.csv").write_text("image,easting,northing\n" + "\n".join(lines))
    benchmark = read_folders(*two_folders, tmp_path / "p.csv")
    caplog.set_level("WARNING", logger="vpr_lib")  # whatever ran before
    assert set(evaluate(build_model("pixels"), benchmark, ks=(1, 12), quiet=True).recall) == {1, 12}
    assert "left out" not in caplog.text  # 12 of 12 can be ranked
    assert set(evaluate(build_model("pixels"), benchmark, ks=(1, 12, 13), quiet=True).recall) == {1, 12}
    assert "recall at [13] left out: the database has 12 images" in caplog.text


def test_recall_at_one_five_and_ten_is_the_default():
    ranking = np.arange(10)[None]
    assert recall_at_k(ranking, Positives.from_lists([[4]], 10)) == {1: 0.0, 5: 1.0, 10: 1.0}


def test_distances_need_positions_on_both_sides_and_a_match(tmp_path):
    places = dict(utm_east=[0.0, 30.0], utm_north=[0.0, 40.0])
    side = lambda role, kind, **columns: build_manifest(
        tmp_path, "s", "test", role, {"image_path": [f"{role}0", f"{role}1"], **columns}, position_kind=kind
    )
    database, queries = side("db", "gps", **places), side("query", "gps", **places)
    ranking = np.array([[1, 0, -1], [1, -1, 0]])
    np.testing.assert_array_equal(distances_m(database, queries, ranking), [[50, 0, np.nan], [0, np.nan, 50]])
    for one, other in ((database, side("query", "none")), (side("db", "none"), queries)):
        assert np.isnan(distances_m(one, other, ranking)).all()
    lost = side("query", "gps", utm_east=[np.nan, 30.0], utm_north=[np.nan, 40.0])
    np.testing.assert_array_equal(distances_m(database, lost, ranking), [[np.nan] * 3, [0, np.nan, 50]])


def test_an_empty_place_is_no_image(tmp_path):
    assert suppress_panoramas(np.array([[-1, 2, -1, 1]]), np.array([0, 1, 1]), 3).tolist() == [[2, -1, -1]]
