"""'@' names by the column, lists and tables, degrees: what every reader stands on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpr_lib.data.readers.geo import utm_columns
from vpr_lib.data.readers.lists import locate, read_csv, read_names
from vpr_lib.data.readers.names import columns_from_names, parse_name

FULL = "me@home/@0584825.96@4476945.61@17@T@040.43590@-080.00020@pa_no-x.1@03@120@001@@@20150506_102030@night_cph@.jpg"


def test_all_tokens():
    columns = columns_from_names([FULL])
    assert {key: np.asarray(value).tolist()[0] for key, value in columns.items() if key not in ("image_path", "time_resolution")} == {
        "utm_east": 584825.96, "utm_north": 4476945.61, "utm_zone": 17, "utm_band": "T", "lat": 40.4359, "lon": -80.0002,
        "pano_id": "pa_no-x.1", "tile": 3, "heading_deg": 120.0, "heading_raw": "120", "pitch_deg": 1.0,
        "timestamp": 1430907630000000, "conditions": ["night", "cph"],
    }  # fmt: skip
    assert columns["time_resolution"] == "second"


def test_short_names_and_empty_tokens():
    columns = columns_from_names(["@1@2.5@.jpg", "@-1@2.PNG", "@3@4@17@T@@@@@@@@@201708@@.jpg"])
    assert columns["utm_east"].tolist() == [1, -1, 3] and columns["utm_zone"] == [None, None, 17]
    assert columns["timestamp"] == [None, None, 1501545600000000] and columns["time_resolution"] == "month"
    assert set(columns_from_names(["@1@2@.jpg"])) == {"image_path", "utm_east", "utm_north"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.jpg", "'a.jpg' does not follow"),
        ("@1.jpg", "does not follow"),
        ("x@1@2@.jpg", "does not follow"),
        ("@a@2@.jpg", r"token 1 \(utm_east\) is 'a', not a number"),
        ("@1@inf@.jpg", r"token 2 \(utm_north\) is 'inf'"),
        ("@1@@17@T@.jpg", r"token 2 \(utm_north\) is ''"),
        ("@1@2@north@T@.jpg", r"token 3 \(utm_zone\) is 'north'"),
    ],
)
def test_names_that_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        columns_from_names(["@1@2@.jpg", name])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e7, 1e7), st.floats(0, 1e7), st.text("ab_-.c", max_size=5)), min_size=1, max_size=5)
)
def test_columns_agree_with_one_name_at_a_time(rows):
    names = [f"d/@{e!r}@{n!r}@{17 + i}@T@@@{p}@@@@@@@@.jpg" for i, (e, n, p) in enumerate(rows)]
    columns, single = columns_from_names(names), [parse_name(name) for name in names]
    assert columns["utm_east"].tolist() == [float(fields["utm_east"]) for fields in single]
    assert np.asarray(columns.get("pano_id", [""] * len(rows))).tolist() == [fields["pano_id"] for fields in single]


def test_lists_of_names(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeff./a.jpg\r\n\r\nb c/ü.jpg \n", encoding="utf-8")
    assert read_names(tmp_path / "a.txt") == ["a.jpg", "b c/ü.jpg"]
    with pytest.raises(FileNotFoundError, match="No list of names"):
        read_names(tmp_path / "b.txt")


def test_tables_keep_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\ufeff,key , x\n0,1e5,1\n1,NA,2.5\n2,007,3\n")
    table = read_csv(path, ("key", "x"), ("key",), ("x",))
    assert table["x"].tolist() == [1, 2.5, 3]
    path.write_text("key,x\n1e5,1\nNA,2.5\n007,\n")
    assert read_csv(path, ("key",), ("key",))["key"].tolist() == ["1e5", "NA", "007"]
    with pytest.raises(ValueError, match=r"line 4: '' is no number \(x\)"):
        read_csv(path, ("key",), ("key",), ("x",))
    path.write_text("key,x\na,1,\nb,2,\n")  # pandas would take the first column for an index, and shift the others
    with pytest.raises(ValueError, match="rows have more fields than the first line names columns"):
        read_csv(path, ("key",), ("key",), ("x",))
    path.write_bytes(b"key\n\xff\xfe\n")
    with pytest.raises(ValueError, match="not a readable CSV"):
        read_csv(path, ("key",))


def test_locate_follows_the_files(tmp_path):
    (tmp_path / "images/a").mkdir(parents=True)
    (tmp_path / "images/a/1.png").touch()
    assert locate(tmp_path, ["a/1.jpg", "a/2.jpg"], ["", "images"], [".jpg", ".png"]) == [
        "images/a/1.png",
        "images/a/2.png",
    ]
    assert locate(tmp_path, ["b/1.jpg"], ["", "images"]) == ["b/1.jpg"]  # nothing there: the first way


def test_a_zone_border_does_not_part_neighbours():
    found = utm_columns(np.array([48.0, 48.0]), np.array([11.9999, 12.0001]))  # zones 32 and 33 meet at 12 degrees
    assert found["utm_zone"] == 33 or found["utm_zone"] == 32
    assert (
        abs(np.diff(found["utm_east"])[0]) == pytest.approx(14.9, abs=0.2) and abs(np.diff(found["utm_north"])[0]) < 1
    )
    equator = utm_columns(np.array([-0.0001, 0.0001]), np.array([9.0, 9.0]))
    assert np.diff(equator["utm_north"])[0] == pytest.approx(22.1, abs=0.2)


def test_the_whole_world_is_converted_zone_by_zone():
    found = utm_columns(np.array([55.68, 37.77]), np.array([12.57, -122.42]))
    assert found["utm_zone"].tolist() == [33, 10] and found["utm_band"].tolist() == ["U", "S"]
    with pytest.raises(ValueError, match=r"Row 1: latitude -122.42, longitude 37.77 is no position.*latitude first"):
        utm_columns(np.array([0.0, -122.42]), np.array([0.0, 37.77]))
