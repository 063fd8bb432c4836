import numpy as np
import pytest

from vpr_lib.data.foreign import with_foreign
from vpr_lib.data.ground_truth import Benchmark, Positives, make_protocol
from vpr_lib.data.manifest import build_manifest


def town(tmp_path):
    lists = {}
    for name, count in (("database", 5), ("queries", 3), ("elsewhere", 2)):
        east = np.arange(count) * 100.0
        columns = {"image_path": [f"{i}.png" for i in range(count)], "utm_east": east, "utm_north": 0 * east}
        role = "db" if name == "database" else "query"
        lists[name] = build_manifest(tmp_path / name, name, "test", role, columns, position_kind="local_metric")
    positives = Positives.from_radius(lists["database"].positions(), lists["queries"].positions(), 25.0)
    protocol = make_protocol(
        lists["database"], lists["queries"], positives, name="town@25m", dataset="town", rule="radius_m", threshold=25.0
    )
    return Benchmark("town", lists["database"], lists["queries"], (protocol,)), lists["elsewhere"]


def test_foreign_queries_come_last_have_no_match_and_a_card_of_their_own(tmp_path):
    benchmark, elsewhere = town(tmp_path)
    mixed = with_foreign(benchmark, elsewhere)
    assert mixed.queries.image_paths() == benchmark.queries.image_paths() + elsewhere.image_paths()
    assert mixed.positives.counts.tolist() == [1, 1, 1, 0, 0]
    card = mixed.protocol.card
    assert card.name == "town@25m+foreign" and card.hash != benchmark.protocol.card.hash
    assert mixed.protocol.counted.all() and np.isnan(mixed.queries.positions()[3:]).all()


def test_images_of_the_map_are_not_foreign(tmp_path):
    benchmark, elsewhere = town(tmp_path)
    with pytest.raises(ValueError, match="5 foreign images are in the database"):
        with_foreign(benchmark, benchmark.database)
    with pytest.raises(ValueError, match="No foreign images"):
        with_foreign(benchmark, elsewhere.take([]))
