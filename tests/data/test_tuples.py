"""Positives and non-negatives by radius, and the tuples drawn from them."""

import numpy as np
import pytest

from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.tuples import TupleSet, radius_rings, radius_tuples


def line(tmp_path, east, role="db", kind="gps", **columns):
    columns = {
        "image_path": [f"{role}{i}.jpg" for i in range(len(east))],
        "utm_east": east,
        "utm_north": [0.0] * len(east),
    } | columns
    return build_manifest(tmp_path, "s", "train", role, columns, position_kind=kind, keep_order=True)


def pair(tmp_path, **options):
    database = line(tmp_path, [0.0, 10.0, 10.1, 25.0, 25.1, 400.0])
    return radius_tuples(database, line(tmp_path, [0.0, 390.0, 1000.0], "query"), **options)


def test_the_ring_is_neither(tmp_path):
    found = pair(tmp_path)
    assert found.positives[0].tolist() == [0, 1] and found.non_negatives[0].tolist() == [0, 1, 2, 3]
    assert found.usable.tolist() == [0, 1]  # nothing is near the third query
    with pytest.raises(ValueError, match="0 < positive_m <= non_negative_m, got 30 and 25"):
        pair(tmp_path, positive_m=30.0)


def test_rings_grow(tmp_path):
    database = line(tmp_path, [0.0, 10.0, 25.0, 50.0, 51.0])
    rings = radius_rings(database, database)
    assert [rings[radius][0].tolist() for radius in (10.0, 25.0, 50.0)] == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]
    with pytest.raises(ValueError, match="no positions in metres"):
        radius_rings(database, line(tmp_path, [0.0], "query", "mock_pair"))


def test_nobody_is_its_own_positive(tmp_path):
    manifest = line(tmp_path, [0.0, 5.0, 100.0])
    found = radius_tuples(manifest, manifest)
    assert [row.tolist() for row in found.positives] == [[1], [0], []]
    assert [row.tolist() for row in found.non_negatives] == [[0, 1], [0, 1], [2]]


def test_groups_never_meet(tmp_path):
    database = line(tmp_path, [0.0, 0.0], city=["cph", "sf"])
    found = radius_tuples(database, line(tmp_path, [1.0], "query", city=["sf"]), group="city")
    assert found.positives[0].tolist() == [1]


def test_a_positive_must_not_be_drawable_as_a_negative(tmp_path):
    database, queries = line(tmp_path, [0.0, 1.0]), line(tmp_path, [0.0], "query")
    with pytest.raises(ValueError, match=r"1 positives are not among the non-negatives.*image 1 of query 0"):
        TupleSet(database, queries, Positives.from_lists([[0, 1]], 2), Positives.from_lists([[0]], 2))
    with pytest.raises(ValueError, match="non-negatives 2 x 2"):
        TupleSet(database, queries, Positives.from_lists([[0]], 2), Positives.from_lists([[0], [1]], 2))


def test_negatives_are_uniform_distinct_and_far(tmp_path):
    rng = np.random.default_rng(0)
    database = line(tmp_path, rng.uniform(0, 400, 60))
    found = radius_tuples(database, line(tmp_path, rng.uniform(0, 400, 20), "query"))
    for query in range(20):
        far = np.setdiff1d(np.arange(60), found.non_negatives[query])
        assert sorted(found.draw_negatives(query, 1000, rng)) == far.tolist()  # all of them when more are asked for
        drawn = np.concatenate([found.draw_negatives(query, 3, rng) for _ in range(200)])
        assert set(drawn) <= set(far) and len(set(drawn)) > 0.9 * len(far)


def test_tuple_sets_round_trip(tmp_path):
    found = pair(tmp_path)
    loaded = TupleSet.load(found.save(tmp_path / "kept"))
    assert loaded.queries.list_hash == found.queries.list_hash and loaded.positives.hash == found.positives.hash
