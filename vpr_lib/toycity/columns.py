"""What does not change down an image column: which bay of which prism it shows, and which texel column of its tiles."""

from dataclasses import dataclass

import numpy as np

from vpr_lib.toycity.canvas import ALPHA
from vpr_lib.toycity.cast import NOTHING, Hits, first_hits
from vpr_lib.toycity.prisms import CUTOUT, DECIDUOUS
from vpr_lib.toycity.textures import TILES, faces
from vpr_lib.toycity.view import View

_BARE = np.array([f"{name}_bare" in TILES for name in TILES])  # tiles followed by their winter version


@dataclass(frozen=True)
class Columns:
    """One entry per pair of image column and prism, (M,) unless said otherwise."""

    prism: np.ndarray  # structured
    depth: np.ndarray
    faces_x: np.ndarray
    u: np.ndarray
    top: np.ndarray
    bay: np.ndarray  # int64
    rows: np.ndarray  # tile per storey class, (M, 4)
    texel: np.ndarray  # first texel of the column at its levels
    width_log2: np.ndarray
    height_log2: np.ndarray
    pixel_u: np.ndarray  # metres that a pixel covers along the face
    pixel_v: np.ndarray


def resolve(view: View, prisms: np.ndarray, hits: Hits, cells: np.ndarray, winter: bool) -> Columns:
    """Work out what stays the same down the image column of some hits (flat indices (M,) into (W, K))."""
    atlas = faces()
    pick = hits.pick(cells)
    prism = prisms[pick("prism")]
    depth, faces_x, u = pick("depth"), pick("faces_x"), pick("u")
    column = cells // hits.depth.shape[1]
    dx, dy = view.dx[column], view.dy[column]
    length = np.where(faces_x, prism["y1"] - prism["y0"], prism["x1"] - prism["x0"])
    bay_m = np.where(prism["stretch"] > 0, length, prism["bay_m"])
    bays = u / bay_m
    bay = np.floor(bays)
    rows = np.where(
        faces_x[:, None], np.where(dx > 0, prism["low_x_tile"], prism["high_x_tile"])[:, None], prism["rows"]
    )
    rows = rows.astype(np.int64)
    at_door = ~faces_x & (bay == prism["door_bay"])
    rows[at_door, 0] = prism["door_tile"][at_door]
    if winter:
        rows += (prism["foliage"] == DECIDUOUS)[:, None] & _BARE[rows]
    grazing = np.where(prism["body"] == CUTOUT, 1, np.abs(np.where(faces_x, dx, dy)))
    pixel_v = depth * np.float32(1 / view.focal)
    pixel_u = pixel_v / np.maximum(grazing, 1e-3)
    level_u = atlas.level(np.log2(pixel_u / bay_m) + atlas.size_log2)
    level_v = atlas.level(np.log2(pixel_v / prism["storey_m"]) + atlas.size_log2)
    width_log2 = atlas.size_log2 - level_u
    inside = (np.clip(bays - bay, 0, 0.9999) * (1 << width_log2)).astype(np.int64)
    return Columns(
        prism=prism, depth=depth, faces_x=faces_x, u=u, top=pick("top"), bay=bay.astype(np.int64), rows=rows,
        texel=atlas.offsets[level_u, level_v] + inside, width_log2=width_log2, height_log2=atlas.size_log2 - level_v,
        pixel_u=pixel_u, pixel_v=pixel_v,
    )  # fmt: skip


def surfaces(view: View, prisms: np.ndarray, hits: Hits, winter: bool) -> np.ndarray:
    """`first_hits`, int8 (H, W), where tiles with holes hide only what is behind their opaque texels."""
    cells = np.flatnonzero(hits.has_holes & (hits.depth < NOTHING))  # (C,)
    columns = resolve(view, prisms, hits, cells, winter)
    z = view.height + view.slopes[:, None] * columns.depth
    v = np.clip((z - columns.prism["z0"]) / (columns.prism["z1"] - columns.prism["z0"]), 0, np.float32(0.9999))
    row = (v * (1 << columns.height_log2).astype(np.float32)).astype(np.int64)
    index = columns.texel + (((columns.rows[:, 0] << columns.height_log2) + row) << columns.width_log2)
    solid = (faces().fetch(index.reshape(-1))[ALPHA] > 0.45).reshape(v.shape)  # (H, C)
    return first_hits(hits, view.slopes, view.height, cells, solid)
