"""What the shaders hand to the lighting: pixels of one kind of surface with their colours."""

from dataclasses import dataclass

import numpy as np

from vpr_lib.toycity.conditions import Visit

SNOW = np.float32(0.78)  # linear brightness


@dataclass(frozen=True)
class Surface:
    """N pixels of one kind of surface: where they are and how they look."""

    pixels: np.ndarray  # int64 (N,), flat index into the image
    depth: np.ndarray  # (N,)
    colour: np.ndarray  # (3, N)
    emission: np.ndarray | None  # (3, N), light they give off at night
    towards_sun: np.ndarray  # (N,), cosine between normal and sun, not below 0


def evening(visit: Visit) -> float:
    """How much artificial light there is, 0..1."""
    return {"day": 0.0, "dusk": 0.55, "night": 1.0}[visit.condition.time]
