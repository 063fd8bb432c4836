"""Clouds: the agreed shape, the right places, alike on two visits.

Covers toycity.sensor.
"""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from vpr_lib.toycity.conditions import CONDITIONS, Visit
from vpr_lib.toycity.lidar import RADIUS_M, submap
from vpr_lib.toycity.street import Street
from vpr_lib.toycity.view import Pose


@pytest.fixture(scope="module")
def street():
    return Street(16, 1, 160.0)  # houses on both sides, at the pavement's edge


def cloud(street, x, y=-1.0, yaw=0.0, name="day", seed=1):
    return submap(street, Visit.sample(CONDITIONS[name], seed), Pose(x, y, yaw), seed)


def test_a_cloud_has_4096_points_in_the_unit_cube(street):
    points = cloud(street, 80.0)
    assert points.shape == (4096, 3) and points.dtype == np.float64
    assert np.abs(points).max() <= 1 and np.abs(points.mean(0)).max() < 0.02
    assert (points == cloud(street, 80.0)).all()


def test_walls_stand_where_the_street_has_them(street):
    points = cloud(street, 80.0) * RADIUS_M
    width = np.quantile(points[:, 1], 0.9) - np.quantile(points[:, 1], 0.1)
    assert width == pytest.approx(2 * street.half_m, abs=1.5)
    shifted = cloud(street, 80.0, yaw=180.0, y=1.0) * RADIUS_M  # the way back: the same room, turned by half a turn
    turned = -shifted[:, :2] + (points[:, :2].mean(0) + shifted[:, :2].mean(0))
    assert np.median(cKDTree(points[:, :2]).query(turned)[0]) < 0.6


def test_two_visits_to_a_place_agree_better_than_two_places(street):
    here, again, there = cloud(street, 60.0), cloud(street, 60.8, -0.5, 2.0, "night", 9), cloud(street, 110.0)
    distance = lambda a, b: np.mean(cKDTree(a).query(b)[0]) + np.mean(cKDTree(b).query(a)[0])
    assert distance(here, again) < distance(here, there)


def test_the_ground_is_removed(street):
    heights = cloud(street, 80.0)[:, 2] * RADIUS_M
    assert (heights < heights.min() + 0.05).mean() < 0.05  # a floor would be most of the points
