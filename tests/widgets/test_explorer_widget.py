"""The notebook's explorer, driven from Python; a browser drives it in test_explorer_lab.py."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from vpr_lib.data.images import ImageError
from vpr_lib.retrieval.search import Ranking
from vpr_lib.widgets.browser import Browser


class FakeLive:
    """Networks that count how often they are asked."""

    def __init__(self):
        self.maps, self.asked = {}, []

    def attention(self, *pair):
        if pair[0] == "b":
            raise ValueError("No network is at hand for 'b'.")
        self.asked.append(pair)
        self.maps[pair] = np.ones((2, 2, 2))

    def kept(self, *pair):
        return self.maps.get(pair)

    def matches(self, model, name, image, count):
        if image == b"bad":
            raise ImageError(f"{name}: not an image.")
        return Ranking(np.array([[3, 4]]), np.array([[0.9, 0.8]], np.float32))


@pytest.fixture
def browser(explorer):
    return Browser({"s": explorer}, {"s": FakeLive()}, ["a", "b"], columns=2)


def texts(browser):
    return " | ".join([row["title"] for row in browser.stage.view["rows"]] + browser.stage.view["notes"])


def upload(browser, name, content):
    browser.upload.value = ({"name": name, "type": "image/jpeg", "size": len(content), "content": memoryview(content), "last_modified": datetime.now(UTC)},)  # fmt: skip


def test_steps_and_filters(browser):
    assert texts(browser) == "query 0 day | a | b" and "1 of 4 of 4" in browser.told.value
    browser.on.click()
    assert "query 1" in texts(browser)
    browser.back.click()
    browser.back.click()
    assert "query 3" in texts(browser)  # before the first comes the last
    browser.show.value = "only second finds"
    assert "query 2" in texts(browser) and "1 of 2 of 4" in browser.told.value
    browser.condition.value = "night"
    assert "query 3" in texts(browser)
    browser.distance.value = "within 10 m"
    assert browser.stage.view["rows"] == [] and "another filter" in browser.told.value
    browser.step(1)
    browser.look.click()
    assert browser.query is None
    browser.condition.value, browser.distance.value, browser.show.value = "any", "any distance", "only first finds"
    assert "query 1" in texts(browser)
    browser.second.value = "none"  # the filter about two models falls back to all
    assert texts(browser) == "query 0 day | a" and "of 4 of 4" in browser.told.value


def test_a_second_data_set_brings_its_models(explorer, large):
    browser = Browser({"s": explorer, "l": large}, models=["b"])
    assert browser.first.value == "b" and browser.condition.options == ("any", "day", "night")
    browser.show.value = "wrong"
    browser.dataset.value = "l"
    assert "of 10,000 queries" in browser.told.value and browser.explorer is large
    assert int(browser.chosen[0]) == int(large.select("wrong", "b")[0])


def test_keys_and_clicks_of_the_stage(browser):
    browser._hear(None, {"kind": "step", "value": 1}, [])
    assert "query 1" in texts(browser)
    browser._hear(None, {"kind": "point", "value": [61, 0]}, [])
    assert [tile["alt"] for tile in browser.stage.view["near"]["tiles"]] == ["view 2", "view 3"]
    assert browser.stage.view["map"]["point"] == (61, 0)
    browser.step(1)
    assert "near" not in browser.stage.view


def test_attention_is_computed_on_a_click_only(browser):
    live = browser.live["s"]
    browser.step(1)
    browser.second.value = "none"
    assert live.asked == []
    browser.look.click()
    assert live.asked == [("a", 0, 0)] and [bool(t["over"]) for t in browser.stage.view["rows"][1]["tiles"]] == [
        True,
        True,
        False,
    ]
    browser.step(1)
    assert len(live.asked) == 1 and not any(t["over"] for t in browser.stage.view["rows"][1]["tiles"])
    browser.step(-1)  # kept: shown again
    assert len(live.asked) == 1 and browser.stage.view["rows"][1]["tiles"][0]["over"]
    browser.look.click()
    assert len(live.asked) == 1 and len(browser.stage.view["rows"][1]["tiles"]) == 2
    browser.second.value = "b"
    browser.look.click()
    assert "No network is at hand for 'b'" in texts(browser)


def test_an_own_image_shows_its_nearest_views_and_its_place(browser):
    upload(browser, "me.jpg", Path(browser.explorer.path("database", 3)).read_bytes())
    assert "me.jpg | nearest views, a" in texts(browser) and "90 m east, 0 m north" in texts(browser)
    assert [match["at"] for match in browser.stage.view["map"]["matches"]] == [[90.0, 0.0], [120.0, 0.0]]
    browser._hear(None, {"kind": "point", "value": [0, 0]}, [])
    assert "me.jpg" in texts(browser) and browser.stage.view["near"]["tiles"][0]["alt"] == "view 0"
    browser.step(1)
    assert "query 1" in texts(browser)
    upload(browser, "bad.jpg", b"bad")
    assert "bad.jpg: not an image." in texts(browser) and "query 1" in texts(browser)


def test_without_networks_the_buttons_say_so(explorer):
    browser = Browser({"s": explorer}, models=["a"])
    browser.look.click()
    assert "No network is at hand" in texts(browser)
    upload(browser, "me.jpg", b"x")
    assert texts(browser).count("No network is at hand for this data set.") == 2
