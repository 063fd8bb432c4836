"""Road, pavements and side streets: material, markings, leaves, snow and wetness."""

import numpy as np

from vpr_lib.data.toycity.conditions import Visit
from vpr_lib.data.toycity.street import Street
from vpr_lib.data.toycity.surface import SNOW, Surface
from vpr_lib.data.toycity.textures import MATERIAL_INDEX, MATERIAL_TILE_M, materials
from vpr_lib.data.toycity.view import View

PATCHES_M = 23.0  # size of the tile of stains, snow drifts and puddles
_PAVEMENT = np.array((0.22, 0.21, 0.195), np.float32)
_GRASS = np.array((0.07, 0.12, 0.035), np.float32)
_LEAVES = np.array((0.34, 0.14, 0.03), np.float32)
_PAINT = np.float32(0.6)


def _line(distance: np.ndarray, half_width: float, pixel: np.ndarray) -> np.ndarray:
    """Share of a pixel covered by a line whose centre is `distance` away."""
    return np.clip((half_width - np.abs(distance)) / pixel + 0.5, 0, 1)


class GroundPatch:
    """The pixels that see the ground: positions and what one pixel covers there, all (N,)."""

    def __init__(self, view: View, pixels: np.ndarray, width: int):
        self.pixels = pixels
        row = pixels // width
        column = pixels - row * width
        slope = np.minimum(view.slopes, np.float32(-1e-3))
        depth = -view.height / slope  # (H,)
        self.depth = depth[row]
        self.x = np.float32(view.eye[0]) + self.depth * view.dx[column]
        self.y = np.float32(view.eye[1]) + self.depth * view.dy[column]
        sideways, ahead = depth / view.focal, depth**2 / (view.focal * view.height)
        cos, sin = (np.float32(abs(part)) for part in (np.cos(view.yaw), np.sin(view.yaw)))
        by_row = np.hypot(cos * ahead, sin * sideways), np.hypot(sin * ahead, cos * sideways)
        self._row, self._log2_pixel = row, [np.log2(pixel) for pixel in by_row]
        self.pixel_x, self.pixel_y = (pixel[row] for pixel in by_row)

    def material(self, tile: np.ndarray | int, size_m: float) -> np.ndarray:
        """Factor around 1 from a material laid out on the ground."""
        atlas, scale = materials(), np.float32(1 / size_m)
        level_u, level_v = (
            atlas.level(pixel + (atlas.size_log2 + np.log2(scale)))[self._row] for pixel in self._log2_pixel
        )
        u, v = (w * scale for w in (self.x, self.y))
        u, v = (np.minimum(w - np.floor(w), np.float32(0.9999)) for w in (u, v))
        return 2 * atlas.sample(tile, u, v, level_u, level_v)[0]


def shade_ground(
    view: View, street: Street, pixels: np.ndarray, width: int, visit: Visit, sun_up: float
) -> tuple[Surface, np.ndarray]:
    """Colour the ground. Returns the surface and how mirror-like each of its pixels is, (N,)."""
    g = GroundPatch(view, pixels, width)
    off_axis = np.abs(g.y)
    mouth = np.zeros(len(pixels), np.float32)  # 1 in the mouth of a side street
    crossings = street.crossings[np.abs(street.crossings[:, 0] - view.eye[0] - 45 * np.cos(view.yaw)) < 60]
    for x0, x1 in crossings:
        np.maximum(mouth, _line(g.x - (x0 + x1) / 2, (x1 - x0) / 2, g.pixel_x), out=mouth)
    road = np.maximum(_line(g.y, street.half_road_m, g.pixel_y), mouth)
    lawn = (off_axis > street.half_m) & (mouth < 0.5) if street.kind == "suburb" else np.zeros(len(pixels), bool)
    tile = np.where(
        road > 0.5, MATERIAL_INDEX[street.surface], MATERIAL_INDEX["grass" if street.kind == "suburb" else "paving"]
    )
    tile = np.where(~lawn & (road <= 0.5), MATERIAL_INDEX["paving"], tile)
    grain = g.material(tile, MATERIAL_TILE_M)
    stains = g.material(MATERIAL_INDEX["patches"], PATCHES_M)
    tint = grain * (0.85 + 0.15 * stains)
    tint *= tint
    asphalt = np.float32(street.asphalt**2)
    beside = np.where(lawn, _GRASS[:, None], _PAVEMENT[:, None])
    colour = (asphalt * np.array((1, 1, 1.04), np.float32)[:, None] * road + beside * (1 - road)) * tint
    kerb = _line(off_axis - street.half_road_m - 0.08, 0.1, g.pixel_y) * (1 - mouth)
    colour += (np.float32(0.3) - colour) * kerb
    paint = _markings(street, crossings, g, off_axis, mouth)
    colour += (_PAINT - colour) * (paint * (0.7 + 0.3 * np.clip(grain, 0, 1)))
    if street.markings == "bikes":
        lane = _line(off_axis - street.half_road_m + 0.9, 0.7, g.pixel_y) * (1 - mouth) * 0.75
        colour += (np.array((0.25, 0.06, 0.045), np.float32)[:, None] * tint - colour) * lane
    mirror = _weather(street, visit, g, road, stains, grain, colour)
    facing = np.full(len(pixels), sun_up, np.float32)
    return Surface(pixels, g.depth, colour, None, facing), mirror


def _markings(
    street: Street, crossings: np.ndarray, g: GroundPatch, off_axis: np.ndarray, mouth: np.ndarray
) -> np.ndarray:
    """Share of white paint per pixel."""
    zebra = np.zeros(len(g.x), np.float32)
    for x0, _ in crossings:
        bars = _line(np.mod(g.y + 0.5, 1.0) - 0.5, 0.25, g.pixel_y)
        zebra += _line(g.x - x0 + 2.2, 1.4, g.pixel_x) * bars
    zebra *= off_axis < street.half_road_m - 0.2
    if street.markings == "none":
        return np.minimum(zebra, 1)
    if street.markings == "double":
        lines = _line(off_axis - 0.14, 0.06, g.pixel_y)
    elif street.markings == "rails":
        lines = 0.35 * (_line(off_axis - 0.7, 0.05, g.pixel_y) + _line(off_axis - 2.2, 0.05, g.pixel_y))
    else:
        lines = _line(g.y, 0.07, g.pixel_y) * _line(np.mod(g.x, 6.0) - 3.0, 1.5, g.pixel_x)
    return np.minimum(lines * (1 - mouth) + zebra, 1)


def _weather(
    street: Street,
    visit: Visit,
    g: GroundPatch,
    road: np.ndarray,
    stains: np.ndarray,
    grain: np.ndarray,
    colour: np.ndarray,
) -> np.ndarray:
    """Leaves, snow and water, painted over `colour`; returns how mirror-like the ground is."""
    if visit.condition.season == "autumn" and street.has_trees:
        fallen = np.clip((grain * stains - 1.1) * 4, 0, 1) * np.where(road > 0.5, 0.15, 0.75)
        colour += (_LEAVES[:, None] - colour) * fallen
    if visit.snow:
        tracks = np.abs(np.abs(np.mod(np.abs(g.y), street.half_road_m) - 0.4 * street.half_road_m) - 0.75)
        packed = np.where(road > 0.5, np.clip(tracks * 1.1, 0.12, 0.8), 1.0)
        cover = np.clip((stains * 0.9 + 0.5 * grain - 1.75 + 1.55 * visit.snow * packed) * 2.2, 0, 0.97)
        colour += (SNOW * (0.9 + 0.1 * stains) - colour) * cover
    if not visit.wetness:
        return np.zeros(len(road), np.float32)
    puddles = np.clip((stains - 0.85) * 2.5, 0, 1)
    colour *= 1 - visit.wetness * (0.45 + 0.15 * puddles)
    grazing = 1 / (1 + 0.5 * np.minimum(g.depth, 30)) ** 0.5
    return visit.wetness * (1 - grazing) * (0.25 + 0.45 * puddles) * (0.5 + 0.5 * road)
