"""From linear light to a file's pixels: glow, exposure, rain in the air, tone curve, noise."""

import numpy as np

from vpr_lib.toycity.conditions import Visit

_GLOW_GRID = 28  # rows of the coarse image in which light spreads
_GAIN = {"day": 1.05, "dusk": 1.6, "night": 2.6}


def add_glow(image: np.ndarray, rows: int, strength: float) -> None:
    """Let lamps and windows shine into their surroundings, in place; `image` is linear, (3, rows * W)."""
    picture = image.reshape(3, rows, -1)
    step = max(1, rows // _GLOW_GRID)
    h, w = rows // step, picture.shape[2] // step
    blocks = np.clip(picture[:, : h * step, : w * step] - np.float32(0.25), 0, 2)
    bright = blocks.reshape(3, h, step, w, step).mean((2, 4))
    for axis in (1, 2):
        padded = np.pad(bright, [(2, 2) if a == axis else (0, 0) for a in range(3)])
        slices = [np.take(padded, range(i, i + bright.shape[axis]), axis) for i in range(5)]
        bright = (slices[0] + 2 * slices[1] + 3 * slices[2] + 2 * slices[3] + slices[4]) / 9
    bright = _stretch(_stretch(bright, 1, rows), 2, picture.shape[2])
    picture += np.float32(strength) * bright


def _stretch(coarse: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Linear interpolation along an axis to `size` samples."""
    count = coarse.shape[axis]
    at = np.clip((np.arange(size, dtype=np.float32) + 0.5) * count / size - 0.5, 0, count - 1)
    low = np.minimum(at.astype(np.int64), count - 2)
    weight = (at - low).reshape([-1 if a == axis else 1 for a in range(3)]).astype(np.float32)
    return np.take(coarse, low, axis) * (1 - weight) + np.take(coarse, low + 1, axis) * weight


def develop(linear: np.ndarray, image_size: tuple[int, int], visit: Visit, noise_seed: int) -> np.ndarray:
    """Linear light (3, H * W) -> uint8 (H, W, 3). Overwrites `linear`."""
    rng = np.random.default_rng(noise_seed)
    time = visit.condition.time
    linear *= np.array(visit.white_balance, np.float32)[:, None] * np.float32(visit.exposure * _GAIN[time])
    if visit.condition.weather == "rain":
        linear += np.float32(0.02) * _streaks(image_size, rng)
    image = np.sqrt(np.maximum(1.2 * linear / (1 + np.float32(0.25) * linear), 0))
    image += rng.standard_normal(image.shape, np.float32) * np.float32(0.022 if time == "night" else 0.012)
    image *= 255
    return np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8).reshape(3, *image_size).transpose(1, 2, 0)


def _streaks(image_size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Falling drops, drawn out by the exposure, 0 or 1 (H * W,)."""
    height, width = image_size
    length = max(3, height // 14)
    drops = rng.random((height // length + 2, width), np.float32) < 0.05
    rows = (np.arange(height)[:, None] + rng.integers(length, size=width)) // length
    return drops[rows, np.arange(width)].reshape(-1)
