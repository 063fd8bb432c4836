"""What a retrieval writes: a strip for every query, names that no spreadsheet runs, nothing under a negative row.

Covers widgets.page.
"""

import csv
import dataclasses

import numpy as np
import pytest

from vpr_lib.data.readers.folders import read_folders
from vpr_lib.models.zoo import build_model
from vpr_lib.results.records import Run
from vpr_lib.retrieval.folders import retrieve_folders
from vpr_lib.widgets.retrieval_files import cell, strip_names, write_retrieval

RUN = Run("pixels", git="x", host="x", date="x")


@pytest.mark.parametrize(
    "names",
    [["x.png", "x.bmp"], ["a/b.png", "a__b.png"], ["X.png", "x.png"], ["x.png", "x.bmp", "x_png.jpg"], ["a.b.png", "a.png"],
     ["x.png"] * 3],
)  # fmt: skip
def test_every_strip_has_a_name_of_its_own(names):
    found = strip_names(names)
    assert len({name.casefold() for name in found}) == len(names)


def test_plain_names_stay():
    assert strip_names(["a/b.png", "c.jpg"]) == ["a__b.png", "c.png"]


@pytest.mark.parametrize("name", ["=cmd|x.png", "+1.png", "-1.png", "@SUM(A1).png", "\tx.png"])
def test_cells_that_would_run_are_prefixed(name):
    assert cell(name) == f"'{name}"


@pytest.mark.parametrize("name", ["a.png", "@500000.1@4990000@.png", "x=1.png"])
def test_other_names_stay(name):
    assert cell(name) == name


def test_a_missing_match_has_no_name(two_folders, tmp_path):
    found = retrieve_folders(build_model("pixels"), read_folders(*two_folders), 3, None)
    found.ranking.indices[0, 1:] = -1
    files = write_retrieval(dataclasses.replace(found), tmp_path / "out", RUN, strips=2)
    with files["matches"].open() as file:
        rows = [row for row in csv.DictReader(file) if row["query"] == "q0.png"]
    assert [row["rank"] for row in rows] == ["1"]
    assert np.all(found.ranking.indices[1:] >= 0)


def test_what_an_earlier_retrieval_left_goes(two_folders, tmp_path):
    found, out = retrieve_folders(build_model("pixels"), read_folders(*two_folders), 3, None), tmp_path / "out"
    out.mkdir()
    (out / "index.html").write_text("a page of one's own")
    write_retrieval(found, out, RUN, strips=0)
    assert (out / "index.html").is_file(), "not a retrieval's folder before"
    (out / "strips").mkdir()
    (out / "records/set/card").mkdir(parents=True)
    leftovers = ("strips/old.png", "found.geojson", "run.json", "records/set/card/pixels__0.parquet")
    for name in leftovers:
        (out / name).write_bytes(b"x")
    write_retrieval(found, out, RUN, strips=2)
    assert len(list((out / "strips").glob("*.png"))) == 2 and "own" not in (out / "index.html").read_text()
    assert not any((out / name).exists() for name in leftovers)
    write_retrieval(found, out, RUN, strips=0)
    assert not list(out.rglob("*.png")) and not (out / "index.html").exists()


def test_strips_of_long_paths_have_names_that_a_file_system_holds():
    long = [f"{'y' * 120}/{'x' * 120}/{'z' * 100}{number}.png" for number in range(3)] + ["\u00e4" * 120 + ".png"]
    names = strip_names([*long, *(f"{'a' * number}/{'z' * 200}.png" for number in range(1, 4))])
    assert len(set(names)) == 7 and all(len(name.encode()) < 220 for name in names)
