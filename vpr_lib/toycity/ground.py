"""Road, pavements and side streets: material, markings, leaves, snow and wetness."""

import numpy as np

from vpr_lib.toycity.conditions import Visit
from vpr_lib.toycity.light import SNOW, Surface
from vpr_lib.toycity.street import Street
from vpr_lib.toycity.textures import MATERIAL_INDEX, MATERIAL_TILE_M, materials
from vpr_lib.toycity.view import View

PATCHES_M = 23.0  # size of the tile of stains, snow drifts and puddles
_PAVEMENT = np.array((0.22, 0.21, 0.195), np.float32)
_GRASS = np.array((0.07, 0.12, 0.035), np.float32)
_LEAVES = np.array((0.34, 0.14, 0.03), np.float32)
_BIKE_LANE = np.array((0.25, 0.06, 0.045), np.float32)
_PAINT, _KERB = np.float32(0.6), np.float32(0.3)


def _line(distance: np.ndarray, half_width: float, pixel: np.ndarray) -> np.ndarray:
    """Share of a pixel covered by a line whose centre is `distance` away."""
    return np.clip((half_width - np.abs(distance)) / pixel + 0.5, 0, 1)


class GroundPatch:
    """The pixels that see the ground: positions and what one pixel covers there, all (N,)."""

    def __init__(self, view: View, pixels: np.ndarray, width: int):
        self.pixels = pixels
        row, column = np.divmod(pixels, width)
        slope = np.minimum(view.slopes, np.float32(-1e-3))
        depth = -view.height / slope  # (H,)
        self.depth = depth[row]
        self.x = np.float32(view.eye[0]) + self.depth * view.dx[column]
        self.y = np.float32(view.eye[1]) + self.depth * view.dy[column]
        self.off_axis = np.abs(self.y)
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
    ground = GroundPatch(view, pixels, width)
    crossings = street.crossings[np.abs(street.crossings[:, 0] - view.eye[0] - 45 * np.cos(view.yaw)) < 60]
    mouth = np.zeros(len(pixels), np.float32)  # 1 in the mouth of a side street
    for x0, x1 in crossings:
        np.maximum(mouth, _line(ground.x - (x0 + x1) / 2, (x1 - x0) / 2, ground.pixel_x), out=mouth)
    road = np.maximum(_line(ground.y, street.half_road_m, ground.pixel_y), mouth)
    grain, stains, colour = _surfaces(street, ground, road, mouth)
    kerb = _line(ground.off_axis - street.half_road_m - 0.08, 0.1, ground.pixel_y) * (1 - mouth)
    colour += (_KERB - colour) * kerb
    if street.markings == "bikes":
        lane = _line(ground.off_axis - street.half_road_m + 0.9, 0.7, ground.pixel_y) * (1 - mouth)
        colour += (_BIKE_LANE[:, None] * grain - colour) * (np.float32(0.75) * lane)
    paint = _markings(street, crossings, ground, mouth)
    colour += (_PAINT - colour) * (paint * (0.7 + 0.3 * np.minimum(grain, 1)))
    mirror = _weather(street, visit, ground, road, stains, grain, colour)
    return Surface(pixels, ground.depth, colour, None, np.full(len(pixels), sun_up, np.float32)), mirror


def _surfaces(
    street: Street, ground: GroundPatch, road: np.ndarray, mouth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grain of the material and large stains, factors around 1, (N,); and the colour they give, (3, N)."""
    lawn = (ground.off_axis > street.half_m) & (mouth < 0.5) & (street.kind == "suburb")
    tile = np.where(lawn, MATERIAL_INDEX["grass"], MATERIAL_INDEX["paving"])
    tile = np.where(road > 0.5, MATERIAL_INDEX[street.surface], tile)
    grain = ground.material(tile, MATERIAL_TILE_M)
    stains = ground.material(MATERIAL_INDEX["patches"], PATCHES_M)
    beside = np.where(lawn, _GRASS[:, None], _PAVEMENT[:, None])
    colour = np.float32(street.asphalt**2) * road + beside * (1 - road)
    return grain, stains, colour * (grain * (0.85 + 0.15 * stains)) ** 2


def _markings(street: Street, crossings: np.ndarray, ground: GroundPatch, mouth: np.ndarray) -> np.ndarray:
    """Share of white paint per pixel."""
    zebra = np.zeros(len(ground.x), np.float32)
    for x0, _ in crossings:
        bars = _line(np.mod(ground.y + 0.5, 1.0) - 0.5, 0.25, ground.pixel_y)
        zebra += _line(ground.x - x0 + 2.2, 1.4, ground.pixel_x) * bars
    zebra *= ground.off_axis < street.half_road_m - 0.2
    if street.markings == "none":
        return np.minimum(zebra, 1)
    if street.markings == "double":
        lines = _line(ground.off_axis - 0.14, 0.06, ground.pixel_y)
    elif street.markings == "rails":
        lines = 0.35 * (
            _line(ground.off_axis - 0.7, 0.05, ground.pixel_y) + _line(ground.off_axis - 2.2, 0.05, ground.pixel_y)
        )
    else:
        lines = _line(ground.y, 0.07, ground.pixel_y) * _line(np.mod(ground.x, 6.0) - 3.0, 1.5, ground.pixel_x)
    return np.minimum(lines * (1 - mouth) + zebra, 1)


def _weather(
    street: Street,
    visit: Visit,
    ground: GroundPatch,
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
        tracks = np.abs(np.abs(np.mod(ground.off_axis, street.half_road_m) - 0.4 * street.half_road_m) - 0.75)
        packed = np.where(road > 0.5, np.clip(tracks * 1.1, 0.12, 0.8), 1.0)
        cover = np.clip((stains * 0.9 + 0.5 * grain - 1.75 + 1.55 * visit.snow * packed) * 2.2, 0, 0.97)
        colour += (SNOW * (0.9 + 0.1 * stains) - colour) * cover
    if not visit.wetness:
        return np.zeros(len(road), np.float32)
    puddles = np.clip((stains - 0.85) * 2.5, 0, 1)
    colour *= 1 - visit.wetness * (0.35 + 0.15 * puddles)
    grazing = 1 / (1 + 0.5 * np.minimum(ground.depth, 30)) ** 0.5
    return visit.wetness * (1 - grazing) * (0.25 + 0.45 * puddles) * (0.5 + 0.5 * road)
