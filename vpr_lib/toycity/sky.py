"""The sky and the light it sends down."""

import numpy as np

from vpr_lib.toycity.conditions import Visit
from vpr_lib.toycity.looks import LOOKS, Illumination
from vpr_lib.toycity.textures import clouds
from vpr_lib.toycity.view import View


def illumination(visit: Visit) -> Illumination:
    return LOOKS.light[f"{visit.condition.time} {visit.condition.weather}"]


def sun_direction(visit: Visit) -> np.ndarray:
    """Unit vector towards the sun in the frame of the street, (3,)."""
    flat = np.cos(visit.sun_elevation_rad)
    azimuth = visit.sun_azimuth_rad
    return np.array((flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(visit.sun_elevation_rad)), np.float32)


def shade_sky(view: View, pixels: np.ndarray, width: int, visit: Visit) -> np.ndarray:
    """Colour of the sky, linear, (3, N): a gradient with clouds drifting over it."""
    light = illumination(visit)
    row, column = np.divmod(pixels, width)
    slope = np.maximum(view.slopes, 0)
    height = slope / np.sqrt(1 + slope**2)  # sine of elevation, (H,)
    blend = np.clip(height * 1.5, 0, 1) ** 0.6
    gradient = light.horizon * (1 - blend) + light.zenith * blend  # (3, H)
    thick = _cloud_density(view, visit)[row, column] - np.float32(light.cover)
    amount = np.clip(thick * 0.8 + 0.35, 0, 1) * (np.clip(6 * height, 0, 1) * np.float32(0.7))[row]
    return gradient[:, row] * (1 - amount) + light.cloud * (0.9 + 0.1 * np.clip(thick, -1, 1)) * amount


def _cloud_density(view: View, visit: Visit) -> np.ndarray:
    """Density per pixel, bilinear, (H, W)."""
    density = clouds()
    rows, columns = density.shape
    azimuth = (np.arctan2(view.dy, view.dx) / np.float32(np.pi) + 2 * visit.cloud_shift) % 1 * columns
    level = np.clip((rows - 2) * (1 - 1 / (1 + 2.2 * np.maximum(view.slopes, 0))), 0, rows - 2)
    low, left = level.astype(np.int64), azimuth.astype(np.int64) % columns
    up, right = (level - low).astype(np.float32)[:, None], azimuth - np.floor(azimuth)
    strips = density[:, left] * (1 - right) + density[:, (left + 1) % columns] * right  # (rows, W)
    return strips[low] * (1 - up) + strips[low + 1] * up
