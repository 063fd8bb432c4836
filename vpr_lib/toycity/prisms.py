"""Everything solid is an upright prism over an axis-aligned rectangle, in metres in the frame of its street.

x runs along the street, y to its left, z up. A structured array holds N prisms; `PrismList` fills one.
"""

import numpy as np

from vpr_lib.toycity.textures import MATERIAL_INDEX, TILES

ROOFS = {"flat": 0, "across": 1, "along": 2}
FLAT, ACROSS, ALONG = (
    ROOFS.values()
)  # roof_axis: flat, falling along x (gable to the street), falling along y (eaves to it)
SOLID, LATTICE, CUTOUT = 0, 1, 2  # body: opaque box, box with a see-through tile, cut-out that faces the camera
DECIDUOUS, EVERGREEN = 1, 2

_RGB = ("f4", 3)
PRISM = np.dtype(
    [
        *((name, "f4") for name in ("x0", "x1", "y0", "y1", "z0", "z1")),
        ("body", "i1"),
        ("foliage", "i1"),
        *(("roof_axis", "i1"), ("roof_rise", "f4"), ("roof_run", "f4"), ("roof_step", "f4")),
        *((("wall", *_RGB), ("frame", *_RGB), ("accent", *_RGB), ("roof", *_RGB))),
        ("rows", "i2", 4),  # tiles of the faces along the street: ground floor, upper floors, top floor, above
        *(("door_tile", "i2"), ("door_bay", "i2"), ("low_x_tile", "i2"), ("high_x_tile", "i2")),
        ("stretch", "i1"),  # one tile covers a whole face, instead of one per bay and storey
        *(("bay_m", "f4"), ("ground_m", "f4"), ("storey_m", "f4"), ("storeys", "i2"), ("cornice_m", "f4")),
        *(("material", "i1"), ("roof_material", "i1")),
        *(("glass", "f4"), ("lit", "f4"), ("glow", "f4")),  # brightness by day; share lit, accent's light at night
        *(("word", "i2"), ("sign_faces_x", "i1"), ("sign_z0", "f4"), ("sign_z1", "f4"), ("sign_u0", "f4")),
        *(("sign_m", "f4"), ("sign", *_RGB), ("letters", *_RGB)),
        ("seed", "i4"),
    ]
)
_DEFAULTS = dict(
    wall=(0.5, 0.5, 0.5), frame=(0.85, 0.85, 0.82), accent=(0.3, 0.3, 0.3), roof=(0.35, 0.33, 0.33), roof_run=1.0,
    sign=(0, 0, 0), letters=(0, 0, 0), bay_m=1.0, ground_m=1.0, storey_m=1.0, storeys=1, door_bay=-1, glass=0.2, word=-1,
    sign_m=1.0,
)  # fmt: skip


class PrismList:
    """Collects prisms one by one; tiles and materials are given by name."""

    def __init__(self):
        self._rows: list[dict] = []

    def add(self, box: tuple[float, ...], tile: str | tuple[str, str, str] = "blank", **fields: object) -> None:
        """Add a prism.

        Args:
            box: x0, x1, y0, y1, z0, z1 in metres.
            tile: the tile of all faces, or those of the y-faces, of the low-x face and of the high-x face.
            fields: any field of PRISM; `rows`, `door_tile` take tile names, `material`, `roof_material` material names.
        """
        side, low_x, high_x = (tile,) * 3 if isinstance(tile, str) else tile
        rows = fields.pop("rows", None) or (side,) * 4
        row = {**_DEFAULTS, **dict(zip(("x0", "x1", "y0", "y1", "z0", "z1"), box)), **fields}
        row["rows"] = [TILES[name] for name in rows]
        row["door_tile"] = TILES[fields.get("door_tile", rows[0])]
        row["low_x_tile"], row["high_x_tile"] = TILES[low_x], TILES[high_x]
        for key in ("material", "roof_material"):
            row[key] = MATERIAL_INDEX[fields.get(key, "plaster")]
        self._rows.append(row)

    def prop(self, box: tuple[float, ...], tile: str | tuple[str, str, str] = "blank", **fields: object) -> None:
        """Add a prism whose tiles cover whole faces."""
        height = max(box[5] - box[4], 1e-3)
        self.add(box, tile, stretch=1, ground_m=height, storey_m=height, **fields)

    def array(self) -> np.ndarray:
        """The prisms collected so far, structured (N,)."""
        prisms = np.zeros(len(self._rows), PRISM)
        for name in PRISM.names:
            prisms[name] = [row.get(name, 0) for row in self._rows]
        return prisms
