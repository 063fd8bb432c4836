"""Tiles of everything that is not a building: vehicles, street furniture, trees and people.

A prop's tile covers one whole face. Trees and people are cut-outs that turn towards the camera; a tile named `x` with a
neighbour `x_bare` is replaced by it in winter.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from vpr_lib.toycity.atlas import fractal_noise
from vpr_lib.toycity.canvas import ACCENT, FINE, FRAME, GLASS, Canvas


def _wheels(c: Canvas, centres: tuple[float, ...], radius_u: float, radius_v: float) -> None:
    for u in centres:
        c.paint(c.disc(u, 0.75 * radius_v, radius_u, radius_v), FRAME, 0.12)
        c.paint(c.disc(u, 0.75 * radius_v, radius_u / 2, radius_v / 2), FRAME, 0.55)


def car_side(c: Canvas) -> None:
    c.darken(c.box(0, 1, 0, 0.2), 0.3)
    c.darken(c.box(0, 1, 0.55, 0.62), 0.8)
    c.darken(c.box(0.32, 0.335, 0.2, 1) | c.box(0.62, 0.635, 0.2, 1), 0.6)
    _wheels(c, (0.19, 0.8), 0.085, 0.42)


def car_front(c: Canvas) -> None:
    c.darken(c.box(0, 1, 0, 0.2), 0.3)
    c.paint(c.box(0.25, 0.75, 0.3, 0.55), FRAME, 0.15)
    c.paint(c.box(0.03, 0.22, 0.5, 0.72) | c.box(0.78, 0.97, 0.5, 0.72), GLASS, 1.6)


def car_rear(c: Canvas) -> None:
    c.darken(c.box(0, 1, 0, 0.2), 0.3)
    c.paint(c.box(0.36, 0.64, 0.35, 0.55), FRAME, 1.1)
    c.paint(c.box(0.02, 0.17, 0.5, 0.8) | c.box(0.83, 0.98, 0.5, 0.8), ACCENT)


def cabin_side(c: Canvas) -> None:
    c.paint(c.box(0.06, 0.94, 0.05, 0.85), GLASS)
    c.paint(c.box(0.48, 0.52, 0, 0.85), None, 0.8)


def cabin_end(c: Canvas) -> None:
    c.paint(c.box(0.07, 0.93, 0.06, 0.86), GLASS)


def van_side(c: Canvas) -> None:
    c.darken(c.box(0, 1, 0, 0.1), 0.3)
    c.paint(c.box(0.02, 0.2, 0.55, 0.88), GLASS)
    c.darken(c.box(0.22, 0.23, 0.1, 1) | c.box(0.6, 0.61, 0.1, 1), 0.6)
    _wheels(c, (0.16, 0.82), 0.075, 0.17)


def van_rear(c: Canvas) -> None:
    c.darken(c.box(0, 1, 0, 0.1), 0.3)
    c.darken(c.box(0.49, 0.51, 0.1, 0.95), 0.5)
    c.paint(c.box(0.1, 0.44, 0.6, 0.86) | c.box(0.56, 0.9, 0.6, 0.86), GLASS)
    c.paint(c.box(0.01, 0.09, 0.2, 0.4) | c.box(0.91, 0.99, 0.2, 0.4), ACCENT)
    c.paint(c.box(0.36, 0.64, 0.16, 0.24), FRAME, 1.1)


def bus_side(c: Canvas) -> None:
    c.darken(c.box(0, 1, 0, 0.08), 0.3)
    c.paint(c.box(0.02, 0.98, 0.45, 0.86), GLASS)
    for u in np.linspace(0.02, 0.98, 8):
        c.paint(c.box(u - 0.006, u + 0.006, 0.45, 0.86), FRAME, 0.3)
    c.paint(c.box(0, 1, 0.3, 0.38), FRAME)
    c.paint(c.box(0.3, 0.42, 0.08, 0.86) | c.box(0.86, 0.96, 0.08, 0.86), GLASS, 0.8)
    _wheels(c, (0.2, 0.75), 0.045, 0.16)


def bus_rear(c: Canvas) -> None:
    c.darken(c.box(0, 1, 0, 0.08), 0.3)
    c.paint(c.box(0.1, 0.9, 0.52, 0.86), GLASS)
    c.paint(c.box(0.3, 0.7, 0.9, 0.98), FRAME, 0.2)
    c.darken(c.box(0.15, 0.85, 0.12, 0.4) & (np.mod(c.v * 24, 1) < 0.4), 0.6)
    c.paint(c.box(0.02, 0.1, 0.16, 0.4) | c.box(0.9, 0.98, 0.16, 0.4), ACCENT)
    c.paint(c.box(0, 1, 0.44, 0.49), FRAME)


def stripes(c: Canvas) -> None:
    c.paint(np.mod(c.u * 8, 1) < 0.5, ACCENT)


def shelter(c: Canvas) -> None:
    c.paint(c.box(0, 1, 0, 1), GLASS, 1.3)
    c.paint(c.box(0, 0.03, 0, 1) | c.box(0.97, 1, 0, 1) | c.box(0, 1, 0.9, 1) | c.box(0.48, 0.5, 0, 1), FRAME, 0.5)
    c.paint(c.box(0.06, 0.24, 0.1, 0.82), ACCENT)


def kiosk(c: Canvas) -> None:
    c.paint(c.box(0.12, 0.88, 0.42, 0.78), GLASS)
    c.paint(c.box(0, 1, 0.86, 1), ACCENT)
    c.paint(c.box(0.05, 0.95, 0.36, 0.4), FRAME)


def poster(c: Canvas, seed: int = 0) -> None:
    """A billboard with a few coloured shapes."""
    rng = np.random.default_rng(seed)
    c.paint(c.box(0, 1, 0, 1), FRAME, 0.4)
    c.paint(c.box(0.05, 0.95, 0.05, 0.95), None)
    u, v = rng.uniform(0.25, 0.75, 2)
    c.paint(c.disc(u, v, rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.25)) & c.box(0.05, 0.95, 0.05, 0.95), ACCENT)
    low = rng.uniform(0.1, 0.7)
    c.paint(c.box(0.1, rng.uniform(0.5, 0.9), low, low + rng.uniform(0.06, 0.14)), FRAME)


def fence(c: Canvas) -> None:
    bars = (np.mod(c.u * 30, 1) < 0.55) | c.box(0, 1, 0.75, 0.85) | c.box(0, 1, 0.15, 0.25)
    c.cut_to(bars & (c.v < 0.97))


def hedge(c: Canvas) -> None:
    c.relief(1 + 0.18 * fractal_noise(FINE, 5, 0.7))
    c.snow(c.v > 0.8)


def traffic_light(c: Canvas) -> None:
    c.paint(c.box(0, 1, 0, 1), FRAME, 0.15)
    c.paint(c.disc(0.5, 0.82, 0.3, 0.12), ACCENT)


def crown(c: Canvas, seed: int, narrow: float = 1.0, cone: bool = False, bare: bool = False) -> None:
    """A tree crown: leaves, or in winter the branches."""
    u, v = (c.u - 0.5) * 2 / narrow, (c.v - 0.5) * 2
    reach = np.sqrt(u**2 + v**2) if not cone else np.abs(u) / np.clip(1.05 * (1 - c.v), 0.02, None)
    ragged = reach + 0.13 * fractal_noise(FINE, seed, 1.0, 3)
    if bare:
        angle = np.arctan2(c.u - 0.5, c.v + 0.15)
        bent = angle + 0.04 * fractal_noise(FINE, seed + 1, 2.0)
        thick = 0.34 - 0.22 * c.v
        twigs = (
            np.minimum(np.abs(np.mod(bent * 5.1, 1) - 0.5), 1.6 * np.abs(np.mod(bent * 11.3 + c.v, 1) - 0.5))
            < thick / 2
        )
        c.cut_to(twigs & (ragged < 0.98) & (c.v > 0.04))
        c.snow(np.mod(bent * 11.3, 1) < 0.3)
        return
    holes = fractal_noise(FINE, seed + 2, 0.8, 6) < (-1.55 if not cone else -1.3)
    c.cut_to((ragged < 0.95) & ~holes)
    c.relief(0.95 + 0.17 * fractal_noise(FINE, seed + 3, 0.9, 5) + 0.22 * v - 0.08 * u)
    c.snow((v > 0.1) & (fractal_noise(FINE, seed + 4, 1.0, 4) > 0.2))


def person(c: Canvas, stride: float = 0.1, skirt: bool = False, bag: bool = False) -> None:
    head, body = c.disc(0.5, 0.91, 0.13, 0.075), c.arch(0.26, 0.74, 0.42, 0.84, 0.12)
    legs = c.box(0.5 - stride - 0.12, 0.5 - stride + 0.1, 0, 0.44) | c.box(
        0.5 + stride - 0.1, 0.5 + stride + 0.12, 0, 0.44
    )
    if skirt:
        legs |= (np.abs(c.u - 0.5) < 0.34 - 0.3 * (c.v - 0.2)) & c.box(0, 1, 0.2, 0.5)
    c.paint(legs, FRAME)
    c.paint(body, ACCENT)
    c.darken(body & ((c.u < 0.34) | (c.u > 0.66)), 0.75)
    if bag:
        c.paint(c.box(0.66, 0.92, 0.36, 0.54), FRAME, 0.5)
    c.paint(head & (c.v > 0.93), FRAME, 0.4)
    c.cut_to(head | body | legs | (c.box(0.66, 0.92, 0.36, 0.54) if bag else head))


PROP_TILES: dict[str, Callable[[Canvas], None]] = {
    **{draw.__name__: draw for draw in (car_side, car_front, car_rear, cabin_side, cabin_end, van_side, van_rear)},
    **{draw.__name__: draw for draw in (bus_side, bus_rear, stripes, shelter, kiosk, fence, hedge, traffic_light)},
    **{f"poster_{seed}": partial(poster, seed=seed) for seed in range(4)},
    "lamp": lambda c: c.paint(c.box(0, 1, 0, 1), ACCENT),
    "round_tree": lambda c: crown(c, 11),
    "round_tree_bare": lambda c: crown(c, 11, bare=True),
    "oak": lambda c: crown(c, 21, narrow=1.1),
    "oak_bare": lambda c: crown(c, 21, narrow=1.1, bare=True),
    "poplar": lambda c: crown(c, 31, narrow=0.75),
    "poplar_bare": lambda c: crown(c, 31, narrow=0.75, bare=True),
    "fir": lambda c: crown(c, 41, cone=True),
    "walker": person,
    "stander": lambda c: person(c, stride=0.06, bag=True),
    "skirt": lambda c: person(c, stride=0.05, skirt=True),
}
