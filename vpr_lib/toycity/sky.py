"""The sky and the light it sends down."""

from dataclasses import dataclass

import numpy as np

from vpr_lib.toycity.conditions import Visit
from vpr_lib.toycity.textures import clouds
from vpr_lib.toycity.view import View

Rgb = np.ndarray


def _rgb(*values: float) -> Rgb:
    return np.array(values, np.float32)[:, None]


@dataclass(frozen=True)
class Illumination:
    """Linear colours (3, 1) of one time and weather."""

    zenith: Rgb
    horizon: Rgb
    ambient: Rgb
    sun: Rgb
    cloud: Rgb
    cover: float  # cloud density that is half covered: low values mean many clouds


_GREY_DAY = Illumination(
    _rgb(0.55, 0.575, 0.61), _rgb(0.68, 0.69, 0.71), _rgb(0.72, 0.74, 0.77), _rgb(0, 0, 0), _rgb(0.70, 0.71, 0.73), 0.0
)
_NIGHT = Illumination(
    _rgb(0.004, 0.005, 0.012),
    _rgb(0.022, 0.02, 0.026),
    _rgb(0.018, 0.02, 0.034),
    _rgb(0, 0, 0),
    _rgb(0.016, 0.015, 0.018),
    0.6,
)
LIGHT: dict[tuple[str, str], Illumination] = {
    ("day", "clear"): Illumination(
        _rgb(0.10, 0.26, 0.66), _rgb(0.52, 0.68, 0.86), _rgb(0.50, 0.55, 0.62), _rgb(0.62, 0.56, 0.46), _rgb(0.92, 0.92, 0.92), 1.0
    ),
    ("day", "overcast"): _GREY_DAY,
    ("day", "rain"): Illumination(_rgb(0.28, 0.30, 0.34), _rgb(0.42, 0.44, 0.46), _rgb(0.44, 0.46, 0.49), _rgb(0, 0, 0), _rgb(0.44, 0.45, 0.47), 0.1),
    ("day", "fog"): Illumination(_rgb(0.60, 0.62, 0.64), _rgb(0.60, 0.62, 0.64), _rgb(0.62, 0.64, 0.66), _rgb(0, 0, 0), _rgb(0.6, 0.62, 0.64), 9.0),
    ("dusk", "clear"): Illumination(
        _rgb(0.055, 0.07, 0.19), _rgb(0.78, 0.36, 0.15), _rgb(0.21, 0.185, 0.22), _rgb(0.28, 0.15, 0.08), _rgb(0.42, 0.18, 0.14), 0.8
    ),
    ("dusk", "overcast"): Illumination(_rgb(0.10, 0.10, 0.15), _rgb(0.26, 0.21, 0.21), _rgb(0.16, 0.15, 0.19), _rgb(0, 0, 0), _rgb(0.2, 0.18, 0.2), 0.0),
    ("dusk", "rain"): Illumination(_rgb(0.06, 0.065, 0.10), _rgb(0.15, 0.13, 0.15), _rgb(0.11, 0.11, 0.145), _rgb(0, 0, 0), _rgb(0.11, 0.1, 0.13), 0.1),
    ("dusk", "fog"): Illumination(_rgb(0.17, 0.16, 0.19), _rgb(0.21, 0.18, 0.19), _rgb(0.16, 0.15, 0.18), _rgb(0, 0, 0), _rgb(0.2, 0.18, 0.19), 9.0),
    **{("night", weather): _NIGHT for weather in ("clear", "overcast", "rain")},
    ("night", "fog"): Illumination(_rgb(0.03, 0.026, 0.03), _rgb(0.04, 0.034, 0.034), _rgb(0.025, 0.025, 0.034), _rgb(0, 0, 0), _rgb(0.03, 0.03, 0.03), 9.0),
}  # fmt: skip


def illumination(visit: Visit) -> Illumination:
    return LIGHT[visit.condition.time, visit.condition.weather]


def sun_direction(visit: Visit) -> np.ndarray:
    """Unit vector towards the sun in the frame of the street, (3,)."""
    flat = np.cos(visit.sun_elevation_rad)
    azimuth = visit.sun_azimuth_rad
    return np.array((flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(visit.sun_elevation_rad)), np.float32)


def shade_sky(view: View, pixels: np.ndarray, width: int, visit: Visit) -> np.ndarray:
    """Colour of the sky, linear, (3, N): a gradient with clouds drifting over it."""
    light = illumination(visit)
    row = pixels // width
    column = pixels - row * width
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
