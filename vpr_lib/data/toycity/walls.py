"""Colours of walls, vehicles, furniture, trees and people, before any light falls on them.

Colours are linear (the square of what is displayed) and planar: (3, N).
"""

import numpy as np

from vpr_lib.data.toycity.canvas import ACCENT, FRAME, GLASS, LEDGE, SHADE
from vpr_lib.data.toycity.cast import Hits
from vpr_lib.data.toycity.columns import Columns, resolve
from vpr_lib.data.toycity.conditions import Visit
from vpr_lib.data.toycity.prisms import CUTOUT, DECIDUOUS
from vpr_lib.data.toycity.surface import SNOW, Surface, evening
from vpr_lib.data.toycity.textures import MATERIAL_TILE_M, TILES, dice, faces, materials, words
from vpr_lib.data.toycity.view import View

_IS_SHOP = np.array([name.startswith(("shop", "arcade", "kiosk", "shelter")) for name in TILES])
_BARK = np.array((0.06, 0.045, 0.035), np.float32)


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
    c = resolve(view, prisms, hits, cells, visit.condition.season == "winter")
    j = (np.cumsum(seen) - 1)[cell]  # pixel -> entry of c
    depth = c.depth[j]
    colour, emission = _paint(c, j, view.height + view.slopes[row] * depth, visit)
    away = np.where(c.faces_x, np.sign(view.dx[cells // count]) * sun[0], np.sign(view.dy[cells // count]) * sun[1])
    facing = np.where(c.prism["body"] == CUTOUT, np.float32(0.55), np.maximum(-away, 0))
    return Surface(pixels, depth, colour, emission, facing[j])


def _paint(c: Columns, j: np.ndarray, z: np.ndarray, visit: Visit) -> tuple[np.ndarray, np.ndarray | None]:
    p = c.prism
    above_base = z - p["z0"][j]
    storeys_up = (above_base - p["ground_m"][j]) * (1 / p["storey_m"])[j]
    storey = np.floor(storeys_up)
    ground = storeys_up < 0
    v = np.where(ground, above_base * (1 / p["ground_m"])[j], storeys_up - storey)
    v = np.clip(v, 0, np.float32(0.9999))
    highest = (p["storeys"] - 2)[j]
    storey_class = 1 + (storey >= highest).view(np.int8) + (storey > highest).view(np.int8)
    storey_class[ground] = 0
    tile = c.rows.reshape(-1)[j * 4 + storey_class]
    height_log2 = c.height_log2[j]
    index = c.texel[j] + (((tile << height_log2) + (v * (1 << height_log2)).astype(np.int64)) << c.width_log2[j])
    texel = faces().fetch(index)
    wall_colour = _wall_colours(c, visit)
    key = (c.bay * 37 + p["seed"].astype(np.int64) * 71)[j] + storey.astype(np.int64) * 101
    chance = dice()[key & 4095]
    frame, glass, accent = texel[FRAME], texel[GLASS], texel[ACCENT]
    shade = texel[SHADE] * 2
    wall = np.maximum(1 - frame - glass - accent, 0) * _material(c, j, z)
    panes = np.where(chance > 0.7, 0.22, p["glass"][j] * (0.4 + chance)) ** 2 * glass  # some have their curtains drawn
    sheen = 0.05 * glass * v
    colour = np.empty((3, len(j)), np.float32)
    for i, tint in enumerate((0.85, 1.0, 1.15)):
        parts = wall_colour[:, i][j] * wall + (p["frame"][:, i] ** 2)[j] * frame + (p["accent"][:, i] ** 2)[j] * accent
        colour[i] = parts + tint * (panes + sheen)
    colour *= shade * np.sqrt(shade)
    emission = None
    if evening(visit):
        tonight = 0.75 * chance + 0.25 * dice()[(key + visit.seed) & 4095]  # most windows keep their habits
        emission = _windows_at_night(c, j, tile, glass, accent, tonight, visit)
    _add_cornice(c, j, z, colour, emission)
    _add_sign(c, j, z, colour, emission)
    colour *= np.where(above_base < 0, 0.3, np.minimum(0.72 + 0.28 * z, 1))  # undersides; grime near the ground
    if visit.snow:
        cover = texel[LEDGE] * visit.snow
        colour += (SNOW - colour) * cover
    return colour, emission


def _wall_colours(c: Columns, visit: Visit) -> np.ndarray:
    """Linear wall colour per entry, (M, 3); leaves turn with the season."""
    colours = c.prism["wall"] ** 2
    leafy = c.prism["foliage"] == DECIDUOUS
    if visit.condition.season == "autumn" and leafy.any():
        turn = dice()[(c.prism["seed"] * 13) & 4095][:, None]
        tint = np.array((7.0, 2.2, 0.7), np.float32) * (1 - turn) + np.array((5.5, 0.9, 0.8), np.float32) * turn
        colours = np.where(leafy[:, None], colours * tint, colours)
    if visit.condition.season == "winter":
        colours = np.where(leafy[:, None], _BARK, colours)
    return colours


def _material(c: Columns, j: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Factor by which brick, stone or plaster vary the wall colour, (N,)."""
    atlas = materials()
    scale = np.float32(1 / MATERIAL_TILE_M)
    level_u = atlas.level(np.log2(c.pixel_u * scale) + atlas.size_log2)
    level_v = atlas.level(np.log2(c.pixel_v * scale) + atlas.size_log2)
    width_log2, height_log2 = atlas.size_log2 - level_u, (atlas.size_log2 - level_v)[j]
    column = (np.mod(c.u * scale, 1) * (1 << width_log2)).astype(np.int64)
    texel = atlas.offsets[level_u, level_v] + column
    row = (z * scale * (1 << height_log2)).astype(np.int64) & ((1 << height_log2) - 1)
    tile = c.prism["material"].astype(np.int64)[j]
    factor = 2 * atlas.fetch(texel[j] + (((tile << height_log2) + row) << width_log2[j]))[0]
    return factor * factor


def _windows_at_night(
    c: Columns,
    j: np.ndarray,
    tile: np.ndarray,
    glass: np.ndarray,
    accent: np.ndarray,
    tonight: np.ndarray,
    visit: Visit,
) -> np.ndarray:
    """Light of lit windows, lamps and tail-lights, (3, N)."""
    lit = np.where(_IS_SHOP[tile], 0.85, c.prism["lit"][j])
    strength = glass * np.where(tonight < lit, 0.3 + 0.6 * tonight, 0) * evening(visit)
    glow = accent * (c.prism["glow"] * evening(visit))[j]
    lights = c.prism["accent"] ** 2
    return np.stack([tint * strength + 1.3 * lights[:, i][j] * glow for i, tint in enumerate((1.0, 0.68, 0.34))])


def _add_cornice(c: Columns, j: np.ndarray, z: np.ndarray, colour: np.ndarray, emission: np.ndarray | None) -> None:
    depth_m = np.where(c.faces_x, 0, c.prism["cornice_m"])
    if not depth_m.any():
        return
    here = np.flatnonzero(c.top[j] - z < depth_m[j])
    k = j[here]
    profile = 0.55 + 0.5 * np.clip((z[here] - c.top[k]) / depth_m[k] + 1, 0, 1)
    colour[:, here] = (c.prism["frame"][k] ** 2).T * profile
    if emission is not None:
        emission[:, here] = 0


def _add_sign(c: Columns, j: np.ndarray, z: np.ndarray, colour: np.ndarray, emission: np.ndarray | None) -> None:
    p = c.prism
    signed = (p["word"] >= 0) & ((p["sign_faces_x"] > 0) == c.faces_x)
    if not signed.any():
        return
    here = np.flatnonzero(signed[j] & (z >= p["sign_z0"][j]) & (z < p["sign_z1"][j]))
    k, atlas = j[here], words()
    height_m = p["sign_z1"] - p["sign_z0"]
    u, v = ((c.u - p["sign_u0"]) / p["sign_m"])[k], ((z[here] - p["sign_z0"][k]) / height_m[k] - 0.12) / 0.76
    inside = (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
    level_u = atlas.level(np.log2(c.pixel_u / np.abs(p["sign_m"])) + atlas.size_log2)[k]
    level_v = atlas.level(np.log2(c.pixel_v / np.maximum(height_m, 0.1)) + atlas.size_log2)[k]
    u, v = np.where(inside, u, 0), np.where(inside, v, 0)
    letter = atlas.sample(p["word"].astype(np.int64)[k], u, v, level_u, level_v)[0] * inside
    for i in range(3):
        board, ink = p["sign"][:, i] ** 2, p["letters"][:, i] ** 2
        colour[i, here] = board[k] * (1 - letter) + ink[k] * letter
    if emission is not None:
        emission[:, here] = 0.5 * colour[:, here] * (p["lit"][k] > 0.2)
