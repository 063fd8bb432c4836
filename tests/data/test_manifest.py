import hashlib

import numpy as np
import pandas as pd
import pytest

from vpr_lib.data.ground_truth import Benchmark, Positives, ProtocolCard, make_protocol
from vpr_lib.data.manifest import Manifest, build_manifest


def small(tmp_path, paths=("b.jpg", "a.jpg", "c.jpg"), **columns):
    return build_manifest(tmp_path, "set", "test", "db", {"image_path": list(paths), **columns})


def test_rows_are_sorted_unless_an_official_order_rules(tmp_path):
    assert small(tmp_path).table["image_path"].tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    kept = build_manifest(tmp_path, "set", "test", "db", {"image_path": ["b.jpg", "a.jpg"]}, keep_order=True)
    assert kept.table["image_path"].tolist() == ["b.jpg", "a.jpg"]


def test_columns_follow_the_sort(tmp_path):
    manifest = small(tmp_path, utm_east=[2.0, 1.0, 3.0], utm_north=[0.0, 0.0, 0.0])
    assert manifest.positions()[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_list_hash_knows_order_and_content(tmp_path):
    first, again = small(tmp_path), small(tmp_path, ("c.jpg", "b.jpg", "a.jpg"))
    assert first.list_hash == again.list_hash  # sorting freezes the order
    assert first.take([1, 0]).list_hash != first.list_hash
    assert first.take([0, 1]).table["uid"].tolist() == [0, 1]


@pytest.mark.parametrize("rows", [2, 100_000, 100_001, 200_003])
def test_list_hash_keeps_ids_apart(tmp_path, rows):
    whole = [f"{row:06d}" for row in range(rows)]
    digest = lambda ids: Manifest(pd.DataFrame({"sample_id": ids}), tmp_path).list_hash
    assert digest(whole) == hashlib.sha256("\n".join(whole).encode()).hexdigest()
    for row in (row for row in (1, 100_000, 200_000) if row < rows):  # a letter that goes over to the next name
        moved = [*whole[: row - 1], whole[row - 1] + whole[row][0], whole[row][1:], *whole[row + 1 :]]
        assert digest(moved) != digest(whole)


def test_round_trip_through_parquet(tmp_path):
    manifest = small(tmp_path, conditions=[["night"], [], ["rain", "dusk"]], width=[1, None, 3], lat=[1.5, 2.5, 3.5])
    loaded = Manifest.load(manifest.save(tmp_path / "m.parquet"), tmp_path)
    assert loaded.list_hash == manifest.list_hash
    assert [list(c) for c in loaded.table["conditions"]] == [[], ["night"], ["rain", "dusk"]]
    assert loaded.table["width"].isna().tolist() == [True, False, False]


def test_edited_parquet_is_refused(tmp_path):
    manifest = small(tmp_path)
    edited = Manifest(manifest.table.assign(sample_id=["x", "y", "z"]), tmp_path)
    edited.__dict__["list_hash"] = manifest.list_hash
    with pytest.raises(ValueError, match="prepare the data set again"):
        Manifest.load(edited.save(tmp_path / "m.parquet"), tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_path": ["a.jpg"], "colour": [1]}, "Unknown manifest columns"),
        ({"image_path": ["a.jpg", "b.jpg"], "lat": [1.0]}, "has 1 values, expected 2"),
        ({"image_path": ["a.jpg", "a.jpg"]}, "listed twice"),
        ({"image_path": ["a.jpg", "A.jpg"]}, "differ from another one by case"),
        ({"lat": [1.0]}, "needs 'image_path' or 'cloud_path'"),
    ],
)
def test_what_a_manifest_refuses(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        build_manifest(tmp_path, "set", "test", "db", columns)


def test_role_is_checked(tmp_path):
    with pytest.raises(ValueError, match="role must be one of"):
        build_manifest(tmp_path, "set", "test", "gallery", {"image_path": ["a.jpg"]})


def test_positions_only_where_there_are_some(tmp_path):
    with pytest.raises(ValueError, match="carry no positions"):
        small(tmp_path).positions()


# ---- ground truth


def test_radius_is_inclusive_and_grouped():
    database = np.array([[0.0, 0.0], [25.0, 0.0], [25.0000005, 0.0], [15.0, 20.0]])
    found = Positives.from_radius(database, np.array([[0.0, 0.0]]), 25.0)
    assert found[0].tolist() == [0, 1, 3]
    zones, here = np.array([1, 2, 1, 1]), np.array([1])
    assert Positives.from_radius(database, np.array([[0.0, 0.0]]), 25.0, zones, here)[0].tolist() == [0, 3]


def test_radius_against_all_pairs():
    rng = np.random.default_rng(0)
    database, queries = rng.uniform(0, 200, (300, 2)), np.repeat(rng.uniform(0, 200, (20, 2)), 3, axis=0)
    found = Positives.from_radius(database, queries, 30.0)
    distance = np.sqrt(((queries[:, None] - database) ** 2).sum(-1))
    assert [row.tolist() for row in found] == [np.flatnonzero(row <= 30).tolist() for row in distance]


def test_float32_positions_are_refused():
    with pytest.raises(ValueError, match="must be float64"):
        Positives.from_radius(np.zeros((1, 2), np.float32), np.zeros((1, 2)), 25.0)


def test_sentinels_and_indices_beyond_the_database():
    assert Positives.from_lists([[-1], [2, 0, 2]], 3).counts.tolist() == [0, 2]
    with pytest.raises(ValueError, match="point beyond the 3 database images"):
        Positives.from_lists([[0], [3]], 3)
    assert Positives.from_lists([[0], [3, 1]], 3, out_of_range="drop")[1].tolist() == [1]


def test_window_is_clipped():
    assert [r.tolist() for r in Positives.from_window(np.array([0, 5]), 2, 6)] == [[0, 1, 2], [3, 4, 5]]
    by_section = Positives.from_window(np.array([0, 3, 4, 9]), 2, 10, section=4)  # frames 0-3, 4-7, 8-9
    assert [row.tolist() for row in by_section] == [[0, 1, 2], [1, 2, 3], [4, 5, 6], [8, 9]]


def test_contains_agrees_with_membership():
    rng = np.random.default_rng(1)
    lists = [rng.choice(50, rng.integers(0, 9), replace=False) for _ in range(40)]
    positives = Positives.from_lists(lists, 50)
    ranking = rng.integers(-1, 50, (40, 7))
    queries = np.broadcast_to(np.arange(40)[:, None], ranking.shape)
    expected = [[r >= 0 and r in set(map(int, row)) for r in ranks] for ranks, row in zip(ranking, lists)]
    assert positives.contains(queries, ranking).tolist() == expected


def benchmark(tmp_path):
    columns = {"utm_east": [0.0, 10.0, 100.0], "utm_north": [0.0, 0.0, 0.0]}
    database = build_manifest(tmp_path, "s", "test", "db", {"image_path": ["a", "b", "c"], **columns},
                              position_kind="gps")  # fmt: skip
    queries = build_manifest(tmp_path, "s", "test", "query", {"image_path": ["q"], "utm_east": [1.0], "utm_north": [0.0]},
                             position_kind="gps")  # fmt: skip
    positives = Positives.from_radius(database.positions(), queries.positions(), 25.0)
    protocols = tuple(
        make_protocol(
            database, queries, positives, name=name, dataset="s", rule="radius_m", threshold=25.0, denominator=d
        )
        for name, d in (("25m", "all"), ("25m_matchable", "with_positive"))
    )
    return Benchmark("s", database, queries, protocols)


def test_benchmark_round_trip(tmp_path):
    made = benchmark(tmp_path)
    loaded = Benchmark.load(made.save(tmp_path / "prepared"))
    assert [p.card for p in loaded.protocols] == [p.card for p in made.protocols]
    assert loaded.positives[0].tolist() == [0, 1]
    assert pd.testing.assert_frame_equal(loaded.queries.table, made.queries.table) is None


def test_benchmark_with_exchanged_lists_is_refused(tmp_path):
    folder = benchmark(tmp_path).save(tmp_path / "prepared")
    other = build_manifest(tmp_path, "s", "test", "db", {"image_path": ["a", "b", "x"]})
    other.save(folder / "database.parquet")
    with pytest.raises(ValueError, match="was built from other lists"):
        Benchmark.load(folder)


def test_card_hash_depends_on_the_rule_not_on_the_notes():
    card = ProtocolCard(name="p", dataset="s", rule="radius_m", threshold=25.0)
    assert card.hash == card.model_copy(update={"notes": "hello"}).hash
    assert card.hash != card.model_copy(update={"threshold": 10.0}).hash
    assert card.rule_in_words() == "within 25 m, every query counts"
    other = {"rule": "frame_window", "threshold": 2.0, "denominator": "with_positive", "nms": "panorama"}
    words = "within 2 frames, queries without a positive are left out, one hit per panorama"
    assert card.model_copy(update=other).rule_in_words() == words


def test_a_protocol_must_fit_its_lists(tmp_path):
    made = benchmark(tmp_path)
    with pytest.raises(ValueError, match="Ground truth is 2 x 3"):
        make_protocol(
            made.database, made.queries, Positives.from_lists([[0], [1]], 3), name="p", dataset="s", rule="list"
        )
    with pytest.raises(ValueError, match="no nms_group column"):
        make_protocol(made.database, made.queries, made.positives, name="p", dataset="s", rule="list", nms="panorama")


def test_without_ground_truth_there_is_no_protocol(tmp_path):
    made = benchmark(tmp_path)
    with pytest.raises(ValueError, match="has no ground truth"):
        _ = Benchmark("s", made.database, made.queries).protocol
