"""EXIF GPS: what a phone writes, read back as metres; anything less is no position."""

import numpy as np
import pytest
import utm
from pictures import picture
from PIL import ExifTags, Image

from vpr_lib.data.readers import exif
from vpr_lib.data.readers.exif import gps_columns, gps_exif, read_gps
from vpr_lib.data.readers.folders import read_folders
from vpr_lib.data.readers.geo import degrees

GPS = ExifTags.GPS


def photo(path, lat=(48.0, 30.0, 36.0), lon=(8.0, 0.0, 0.0), **tags):
    """A JPEG as a phone writes it; latitude and longitude in degrees, minutes, seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if lat is not None:
        values = {GPS.GPSLatitude: lat, GPS.GPSLongitude: lon, GPS.GPSLatitudeRef: "N", GPS.GPSLongitudeRef: "E"}
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(values | {getattr(GPS, name): value for name, value in tags.items()})
    Image.fromarray(picture(len(path.name))).save(path, exif=exif)
    return path


def test_degrees_minutes_seconds_hemispheres_and_heading(tmp_path):
    assert read_gps(photo(tmp_path / "a.jpg")) == pytest.approx((48.51, 8.0, np.nan), nan_ok=True)
    south = photo(tmp_path / "b.jpg", GPSLatitudeRef="S", GPSLongitudeRef="W", GPSImgDirection=271.5)
    assert read_gps(south) == pytest.approx((-48.51, -8.0, 271.5))


@pytest.mark.parametrize("lat", [None, (0.0, 0.0, 0.0), (95.0, 0.0, 0.0)])
def test_no_position(tmp_path, lat):
    assert read_gps(photo(tmp_path / "a.jpg", lat, (0.0, 0.0, 0.0))) is None
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    assert read_gps(tmp_path / "b.jpg") is None


@pytest.mark.parametrize(
    ("tags", "told"), [({"GPSLatitudeRef": ""}, True), ({"GPSStatus": "V"}, True), ({"GPSLongitudeRef": "?"}, True), (None, False)]
)  # fmt: skip
def test_gps_that_gives_no_position_is_told(tmp_path, caplog, tags, told):
    caplog.set_level("WARNING", logger="vpr_lib")
    paths = [photo(tmp_path / f"{n}.jpg", **tags) if told else photo(tmp_path / f"{n}.jpg", None) for n in range(3)]
    assert gps_columns(paths) is None
    assert (f"{tmp_path}: GPS of 3 photos gives no position: no hemisphere" in caplog.text) == told


def test_folders_of_photos_with_gps_become_a_benchmark(tmp_path):
    for step in range(4):  # 0.001 degrees of latitude are 111 m
        photo(tmp_path / "db" / f"{step}.jpg", (48.0, 0.06 * step, 0.0))
    photo(tmp_path / "query" / "q.jpg", (48.0, 0.061, 0.0), GPSImgDirection=90.0)
    found = read_folders(tmp_path / "db", tmp_path / "query")
    assert found.positives[0].tolist() == [1]
    assert np.diff(found.database.positions()[:, 1]) == pytest.approx(111.2, abs=0.1)
    assert found.queries.table["heading_deg"].tolist() == [90.0]


def test_a_photo_without_gps_among_others_stands_nowhere(tmp_path):
    for step in range(3):
        photo(tmp_path / "db" / f"{step}.jpg", (48.0, 0.06 * step, 0.0))
    photo(tmp_path / "db" / "x.jpg", None)
    photo(tmp_path / "query" / "q.jpg", (48.0, 0.061, 0.0))
    found = read_folders(tmp_path / "db", tmp_path / "query")
    assert found.positives[0].tolist() == [1] and found.database.positions()[3].tolist() == [0, 0]
    assert np.isnan(degrees(found.database)[3]).all() and degrees(found.database)[1] == pytest.approx([48.001, 8.0])
    assert gps_columns([tmp_path / "db" / "x.jpg"]) is None


@pytest.mark.parametrize("place", [(48.51, 8.0), (-33.123456, -70.654321), (0.00001, 179.99999)])
def test_what_is_written_is_read(tmp_path, place):
    Image.fromarray(picture(0)).save(tmp_path / "a.jpg", exif=gps_exif(*place))
    assert read_gps(tmp_path / "a.jpg")[:2] == pytest.approx(place, abs=2e-8)
    Image.fromarray(picture(0)).save(tmp_path / "b.jpg", exif=gps_exif(np.nan, np.nan))
    assert read_gps(tmp_path / "b.jpg") is None


def test_degrees_from_utm_and_from_nothing(tmp_path):
    east, north, *_ = utm.from_latlon(-33.5, 8.6)
    photo(tmp_path / "utm" / f"@{east:.3f}@{north:.3f}@32@H@.jpg", None)
    photo(tmp_path / "plain" / "@500@300@.jpg", None)
    sides = [read_folders(tmp_path / name, tmp_path / name).database for name in ("utm", "plain")]
    assert degrees(sides[0])[0] == pytest.approx([-33.5, 8.6], abs=1e-7) and degrees(sides[1]) is None


@pytest.mark.parametrize(("south", "west"), [("S", "W"), ("s", "w "), (b"S\0", b"W\0"), ("South", "West")])
def test_hemispheres_as_cameras_spell_them(south, west):
    letters = [exif._degrees((33.0, 30.0, 0.0), letter, sides) for letter, sides in ((south, "NS"), (west, "EW"))]
    assert letters == [-33.5, -33.5] and exif._degrees((33.0, 30.0, 0.0), "n", "NS") == 33.5


@pytest.mark.parametrize("tags", [{"GPSLatitudeRef": "?"}, {"GPSLongitudeRef": ""}, {"GPSStatus": "V"}])
def test_no_hemisphere_and_no_valid_fix_are_no_position(tmp_path, tags):
    assert read_gps(photo(tmp_path / "a.jpg", **tags)) is None
    assert read_gps(photo(tmp_path / "b.jpg", GPSStatus="A")) is not None
