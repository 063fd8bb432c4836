"""The static twin: what is in the file, and what a browser without a network makes of it."""

import json
import re
from contextlib import contextmanager

import numpy as np
import pytest

from vpr_lib.widgets.explorer import FILTERS, Explorer
from vpr_lib.widgets.twin import worth_showing, write_twin

CLICK_TO_PICTURES = """() => new Promise(done => {
  const start = performance.now();
  document.getElementById("on").click();
  Promise.all([...document.querySelectorAll("#stage img")].map(image => image.decode()))
    .then(() => requestAnimationFrame(() => done([performance.now() - start, document.querySelectorAll("#stage img").length])));
})"""


def maps_of(model, query, match):
    """Kept maps for model a and the first two queries only."""
    return np.stack([np.eye(3), np.ones((3, 3))]) if model == "a" and query < 2 else None


def data_of(path):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1]
    )


@contextmanager
def opened(program, path):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page, problems = browser.new_context(offline=True).new_page(), []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(path.as_uri())
        yield page
        browser.close()
    assert problems == []


def test_the_twin_carries_everything(explorer, tmp_path):
    page = write_twin(explorer, tmp_path / "page.html", ["a", "b"], columns=2, attention=maps_of)
    assert not re.search(r'(src|href)="(http|//)', page.read_text())
    data = data_of(page)
    assert [entry["query"] for entry in data["queries"]] == [0, 1, 2, 3]
    first, second = data["queries"][2]["answers"]
    assert (first["found"], first["near"], second["found"]) == (False, True, True)
    used = {
        f"d{match['row']}" for entry in data["queries"] for answer in entry["answers"] for match in answer["matches"]
    }
    assert used == {key for key in data["pictures"] if key[0] == "d"}
    assert data["map"]["queries"]["3"] == [90.0, 0.0]
    assert sorted(data["attention"]) == ["0/0", "0/1"] and len(data["attention"]["0/0"]) == 2


def test_a_single_model_has_no_comparisons(explorer, tmp_path):
    data = data_of(write_twin(explorer, tmp_path / "page.html", ["b"]))
    assert data["filters"] == ["all", "wrong", "found", "near misses", "sure but wrong"] and data["attention"] == {}


def test_what_differs_is_worth_showing(explorer):
    assert worth_showing(explorer, "a", "b", limit=3).tolist() == [1, 2, 3]  # they differ on these
    assert worth_showing(explorer, "a", limit=2).tolist() == [1, 2]  # one wrong, one found


@pytest.mark.browser
def test_the_twin_in_a_browser(explorer, tmp_path, chromium):
    path = write_twin(explorer, tmp_path / "page.html", ["a", "b"], columns=3, attention=maps_of)
    with opened(chromium, path) as page:
        told, rows = lambda: page.inner_text("#told"), lambda: page.inner_text("#stage .rows")
        assert told() == "1 of 4" and page.locator("#stage figure").count() == 7
        page.keyboard.press("ArrowRight")
        assert "query 1" in rows() and page.locator("img.over").count() == 0
        page.check("#attention")
        assert page.locator("img.over").count() == 2 and "No attention map of b was kept" in rows()
        page.select_option("#show", "near misses")
        assert told() == "1 of 1" and "query 2" in rows() and "✗ wrong" in rows()
        page.locator("svg").click(position={"x": 10, "y": 340})
        assert page.locator(".near figure").count() == 5
        page.select_option("#show", "all")
        page.select_option("#distance", label="50 to 100 m")
        assert told() == "1 of 1" and "query 3" in rows() and page.locator(".near").count() == 0


@pytest.mark.browser
def test_what_is_unknown_is_left_out(benchmark, records, tmp_path, chromium):
    """Scores are unknown after suppression, distances without positions."""
    nothing = [np.full(3, np.nan, np.float32)] * len(records)
    unknown = Explorer(benchmark, records.assign(top_score=nothing, top_distance_m=nothing))
    assert unknown.view(0, ["a"])["rows"][1]["tiles"][0]["caption"] == "✓ correct\n"
    assert unknown.select("all", "a", metres=(100, np.inf)).size == 0
    with opened(chromium, write_twin(unknown, tmp_path / "page.html", ["a"])) as page:
        assert page.locator("figure.right figcaption").first.inner_text().strip() == "✓ correct"
        page.select_option("#distance", label="beyond 100 m")
        assert page.inner_text("#told") == "no query"


@pytest.mark.browser
def test_the_twin_filters_as_the_widget_does(explorer, tmp_path, chromium):
    with opened(chromium, write_twin(explorer, tmp_path / "page.html", ["a", "b"])) as page:
        for first, second in (("a", "b"), ("b", "a")):
            page.select_option("#first", label=first)
            page.select_option("#second", label=second)
            for show in FILTERS:
                for word in ("", "day", "night"):
                    page.select_option("#show", show)
                    page.select_option("#condition", word)
                    expected = explorer.select(show, first, second, word).tolist()
                    assert page.evaluate("chosen.map(entry => entry.query)") == expected, (show, first, word)


@pytest.mark.browser
def test_ten_thousand_queries_in_a_browser(large, tmp_path, chromium, record_property):
    """Every query in one page: from the click to decoded pictures, measured inside the page."""
    path = write_twin(large, tmp_path / "page.html", ["a", "b"], limit=10_000)
    with opened(chromium, path) as page:
        assert page.inner_text("#told") == "1 of 10000"
        steps, filters = [], []
        for show in ("all", "wrong", "only second finds"):
            filters.append(
                page.evaluate(
                    f"() => {{ const t = performance.now(); $('show').value = '{show}'; choose(); return performance.now() - t }}"
                )
            )
            for _ in range(7):
                milliseconds, pictures = page.evaluate(CLICK_TO_PICTURES)
                steps.append(milliseconds)
                assert pictures == 11
        record_property("median_ms", float(np.median(steps)))
        print(f"twin, 10,000 queries, {path.stat().st_size / 2**20:.0f} MiB: click to pictures median {np.median(steps):.1f} ms, "
              f"slowest {max(steps):.1f} ms; filter {max(filters):.1f} ms")  # fmt: skip
        assert np.median(steps) < 100 and max(filters) < 100
