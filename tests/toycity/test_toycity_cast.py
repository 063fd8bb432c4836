"""The ray caster against geometry worked out by hand and against a brute-force ray tracer."""

import numpy as np
import pytest

from vpr_lib.toycity.cast import NOTHING, cast, first_hits, in_view
from vpr_lib.toycity.prisms import ACROSS, ALONG, CUTOUT, PrismList
from vpr_lib.toycity.view import Pose, make_view

EYE_M = 1.75


def look(prisms, size=(100, 100), count=14, **pose):
    """Focal length 50 pixels for 100 columns: a 90 degree camera at the origin, looking along x."""
    view = make_view(Pose(**{**dict(x=0.0, y=0.0, yaw_deg=0.0, height_m=EYE_M, shift=0.0, fov_deg=90.0), **pose}), size)
    hits = cast(prisms, view.eye, view.dx, view.dy, 100.0, count)
    return view, hits, first_hits(hits, view.slopes, view.height)


def wall(z1=5.1, **fields):
    out = PrismList()
    out.add((10.0, 12.0, -50.0, 50.0, 0.0, z1), **fields)
    return out


def test_a_wall_covers_the_rows_it_should():
    # 10 m away and 5.1 m high: slopes from -1.75/10 to 3.35/10; row r has slope (50 - r - 0.5) / 50
    _, hits, surface = look(wall().array())
    assert (np.flatnonzero(surface[:, 50] == 0) == np.arange(33, 59)).all()
    assert hits.depth[:, 0] == pytest.approx(10.0)
    assert hits.faces_x[:, 0].all()


def test_the_face_coordinate_starts_at_the_left_edge():
    # column 75 looks (75.5 - 50) / 50 to the right, so it meets the wall at y = -5.1, 55.1 m from its left edge at y = 50
    _, hits, _ = look(wall().array())
    assert hits.u[75, 0] == pytest.approx(55.1, abs=1e-4)
    from_behind = look(wall().array(), x=22.0, yaw_deg=180.0)[1]
    assert from_behind.u[75, 0] == pytest.approx(55.1, abs=1e-4)


def test_walls_along_the_street_read_from_left_to_right():
    out = PrismList()
    out.add((0.0, 30.0, 5.0, 9.0, 0.0, 6.0))  # to the left
    out.add((0.0, 30.0, -9.0, -5.0, 0.0, 6.0))  # to the right
    _, hits, _ = look(out.array())
    assert hits.prism[10, 0] == 0 and np.all(
        np.diff(hits.u[2:15, 0]) > 0
    )  # seen from the street, u grows with the column
    assert hits.prism[90, 0] == 1 and np.all(np.diff(hits.u[85:98, 0]) > 0)


def test_the_nearer_prism_hides_the_farther_one():
    out = wall(z1=5.1)
    out.add((4.0, 5.0, -1.0, 1.0, 0.0, 2.0))
    _, hits, surface = look(out.array())
    assert hits.prism[50, 0] == 1 and hits.prism[50, 1] == 0
    column = surface[:, 50]
    assert (column[33:47] == 1).all()  # the wall above the box, whose top edge is at slope 0.25 / 4 = row 46.4
    assert (column[47:59] == 0).all()


def test_looking_down_shows_the_top_of_a_low_box():
    out = PrismList()
    out.add((4.0, 8.0, -5.0, 5.0, 0.0, 1.0))
    _, hits, surface = look(out.array())
    # its top lies between slopes -0.75 / 4 and -0.75 / 8
    top = np.flatnonzero(surface[:, 50] == hits.depth.shape[1])
    slopes = (50 - top - 0.5) / 50
    assert slopes.min() >= -0.1875 and slopes.max() < -0.09375 and len(top) == 4


def test_a_gable_rises_to_its_ridge():
    out = PrismList()
    out.add((10.0, 20.0, -4.0, 4.0, 0.0, 5.0), roof_axis=ALONG, roof_rise=3.0, roof_run=4.0)
    _, hits, _ = look(out.array())
    y = -10.0 * ((np.arange(100) + 0.5) - 50) / 50
    expected = 5.0 + 3.0 * np.clip(1 - np.abs(y) / 4, 0, 1)
    on_front = np.abs(y) < 4
    assert hits.top[on_front, 0] == pytest.approx(expected[on_front], abs=1e-3)


def test_a_roof_with_its_eaves_to_the_camera_is_seen_from_afar_only():
    out = PrismList()
    out.add((0.0, 10.0, -6.0, 6.0, 0.0, 5.0), roof_axis=ACROSS, roof_rise=3.0, roof_run=5.0)
    near = look(out.array(), x=-2.0)
    far = look(out.array(), x=-30.0)
    assert not (near[2][:, 50] >= near[1].depth.shape[1]).any()  # 3.25 m up in 2 m is steeper than the roof
    assert (far[2][:, 50] >= far[1].depth.shape[1]).any()


def test_cutouts_face_the_camera():
    out = PrismList()
    out.add((9.0, 11.0, -1.0, 1.0, 0.0, 4.0), body=CUTOUT)
    _, hits, _ = look(out.array())
    assert hits.has_holes[50, 0] and not hits.faces_x[50, 0]
    assert hits.depth[50, 0] == pytest.approx(10.0, abs=0.01)
    assert (hits.depth[:, 0] < NOTHING).sum() == 10  # 2 m wide, 10 m away, focal length 50


def test_holes_let_the_wall_behind_shine_through():
    out = wall()
    out.add((4.0, 4.2, -9.0, 9.0, 0.0, 3.0), body=CUTOUT)
    view = make_view(Pose(0.0, 0.0, 0.0, EYE_M, 0.0, 90.0), (100, 100))
    hits = cast(out.array(), view.eye, view.dx, view.dy, 100.0)
    cells = np.array([50 * hits.depth.shape[1]])
    surface = first_hits(hits, view.slopes, view.height, cells, np.zeros((100, 1), bool))
    assert (surface[33:59, 50] == 1).all() and 0 in surface[:, 49]


def test_only_prisms_in_view_are_kept():
    out = PrismList()
    for x, y in ((10, 0), (-10, 0), (10, 9), (10, 30), (200, 0)):
        out.add((x - 0.5, x + 0.5, y - 0.5, y + 0.5, 0, 3))
    eye = np.zeros(2)
    assert in_view(out.array(), eye, 0.0, np.radians(45), 100.0).tolist() == [True, False, True, False, False]
    assert in_view(out.array(), eye, np.pi, np.radians(45), 100.0).tolist() == [False, True, False, False, False]
    assert in_view(out.array(), eye, 0.0, np.pi, 100.0).tolist() == [True, True, True, True, False]


def test_the_same_prism_as_a_three_dimensional_ray_tracer():
    rng = np.random.default_rng(3)
    out = PrismList()
    boxes = []
    for x in np.arange(5.0, 45.0, 4.0):  # disjoint boxes, some floating
        for y in np.arange(-14.0, 14.0, 4.0):
            low = rng.choice((0.0, rng.uniform(0, 3)))
            boxes.append((x, x + rng.uniform(0.5, 3.5), y, y + rng.uniform(0.5, 3.5), low, low + rng.uniform(0.5, 5)))
            out.add(boxes[-1])
    view, hits, surface = look(out.array(), (24, 24), count=70, yaw_deg=7.0)
    boxes = np.array(boxes)
    lows, highs = boxes[:, 0::2], boxes[:, 1::2]
    count, wrong = hits.depth.shape[1], 0
    for row in range(24):
        for column in range(24):
            ray = np.array((view.dx[column], view.dy[column], view.slopes[row]))
            a, b = (lows - (0, 0, EYE_M)) / ray, (highs - (0, 0, EYE_M)) / ray
            enter, leave = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
            enter[(leave <= enter) | (enter <= 0)] = np.inf
            traced = int(enter.argmin()) if np.isfinite(enter).any() else -1
            shown = surface[row, column]
            wrong += traced != (hits.prism[column, shown % count] if shown >= 0 else -1)
    assert wrong <= 3  # rounding at edges
