"""Colours of walls, roofs, vehicles, furniture, trees and people, before any light falls on them.

Colours are linear (the square of what is displayed) and planar: (3, N).
"""

from dataclasses import dataclass

import numpy as np

from vpr_lib.toycity.canvas import ACCENT, FRAME, GLASS, LEDGE, SHADE
from vpr_lib.toycity.cast import Hits
from vpr_lib.toycity.columns import Columns, resolve
from vpr_lib.toycity.conditions import Visit
from vpr_lib.toycity.light import SNOW, Surface
from vpr_lib.toycity.prisms import ACROSS, CUTOUT, DECIDUOUS, FLAT
from vpr_lib.toycity.textures import MATERIAL_TILE_M, TILES, dice, faces, materials, words
from vpr_lib.toycity.view import View

_IS_SHOP = np.array([name.startswith(("shop", "arcade", "kiosk", "shelter")) for name in TILES])
_BARK = np.array((0.06, 0.045, 0.035), np.float32)
_YELLOWING, _REDDENING = np.array((7.0, 2.2, 0.7), np.float32), np.array((5.5, 0.9, 0.8), np.float32)
_GLASS_TINT = (0.85, 1.0, 1.15)
_LAMPLIT = (1.0, 0.68, 0.34)


def shade_walls(
    view: View, prisms: np.ndarray, hits: Hits, surface: np.ndarray, visit: Visit, sun: np.ndarray
) -> Surface:
    """Colour every pixel that shows an upright face.

    Args:
        prisms: structured (P,).
        surface: what every pixel shows, (H, W), from `first_hits`.
        sun: unit vector towards the sun, (3,).
    """
    width, count = surface.shape[1], hits.depth.shape[1]
    shown = surface.reshape(-1)
    pixels = np.flatnonzero((shown >= 0) & (shown < count))
    row = pixels // width
    cell = (pixels - row * width) * count + shown[pixels]
    seen = np.zeros(hits.depth.size, bool)
    seen[cell] = True
    cells = np.flatnonzero(seen)
    columns = resolve(view, prisms, hits, cells, visit.condition.season == "winter")
    entry = (np.cumsum(seen) - 1)[cell]  # pixel -> entry of columns
    depth = columns.depth[entry]
    colour, emission = _paint(columns, entry, view.height + view.slopes[row] * depth, visit)
    away = np.where(
        columns.faces_x, np.sign(view.dx[cells // count]) * sun[0], np.sign(view.dy[cells // count]) * sun[1]
    )
    facing = np.where(columns.prism["body"] == CUTOUT, np.float32(0.55), np.maximum(-away, 0))
    return Surface(pixels, depth, colour, emission, facing[entry])


@dataclass(frozen=True)
class _Texels:
    """What the tiles say about N pixels."""

    tile: np.ndarray  # int64
    storey: np.ndarray  # int64, -1 is the ground floor
    v: np.ndarray  # within the tile, from below
    channels: np.ndarray  # float32 (8, N), as listed in canvas.py


def _look_up(columns: Columns, entry: np.ndarray, above_base: np.ndarray) -> _Texels:
    prism = columns.prism
    storeys_up = (above_base - prism["ground_m"][entry]) * (1 / prism["storey_m"])[entry]
    storey = np.floor(storeys_up)
    ground = storeys_up < 0
    v = np.where(ground, above_base * (1 / prism["ground_m"])[entry], storeys_up - storey)
    v = np.clip(v, 0, np.float32(0.9999))
    highest = (prism["storeys"] - 2)[entry]
    kind = 1 + (storey >= highest).view(np.int8) + (storey > highest).view(np.int8)
    kind[ground] = 0
    tile = columns.rows.reshape(-1)[entry * 4 + kind]
    height_log2 = columns.height_log2[entry]
    row = (v * (1 << columns.height_log2).astype(np.float32)[entry]).astype(np.int64)
    channels = faces().fetch(columns.texel[entry] + (((tile << height_log2) + row) << columns.width_log2[entry]))
    return _Texels(tile, np.where(ground, -1, storey).astype(np.int64), v, channels)


def _paint(columns: Columns, entry: np.ndarray, z: np.ndarray, visit: Visit) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour and light given off, (3, N) each, of pixels at height z that show entry `entry` of `columns`."""
    prism = columns.prism
    above_base = z - prism["z0"][entry]
    texels = _look_up(columns, entry, above_base)
    key = (columns.bay * 37 + prism["seed"].astype(np.int64) * 71)[entry] + texels.storey * 101
    chance = dice()[key & 4095]  # one throw per window
    colour = _mix(columns, entry, z, texels, chance, visit)
    emission = None
    if visit.evening:
        tonight = 0.75 * chance + 0.25 * dice()[(key + visit.seed) & 4095]  # most windows keep their habits
        emission = _night_lights(columns, entry, texels, tonight, visit)
    _add_cornice(columns, entry, z, colour, emission)
    _add_sign(columns, entry, z, colour, emission)
    colour *= np.where(above_base < 0, 0.3, np.minimum(0.72 + 0.28 * z, 1))  # undersides; grime near the ground
    if visit.snow:
        colour += (SNOW - colour) * (texels.channels[LEDGE] * np.float32(visit.snow))
    return colour, emission


def _mix(
    columns: Columns, entry: np.ndarray, z: np.ndarray, texels: _Texels, chance: np.ndarray, visit: Visit
) -> np.ndarray:
    """Wall, frame, glass and accent in the prism's colours and the tile's proportions, (3, N)."""
    prism = columns.prism
    frame, glass, accent, shade = (texels.channels[part] for part in (FRAME, GLASS, ACCENT, SHADE))
    wall = np.maximum(1 - frame - glass - accent, 0) * _material(columns, entry, z)
    panes = np.where(chance > 0.7, 0.22, prism["glass"][entry] * (0.4 + chance)) ** 2  # some have their curtains drawn
    panes = glass * (panes + 0.05 * texels.v)  # the sky's sheen grows upwards
    of_wall = _wall_colours(columns, visit)
    colour = np.empty((3, len(entry)), np.float32)
    for i, tint in enumerate(_GLASS_TINT):
        painted = (prism["frame"][:, i] ** 2)[entry] * frame + (prism["accent"][:, i] ** 2)[entry] * accent
        colour[i] = of_wall[:, i][entry] * wall + painted + np.float32(tint) * panes
    colour *= (2 * shade) ** 1.5
    return colour


def _wall_colours(columns: Columns, visit: Visit) -> np.ndarray:
    """Linear wall colour per entry, (M, 3); leaves turn with the season."""
    colours = columns.prism["wall"] ** 2
    leafy = columns.prism["foliage"] == DECIDUOUS
    if visit.condition.season == "autumn" and leafy.any():
        turn = dice()[(columns.prism["seed"] * 13) & 4095][:, None]
        tint = _YELLOWING * (1 - turn) + _REDDENING * turn
        colours = np.where(leafy[:, None], colours * tint, colours)
    if visit.condition.season == "winter":
        colours = np.where(leafy[:, None], _BARK, colours)
    return colours


def _material(columns: Columns, entry: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Factor by which brick, stone or plaster vary the wall colour, (N,)."""
    atlas = materials()
    scale = np.float32(1 / MATERIAL_TILE_M)
    level_u = atlas.level(np.log2(columns.pixel_u * scale) + atlas.size_log2)
    level_v = atlas.level(np.log2(columns.pixel_v * scale) + atlas.size_log2)
    width_log2, height_log2 = atlas.size_log2 - level_u, (atlas.size_log2 - level_v)[entry]
    column = (np.mod(columns.u * scale, 1) * (1 << width_log2)).astype(np.int64)
    texel = atlas.offsets[level_u, level_v] + column
    row = (z * scale * (1 << height_log2)).astype(np.int64) & ((1 << height_log2) - 1)
    tile = columns.prism["material"].astype(np.int64)[entry]
    factor = 2 * atlas.fetch(texel[entry] + (((tile << height_log2) + row) << width_log2[entry]))[0]
    return factor * factor


def _night_lights(
    columns: Columns, entry: np.ndarray, texels: _Texels, tonight: np.ndarray, visit: Visit
) -> np.ndarray:
    """Light of lit windows, lamps and tail-lights, (3, N)."""
    prism, strength = columns.prism, np.float32(visit.evening)
    lit = np.where(_IS_SHOP[texels.tile], 0.85, prism["lit"][entry])
    windows = texels.channels[GLASS] * np.where(tonight < lit, 0.3 + 0.6 * tonight, 0) * strength
    lamps = texels.channels[ACCENT] * (1.3 * strength * prism["glow"])[entry]
    colours = prism["accent"] ** 2
    return np.stack([np.float32(tint) * windows + colours[:, i][entry] * lamps for i, tint in enumerate(_LAMPLIT)])


def _add_cornice(
    columns: Columns, entry: np.ndarray, z: np.ndarray, colour: np.ndarray, emission: np.ndarray | None
) -> None:
    depth_m = np.where(columns.faces_x, 0, columns.prism["cornice_m"])
    if not depth_m.any():
        return
    here = np.flatnonzero(columns.top[entry] - z < depth_m[entry])
    shown = entry[here]
    profile = 0.55 + 0.5 * np.clip((z[here] - columns.top[shown]) / depth_m[shown] + 1, 0, 1)
    colour[:, here] = (columns.prism["frame"][shown] ** 2).T * profile
    if emission is not None:
        emission[:, here] = 0


def _add_sign(
    columns: Columns, entry: np.ndarray, z: np.ndarray, colour: np.ndarray, emission: np.ndarray | None
) -> None:
    prism = columns.prism
    signed = (prism["word"] >= 0) & ((prism["sign_faces_x"] > 0) == columns.faces_x)
    if not signed.any():
        return
    here = np.flatnonzero(signed[entry] & (z >= prism["sign_z0"][entry]) & (z < prism["sign_z1"][entry]))
    shown, atlas = entry[here], words()
    height_m = prism["sign_z1"] - prism["sign_z0"]
    u, v = (
        ((columns.u - prism["sign_u0"]) / prism["sign_m"])[shown],
        ((z[here] - prism["sign_z0"][shown]) / height_m[shown] - 0.12) / 0.76,
    )
    inside = (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
    level_u = atlas.level(np.log2(columns.pixel_u / np.abs(prism["sign_m"])) + atlas.size_log2)[shown]
    level_v = atlas.level(np.log2(columns.pixel_v / np.maximum(height_m, 0.1)) + atlas.size_log2)[shown]
    u, v = np.where(inside, u, 0), np.where(inside, v, 0)
    letter = atlas.sample(prism["word"].astype(np.int64)[shown], u, v, level_u, level_v)[0] * inside
    for i in range(3):
        board, ink = prism["sign"][:, i] ** 2, prism["letters"][:, i] ** 2
        colour[i, here] = board[shown] * (1 - letter) + ink[shown] * letter
    if emission is not None:
        emission[:, here] = 0.5 * colour[:, here] * (prism["lit"][shown] > 0.2)


def shade_roofs(
    view: View, prisms: np.ndarray, hits: Hits, surface: np.ndarray, visit: Visit, sun: np.ndarray
) -> Surface:
    """Colour every pixel that shows a roof or another upper side; arguments as for `shade_walls`."""
    width, count = surface.shape[1], hits.depth.shape[1]
    pixels = np.flatnonzero(surface.reshape(-1) >= count)
    row, column = np.divmod(pixels, width)
    pick = hits.pick(column * count + surface.reshape(-1)[pixels] - count)
    prism, start, top = prisms[pick("prism")], pick("depth"), pick("top")
    end, slope = pick("ridge_depth"), view.slopes[row]
    climb = (pick("ridge") - top) / np.maximum(end - start, 1e-3)
    depth = np.clip((top - view.height - climb * start) / (slope - climb), start, end)
    x, y = (np.float32(o) + depth * d[column] for o, d in zip(view.eye, (view.dx, view.dy)))
    along, up = (
        np.where(prism["roof_axis"] == ACROSS, y, x) / MATERIAL_TILE_M,
        (view.height + slope * depth) / MATERIAL_TILE_M,
    )
    level = materials().level(np.log2(depth / (view.focal * MATERIAL_TILE_M)) + materials().size_log2)
    along, up = (np.minimum(w - np.floor(w), np.float32(0.9999)) for w in (along, up))
    factor = 2 * materials().sample(prism["roof_material"].astype(np.int64), along, up, level, level)[0]
    colour = (np.where((prism["roof_axis"] != FLAT)[:, None], prism["roof"], prism["wall"]).T * factor) ** 2
    colour += (SNOW - colour) * np.float32(0.95 * visit.snow)
    facing = np.full(len(pixels), max(0.3, 0.8 * sun[2]), np.float32)
    return Surface(pixels, depth, colour, None, facing)
