"""Tiles of buildings: one cell of a facade, a bay wide and a storey high."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vpr_lib.toycity.canvas import ACCENT, FRAME, GLASS, Canvas


@dataclass(frozen=True)
class Window:
    """One window. `panes` are columns and rows; `course` is a moulding along the floor line; all sizes are shares."""

    width: float = 0.46
    bottom: float = 0.2
    top: float = 0.84
    panes: tuple[int, int] = (2, 2)
    arch: float = 0.0
    surround: float = 0.035
    lintel: float = 0.0
    sill: bool = True
    shutters: float = 0.0
    railing: float = 0.0
    course: float = 0.0
    centre: float = 0.5

    def __call__(self, c: Canvas) -> None:
        left, right = self.centre - self.width / 2, self.centre + self.width / 2
        if self.course:
            c.paint(c.box(0, 1, 0, self.course), FRAME, 0.95)
            c.darken(c.box(0, 1, 0, 0.012), 0.7)
            c.snow(c.box(0, 1, 0.7 * self.course, self.course))
        if self.shutters:
            for u0 in (left - self.surround - self.shutters, right + self.surround):
                c.paint(c.box(u0, u0 + self.shutters, self.bottom, self.top), ACCENT)
                c.darken(c.box(u0, u0 + self.shutters, self.bottom, self.top) & (np.mod(c.v * 22, 1) < 0.3), 0.75)
        if self.lintel:
            c.paint(c.box(left - 0.05, right + 0.05, self.top, self.top + self.lintel), FRAME, 1.05)
            c.paint(c.box(left - 0.08, right + 0.08, self.top + 0.7 * self.lintel, self.top + self.lintel), FRAME, 1.2)
            c.snow(c.box(left - 0.08, right + 0.08, self.top + 0.75 * self.lintel, self.top + self.lintel + 0.02))
        around = 0.8 * self.surround  # a storey is a little higher than a bay is wide
        c.paint(
            c.arch(left - self.surround, right + self.surround, self.bottom - around, self.top + around, self.arch),
            FRAME,
        )
        glass = c.arch(left, right, self.bottom, self.top, self.arch)
        c.paint(glass, GLASS)
        c.darken(glass & (c.v > self.top - 0.09 - self.arch / 2), 0.6)  # the reveal throws a shadow
        c.darken(glass & (c.u < left + 0.05), 0.75)
        for column in range(1, self.panes[0]):
            u = left + self.width * column / self.panes[0]
            c.paint(glass & c.box(u - 0.018, u + 0.018, 0, 1), FRAME)
        for row in range(1, self.panes[1]):
            v = self.bottom + (self.top - self.bottom) * row / self.panes[1]
            c.paint(glass & c.box(0, 1, v - 0.013, v + 0.013), FRAME)
        if self.sill:
            c.paint(c.box(left - 0.07, right + 0.07, self.bottom - 0.055, self.bottom - 0.01), FRAME, 1.1)
            c.darken(c.box(left - 0.06, right + 0.06, self.bottom - 0.1, self.bottom - 0.055), 0.7)
            c.snow(c.box(left - 0.07, right + 0.07, self.bottom - 0.04, self.bottom + 0.03))
        if self.railing:
            rail = c.box(left - 0.12, right + 0.12, 0.02, self.railing)
            c.paint(rail & (np.mod((c.u - left) * 26, 1) < 0.4), ACCENT, 0.8)
            c.paint(c.box(left - 0.13, right + 0.13, self.railing - 0.03, self.railing), ACCENT)
            c.paint(c.box(left - 0.14, right + 0.14, 0, 0.035), FRAME, 0.9)
            c.snow(c.box(left - 0.14, right + 0.14, self.railing - 0.03, self.railing + 0.015))


def two_windows(c: Canvas, **each: object) -> None:
    Window(width=0.27, centre=0.27, **each)(c)
    Window(width=0.27, centre=0.73, **{**each, "course": 0.0})(c)


def oculus(c: Canvas) -> None:
    c.paint(c.disc(0.5, 0.5, 0.23, 0.19), FRAME)
    c.paint(c.disc(0.5, 0.5, 0.17, 0.14), GLASS)
    c.paint(c.disc(0.5, 0.5, 0.17, 0.14) & (c.box(0.48, 0.52, 0, 1) | c.box(0, 1, 0.485, 0.515)), FRAME)


def blind_panel(c: Canvas) -> None:
    c.darken(c.box(0.2, 0.8, 0.2, 0.8), 0.88)
    c.darken(c.box(0.2, 0.8, 0.77, 0.8), 0.8)


def curtain_wall(c: Canvas) -> None:
    c.paint(c.box(0, 1, 0, 1), GLASS)
    c.paint(c.box(0, 1, 0, 0.24), ACCENT)
    c.paint(c.box(0, 0.06, 0, 1) | c.box(0, 1, 0.24, 0.28) | c.box(0.5, 0.53, 0.24, 1), FRAME)


def ribbon(c: Canvas) -> None:
    """A continuous band of windows."""
    c.paint(c.box(0, 1, 0.36, 0.82), GLASS)
    c.darken(c.box(0, 1, 0.74, 0.82), 0.6)
    c.paint(c.box(0, 0.04, 0.36, 0.82) | c.box(0.5, 0.54, 0.36, 0.82) | c.box(0, 1, 0.33, 0.36), FRAME)
    c.snow(c.box(0, 1, 0.33, 0.37))


def loggia(c: Canvas) -> None:
    """A recessed balcony behind a parapet."""
    c.darken(c.box(0.08, 0.92, 0.1, 0.9), 0.55)
    c.paint(c.box(0.2, 0.8, 0.1, 0.82), GLASS, 0.75)
    c.paint(c.box(0.48, 0.52, 0.1, 0.82), FRAME, 0.7)
    c.paint(c.box(0.05, 0.95, 0.03, 0.36), ACCENT)
    c.darken(c.box(0.05, 0.95, 0.03, 0.06), 0.7)
    c.snow(c.box(0.05, 0.95, 0.33, 0.38))


def shop(c: Canvas, panes: int = 2, riser: float = 0.16) -> None:
    """Display window below the sign band."""
    c.paint(c.box(0, 1, 0, 0.97), FRAME, 0.9)
    c.paint(c.box(0.06, 0.94, riser, 0.7), GLASS)
    c.darken(c.box(0.06, 0.94, 0.62, 0.7), 0.7)
    for pane in range(1, panes):
        c.paint(c.box(0.06 + 0.88 * pane / panes - 0.02, 0.06 + 0.88 * pane / panes + 0.02, riser, 0.7), FRAME)
    c.paint(c.box(0, 1, 0.02, riser - 0.03), ACCENT, 0.8)


def arcade(c: Canvas) -> None:
    c.paint(c.arch(0.1, 0.9, 0, 0.82, 0.3), FRAME)
    inside = c.arch(0.16, 0.84, 0, 0.78, 0.27)
    c.paint(inside, GLASS, 0.7)
    c.paint(inside & (c.v < 0.12), ACCENT, 0.6)
    c.paint(c.box(0, 1, 0.93, 1), FRAME, 1.05)


def door(c: Canvas, width: float = 0.42, arch: float = 0.0, portal: bool = False) -> None:
    left, right = 0.5 - width / 2, 0.5 + width / 2
    if portal:
        c.paint(c.box(left - 0.14, right + 0.14, 0, 0.86), FRAME)
        c.darken(c.box(left - 0.1, left - 0.07, 0, 0.8) | c.box(right + 0.07, right + 0.1, 0, 0.8), 0.8)
        c.paint(c.box(left - 0.18, right + 0.18, 0.82, 0.9), FRAME, 1.15)
        c.snow(c.box(left - 0.18, right + 0.18, 0.87, 0.92))
    c.paint(c.arch(left - 0.05, right + 0.05, 0, 0.76 + arch / 2, arch), FRAME, 0.9)
    leaf = c.arch(left, right, 0, 0.73 + arch / 2, arch)
    c.paint(leaf, ACCENT)
    c.paint(leaf & (c.v > 0.6), GLASS)
    for u0 in (left + 0.05, 0.52):
        panel = c.box(u0, u0 + width / 2 - 0.08, 0.1, 0.28) | c.box(u0, u0 + width / 2 - 0.08, 0.33, 0.53)
        c.darken(panel, 0.72)
    c.paint(c.box(left - 0.08, right + 0.08, 0, 0.035), FRAME, 1.1)


def garage(c: Canvas) -> None:
    c.paint(c.box(0.08, 0.92, 0, 0.74), FRAME, 0.8)
    c.paint(c.box(0.12, 0.88, 0, 0.7), ACCENT)
    c.darken(c.box(0.12, 0.88, 0, 0.7) & (np.mod(c.v * 12, 1) < 0.18), 0.7)


FACADE_TILES: dict[str, Callable[[Canvas], None]] = {
    **{draw.__name__: draw for draw in (oculus, ribbon, loggia, shop, arcade, door, garage)},
    "blank": lambda c: None,
    "panel": blind_panel,
    "sash": Window(width=0.4, panes=(1, 2), lintel=0.07),
    "sash_bars": Window(width=0.44, panes=(3, 4), surround=0.05),
    "cross": Window(width=0.48, panes=(2, 2), lintel=0.04, course=0.06),
    "tall": Window(width=0.36, bottom=0.1, top=0.86, panes=(2, 3), lintel=0.08, course=0.05),
    "arched": Window(width=0.44, bottom=0.18, top=0.88, arch=0.18, panes=(2, 2), surround=0.06),
    "gothic": Window(width=0.3, bottom=0.15, top=0.92, arch=0.3, panes=(2, 2), surround=0.06),
    "wide": Window(width=0.74, bottom=0.3, top=0.8, panes=(3, 1)),
    "square": Window(width=0.4, bottom=0.34, top=0.7, panes=(2, 1), surround=0.05),
    "pair": lambda c: two_windows(c, panes=(1, 2), lintel=0.05),
    "pair_arched": lambda c: two_windows(c, panes=(1, 2), arch=0.12, surround=0.045, course=0.05),
    "shutters": Window(width=0.34, panes=(2, 3), shutters=0.16, surround=0.02),
    "shutters_tall": Window(width=0.34, bottom=0.06, top=0.88, panes=(2, 4), shutters=0.16, railing=0.3),
    "french": Window(width=0.42, bottom=0.04, top=0.86, panes=(2, 3), railing=0.34, sill=False, lintel=0.06),
    "attic": Window(width=0.3, bottom=0.28, top=0.66, panes=(2, 1), course=0.08),
    "curtain": curtain_wall,
    "shop_wide": lambda c: shop(c, panes=1, riser=0.08),
    "shop_small": lambda c: shop(c, panes=4, riser=0.24),
    "door_arched": lambda c: door(c, width=0.46, arch=0.2),
    "door_portal": lambda c: door(c, width=0.38, portal=True),
}
