"""From the colour of a surface to the light it sends to the camera: sky, sun and shadows, lamps, air, wet reflections."""

from dataclasses import dataclass

import numpy as np

from vpr_lib.toycity.conditions import Visit
from vpr_lib.toycity.looks import Illumination
from vpr_lib.toycity.prisms import DECIDUOUS
from vpr_lib.toycity.street import Street
from vpr_lib.toycity.view import View

SNOW = np.float32(0.78)  # linear brightness
LAMP_COLOUR = np.array((1.0, 0.70, 0.38), np.float32)[:, None]
_LAMPS_SEEN = 7
_CARS_SHADED = 8
_SMEAR = (-0.05, -0.03, -0.012, 0.006, 0.024)  # of a reflection up and down, in image heights


@dataclass(frozen=True)
class Surface:
    """N pixels of one kind of surface as the shaders colour them: where they are and how they look."""

    pixels: np.ndarray  # int64 (N,), flat index into the image
    depth: np.ndarray  # (N,)
    colour: np.ndarray  # (3, N)
    emission: np.ndarray | None  # (3, N), light they give off at night
    towards_sun: np.ndarray  # (N,), cosine between normal and sun, not below 0


def lit(
    view: View, street: Street, part: Surface, width: int, visit: Visit, light: Illumination, sun: np.ndarray,
    shadows: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Colour times received light, plus what the surface gives off, seen through the air; float32 (3, N).

    Args:
        width: of the image, pixels.
        sun: unit vector towards the sun, (3,).
        shadows: prisms that darken the ground around them; only given for the ground.
    """
    row, column = np.divmod(part.pixels, width)
    x = np.float32(view.eye[0]) + part.depth * view.dx[column]
    y = np.float32(view.eye[1]) + part.depth * view.dy[column]
    z = view.height + part.depth * view.slopes[row]
    received = light.ambient
    if light.sun.any():
        direct = part.towards_sun * _sunlit(street, sun, x, y, z)
        if shadows is not None:
            direct *= _tree_shade(shadows, visit, sun, x, y)
        received = received + light.sun * direct
    if visit.evening:
        received = received + LAMP_COLOUR * _lamplight(view, street, x, y, z, visit.evening)
    colour = part.colour * received
    if part.emission is not None:
        colour += part.emission
    if shadows is not None:
        colour *= _contact_shade(shadows, view.eye[0], x, y)
    clear = np.exp(part.depth * np.float32(-1 / visit.visibility_m))
    return colour * clear + light.horizon * (np.float32(0.9) * (1 - clear))


def _sunlit(street: Street, sun: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """0 in the shadow of the row of houses on the sun's side, 1 outside, (N,)."""
    side = 1.0 if sun[1] > 0 else -1.0
    to_wall = np.maximum(street.half_m - side * y, 0) * np.float32(1 / max(abs(float(sun[1])), 0.05))
    top = street.height_at(int(side > 0), x + to_wall * sun[0])
    return np.clip(z + to_wall * sun[2] - top + 0.5, 0, 1)


def _lamplight(view: View, street: Street, x: np.ndarray, y: np.ndarray, z: np.ndarray, strength: float) -> np.ndarray:
    ahead = (street.lamps[:, 0] - view.eye[0]) * np.cos(view.yaw)
    near = street.lamps[(ahead > -12) & (ahead < 75)]
    total = np.zeros(len(x), np.float32)
    for lamp in near[np.argsort(np.abs(near[:, 0] - view.eye[0]))[:_LAMPS_SEEN]]:
        total += 13 / (26 + (x - lamp[0]) ** 2 + (y - lamp[1]) ** 2 + (z - lamp[2]) ** 2)
    return total * np.float32(1.3 * strength)


def _tree_shade(prisms: np.ndarray, visit: Visit, sun: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of sunlight that the crowns of trees let through to the ground, (N,)."""
    through = np.ones(len(x), np.float32)
    blocked = 0.2 if visit.condition.season == "winter" else 0.75
    for tree in prisms[prisms["foliage"] == DECIDUOUS]:
        reach = (tree["z0"] + tree["z1"]) / 2 / max(float(sun[2]), 0.2)
        cx, cy = (tree["x0"] + tree["x1"]) / 2 - reach * sun[0], (tree["y0"] + tree["y1"]) / 2 - reach * sun[1]
        radius = (tree["x1"] - tree["x0"]) / 2
        away = ((x - cx) ** 2 + (y - cy) ** 2) * (1 / (1.3 * radius**2))
        through -= blocked * np.clip(1.6 - 1.6 * away, 0, 1) * through
    return through


def _contact_shade(prisms: np.ndarray, eye_x: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Dark ground under the nearest vehicles, (N,)."""
    shade = np.ones(len(x), np.float32)
    cars = prisms[(prisms["z0"] > 0.1) & (prisms["z0"] < 0.35)]
    distance = np.abs(cars["x0"] + cars["x1"] - 2 * eye_x)
    for car in cars[np.argsort(distance)[:_CARS_SHADED]]:
        outside = np.maximum(
            np.abs(x - (car["x0"] + car["x1"]) / 2) - (car["x1"] - car["x0"]) / 2,
            np.abs(y - (car["y0"] + car["y1"]) / 2) - (car["y1"] - car["y0"]) / 2,
        )
        np.minimum(shade, np.maximum(0.35 + outside * 1.2, 0.3), out=shade)
    return shade


def reflect(view: View, image: np.ndarray, pixels: np.ndarray, mirror: np.ndarray, width: int) -> None:
    """Mirror in the wet ground what stands above the horizon, in place; `image` (3, H * W), `mirror` (N,) in 0..1."""
    rows = len(view.slopes)
    row, column = np.divmod(pixels, width)
    facing = np.searchsorted(-view.slopes, view.slopes)  # the row that climbs as steeply as this one falls
    smear = np.float32(0)
    for offset in _SMEAR:
        above = np.clip(facing + round(offset * rows), 0, np.arange(rows))[row]
        smear = smear + image[:, above * width + column]
    image[:, pixels] += (smear / len(_SMEAR) - image[:, pixels]) * mirror
