"""What is there today and gone tomorrow: parked and moving cars, people, and a vehicle right in front of the camera."""

from functools import lru_cache

import numpy as np

from vpr_lib.toycity.conditions import Visit
from vpr_lib.toycity.prisms import CUTOUT, PrismList
from vpr_lib.toycity.street import MARGIN_M, Street
from vpr_lib.toycity.textures import TILES

CLEARANCE_M = 6.0  # nothing moves closer to the camera than this, except an occluder
_CAR_COLOURS = np.array(
    [(0.09, 0.09, 0.1), (0.2, 0.2, 0.21), (0.32, 0.33, 0.34), (0.5, 0.5, 0.51), (0.64, 0.64, 0.65), (0.8, 0.8, 0.79),
     (0.36, 0.14, 0.13), (0.16, 0.2, 0.3), (0.2, 0.26, 0.22), (0.46, 0.42, 0.34)], np.float32)  # fmt: skip
_TAIL_LIGHTS = (0.75, 0.06, 0.05)


@lru_cache(maxsize=1)
def _patterns() -> np.ndarray:
    """One prism of each kind: car body, car cabin, van, bus, person."""
    out, box = PrismList(), (0, 1, 0, 1, 0.2, 0.95)
    lights = dict(accent=_TAIL_LIGHTS, glow=1, frame=(0.8, 0.8, 0.78))
    out.prop(box, ("car_side", "car_rear", "car_front"), glass=0.8, lit=1, **lights)
    out.prop((0, 1, 0, 1, 0.95, 1.5), ("cabin_side", "cabin_end", "cabin_end"), glass=0.12)
    out.prop((0, 1, 0, 1, 0.25, 2.3), ("van_side", "van_rear", "van_rear"), glass=0.12, **lights)
    out.prop((0, 1, 0, 1, 0.3, 3.1), ("bus_side", "bus_rear", "bus_rear"), glass=0.18, lit=0.9, **lights)
    out.prop((0, 1, 0, 1, 0, 1.75), "walker", body=CUTOUT)
    return out.array()


BODY, CABIN, VAN, BUS, PERSON = range(5)
_WIDTH = np.array((1.75, 1.5, 1.85, 2.5, 0.62))
_STRETCH = np.array((1.0, 0.56, 1.15, 1.0, 1.0))  # length relative to that of a car's body
PEOPLE = ("walker", "stander", "skirt")


def _make(kinds: np.ndarray, x: np.ndarray, y: np.ndarray, length: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Prisms of the given kinds (N,), centred on (x, y)."""
    prisms = _patterns()[kinds]
    prisms["x0"], prisms["x1"] = x - length / 2, x + length / 2
    prisms["y0"], prisms["y1"] = y - width / 2, y + width / 2
    return prisms


def _cars(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cars and vans heading along +x right of the axis and along -x left of it; cars have a cabin on their body."""
    n = len(x)
    length, colour = rng.uniform(3.7, 4.9, n), _CAR_COLOURS[rng.integers(len(_CAR_COLOURS), size=n)]
    is_van, towards = rng.random(n) < 0.14, y > 0
    owner = np.concatenate([np.arange(n), np.flatnonzero(~is_van)])  # bodies, then cabins
    kinds = np.where(is_van, VAN, BODY)
    kinds = np.concatenate([kinds, np.full(len(owner) - n, CABIN)])
    shift = np.where(kinds == CABIN, np.where(towards, 0.25, -0.25)[owner], 0)
    prisms = _make(kinds, x[owner] + shift, y[owner], length[owner] * _STRETCH[kinds], _WIDTH[kinds])
    prisms["wall"] = colour[owner]
    flip = towards[owner]
    prisms["low_x_tile"][flip], prisms["high_x_tile"][flip] = prisms["high_x_tile"][flip], prisms["low_x_tile"][flip]
    return prisms


def _people(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(x)
    prisms = _make(np.full(n, PERSON), x, y, 0.62, 0.62)
    prisms["z1"] = rng.uniform(1.55, 1.9, n)
    prisms["wall"] = np.array((0.72, 0.55, 0.45)) * rng.uniform(0.45, 1.1, (n, 1))
    prisms["frame"], prisms["accent"] = rng.uniform(0.05, 0.45, (n, 3)), rng.uniform(0.08, 0.75, (n, 3))
    prisms["rows"] = np.array([TILES[tile] for tile in PEOPLE])[rng.integers(len(PEOPLE), size=n)][:, None]
    return prisms


def clutter(street: Street, visit: Visit) -> tuple[np.ndarray, np.ndarray]:
    """Cars and people of one visit to one street, two structured arrays. The same for every frame of a drive."""
    rng = np.random.default_rng((street.seed, visit.seed))
    low, high = -MARGIN_M, street.length_m + MARGIN_M
    slots = np.arange(low, high, 6.2)
    x, y = np.tile(slots, 2), np.repeat((-1.0, 1.0), len(slots)) * (street.half_road_m - 1.05)
    parked = rng.random(len(x)) < street.type.parking * rng.uniform(0.5, 1.2)
    moving = rng.poisson(visit.traffic * (high - low) / 130)
    lane_y = rng.choice((-1.0, 1.0), moving) * street.half_road_m * 0.38
    x = np.concatenate([x[parked] + rng.normal(0, 0.5, parked.sum()), rng.uniform(low, high, moving)])
    y = np.concatenate([y[parked] + rng.normal(0, 0.08, parked.sum()), lane_y])
    walkers = rng.poisson(visit.traffic * street.type.walkers * (high - low) / 100)
    at = rng.uniform(low, high, walkers)
    side = rng.choice((-1.0, 1.0), walkers) * rng.uniform(street.half_road_m + 0.3, street.half_m - 0.3, walkers)
    return _cars(x, y, rng), _people(at, side, rng)


def keep_clear(prisms: np.ndarray, x: float, y: float) -> np.ndarray:
    """Which prisms do not stand on a camera at (x, y), bool (N,)."""
    dx = np.maximum(np.maximum(prisms["x0"] - x, x - prisms["x1"]), 0)
    dy = np.maximum(np.maximum(prisms["y0"] - y, y - prisms["y1"]), 0)
    return (dx > CLEARANCE_M) | (dy > 0.9)


def occluder(x: float, y: float, forward: int, seed: int) -> np.ndarray:
    """A bus or a van right in front of a camera at (x, y) that looks along +x (forward 1) or -x (-1)."""
    rng = np.random.default_rng((seed, 7))
    kind = (VAN, BUS)[int(rng.random() < 0.55)]
    length, width = (9.5, 2.5) if kind == BUS else (5.4, 2.05)
    ahead = rng.uniform(3.0, 5.5) + length / 2
    beside = rng.choice((-1, 1)) * rng.uniform(0.2, 2.0)
    prisms = _make(np.array([kind]), x + forward * ahead, y + beside, length, width)
    prisms["wall"] = _CAR_COLOURS[rng.integers(2, len(_CAR_COLOURS))]
    return prisms
