"""Where queries were found: words, map files that parsers read, and the map of the page.

Covers widgets.found_map, widgets.geo_files.
"""

import csv
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from pictures import picture, write_picture
from PIL import ExifTags, Image

from vpr_lib.data.readers.exif import gps_exif
from vpr_lib.data.readers.folders import read_folders
from vpr_lib.models.zoo import build_model
from vpr_lib.results.records import Run
from vpr_lib.retrieval.folders import retrieve_folders
from vpr_lib.widgets.found import Found, find_all
from vpr_lib.widgets.retrieval_files import write_retrieval

RUN = Run("pixels", git="x", host="x", date="x")
STEP = 0.0009  # degrees of latitude: 100 m


def photo(path, seed, lat, lon, heading=None, noise=0):
    """A picture with GPS, and a heading where one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = gps_exif(lat, lon)
    if heading is not None:
        exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSImgDirection] = float(heading)
    changed = picture(seed) + np.random.default_rng(seed).integers(-noise, noise + 1, (48, 64, 3))
    Image.fromarray(changed.clip(0, 255).astype(np.uint8)).save(path, exif=exif, quality=98)


@pytest.fixture
def photos(tmp_path):
    """Five photos north of each other, looking east, with four queries: 10 m away, at a wrong place, <nowhere>, foreign."""
    for number in range(5):
        photo(tmp_path / "db" / f"{number}.jpg", number, 48 + STEP * number, 8.0, heading=90)
    photo(tmp_path / "query" / "a.jpg", 1, 48 + 1.1 * STEP, 8.0, noise=9)
    photo(tmp_path / "query" / "b.jpg", 2, 48 + 4 * STEP, 8.0, noise=9)
    photo(tmp_path / "query" / "c & <d>.jpg", 3, np.nan, np.nan, noise=9)
    photo(tmp_path / "query" / "e.jpg", 50, 48.0, 8.0)
    return tmp_path / "db", tmp_path / "query"


@pytest.fixture
def retrieved(photos):
    found = retrieve_folders(build_model("pixels"), read_folders(*photos), 3, None, foreign_below=0.9)
    assert found.foreign.tolist() == [False, False, False, True]
    return found


def test_words():
    one = Found("q.jpg", "db.jpg", 0.81234, False, True, 3.14, None, (48.5, 8.0), 271.4)
    assert one.in_words() == "db.jpg, similarity 0.812, 3.1 m away, 48.500000 8.000000, heading 271°"
    plain = replace(one, distance_m=None, match_place=None, heading_deg=None)
    assert plain.in_words() == "db.jpg, similarity 0.812"
    assert replace(one, foreign=True).in_words() == "not in this map (best similarity 0.812, with db.jpg)"


def test_every_query_with_its_best_match(retrieved):
    found = find_all(retrieved)
    assert [(one.match, one.correct, one.foreign) for one in found] == [
        ("1.jpg", True, False), ("2.jpg", False, False), ("3.jpg", False, False), (found[3].match, False, True)]  # fmt: skip
    assert found[0].distance_m == pytest.approx(10, abs=0.1) and found[2].distance_m is None
    assert found[2].query_place is None and found[2].match_place == pytest.approx((48 + 3 * STEP, 8.0))
    assert found[0].heading_deg == 90


def test_map_files_say_the_same_as_the_matches(retrieved, tmp_path):
    files = write_retrieval(retrieved, tmp_path / "out", RUN, strips=0)
    features = json.loads(files["geojson"].read_text())["features"]
    assert [(f["properties"]["query"], f["geometry"]["type"]) for f in features] == [
        ("a.jpg", "Point"), ("a.jpg", "LineString"), ("b.jpg", "Point"), ("b.jpg", "LineString"), ("c & <d>.jpg", "Point")]  # fmt: skip
    assert features[0]["geometry"]["coordinates"] == pytest.approx([8.0, 48 + STEP])
    points = [node for node in ElementTree.parse(files["gpx"]).iter() if node.tag.endswith("wpt")]
    assert [float(node.get("lat")) for node in points] == pytest.approx([48 + STEP * n for n in (1, 2, 3)])
    names = [node.text for node in ElementTree.parse(files["kml"]).iter() if node.tag.endswith("}name")]
    assert names[1:] == ["a.jpg", "b.jpg", "c & <d>.jpg"]
    rows = [row for row in csv.DictReader(files["matches"].open()) if row["rank"] == "1"]
    assert [row["not_in_this_map"] for row in rows] == ["0", "0", "0", "1"]
    assert float(rows[0]["lat"]) == pytest.approx(48 + STEP) and {row["heading_deg"] for row in rows} == {"90.0"}


def test_the_map_of_the_page(retrieved, tmp_path):
    page = write_retrieval(retrieved, tmp_path / "out", RUN, strips=2)["page"].read_text()
    assert "http" not in page and page.count('class="map"') == 1
    shown = page[page.index('class="world"') : page.index("</svg>")]
    assert [shown.count(f'class="{kind}"') for kind in ("right", "wrong", "here", "foreign", "line")] == [1, 1, 1, 1, 2]
    assert (
        re.findall(r'href="#q(\d)"', shown) == ["0", "3"] == re.findall(r'<section class="row[^"]*" id="q(\d)"', page)
    )
    assert "c &amp; &lt;d&gt;.jpg: 3.jpg" in shown
    x0, y0, x1, y1 = map(float, re.search(r'class="line" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', shown).groups())
    metres = float(re.search(r'data-metres="([\d.]+)"', page)[1])
    assert np.hypot(x1 - x0, y1 - y0) * metres == pytest.approx(10, abs=0.6) and y1 > y0  # the match is south of it
    assert page.count("heading 90°") and "1 not in this map, by a best similarity under 0.900" in page
    tick = re.search(r'class="look" d="M[\d. ]+l([\d.-]+) ([\d.-]+)', shown)
    assert (float(tick[1]), float(tick[2])) == pytest.approx((13, 0))


def test_without_positions_no_map(two_folders, tmp_path):
    found = retrieve_folders(build_model("pixels"), read_folders(*two_folders), 3, None)
    files = write_retrieval(found, tmp_path / "out", RUN, strips=2)
    assert "geojson" not in files and 'class="map"' not in files["page"].read_text()
    assert not found.foreign.any()


def test_metres_without_a_zone_make_a_map_but_no_files(tmp_path):
    for number in range(3):
        write_picture(tmp_path / "db" / f"@{100 * number}@50@.png", number)
    write_picture(tmp_path / "query" / "@205@50@.png", 2)
    found = retrieve_folders(build_model("pixels"), read_folders(tmp_path / "db", tmp_path / "query"), 1, None)
    files = write_retrieval(found, tmp_path / "out", RUN, strips=1)
    page = files["page"].read_text()
    assert "geojson" not in files and 'class="right"' in page and ">20 m</text>" in page


@pytest.mark.browser
def test_the_wheel_brings_the_map_nearer(retrieved, tmp_path, chromium):
    from playwright.sync_api import sync_playwright

    page_file = write_retrieval(retrieved, tmp_path / "out", RUN, strips=2)["page"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        errors: list = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(page_file.as_uri())
        label = page.locator(".map .metres")
        before = label.text_content()
        page.locator(".map > svg").hover()
        for _ in range(10):
            page.mouse.wheel(0, -100)
        page.wait_for_function("text => document.querySelector('.map .metres').textContent != text", arg=before)
        assert float(label.text_content().split()[0]) < float(before.split()[0])
        page.locator(".map > svg").dblclick()
        assert label.text_content() == before and not errors
        browser.close()
