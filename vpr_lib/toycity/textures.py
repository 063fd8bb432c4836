"""The atlases the renderer reads: faces, materials, shop names, clouds. Built once per process, the same in every process."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vpr_lib.toycity.atlas import RipAtlas, fractal_noise
from vpr_lib.toycity.canvas import Canvas
from vpr_lib.toycity.facade_tiles import FACADE_TILES
from vpr_lib.toycity.prop_tiles import PROP_TILES

TILES = {name: index for index, name in enumerate((*FACADE_TILES, *PROP_TILES))}
MATERIAL_TILE_M = 4.0  # metres along each side of a material tile
_SIZE = 128  # texels of a material tile: 3 cm each

WORDS = (
    *("BAKERY", "CAFE", "BOOKS", "HOTEL", "PIZZA", "BANK", "SHOES", "OPTIK", "BAR", "FLOWERS", "TOYS", "MUSIC"),
    *("WINE", "BIKES", "PHARMA", "SALON", "NOODLES", "CINEMA", "TAILOR", "KEBAB", "MARKET", "LAUNDRY", "TEA"),
    *("RADIO", "LAMPS", "ANTIQUES", "POST", "DENTIST", "GRILL", "SUSHI", "FISH", "PAINT", "PHOTO", "YOGA"),
)


def _rows(size: int, courses: int, bricks: int, joint: float, contrast: float, seed: int) -> np.ndarray:
    """Masonry in running bond: stones of varying shade between darker joints."""
    axis = (np.arange(size) + 0.5) / size
    u, v = np.meshgrid(axis, axis)
    course = np.floor(v * courses)
    along = u * bricks + 0.5 * (course % 2)
    shade = np.random.default_rng(seed).normal(1, contrast, (courses, bricks))
    stone = shade[course.astype(int), np.floor(along).astype(int) % bricks]
    gap = (np.mod(along, 1) < joint * bricks) | (np.mod(v * courses, 1) < joint * courses)
    return np.where(gap, 0.8, stone)


def _material(draw: Callable[[], np.ndarray]) -> np.ndarray:
    grain = 0.03 * fractal_noise(_SIZE, 7, 0.3)
    return np.clip((draw() + grain) / 2, 0, 1).astype(np.float32)


MATERIALS: dict[str, Callable[[], np.ndarray]] = {
    "plaster": lambda: 1 + 0.035 * fractal_noise(_SIZE, 1, 1.2),
    "brick": lambda: _rows(_SIZE, 32, 12, 0.008, 0.11, 2),
    "stone": lambda: _rows(_SIZE, 8, 4, 0.012, 0.07, 3),
    "concrete": lambda: _rows(_SIZE, 3, 2, 0.009, 0.03, 4) + 0.03 * fractal_noise(_SIZE, 5, 1.4),
    "planks": lambda: _rows(_SIZE, 24, 1, 0.008, 0.05, 6),
    "roof_tiles": lambda: _rows(_SIZE, 16, 16, 0.018, 0.09, 8),
    "slate": lambda: _rows(_SIZE, 14, 10, 0.006, 0.07, 9),
    "asphalt": lambda: 1 + 0.06 * fractal_noise(_SIZE, 10, 0.2) + 0.03 * fractal_noise(_SIZE, 11, 1.2),
    "paving": lambda: _rows(_SIZE, 8, 8, 0.01, 0.05, 12),
    "cobbles": lambda: _rows(_SIZE, 24, 20, 0.012, 0.14, 13),
    "grass": lambda: 1 + 0.16 * fractal_noise(_SIZE, 14, 0.4),
    "patches": lambda: 1 + 0.28 * fractal_noise(_SIZE, 15, 1.25),  # sampled at a larger scale: stains, snow, puddles
}
MATERIAL_INDEX = {name: index for index, name in enumerate(MATERIALS)}


def _word(text: str) -> np.ndarray:
    """White letters that fill a square tile, float32 (64, 64) from below; the sign stretches it to its length."""
    font = ImageFont.load_default(size=64)
    left, top, right, bottom = font.getbbox(text, stroke_width=2)
    image = Image.new("L", (right - left + 16, bottom - top + 16))
    ImageDraw.Draw(image).text((8 - left, 8 - top), text, fill=255, font=font, stroke_width=2)
    return np.asarray(image.resize((64, 64), Image.Resampling.BOX), np.float32)[::-1] / 255


@lru_cache(maxsize=1)
def faces() -> RipAtlas:
    """Eight channels as listed in canvas.py."""
    tiles = []
    for draw in (*FACADE_TILES.values(), *PROP_TILES.values()):
        canvas = Canvas()
        draw(canvas)
        tiles.append(canvas.tile)
    return RipAtlas(np.stack(tiles))


@lru_cache(maxsize=1)
def materials() -> RipAtlas:
    """One channel: half the factor by which the colour is multiplied."""
    return RipAtlas(np.stack([_material(draw) for draw in MATERIALS.values()])[..., None])


@lru_cache(maxsize=1)
def words() -> RipAtlas:
    """One channel: how much of a texel is letter."""
    return RipAtlas(np.stack([_word(text) for text in WORDS])[..., None])


@lru_cache(maxsize=1)
def clouds() -> np.ndarray:
    """Cloud density by elevation and azimuth, float32 (128, 512), deviation 1, tileable."""
    return np.ascontiguousarray(fractal_noise(512, 20, 1.7, 2)[::4])


@lru_cache(maxsize=1)
def dice() -> np.ndarray:
    """4096 uniform numbers: a cheap hash for windows, `dice()[key & 4095]`."""
    return np.random.default_rng(21).random(4096, np.float32)
