"""Positions that cannot be are refused or told; those on two sides of a border are compared along the ellipsoid."""

import numpy as np
import pytest
import utm

from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.positions import check_positions, frames, radius_positives
from vpr_lib.data.readers.cards import radius_cards
from vpr_lib.data.readers.geo import utm_columns
from vpr_lib.retrieval.metrics import distances_m

TURIN = np.array([394_000.25, 4_990_000.5])


def side(role, places, zone=None, band=None, kind="gps"):
    places = np.asarray(places, np.float64)
    columns = {"image_path": [f"{row:03d}.png" for row in range(len(places))],
               "utm_east": places[:, 0], "utm_north": places[:, 1]}  # fmt: skip
    columns |= {} if zone is None else {"utm_zone": zone}
    columns |= {} if band is None else {"utm_band": band}
    return build_manifest("/x", "set", "test", role, columns, position_kind=kind)


def two(db, q, db_zone=None, db_band=None, q_zone=None, q_band=None, kind="gps"):
    return side("db", db, db_zone, db_band, kind), side("query", q, q_zone, q_band, kind)


def positives(*sides, radius=25.0):
    return [row.tolist() for row in radius_positives(*sides, radius)]


LINE = TURIN + np.arange(8)[:, None] * [80, 60]


@pytest.mark.parametrize(
    ("db_zone", "db_band", "q_zone", "q_band"),
    [
        (32, "T", 32, None), (32, None, 32, "T"), (32, "T", 32, ["T", "", *"TTTTTT"]), (32, ["", "t", *"TTTTTT"], 32, "T"),
        (32, None, [32, None] * 4, None), (None, None, 32, "T"), (32, "T", None, None), ([None, 32] * 4, "T", 32, ""),
        (32, "T", 32, "U"),
    ],
)  # fmt: skip
def test_a_missing_zone_or_band_says_nothing(db_zone, db_band, q_zone, q_band):
    sides = two(LINE, LINE + 1, db_zone, db_band, q_zone, q_band)
    assert positives(*sides) == [[row] for row in range(8)]
    assert distances_m(*sides, np.arange(8)[:, None]) == pytest.approx(np.sqrt(2))


def test_missing_zones_among_several_are_refused():
    zones = [31, 32, *[None] * 6]
    with pytest.raises(ValueError, match=r"6 images have no UTM zone although there are several \(31, 32\).*002\.png"):
        positives(*two(LINE, LINE, zones, None, 32, None))
    with pytest.raises(ValueError, match="have no band letter although there are several"):
        positives(*two(LINE, LINE, 32, ["M", "N", *[""] * 6], 32, "N"))


@pytest.mark.parametrize(
    ("zone", "band"), [(0, "T"), (61, "T"), (-3, "T"), (32, "I"), (32, "A"), (32, "7"), (32, "north")]
)
def test_zones_and_bands_that_do_not_exist_are_refused(zone, band):
    with pytest.raises(ValueError, match=r"has UTM (zone|band) .*8 images.*expected"):
        frames(*two(LINE, LINE, zone, band, 32, "T"))


def at(lat, lon):
    east, north, zone, band = utm.from_latlon(lat, lon)
    return [east, north], zone, band


@pytest.mark.parametrize(
    ("one", "other", "metres"),
    [
        ((45.0, 5.9999), (45.0, 6.0001), 15.77), ((45.0, 6.0), (45.0, 5.99999), 0.788),  # zones 31 and 32
        ((0.0001, 9.0), (-0.0001, 9.0), 22.11),  # the equator
        ((-17.0, 179.9999), (-17.0, -179.9999), 21.29),  # the date line
        ((60.0, 2.9999), (60.0, 3.0001), 11.16),  # Norway: 6 degrees from the middle, where the inverse of the projection is good to 5 cm
        ((0.00005, 5.99995), (-0.00005, 6.00005), 15.71),  # both at once
    ],
)  # fmt: skip
def test_neighbours_across_a_border(one, other, metres):
    (a, zone_a, band_a), (b, zone_b, band_b) = at(*one), at(*other)
    far = at(46.0, 5.0)
    sides = two([a, far[0]], [b], [zone_a, far[1]], [band_a, far[2]], zone_b, band_b)
    assert positives(*sides) == [[0]] and positives(*sides, radius=metres - 0.1) == [[]]
    assert distances_m(*sides, np.array([[0]]))[0, 0] == pytest.approx(metres, abs=0.06)


def test_wide_tables_of_degrees_meet_across_the_date_line():
    lat, lon = np.full(4, -17.0), np.array([179.9999, -179.9999, 100.0, 0.5])
    columns = utm_columns(lat, lon) | {"image_path": ["0.png", "1.png", "2.png", "3.png"]}
    db = build_manifest("/x", "set", "test", "db", columns, position_kind="gps")
    assert positives(db, db) == [[0, 1], [0, 1], [2], [3]]


# ---- positions that cannot be


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(("zone", "step"), [(None, 0.001), (32, 0.001), (32, 3.0), (None, 0.00001)])
def test_degrees_in_the_place_of_metres_are_refused(order, zone, step):
    degrees = np.array([[7.6543211, 45.1234567]]) + step * np.arange(10)[:, None]
    with pytest.raises(ValueError, match=r"look like degrees \(longitude, latitude\), not metres"):
        radius_cards(*two(degrees[:, order], degrees[:, order], zone, None, zone, None), "x", "x")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("degrees", [[[7.65, 45.12]], [[-122.4, 37.7], [-122.5, 37.8]], [[10, 50]]])
def test_degrees_on_one_side_and_metres_on_the_other(turned, degrees):
    sides = (LINE, np.array(degrees, np.float64))[:: -1 if turned else 1]
    with pytest.raises(ValueError, match="look like degrees"):
        check_positions(*two(*sides), 25.0)
    near = LINE - LINE[0]  # a local frame with a query near its origin
    assert check_positions(*two(near, [[12.3456, 40.1234]], kind="local_metric"), 25.0) == []


@pytest.mark.parametrize(
    "places", [[[0, 0], [30, 40], [60, 0]], [[0.25, 0.5], [40.75, 3.5]], [[-80.5, 20.25], [10, 70]]]
)
def test_a_small_local_frame_is_metres(places):
    assert len(radius_cards(*two(places, places, kind="local_metric"), "x", "x")) == 1
    assert check_positions(*two(places, places, kind="local_metric"), 25.0) == []


@pytest.mark.parametrize("places", [np.zeros((5, 2)), np.tile(TURIN, (5, 1)), TURIN + np.arange(5)[:, None]])
def test_everything_in_one_place_is_told(places, caplog):
    radius_cards(*two(places, places), "x", "x")
    assert "any answer counts as right" in caplog.text


def test_a_database_in_one_place_is_told():
    told = check_positions(*two(np.tile(TURIN, (3, 1)), LINE), 25.0)
    assert len(told) == 1 and "the whole database lies within 25 m" in told[0]


@pytest.mark.parametrize("kind", ["gps", "local_metric"])
def test_cameras_without_a_fix_are_nobodys_place(kind):
    places = np.concatenate([LINE, np.zeros((3, 2))])
    sides = two(places, places, kind=kind)
    assert positives(*sides) == [[row] for row in range(8)] + [[], [], []]
    assert "6 of 22 images stand at (0, 0)" in check_positions(*sides, 25.0)[0]
    assert np.isnan(distances_m(*sides, np.full((11, 1), 9))).all()


def test_the_origin_of_a_local_frame_is_a_place():
    places = [[0, 0], [0, 0], [100, 0]]
    assert positives(*two(places, places, kind="local_metric")) == [[0, 1], [0, 1], [2]]


def test_degrees_of_cameras_without_a_fix():
    lat, lon = np.array([45.1, 0.0, 45.101, 0.0]), np.array([7.6, 0.0, 7.6, 0.0])
    columns = utm_columns(lat, lon)
    assert columns["utm_east"][[1, 3]].tolist() == [0, 0] and set(columns["utm_zone"]) == {32}
    whole = utm_columns(lat[[0, 2]], lon[[0, 2]])
    np.testing.assert_array_equal(columns["utm_north"][[0, 2]], whole["utm_north"])


@pytest.mark.parametrize("fix", [(0.0, 0.0), (1e-6, 2e-6), (-2e-4, 1e-5)])
def test_almost_latitude_and_longitude_zero_is_no_fix_either(fix):
    lat, lon = np.array([45.0, 45.001, fix[0], 0.0]), np.array([7.6, 7.6, fix[1], 0.0])
    columns = utm_columns(lat, lon)
    sides = two(*[np.stack([columns["utm_east"], columns["utm_north"]], 1)] * 2)
    assert positives(*sides) == [[0], [1], [], []]
    assert "4 of 8 images stand at (0, 0)" in check_positions(*sides, 25)[0]
    assert positives(*two([TURIN, TURIN + 80], [[0.3, -0.2], TURIN])) == [[], [0]]


def test_what_stands_far_from_all_others_is_told():
    sides = two(
        TURIN + 80.0 * np.arange(8)[:, None], np.concatenate([TURIN + 80.0 * np.arange(8)[:, None], [[7e5, -1.1e5]]])
    )
    assert (
        "1 of 17 images stand more than 200 km from the others, for instance at easting 700000"
        in check_positions(*sides, 25)[0]
    )
    assert check_positions(*two(TURIN + 80.0 * np.arange(8)[:, None], TURIN + 80.0 * np.arange(8)[:, None]), 25) == []


@pytest.mark.parametrize(("place", "band", "told"), [
    (TURIN, "T", False), (TURIN, "t", False), (TURIN, "S", True), ([334_000, 6_250_000], "H", False), ([334_000, 6_250_000], "S", True),
    ([388_000, 3_948_000], "S", False), ([500_000, 9_250_000], "X", False), ([500_000, 10_000], "N", False), ([500_000, 9_990_000], "M", False),
    ([500_000, 1_170_000], "C", False),
])  # fmt: skip
def test_a_northing_that_is_not_in_its_band_is_told(place, band, told):
    found = check_positions(*two([place], np.add([place], [[90, 0]]), 32, band, 32, band), 25)
    assert ("maps of them are wrong" in str(found)) == told
    assert all(len(row) == 0 for row in positives(*two([place], np.add([place], [[90, 0]]), 32, band, 32, band)))
