"""A LiDAR-like cloud from the same prisms: several sweeps around a pose, ground removed, 4096 points in [-1, 1]."""

import numpy as np

from vpr_lib.toycity.cast import NOTHING, Hits, cast, in_view
from vpr_lib.toycity.columns import surfaces
from vpr_lib.toycity.conditions import Visit
from vpr_lib.toycity.render import scene
from vpr_lib.toycity.street import Street
from vpr_lib.toycity.view import Pose, View

POINTS = 4096
RADIUS_M = 25.0  # half the side of a submap; becomes 1 after scaling
_SWEEPS_M = (-8.0, 0.0, 8.0)  # a submap collects the sweeps of 20 m of driving
_AZIMUTHS, _RINGS = 400, 32
_ELEVATION_DEG = (-12.0, 45.0)
_SENSOR_HEIGHT_M = 1.9
_MAX_RANGE_M = 40.0
_LOWEST_M = 0.25  # returns below it are ground
_LOST = {"clear": 0.02, "overcast": 0.02, "rain": 0.10, "fog": 0.2}


def submap(street: Street, visit: Visit, pose: Pose, seed: int) -> np.ndarray:
    """A point cloud around a vehicle, float64 (4096, 3): x ahead, y to the left, z up, centred, within [-1, 1].

    Scaled by RADIUS_M, not by its own extent: equal walls stay equal. Spec: datasets §10, distilvpr §2.1.
    """
    rng = np.random.default_rng(seed)
    prisms = scene(street, visit, pose)
    prisms = prisms[in_view(prisms, np.array((pose.x, pose.y)), 0.0, np.pi, _MAX_RANGE_M + max(_SWEEPS_M))]
    sweeps = [_sweep(prisms, visit, pose, shift, rng) for shift in _SWEEPS_M]
    points = np.concatenate(sweeps)
    points = points[(np.abs(points[:, :2]) < RADIUS_M).all(1) & (points[:, 2] > _LOWEST_M)]
    if len(points) == 0:
        raise ValueError(f"No surface within {RADIUS_M} m of x = {pose.x:.1f}, y = {pose.y:.1f} reflects the laser.")
    chosen = points[rng.choice(len(points), POINTS, replace=len(points) < POINTS)]
    chosen = chosen - chosen.mean(0)
    return np.clip(chosen / RADIUS_M, -1, 1)


def _sweep(prisms: np.ndarray, visit: Visit, pose: Pose, shift: float, rng: np.random.Generator) -> np.ndarray:
    """One turn of the sensor `shift` metres ahead of the pose; points in the frame of the pose, heights above ground."""
    yaw = np.radians(pose.yaw_deg)
    eye = np.array((pose.x + shift * np.cos(yaw), pose.y + shift * np.sin(yaw)))
    azimuth = (np.arange(_AZIMUTHS) + rng.random()) * (2 * np.pi / _AZIMUTHS)
    view = View(
        pose=Pose(pose.x, pose.y, pose.yaw_deg, height_m=_SENSOR_HEIGHT_M), eye=eye,
        dx=np.cos(azimuth).astype(np.float32), dy=np.sin(azimuth).astype(np.float32),
        slopes=np.tan(np.radians(np.linspace(*_ELEVATION_DEG[::-1], _RINGS))).astype(np.float32),
        focal=_AZIMUTHS / (2 * np.pi),
    )  # fmt: skip
    hits = cast(prisms, eye, view.dx, view.dy, _MAX_RANGE_M, count=8)
    surface = surfaces(view, prisms, hits, visit.condition.season == "winter")
    distance = _depth(hits, surface, view)
    distance += rng.normal(0, 0.02, distance.shape)
    ok = (surface >= 0) & (distance < _MAX_RANGE_M) & (rng.random(distance.shape) > _LOST[visit.condition.weather])
    ring, column = np.nonzero(ok)
    reach = distance[ok]
    ahead, left = np.cos(azimuth - yaw)[column] * reach + shift, np.sin(azimuth - yaw)[column] * reach
    return np.stack([ahead, left, _SENSOR_HEIGHT_M + view.slopes[ring] * reach], 1)


def _depth(hits: Hits, surface: np.ndarray, view: View) -> np.ndarray:
    """Horizontal distance of what every ray meets first, float64 (rings, azimuths)."""
    count = hits.depth.shape[1]
    column = np.arange(surface.shape[1])[None]
    k = np.maximum(surface, 0) % count
    start, top = hits.depth[column, k], hits.top[column, k]
    climb = (hits.ridge[column, k] - top) / np.maximum(hits.ridge_depth[column, k] - start, 1e-3)
    steeper = view.slopes[:, None] - climb
    on_roof = (top - view.height - climb * start) / np.where(np.abs(steeper) < 1e-6, 1e-6, steeper)
    depth = np.where(surface >= count, np.clip(on_roof, start, hits.ridge_depth[column, k]), start)
    return np.where(surface >= 0, depth, NOTHING).astype(np.float64)
