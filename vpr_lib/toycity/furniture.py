"""What stands in a street besides its houses: trees, lamps, signs, kiosks, and the roofs seen behind the first row."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vpr_lib.toycity.buildings import Design
from vpr_lib.toycity.looks import LOOKS
from vpr_lib.toycity.prisms import ACROSS, ALONG, CUTOUT, DECIDUOUS, EVERGREEN, FLAT, LATTICE, PrismList
from vpr_lib.toycity.textures import WORDS

MARGIN_M = 110.0  # scenery goes on for so long beyond both ends of a street
LAMP_HEIGHT_M = 5.6
TREES = {
    "round_tree": (1.0, 1.0),
    "oak": (1.25, 1.0),
    "poplar": (0.62, 1.75),
    "fir": (0.8, 1.5),
}  # width, height factors


class Road(Protocol):
    """What a street is to the things that stand in it."""

    length_m: float
    half_m: float
    half_road_m: float
    crossings: Sequence[tuple[float, float]]

    def in_crossing(self, x: float) -> bool: ...


def _colour(rng: np.random.Generator, colours: tuple) -> tuple[float, float, float]:
    return colours[rng.integers(len(colours))]


def add_skyline(out: PrismList, side: int, street: Road, designs: list[Design], rng: np.random.Generator) -> None:
    """A second row of houses 24 m behind the first, seen over low roofs and through gaps."""
    x, near = -MARGIN_M, street.half_m + 24.0
    while x < street.length_m + MARGIN_M:
        width, height = rng.uniform(12, 30), max(6.0, rng.normal(designs[0].height_m + 3, 5))
        design = designs[rng.integers(len(designs))]
        y0, y1 = sorted((side * near, side * (near + 11)))
        axis = (FLAT, ALONG, ACROSS)[rng.integers(3)]
        out.add(
            (x, x + width, y0, y1, 0.0, height),
            rows=(design.rows[1],) * 3 + ("blank",),
            wall=design.wall,
            frame=design.frame,
            accent=design.accent,
            roof=design.roof,
            material=design.material,
            roof_material=design.roof_material,
            roof_axis=axis,
            roof_rise=rng.uniform(2, 4) * (axis != FLAT),
            roof_run=5.5 if axis == ALONG else width / 2,
            bay_m=design.bay_m,
            ground_m=3.2,
            storey_m=3.1,
            storeys=int(height / 3.1),
            glass=design.glass,
            lit=0.25,
            seed=int(rng.integers(1 << 16)),
        )
        x += width + rng.uniform(0, 10)


def add_trees(out: PrismList, street: Road, rng: np.random.Generator) -> None:
    species = list(TREES)[rng.choice(4, p=(0.4, 0.3, 0.2, 0.1))]
    wide, tall = TREES[species]
    sides, step, base = (
        ((-1, 1), (1,), (-1,))[rng.choice(3, p=(0.7, 0.15, 0.15))],
        rng.uniform(9, 20),
        rng.uniform(4.5, 7),
    )
    for side in sides:
        for x in np.arange(-MARGIN_M, street.length_m + MARGIN_M, step):
            if rng.random() > 0.75 or street.in_crossing(x):
                continue
            x, y = x + rng.normal(0, 0.8), side * (street.half_road_m + rng.uniform(0.6, 0.9))
            scale = rng.uniform(0.75, 1.2)
            radius, height, low = 1.7 * wide * scale, base * tall * scale, rng.uniform(1.7, 2.4)
            trunk = 0.11 + 0.05 * scale
            out.prop((x - trunk, x + trunk, y - trunk, y + trunk, 0, low + 0.4 * height), wall=(0.26, 0.2, 0.15))
            green = np.array((0.17, 0.31, 0.10)) * rng.uniform(0.8, 1.25) * (1 + rng.normal(0, 0.06, 3))
            out.prop(
                (x - radius, x + radius, y - radius, y + radius, low, low + height),
                species,
                wall=tuple(green),
                body=CUTOUT,
                foliage=EVERGREEN if species == "fir" else DECIDUOUS,
                seed=int(rng.integers(1 << 16)),
            )


def add_furniture(out: PrismList, street: Road, rng: np.random.Generator) -> np.ndarray:
    """Lamps, signs, shelters, kiosks, bins, billboards, traffic lights. Returns the lamps' positions, float32 (L, 3)."""
    lamps, step, side = [], rng.uniform(19, 30), int(rng.choice((-1, 1)))
    both = rng.random() < 0.3
    for x in np.arange(-MARGIN_M + rng.uniform(0, 10), street.length_m + MARGIN_M, step):
        side = -side
        for s in (-1, 1) if both else (side,):
            lamps.append(_add_lamp(out, x, s, street))
        for _ in range(rng.poisson(1.3)):
            there = x + rng.uniform(2, step - 2)
            if not street.in_crossing(there):
                add = FURNITURE[rng.choice(len(FURNITURE), p=FURNITURE_SHARES)]
                add(out, there, int(rng.choice((-1, 1))), street, rng)
    for x0, x1 in street.crossings:
        for x, s in ((x0 - 0.6, -1), (x1 + 0.6, 1)):
            y = s * (street.half_road_m + 0.4)
            out.prop((x - 0.05, x + 0.05, y - 0.05, y + 0.05, 0, 2.4), wall=(0.3, 0.3, 0.3))
            out.prop(
                (x - 0.12, x + 0.12, y - 0.14, y + 0.14, 2.4, 3.2), "traffic_light", accent=(0.9, 0.15, 0.1), glow=1
            )
    return np.array(lamps, np.float32).reshape(-1, 3)


def _add_lamp(out: PrismList, x: float, side: int, street: Road) -> tuple[float, float, float]:
    y = side * (street.half_road_m + 0.35)
    head = side * (street.half_road_m - 0.5)
    out.prop((x - 0.07, x + 0.07, y - 0.07, y + 0.07, 0, LAMP_HEIGHT_M), wall=(0.22, 0.24, 0.25))
    out.prop((x - 0.03, x + 0.03, *sorted((y, head)), LAMP_HEIGHT_M - 0.1, LAMP_HEIGHT_M), wall=(0.22, 0.24, 0.25))
    box = (x - 0.18, x + 0.18, head - 0.35, head + 0.35, LAMP_HEIGHT_M - 0.3, LAMP_HEIGHT_M - 0.1)
    out.prop(box, "lamp", accent=(0.95, 0.9, 0.75), glow=1)
    return x, head, LAMP_HEIGHT_M


def _add_sign(out: PrismList, x: float, side: int, street: Road, rng: np.random.Generator) -> None:
    y, size, z = side * (street.half_road_m + 0.5), rng.uniform(0.3, 0.5), rng.uniform(2.0, 2.6)
    out.prop((x - 0.04, x + 0.04, y - 0.04, y + 0.04, 0, z), wall=(0.5, 0.5, 0.5))
    out.prop(
        (x - 0.05, x - 0.02, y - size, y + size, z, z + 2 * size),
        "kiosk",
        wall=_colour(rng, LOOKS.sign_colours),
        accent=_colour(rng, LOOKS.sign_colours),
    )


def _add_shelter(out: PrismList, x: float, side: int, street: Road, rng: np.random.Generator) -> None:
    y0, y1 = sorted((side * (street.half_road_m + 0.9), side * (street.half_road_m + 2.1)))
    accent = _colour(rng, LOOKS.sign_colours)
    out.prop((x, x + 3.6, y0, y1, 0, 2.4), "shelter", accent=accent, wall=(0.4, 0.42, 0.44), lit=1, glass=0.4)


def _add_kiosk(out: PrismList, x: float, side: int, street: Road, rng: np.random.Generator) -> None:
    y0, y1 = sorted((side * (street.half_m - 1.4), side * (street.half_m - 0.1)))
    colour, word = _colour(rng, LOOKS.sign_colours), int(rng.integers(len(WORDS)))
    out.prop(
        (x, x + 2.6, y0, y1, 0, 2.7),
        "kiosk",
        wall=colour,
        accent=_colour(rng, LOOKS.sign_colours),
        lit=0.7,
        word=word,
        sign=colour,
        letters=(0.92, 0.9, 0.85),
        sign_m=2.4,
        sign_u0=0.1,
        sign_z0=2.35,
        sign_z1=2.7,
    )


def _add_bin(out: PrismList, x: float, side: int, street: Road, rng: np.random.Generator) -> None:
    y = side * (street.half_m - 0.5)
    out.prop((x, x + 1.2, y - 0.4, y + 0.4, 0, 1.2), wall=_colour(rng, LOOKS.sign_colours))


def _add_billboard(out: PrismList, x: float, side: int, street: Road, rng: np.random.Generator) -> None:
    y = side * (street.half_m - 0.4)
    tile = f"poster_{rng.integers(4)}"
    out.prop(
        (x, x + 0.2, y - 0.8, y + 0.8, 0.6, 2.7),
        tile,
        wall=_colour(rng, LOOKS.sign_colours),
        accent=_colour(rng, LOOKS.sign_colours),
        frame=_colour(rng, LOOKS.wall_colours["plaster"]),
    )


def _add_banner(out: PrismList, x: float, side: int, street: Road, rng: np.random.Generator) -> None:
    """A banner over the road, hung between two houses."""
    word, low = int(rng.integers(len(WORDS))), rng.uniform(4.6, 6.0)
    colour, length = _colour(rng, LOOKS.sign_colours), 1.6 * street.half_road_m
    out.prop(
        (x, x + 0.05, -length / 2, length / 2, low, low + 1.1),
        wall=colour,
        word=word,
        sign_faces_x=1,
        sign=colour,
        letters=(0.95, 0.93, 0.88) if sum(colour) < 1.6 else (0.1, 0.1, 0.12),
        sign_u0=0.3,
        sign_m=length - 0.6,
        sign_z0=low,
        sign_z1=low + 1.1,
    )


def add_mural(out: PrismList, x: float, side: int, front: float, height: float, rng: np.random.Generator) -> None:
    """A painted end wall at x, where a row of houses is interrupted."""
    y0, width = front + rng.uniform(0.4, 1.2), rng.uniform(4.0, 7.0)
    low, high = rng.uniform(0.8, 2.0), min(height - 0.4, rng.uniform(5.0, 8.0))
    out.prop(
        (x - 0.04, x + 0.04, *sorted((side * y0, side * (y0 + width))), low, max(high, low + 2)),
        f"poster_{rng.integers(4)}",
        wall=_colour(rng, LOOKS.sign_colours),
        accent=_colour(rng, LOOKS.sign_colours),
        frame=_colour(rng, LOOKS.wall_colours["plaster"]),
    )


def add_hedge(out: PrismList, x0: float, x1: float, side: int, at: float, rng: np.random.Generator) -> None:
    """A hedge or a fence in front of a garden, `at` metres from the axis."""
    box = (x0, x1, *sorted((side * at, side * (at + 0.5))), 0, rng.uniform(0.8, 1.4))
    if rng.random() < 0.4:
        out.prop(box, "fence", wall=(0.75, 0.73, 0.68), body=LATTICE)
    else:
        out.prop(box, "hedge", wall=(0.16, 0.27, 0.11), foliage=EVERGREEN)


FURNITURE = (_add_sign, _add_shelter, _add_kiosk, _add_bin, _add_billboard, _add_banner)
FURNITURE_SHARES = (0.34, 0.1, 0.12, 0.2, 0.15, 0.09)
