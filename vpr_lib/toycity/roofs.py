"""Colours of roofs and of the upper sides of everything else."""

import numpy as np

from vpr_lib.toycity.cast import Hits
from vpr_lib.toycity.conditions import Visit
from vpr_lib.toycity.prisms import ACROSS, FLAT
from vpr_lib.toycity.surface import SNOW, Surface
from vpr_lib.toycity.textures import MATERIAL_TILE_M, materials
from vpr_lib.toycity.view import View


def shade_roofs(
    view: View, prisms: np.ndarray, hits: Hits, surface: np.ndarray, visit: Visit, sun: np.ndarray
) -> Surface:
    """Colour every pixel that shows a roof or another upper side; arguments as for `shade_walls`."""
    width, count = surface.shape[1], hits.depth.shape[1]
    pixels = np.flatnonzero(surface.reshape(-1) >= count)
    row = pixels // width
    column = pixels - row * width
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
