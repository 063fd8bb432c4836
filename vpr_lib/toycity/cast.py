"""Ray casting in two and a half dimensions: one flat ray per image column meets upright prisms, and because walls are
vertical, what a column shows is an interval of rows per prism."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vpr_lib.toycity.prisms import ALONG, CUTOUT, FLAT, SOLID

NEAR_M = 0.15
_GEOMETRY = ("x0", "x1", "y0", "y1", "z0", "z1", "body", "roof_axis", "roof_rise", "roof_run", "roof_step")
NOTHING = np.float32(1e6)  # distance of a ray that meets nothing


@dataclass(frozen=True)
class Hits:
    """The K nearest prisms per column, nearest first; all arrays (W, K), float32 unless said otherwise.

    Distances are in units of the column's direction vector, which has length 1 along the optical axis: they are depths.
    """

    prism: np.ndarray  # int64, row of the prism
    depth: np.ndarray  # where the ray enters; NOTHING if it does not
    exit: np.ndarray  # where it leaves
    faces_x: np.ndarray  # bool, entered through a face across the street
    u: np.ndarray  # metres along that face from its left edge as seen by the camera
    bottom: np.ndarray  # height of the lower edge at the entrance
    top: np.ndarray  # height of the upper edge at the entrance, gables included
    ridge_depth: np.ndarray  # where the visible part of the roof ends
    ridge: np.ndarray  # and its height there
    has_holes: np.ndarray  # bool, its tile is see-through in places

    def pick(self, cells: np.ndarray) -> Callable[[str], np.ndarray]:
        """Looks up fields of the hits at flat indices (M,) into (W, K): `hits.pick(cells)("depth")`."""
        return lambda name: getattr(self, name).reshape(-1)[cells]


def in_view(prisms: np.ndarray, eye: np.ndarray, yaw: float, half_fov: float, far: float) -> np.ndarray:
    """Which prisms can appear in a camera at `eye` (x, y) looking along `yaw`, bool (N,); angles in radians.

    From half a turn of view upwards only the distance counts.
    """
    cx, cy = (prisms["x0"] + prisms["x1"]) / 2 - eye[0], (prisms["y0"] + prisms["y1"]) / 2 - eye[1]
    radius = np.hypot(prisms["x1"] - prisms["x0"], prisms["y1"] - prisms["y0"]) / 2
    if half_fov >= np.pi / 2:
        return np.hypot(cx, cy) < far + radius
    ahead, left = cx * np.cos(yaw) + cy * np.sin(yaw), cy * np.cos(yaw) - cx * np.sin(yaw)
    margin = radius / np.cos(half_fov)
    return (
        (ahead > -radius) & (ahead < far + radius) & (np.abs(left) < np.maximum(ahead, 0) * np.tan(half_fov) + margin)
    )


def cast(prisms: np.ndarray, eye: np.ndarray, dx: np.ndarray, dy: np.ndarray, far: float, count: int = 14) -> Hits:
    """Meet rays from `eye` along (dx, dy), each (W,), with N prisms and keep the `count` nearest per ray."""
    dx = np.where(np.abs(dx) < 1e-6, np.float32(1e-6), dx)[:, None]
    dy = np.where(np.abs(dy) < 1e-6, np.float32(1e-6), dy)[:, None]
    x0, x1, y0, y1 = (prisms[side] - np.float32(eye["xxyy".index(side[0]) // 2]) for side in ("x0", "x1", "y0", "y1"))
    a, b, c, d = x0 / dx, x1 / dx, y0 / dy, y1 / dy
    near_x, near_y = np.minimum(a, b), np.minimum(c, d)
    depth, leave = np.maximum(near_x, near_y), np.minimum(np.maximum(a, b), np.maximum(c, d))
    flat = np.flatnonzero(prisms["body"] == CUTOUT)
    if len(flat):
        depth[:, flat], leave[:, flat] = _meet_cutouts(x0[flat], x1[flat], y0[flat], y1[flat], dx, dy)
    depth[(leave <= depth) | (depth <= NEAR_M) | (depth >= far)] = NOTHING
    count = min(count, depth.shape[1])
    nearest = np.argpartition(depth, count - 1, 1)[:, :count]
    order = np.argsort(np.take_along_axis(depth, nearest, 1), 1, kind="stable")
    nearest = np.take_along_axis(nearest, order, 1)
    entered_x = near_x > near_y
    depth, leave, faces_x = (np.take_along_axis(m, nearest, 1) for m in (depth, leave, entered_x))
    return _describe_hits(prisms, nearest, depth, leave, faces_x, eye, dx, dy)


def _meet_cutouts(
    x0: np.ndarray, x1: np.ndarray, y0: np.ndarray, y1: np.ndarray, dx: np.ndarray, dy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depth at which rays pass the centres of cut-outs, and that depth plus 1 where they are within its radius."""
    cx, cy, radius = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2
    length2 = dx * dx + dy * dy
    depth = (cx * dx + cy * dy) / length2
    return depth, np.where(np.abs(cx * dy - cy * dx) < radius * np.sqrt(length2), depth + 1, -1)


def _describe_hits(
    prisms: np.ndarray, prism: np.ndarray, depth: np.ndarray, leave: np.ndarray, faces_x: np.ndarray, eye: np.ndarray,
    dx: np.ndarray, dy: np.ndarray,
) -> Hits:  # fmt: skip
    of = {name: prisms[name][prism] for name in _GEOMETRY}  # field by field: gathering whole records is slower
    ex, ey = np.float32(eye[0]), np.float32(eye[1])
    x, y = ex + depth * dx, ey + depth * dy
    across = np.where(dy > 0, x - of["x0"], of["x1"] - x)
    u = np.where(faces_x, np.where(dx > 0, of["y1"] - y, y - of["y0"]), across)
    cutout = of["body"] == CUTOUT
    if cutout.any():
        cx, cy = (of["x0"] + of["x1"]) / 2 - ex, (of["y0"] + of["y1"]) / 2 - ey
        aside = (cx * dy - cy * dx) / np.sqrt(dx * dx + dy * dy)
        u = np.where(cutout, (of["x1"] - of["x0"]) / 2 - aside, u)
        faces_x = faces_x & ~cutout
    top, ridge_depth, ridge = _roof(of, depth, leave, (x, y), (ex, ey), (dx, dy))
    return Hits(prism, depth, leave, faces_x, u, of["z0"], top, ridge_depth, ridge, of["body"] != SOLID)


def _roof(
    p: dict[str, np.ndarray], depth: np.ndarray, leave: np.ndarray, entrance: tuple, eye: tuple, ray: tuple
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Height of the roof at the entrance, and depth and height where it stops rising along the ray.

    A roof rises by `roof_rise` within `roof_run` metres from both eaves, so along a ray it is straight up to there.

    Args:
        entrance, eye, ray: x and y of where the ray enters, of the eye, and of the ray's direction.
    """
    if not (p["roof_axis"] != FLAT).any():
        return p["z1"], leave, p["z1"]
    along = p["roof_axis"] == ALONG
    low, high = np.where(along, p["y0"], p["x0"]), np.where(along, p["y1"], p["x1"])
    middle, half = (low + high) / 2, (high - low) / 2
    at, step, eye_at = (np.where(along, y, x) for x, y in (entrance, ray, eye))
    rise, run = p["roof_rise"], p["roof_run"]

    def height(position: np.ndarray) -> np.ndarray:
        return p["z1"] + rise * np.clip((half - np.abs(position - middle)) / run, 0, 1)

    top = height(at)
    stepped = p["roof_step"] > 0
    if stepped.any():
        steps = np.maximum(p["roof_step"], 0.1)
        top = np.where(stepped, p["z1"] + np.ceil((top - p["z1"]) / steps) * steps, top)
    flat_from = middle - np.sign(step) * (half - run)
    ridge_depth = np.clip((flat_from - eye_at) / step, depth, np.maximum(leave, depth))
    ridge = height(eye_at + ridge_depth * step)
    sloped = p["roof_axis"] != FLAT
    return top, np.where(sloped, ridge_depth, leave), np.where(sloped, ridge, p["z1"])


def first_hits(
    hits: Hits, slopes: np.ndarray, eye_height: float, cells: np.ndarray | None = None, solid: np.ndarray | None = None
) -> np.ndarray:
    """Which surface every pixel shows first, int8 (H, W): -1 none, k the walls of hit k, K + k its roof.

    Args:
        slopes: tangents of elevation of the rows, (H,).
        cells: flat indices of the hits that have holes, (C,).
        solid: where they have none, bool (H, C).
    """
    height, count = np.float32(eye_height), hits.depth.shape[1]
    missed = hits.depth >= NOTHING
    lowest = (hits.bottom - height) / np.where(hits.bottom > height, hits.exit, hits.depth)  # undersides included
    highest = (hits.top - height) / hits.depth
    over_roof = np.maximum((hits.ridge - height) / np.maximum(hits.ridge_depth, NEAR_M), highest)
    first, end, roof = (_row_below(slopes, edge, missed) for edge in (highest, lowest, over_roof))
    end[missed.T] = 0
    surface = np.full((len(slopes), len(hits.depth)), -1, np.int8)
    rows = np.arange(len(slopes), dtype=np.int16)[:, None]
    for k in np.flatnonzero(~missed.all(0))[::-1]:
        from_eaves = rows >= first[k]
        if (roof[k] < first[k]).any():
            np.copyto(surface, count + k, where=(rows >= roof[k]) & ~from_eaves)
        walls = from_eaves & (rows < end[k])
        if cells is not None and len(here := np.flatnonzero(cells % count == k)):
            walls[:, cells[here] // count] &= solid[:, here]
        np.copyto(surface, k, where=walls)
    return surface


def _row_below(slopes: np.ndarray, edge: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """First row that looks below an edge, int16 (K, W) for edges (W, K); past the last row where the ray missed."""
    row = np.searchsorted(-slopes, -edge, side="right").astype(np.int16)
    row[missed] = len(slopes)
    return np.ascontiguousarray(row.T)
