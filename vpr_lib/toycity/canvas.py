"""The drawing board of the tiles: a face is made of wall, frame, glass and accent, which every prism colours itself."""

from functools import cached_property

import numpy as np

CHANNELS = 8
FRAME, GLASS, ACCENT, SHADE, LEDGE, ALPHA = range(6)  # what is none of the first three is wall; two channels are spare
TILE = 64  # texels along each side of a finished tile
_OVERSAMPLING = 3
FINE = _OVERSAMPLING * TILE


class Canvas:
    """One tile under construction, drawn at three times its final size.

    `u` and `v` run from 0 to 1, from the left and from below. Shade multiplies the colour (1 leaves it alone, at most 2),
    ledge says where snow settles, alpha where the tile is opaque.
    """

    def __init__(self):
        axis = (np.arange(FINE, dtype=np.float32) + 0.5) / FINE
        self.u, self.v = np.meshgrid(axis, axis)
        self.layers = np.zeros((CHANNELS, FINE, FINE), np.float32)
        self.layers[SHADE] = 0.5
        self.layers[ALPHA] = 1

    def box(self, u0: float, u1: float, v0: float, v1: float) -> np.ndarray:
        return (self.u >= u0) & (self.u < u1) & (self.v >= v0) & (self.v < v1)

    def arch(self, u0: float, u1: float, v0: float, v1: float, rise: float) -> np.ndarray:
        """A box whose upper `rise` is an elliptic arch."""
        spring = v1 - rise
        across = (self.u - (u0 + u1) / 2) / ((u1 - u0) / 2)
        curve = across**2 + (np.maximum(self.v - spring, 0) / max(rise, 1e-6)) ** 2 < 1
        return self.box(u0, u1, v0, v1) & curve

    def disc(self, u: float, v: float, radius_u: float, radius_v: float) -> np.ndarray:
        return ((self.u - u) / radius_u) ** 2 + ((self.v - v) / radius_v) ** 2 < 1

    def paint(self, where: np.ndarray, part: int | None, shade: float = 1.0) -> None:
        """Cover a region with FRAME, GLASS or ACCENT, or with wall (None)."""
        for channel in (FRAME, GLASS, ACCENT):
            np.copyto(self.layers[channel], channel == part, where=where)
        np.copyto(self.layers[SHADE], shade / 2, where=where)

    def darken(self, where: np.ndarray, factor: float) -> None:
        np.multiply(self.layers[SHADE], factor, out=self.layers[SHADE], where=where)

    def relief(self, shade: np.ndarray) -> None:
        """Replace the shade everywhere, (FINE, FINE) around 1."""
        self.layers[SHADE] = np.clip(shade / 2, 0.1, 0.95)

    def snow(self, where: np.ndarray) -> None:
        np.copyto(self.layers[LEDGE], 1, where=where)

    def cut_to(self, where: np.ndarray) -> None:
        """Make everything outside the region transparent."""
        self.layers[ALPHA] = where

    @cached_property
    def tile(self) -> np.ndarray:
        """The finished tile, float32 (TILE, TILE, CHANNELS) in 0..1."""
        n = _OVERSAMPLING
        rows = sum(self.layers[:, i::n] for i in range(n))
        return sum(rows[:, :, i::n] for i in range(n)).transpose(1, 2, 0) / n**2
