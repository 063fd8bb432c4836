import time
from copy import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vpr_lib.widgets.explorer import DISTANCES, FILTERS, Explorer
from vpr_lib.widgets.thumbnails import heat_overlay, thumbnail


def test_filters_say_who_finds_what(explorer):
    chosen = {show: explorer.select(show, "a", "b").tolist() for show in FILTERS}
    assert chosen == {"all": [0, 1, 2, 3], "wrong": [2, 3], "found": [0, 1], "only first finds": [1],
                      "only second finds": [2, 3], "near misses": [2], "sure but wrong": []}  # fmt: skip
    assert explorer.select("wrong", "a", condition="night").tolist() == [3]
    assert explorer.select("all", "a", metres=(0, 35)).tolist() == [0, 1, 2]
    assert explorer.select("all", "a", metres=(30, np.inf)).tolist() == [2, 3]
    by_distance = [set(explorer.select("all", "a", metres=limits)) for limits in DISTANCES.values() if limits]
    assert set.union(*by_distance) == {0, 1, 2, 3} and sum(map(len, by_distance)) == 4
    with pytest.raises(ValueError, match="choose a second"):
        explorer.select("only first finds", "a")
    with pytest.raises(ValueError, match="Known: all, wrong"):
        explorer.select("everything", "a")


def test_a_wrong_match_is_sure_where_no_threshold_would_have_refused_it(explorer):
    explorer = copy(explorer)
    explorer.answers = dict(explorer.answers)
    best = np.array([0.9, 0.8, 0.85, 0.1])  # queries 0 and 1 are right, 2 and 3 wrong
    explorer.answers["a"] = replace(explorer.answers["a"], score=best[:, None])
    assert explorer.select("sure but wrong", "a").tolist() == []  # at 0.9 all are right, from 0.85 on two of three
    many = {"first_hit": np.array([1] * 25 + [0, 0]), "score": np.r_[np.linspace(0.9, 0.5, 25), 0.7, 0.2][:, None]}
    explorer.answers["a"] = replace(explorer.answers["a"], **many)
    assert np.flatnonzero(explorer.sure_but_wrong("a")).tolist() == [25]  # from 0.5 on 25 of 26 are right
    explorer.answers["a"] = replace(explorer.answers["a"], score=np.full((27, 1), np.nan))
    assert not explorer.sure_but_wrong("a").any()  # after panorama suppression no similarity is recorded


def test_a_point_of_the_map_has_nearest_views(explorer):
    rows, metres = explorer.nearest_views(64, 4, 2)
    assert rows.tolist() == [2, 3] and metres.round(2).tolist() == [5.66, 26.31]
    view = explorer.view(0, ["a"], columns=2, point=(64, 4))
    assert [tile["caption"] for tile in view["near"]["tiles"]] == ["6 m", "26 m"]
    assert view["map"]["size"] == [150.0, 0.0] and view["map"]["query"] == [0.0, 0.0] and len(view["map"]["dots"]) == 6
    assert view["map"]["matches"] == [{"at": [0.0, 0.0], "correct": True}, {"at": [30.0, 0.0], "correct": False}]


def test_a_view_says_in_words_what_is_correct(explorer):
    query, first, second = explorer.view(1, ["a", "b"], columns=2)["rows"]
    assert query["title"] == "query 1 night" and query["tiles"][0]["src"].startswith("data:image/jpeg")
    assert [tile["caption"] for tile in first["tiles"]] == ["✓ correct\n0.00, 0 m", "✗ wrong\n0.00, 30 m"]
    assert second["tiles"][0]["alt"] == "match 1 of b, wrong" and second["tiles"][0]["kind"] == "wrong"
    seen = explorer.view(1, ["a"], attention={"a": ("data:one", "data:two")})["rows"][1]["tiles"]
    assert [tile["over"] for tile in seen[:3]] == ["data:one", "data:two", None] and seen[0]["src"] == query["tiles"][
        0
    ]["src"]


def test_records_of_something_else_are_refused(benchmark):
    with pytest.raises(ValueError, match="run a notebook that measures it"):
        Explorer(benchmark, pd.DataFrame())


def test_a_model_under_several_seeds_is_there_once_for_each(benchmark, records):
    seeds = Explorer(benchmark, pd.concat([records, records[records["model"] == "a"].assign(seed=7, first_hit=0)]))
    assert seeds.models == ["a, seed 0", "a, seed 7", "b"]
    assert seeds.select("found", "a, seed 7").size == 0 and seeds.select("found", "a, seed 0").tolist() == [0, 1]


def test_unreadable_pictures_leave_a_hole_and_nothing_worse(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert thumbnail(str(tmp_path / "broken.jpg")) == thumbnail(str(tmp_path / "missing.jpg"))
    picture = heat_overlay(np.array([[0.0, 1.0]]))
    assert picture.startswith("data:image/png")


def test_a_wide_picture_stays_within_its_tile(tmp_path):
    Image.new("RGB", (4000, 300)).save(tmp_path / "wide.png")
    assert len(thumbnail(str(tmp_path / "wide.png"))) < 5000


def test_a_step_on_ten_thousand_queries_is_instant(large, record_property):
    """Filter, choose and draw with pictures that were never opened before: what the widget does between click and pictures."""
    steps = []
    for number in range(0, 100, 5):
        start = time.perf_counter()
        chosen = large.select("only first finds", "a", "b", condition="night" if number % 2 else "day", metres=(0, 25))
        view = large.view(int(chosen[number]), ["a", "b"])
        steps.append(1000 * (time.perf_counter() - start))
        assert len(view["rows"]) == 3 and all(tile["src"] for row in view["rows"] for tile in row["tiles"])
    record_property("median_ms", float(np.median(steps)))
    print(f"click to pictures, 10,000 queries: median {np.median(steps):.1f} ms, slowest {max(steps):.1f} ms")
    assert np.median(steps) < 100
