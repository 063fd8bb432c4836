import json
import re
import time

import numpy as np
import pandas as pd
import pytest
from pictures import write_picture

from vpr_lib.data.ground_truth import Benchmark, Positives, make_protocol
from vpr_lib.data.manifest import Manifest
from vpr_lib.results.records import Run, query_records
from vpr_lib.retrieval.protocol import score
from vpr_lib.widgets.explorer import FILTERS, Explorer


def side(role, n, root):
    for index in range(n):
        write_picture(root / f"{role}{index}.jpg", index)
    table = pd.DataFrame({"uid": range(n), "sample_id": [f"{role}{i}" for i in range(n)],
                          "image_path": [f"{role}{i}.jpg" for i in range(n)], "position_kind": "gps",
                          "utm_east": 30.0 * np.arange(n), "utm_north": np.zeros(n),
                          "conditions": [["night"] if i % 2 else ["day"] for i in range(n)]})  # fmt: skip
    return Manifest(table, root)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    root = tmp_path_factory.mktemp("explorer")
    database, queries = side("d", 6, root), side("q", 4, root)
    positives = Positives.from_lists([[0], [1], [2], [3]], 6)
    protocol = make_protocol(database, queries, positives, name="s@25m", dataset="s", rule="radius_m", threshold=25.0)
    return Benchmark("s", database, queries, (protocol,))


@pytest.fixture(scope="module")
def explorer(benchmark):
    rankings = {"a": [[0, 1, 2], [1, 0, 2], [3, 2, 1], [5, 0, 1]], "b": [[0, 1, 2], [5, 0, 2], [2, 3, 1], [3, 0, 1]]}
    tables = [query_records(benchmark, score(np.array(ranking), benchmark.protocol, (1,)), np.zeros((4, 3)), Run(name))
              for name, ranking in rankings.items()]  # fmt: skip
    return Explorer(benchmark, pd.concat(tables, ignore_index=True))


def test_filters_say_who_finds_what(explorer):
    chosen = {show: explorer.select(show, "a", "b").tolist() for show in FILTERS}
    assert chosen == {"all": [0, 1, 2, 3], "wrong": [2, 3], "found": [0, 1], "only first finds": [1],
                      "only second finds": [2, 3], "near misses": [2]}  # fmt: skip
    assert explorer.select("wrong", "a", condition="night").tolist() == [3]
    assert explorer.select("all", "a", within_m=35).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="choose a second"):
        explorer.select("only first finds", "a")
    with pytest.raises(ValueError, match="Known: all, wrong"):
        explorer.select("everything", "a")
    assert explorer.nearest_views(64, 3, 2).tolist() == [2, 3]


def test_records_of_something_else_are_refused(benchmark):
    with pytest.raises(ValueError, match="run a notebook that measures it"):
        Explorer(benchmark, pd.DataFrame())


def test_the_widget_steps_and_filters(explorer):
    models, choices, steps, picture = explorer.widget(columns=2).children
    assert "query 0" in picture.value and picture.value.count("<img") == 3
    models.children[1].value = "b"
    assert picture.value.count("<img") == 5
    steps.children[1].click()
    assert "query 1" in picture.value and "✓" in picture.value and "✗" in picture.value
    choices.children[0].value = "only second finds"
    assert "query 2" in picture.value and "2 of 4" in steps.children[3].value
    choices.children[1].value = "night"
    assert "query 3" in picture.value
    choices.children[0].value = "only first finds"
    assert "query 1" in picture.value
    choices.children[1].value = "day"
    assert "none" in picture.value


def test_the_static_twin_carries_everything(explorer, tmp_path):
    text = explorer.page(tmp_path / "page.html", "a", "b", columns=2).read_text()
    assert not re.search(r'(src|href)="(http|//)', text)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    assert [entry["query"] for entry in data["queries"]] == [0, 1, 2, 3]
    assert data["queries"][2]["filters"] == ["all", "wrong", "only second finds", "near misses"]
    used = {f"d{match['row']}" for entry in data["queries"] for answer in entry["answers"] for match in answer}
    assert used == {key for key in data["pictures"] if key[0] == "d"}
    assert data["map"]["queries"]["3"] == [90.0, 0.0]


def test_filters_are_instant_on_ten_thousand_queries(explorer):
    big = Explorer.__new__(Explorer)
    answer = explorer.answers["a"]
    repeat = lambda values: np.tile(values, (2500,) + (1,) * (values.ndim - 1))
    big.answers = {name: type(answer)(name, *(repeat(getattr(own, field)) for field in ("first_hit", "top", "score", "correct", "metres")))
                   for name, own in explorer.answers.items()}  # fmt: skip
    big.conditions, big.radius_m = explorer.conditions * 2500, 25.0
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert len(big.select("only second finds", "a", "b", condition="night")) == 2500
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1


def test_the_page_in_a_browser(explorer, tmp_path):
    browser = pytest.importorskip("playwright.sync_api")
    from shutil import which

    program = which("chromium") or which("chromium-browser") or which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here")
    page_file = explorer.page(tmp_path / "page.html", "a", "b", columns=3)
    with browser.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = chromium.new_context(offline=True).new_page()
        page.goto(page_file.as_uri())
        assert page.locator("figure.query figcaption").count() == 1 and page.inner_text("#told") == "1 of 4"
        page.keyboard.press("ArrowRight")
        assert "query 1" in page.inner_text("#rows")
        page.select_option("#show", "near misses")
        assert page.inner_text("#told") == "1 of 1" and "query 2" in page.inner_text("#rows")
        assert page.locator("figure.wrong").count() >= 1 and "✗ wrong" in page.inner_text("#rows")
        page.locator("svg").click(position={"x": 20, "y": 345})
        assert page.locator("#near figure").count() == 5
        chromium.close()
