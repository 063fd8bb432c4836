"""Houses: a city owns a small library of designs per street type, and its streets repeat them with small changes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vpr_lib.toycity.looks import LOOKS, Architecture, Rgb
from vpr_lib.toycity.prisms import ACROSS, ALONG, FLAT, ROOFS, PrismList
from vpr_lib.toycity.textures import WORDS

REPAINTED, REGLAZED = 0.35, 0.3  # shares of houses that differ from their design in colour and in windows


@dataclass(frozen=True)
class Design:
    """One house of the library, complete but for its width and its place."""

    wall: Rgb
    frame: Rgb
    accent: Rgb
    roof: Rgb
    material: str
    roof_material: str
    rows: tuple[str, str, str, str]
    door: str
    side: str
    storeys: int
    storey_m: float
    ground_m: float
    bay_m: float
    parapet_m: float
    cornice_m: float
    roof_axis: int
    roof_rise: float
    mansard: bool
    roof_step: float
    bay_window: bool
    balconies: bool
    awning: bool
    glass: float
    lit: float
    seed: int

    @property
    def height_m(self) -> float:
        return self.ground_m + (self.storeys - 1) * self.storey_m + self.parapet_m

    @property
    def is_shop(self) -> bool:
        return self.rows[0].startswith("shop")


def _pick(rng: np.random.Generator, options: Sequence) -> object:
    return options[rng.integers(len(options))]


def _mixed(colour: Rgb, amount: float, rng: np.random.Generator) -> Rgb:
    """A colour as a painter would mix it again: hue and brightness off by about `amount`."""
    return tuple(np.clip(np.array(colour) * (1 + rng.normal(0, amount, 3)) * (1 + rng.normal(0, amount)), 0.05, 1))


def sample_design(kind: Architecture, rng: np.random.Generator) -> Design:
    material, upper, ground = _pick(rng, kind.materials), _pick(rng, kind.upper), _pick(rng, kind.ground)
    roof_material = _pick(rng, tuple(LOOKS.roof_colours))
    roof_axis = ROOFS[_pick(rng, kind.roofs)]
    mansard = bool(roof_axis == ALONG and rng.random() < kind.mansard)
    attic = _pick(rng, ("blank", "oculus", "square")) if roof_axis == ACROSS else "blank"
    return Design(
        wall=_mixed(_pick(rng, LOOKS.wall_colours[material]), 0.12, rng),
        frame=LOOKS.frame_colours[rng.choice(4, p=(0.5, 0.25, 0.15, 0.1))],
        accent=_mixed(_pick(rng, LOOKS.accent_colours), 0.15, rng),
        roof=_pick(rng, LOOKS.roof_colours[roof_material]),
        material=material,
        roof_material=roof_material,
        rows=(ground, upper, _pick(rng, (upper, *kind.top)), attic),
        door=_pick(rng, kind.doors),
        side=_pick(rng, ("blank", "blank", "panel", "square")),
        storeys=int(rng.integers(kind.storeys[0], kind.storeys[1] + 1)),
        storey_m=rng.uniform(*kind.storey_m),
        ground_m=rng.uniform(3.4, 4.3) if ground.startswith(("shop", "arcade")) else rng.uniform(2.8, 3.4),
        bay_m=rng.uniform(*kind.bay_m),
        parapet_m=rng.uniform(0.2, 0.9),
        cornice_m=float(_pick(rng, (0.0, 0.25, 0.45))),
        roof_axis=roof_axis,
        roof_rise=0.0 if roof_axis == FLAT else rng.uniform(2.4, 3.4) if mansard else rng.uniform(2.0, 4.5),
        mansard=mansard,
        roof_step=0.7 if roof_axis == ACROSS and rng.random() < kind.stepped else 0.0,
        bay_window=bool(rng.random() < kind.bay_window),
        balconies=bool(rng.random() < kind.balconies),
        awning=bool(ground.startswith("shop") and rng.random() < kind.awning),
        glass=rng.uniform(0.1, 0.3),
        lit=rng.uniform(0.15, 0.5),
        seed=int(rng.integers(1 << 16)),
    )


def varied(design: Design, kind: Architecture, rng: np.random.Generator) -> Design:
    """The same house built again: now and then with another storey, another coat of paint, other windows or doors."""
    wall = (
        _mixed(_pick(rng, LOOKS.wall_colours[design.material]), 0.12, rng) if rng.random() < REPAINTED else design.wall
    )
    upper = _pick(rng, kind.upper) if rng.random() < REGLAZED else design.rows[1]
    return replace(
        design,
        wall=_mixed(wall, 0.05, rng),
        accent=_pick(rng, LOOKS.accent_colours) if rng.random() < 0.5 else design.accent,
        rows=(design.rows[0] if rng.random() < 0.7 else _pick(rng, kind.ground), upper, upper, design.rows[3]),
        storeys=max(1, design.storeys + int(rng.choice((-1, 0, 0, 1)))),
        bay_window=design.bay_window != (rng.random() < 0.15),
        balconies=design.balconies != (rng.random() < 0.15),
        seed=int(rng.integers(1 << 16)),
    )


def place_house(
    out: PrismList, design: Design, x: float, width: float, front: float, side: int, rng: np.random.Generator
) -> float:
    """Build a house on [x, x + width] whose facade stands `front` metres left (side 1) or right (-1) of the road's axis.

    Returns:
        Height of its roof, metres.
    """
    depth = 11.0
    bays = max(1, round(width / design.bay_m))
    run = depth / 2 if design.roof_axis == ALONG else width / 2
    fields = dict(
        wall=design.wall, frame=design.frame, accent=design.accent, roof=design.roof, material=design.material,
        roof_material=design.roof_material, rows=design.rows, door_tile=design.door, door_bay=int(rng.integers(bays)),
        bay_m=width / bays, ground_m=design.ground_m, storey_m=design.storey_m, storeys=design.storeys,
        cornice_m=design.cornice_m, glass=design.glass, lit=design.lit, seed=design.seed,
    )  # fmt: skip
    roof = dict(roof_axis=design.roof_axis, roof_rise=design.roof_rise, roof_step=design.roof_step,
                roof_run=1.3 if design.mansard else run)  # fmt: skip
    sign = _shop_sign(design, width, rng) if design.is_shop else {}
    box = (x, x + width, *_across(side, front, front + depth), 0.0, design.height_m)
    out.add(box, ("blank", design.side, design.side), **fields, **roof, **sign)
    _add_details(out, design, fields, x, width, front, side, rng)
    return design.height_m + design.roof_rise


def _across(side: int, near: float, far: float) -> tuple[float, float]:
    return (near, far) if side > 0 else (-far, -near)


def _shop_sign(design: Design, width: float, rng: np.random.Generator) -> dict:
    word = int(rng.integers(len(WORDS)))
    length = min(width - 0.6, 0.62 * len(WORDS[word]))
    colour = _pick(rng, LOOKS.sign_colours)
    letters = (0.92, 0.9, 0.82) if sum(colour) < 1.4 else (0.12, 0.1, 0.1)
    return dict(word=word, sign=colour, letters=letters, sign_m=length, sign_u0=rng.uniform(0.1, 0.9) * (width - length),
                sign_z0=0.75 * design.ground_m, sign_z1=0.95 * design.ground_m)  # fmt: skip


def _add_details(
    out: PrismList, design: Design, fields: dict, x: float, width: float, front: float, side: int,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """What stands out from the box: bay windows, balconies, awnings, hanging signs, dormers, chimneys."""
    eaves, pitch = design.height_m, fields["bay_m"]
    bays = max(1, round(width / pitch))
    if design.bay_window:
        x0 = x + pitch * int(rng.integers(max(1, bays - 1)))
        top = design.ground_m + (design.storeys - 1) * design.storey_m
        body = {**fields, "rows": (design.rows[1],) * 4, "door_bay": -1}
        out.add((x0 + 0.1, x0 + pitch - 0.1, *_across(side, front - 0.8, front + 0.1), 0.0, top), **body)
    if design.balconies:
        for storey in range(1, design.storeys):
            z = design.ground_m + (storey - 1) * design.storey_m
            x0 = x + pitch * (bays // 2 if bays % 2 else bays // 2 - 1)
            box = (x0, x0 + pitch * (1 if bays % 2 else 2), *_across(side, front - 1.1, front), z - 0.1, z + 0.95)
            out.prop(box, wall=design.accent if design.seed % 2 else design.frame)
    if design.awning:
        x0, x1 = x + 0.3 + rng.uniform(0, width / 3), x + width - 0.3
        box = (x0, x1, *_across(side, front - 1.3, front), 0.62 * design.ground_m, 0.74 * design.ground_m)
        out.prop(box, "stripes", wall=(0.88, 0.85, 0.78), accent=_pick(rng, LOOKS.sign_colours))
    if design.is_shop and rng.random() < 0.4:
        x0, colour = x + rng.uniform(0.5, width - 0.5), _pick(rng, LOOKS.sign_colours)
        word = int(rng.integers(len(WORDS)))
        box = (x0, x0 + 0.12, *_across(side, front - 1.0, front - 0.1), design.ground_m, design.ground_m + 0.7)
        out.prop(box, wall=colour, word=word, sign_faces_x=1, sign=colour, letters=(0.95, 0.93, 0.88), sign_m=0.9,
                 sign_z0=design.ground_m, sign_z1=design.ground_m + 0.7)  # fmt: skip
    if design.mansard:
        for bay in range(bays):
            x0 = x + pitch * (bay + 0.22)
            box = (x0, x0 + 0.56 * pitch, *_across(side, front - 0.03, front + 1.3), eaves, eaves + 1.9)
            out.prop(box, ("sash", "blank", "blank"), wall=design.frame, frame=design.frame, seed=design.seed + bay,
                     glass=design.glass, lit=design.lit)  # fmt: skip
    if design.roof_axis == ALONG:
        for _ in range(int(rng.integers(0, 3))):
            x0, y0 = x + rng.uniform(0, width - 0.9), front + rng.uniform(3.0, 6.0)
            box = (x0, x0 + 0.9, *_across(side, y0, y0 + 0.8), eaves, eaves + design.roof_rise + rng.uniform(0.4, 1.4))
            out.prop(box, wall=(0.42, 0.27, 0.22), material="brick")
