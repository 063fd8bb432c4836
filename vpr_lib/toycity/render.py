"""A photograph of the toy city: cast rays, colour surfaces, light them, develop."""

import numpy as np

from vpr_lib.toycity.cast import Hits, cast, in_view
from vpr_lib.toycity.clutter import clutter, keep_clear, occluder
from vpr_lib.toycity.columns import surfaces
from vpr_lib.toycity.conditions import Visit
from vpr_lib.toycity.ground import shade_ground
from vpr_lib.toycity.light import lit, reflect
from vpr_lib.toycity.prisms import PRISM
from vpr_lib.toycity.sensor import add_glow, develop
from vpr_lib.toycity.sky import illumination, shade_sky, sun_direction
from vpr_lib.toycity.street import Street
from vpr_lib.toycity.view import FAR_M, Pose, View, make_view
from vpr_lib.toycity.walls import shade_roofs, shade_walls


def scene(street: Street, visit: Visit, pose: Pose, half_fov: float = np.pi, occluded: bool = False) -> np.ndarray:
    """The prisms within sight of a camera: street, cars, people, and perhaps a vehicle right in front; structured (N,).

    `half_fov` is half the horizontal angle of view in radians; at pi everything within FAR_M is kept.
    """
    cars, people = clutter(street, visit)
    parts = [street.prisms, cars[keep_clear(cars, pose.x, pose.y)], people[keep_clear(people, pose.x, pose.y)]]
    if occluded:
        forward = 1 if np.cos(np.radians(pose.yaw_deg)) > 0 else -1
        parts.append(occluder(pose.x, pose.y, forward, visit.seed))
    eye, yaw = np.array((pose.x, pose.y)), np.radians(pose.yaw_deg)
    parts = [part[in_view(part, eye, yaw, half_fov, FAR_M)] for part in parts]
    prisms = np.empty(sum(map(len, parts)), PRISM)
    np.concatenate(parts, out=prisms)
    return prisms


def render(
    street: Street,
    visit: Visit,
    pose: Pose,
    image_size: tuple[int, int],
    noise_seed: int = 0,
    occluded: bool = False,
    supersampling: int = 1,
) -> np.ndarray:
    """Photograph a street.

    Args:
        visit: condition, light and clutter.
        image_size: (height, width) in pixels.
        noise_seed: seeds the noise of the sensor and the drops of rain.
        occluded: put a bus or a van right in front of the camera.
        supersampling: rays per pixel along each side.
    Returns:
        uint8 (H, W, 3).
    """
    rows, width = (side * supersampling for side in image_size)
    view = make_view(pose, (rows, width))
    prisms = scene(street, visit, pose, view.half_fov, occluded)
    hits = cast(prisms, view.eye, view.dx, view.dy, FAR_M)
    surface = surfaces(view, prisms, hits, visit.condition.season == "winter")
    linear = _expose(view, street, prisms, hits, surface, visit)
    if supersampling > 1:
        fine = linear.reshape(3, image_size[0], supersampling, image_size[1], supersampling)
        linear = fine.mean((2, 4)).reshape(3, -1)
    return develop(linear, image_size, visit, noise_seed)


def _expose(
    view: View, street: Street, prisms: np.ndarray, hits: Hits, surface: np.ndarray, visit: Visit
) -> np.ndarray:
    """Light that reaches every pixel, linear, float32 (3, H * W)."""
    rows, width = surface.shape
    light, sun = illumination(visit), sun_direction(visit)
    free = surface.reshape(-1) < 0
    horizon = int((view.slopes >= -1e-3).sum()) * width  # pixels before it see the sky where nothing stands
    sky, ground = np.flatnonzero(free[:horizon]), horizon + np.flatnonzero(free[horizon:])
    image = np.empty((3, rows * width), np.float32)
    image[:, sky] = shade_sky(view, sky, width, visit)
    for shade in (shade_walls, shade_roofs):
        part = shade(view, prisms, hits, surface, visit, sun)
        image[:, part.pixels] = lit(view, street, part, width, visit, light, sun)
    paved, mirror = shade_ground(view, street, ground, width, visit, sun[2])
    image[:, paved.pixels] = lit(view, street, paved, width, visit, light, sun, shadows=prisms)
    if visit.wetness:
        reflect(view, image, paved.pixels, mirror, width)
    if visit.evening:
        add_glow(image, rows, 0.5 if visit.condition.weather in ("fog", "rain") else 0.3)
    return image
