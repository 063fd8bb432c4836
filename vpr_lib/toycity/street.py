"""A straight street of the toy city: its type, its houses, trees and furniture, all from one seed.

Frame of a street: x along it in metres, from 0 to its length for the places a camera may visit; y to the left of the
axis; z up. Scenery goes on for `MARGIN_M` beyond both ends.
"""

from functools import cached_property, lru_cache

import numpy as np

from vpr_lib.seeds import derive_seed
from vpr_lib.toycity.buildings import Design, place_house, sample_design, varied
from vpr_lib.toycity.furniture import MARGIN_M, add_furniture, add_hedge, add_mural, add_skyline, add_trees
from vpr_lib.toycity.looks import LOOKS
from vpr_lib.toycity.prisms import PrismList

PROFILE_STEP_M = 0.5


@lru_cache(maxsize=64)
def design_library(city_seed: int, kind: str, size: int) -> tuple[Design, ...]:
    """The designs that a city uses in its streets of one type."""
    rng = np.random.default_rng(derive_seed(city_seed, "designs", kind))
    return tuple(sample_design(LOOKS.streets[kind].houses, rng) for _ in range(size))


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
        self.kind = list(LOOKS.streets)[rng.integers(len(LOOKS.streets))]
        self.type = LOOKS.streets[self.kind]
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
