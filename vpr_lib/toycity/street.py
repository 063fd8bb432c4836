"""A straight street of the toy city: its type, its houses, trees and furniture, all from one seed.

Frame of a street: x along it in metres, from 0 to its length for the places a camera may visit; y to the left of the
axis; z up. Scenery goes on for `MARGIN_M` beyond both ends.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from vpr_lib.seeds import derive_seed
from vpr_lib.toycity.buildings import Architecture, Design, place_house, sample_design, varied
from vpr_lib.toycity.furniture import MARGIN_M, add_furniture, add_hedge, add_mural, add_skyline, add_trees
from vpr_lib.toycity.prisms import ACROSS, ALONG, FLAT, PrismList

PROFILE_STEP_M = 0.5


@dataclass(frozen=True)
class StreetType:
    """How a kind of street is laid out; pairs are ranges, shares lie between 0 and 1."""

    houses: Architecture
    half_road_m: tuple[float, float]
    pavement_m: tuple[float, float]
    setback_m: tuple[float, float] = (0.0, 0.0)
    gap: float = 0.04  # share of houses followed by a gap
    gap_m: tuple[float, float] = (2.0, 5.0)
    trees: float = 0.3  # share of streets with trees
    parking: float = 0.2  # share of the kerb that is parked upon
    walkers: float = 4.0  # people per 100 m
    hedges: float = 0.0
    surface: tuple[str, ...] = ("asphalt",)
    markings: tuple[str, ...] = ("dashed",)


STREET_TYPES: dict[str, StreetType] = {
    "terrace": StreetType(
        Architecture(
            materials=("brick", "brick", "plaster"), upper=("sash", "sash_bars", "cross", "pair"),
            ground=("sash", "wide", "pair", "shop_small"), doors=("door", "door_arched", "door_portal"), top=("attic",),
            roofs=(ALONG,), width_m=(6.0, 9.0), storeys=(2, 3), bay_m=(2.0, 3.0), bay_window=0.4, awning=0.4,
        ),
        half_road_m=(2.8, 3.6), pavement_m=(1.4, 2.2), trees=0.4, parking=0.3, markings=("none", "dashed"),
    ),
    "boulevard": StreetType(
        Architecture(
            materials=("stone", "plaster", "stone"), upper=("tall", "french", "shutters_tall", "arched", "pair_arched"),
            ground=("shop", "arcade", "shop_wide", "shop_small"), doors=("door_portal", "door_arched"), top=("attic",),
            roofs=(ALONG, ALONG, FLAT), width_m=(12.0, 21.0), storeys=(4, 6), storey_m=(3.1, 3.7), bay_m=(2.2, 3.1),
            mansard=0.7, balconies=0.3, awning=0.4,
        ),
        half_road_m=(4.2, 5.4), pavement_m=(2.2, 3.4), trees=0.85, parking=0.2, walkers=6, markings=("double", "rails"),
    ),
    "market": StreetType(
        Architecture(
            materials=("plaster", "brick", "plaster"), upper=("arched", "gothic", "sash", "shutters", "cross"),
            ground=("shop", "shop_small", "shop", "sash"), doors=("door_arched", "door"), top=("oculus", "square"),
            roofs=(ACROSS, ACROSS, ALONG), width_m=(5.0, 8.5), storeys=(3, 4), bay_m=(1.7, 2.5), stepped=0.4, awning=0.6,
        ),
        half_road_m=(2.6, 3.2), pavement_m=(1.2, 2.2), gap=0.02, trees=0.1, parking=0.15, walkers=8,
        surface=("cobbles", "paving", "asphalt"), markings=("none",),
    ),
    "modern": StreetType(
        Architecture(
            materials=("concrete", "plaster", "brick"), upper=("curtain", "ribbon", "wide", "loggia", "square"),
            ground=("shop_wide", "ribbon", "arcade", "garage"), doors=("door",), roofs=(FLAT,), width_m=(14.0, 28.0),
            storeys=(3, 7), storey_m=(2.8, 3.5), bay_m=(2.4, 4.0), balconies=0.35,
        ),
        half_road_m=(3.6, 5.0), pavement_m=(1.8, 3.0), setback_m=(0.0, 1.5), gap=0.25, gap_m=(4.0, 12.0), trees=0.6,
        markings=("dashed", "bikes"),
    ),
    "suburb": StreetType(
        Architecture(
            materials=("plaster", "brick", "planks"), upper=("shutters", "cross", "square", "wide"),
            ground=("wide", "cross", "shutters", "garage"), doors=("door", "door_portal"), roofs=(ALONG, ACROSS),
            width_m=(8.0, 12.0), storeys=(2, 2), bay_m=(2.4, 3.4),
        ),
        half_road_m=(2.7, 3.3), pavement_m=(1.4, 1.9), setback_m=(1.0, 4.0), gap=0.6, gap_m=(2.5, 6.0), trees=0.7,
        parking=0.25, walkers=2, hedges=0.6, markings=("none", "dashed"),
    ),
}  # fmt: skip


@lru_cache(maxsize=64)
def design_library(city_seed: int, kind: str, size: int) -> tuple[Design, ...]:
    """The designs that a city uses in its streets of one type."""
    rng = np.random.default_rng(derive_seed(city_seed, "designs", kind))
    return tuple(sample_design(STREET_TYPES[kind].houses, rng) for _ in range(size))


class Street:
    """Static geometry of one street.

    Args:
        seed: everything follows from it and from the city's designs.
        city_seed: streets of one city share designs, so that their facades look alike.
        length_m: the part a camera may visit.
    """

    designs_per_type = 12
    designs_per_street = 5

    def __init__(self, seed: int, city_seed: int, length_m: float):
        rng = np.random.default_rng(seed)
        self.seed, self.length_m = seed, length_m
        self.kind = list(STREET_TYPES)[rng.integers(len(STREET_TYPES))]
        self.type = STREET_TYPES[self.kind]
        self.half_road_m = rng.uniform(*self.type.half_road_m)
        self.half_m = self.half_road_m + rng.uniform(*self.type.pavement_m)  # to the edge of the pavement
        self.surface = self.type.surface[rng.integers(len(self.type.surface))]
        self.markings = self.type.markings[rng.integers(len(self.type.markings))]
        self.asphalt = rng.uniform(0.3, 0.42)
        self.crossings = self._crossings(rng)  # side streets: (C, 2) x from and to
        out = PrismList()
        library = design_library(city_seed, self.kind, self.designs_per_type)
        chosen = [library[i] for i in rng.choice(len(library), self.designs_per_street, replace=False)]
        for side in (-1, 1):
            self._add_row(out, chosen, side, rng)
            add_skyline(out, side, self, chosen, rng)
        self.has_trees = rng.random() < self.type.trees
        if self.has_trees:
            add_trees(out, self, rng)
        self.lamps = add_furniture(out, self, rng)  # (L, 3)
        self.prisms = out.array()

    def _crossings(self, rng: np.random.Generator) -> np.ndarray:
        starts = np.arange(-MARGIN_M + 20, self.length_m + MARGIN_M, 95.0)
        starts = starts + rng.uniform(0, 60, len(starts))
        return np.stack([starts, starts + rng.uniform(7, 11, len(starts))], 1).astype(np.float32)

    def _add_row(self, out: PrismList, designs: list[Design], side: int, rng: np.random.Generator) -> None:
        x, kind = -MARGIN_M, self.type
        setback = rng.uniform(*kind.setback_m)
        design = designs[0]
        while x < self.length_m + MARGIN_M:
            if rng.random() < 0.75:  # otherwise the row goes on with the same house
                design = designs[rng.integers(len(designs))]
            house = varied(design, kind.houses, rng)
            width = rng.uniform(*kind.houses.width_m)
            blocked = self.crossings[(self.crossings[:, 0] < x + width) & (self.crossings[:, 1] > x)]
            if len(blocked):
                if blocked[0, 0] - x < 4.5:
                    x = blocked[0, 1]
                    continue
                width = blocked[0, 0] - x
            front = self.half_m + setback + rng.uniform(0, 1.5 if setback else 0.5)
            before_gap = len(blocked) > 0 or rng.random() < kind.gap
            place_house(out, house, x, width, front, side, rng)
            if before_gap and rng.random() < 0.5:
                add_mural(out, x + width, side, front, house.height_m, rng)
            if setback > 1.5 and rng.random() < kind.hedges:
                add_hedge(out, x, x + 0.7 * width, side, self.half_m, rng)
            x += width
            if before_gap and not len(blocked):
                x += rng.uniform(*kind.gap_m)

    def in_crossing(self, x: float) -> bool:
        """Whether x lies in the mouth of a side street."""
        return bool(((self.crossings[:, 0] - 0.5 < x) & (x < self.crossings[:, 1] + 0.5)).any())

    @cached_property
    def skyline(self) -> np.ndarray:
        """Height of the houses on the right (0) and on the left (1) in steps of PROFILE_STEP_M, float32 (2, n)."""
        steps = int((self.length_m + 2 * MARGIN_M + 60) / PROFILE_STEP_M)
        heights = np.zeros((2, steps), np.float32)
        houses = self.prisms[
            (self.prisms["bay_m"] > 1) & (np.abs(self.prisms["y0"] + self.prisms["y1"]) > 2 * self.half_m)
        ]
        for house in houses:
            first, last = (int((house[key] + MARGIN_M + 30) / PROFILE_STEP_M) for key in ("x0", "x1"))
            row = heights[int(house["y0"] > 0), max(first, 0) : last]
            np.maximum(row, house["z1"] + house["roof_rise"] * 0.7, out=row)
        return heights

    def height_at(self, side: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Height of the row of houses on a side (0 right, 1 left) at x."""
        column = ((x + MARGIN_M + 30) * (1 / PROFILE_STEP_M)).astype(np.int64)
        return self.skyline[side, np.clip(column, 0, self.skyline.shape[1] - 1)]
