"""How the toy city looks: colours, kinds of streets and their houses, the light of every hour and weather.

The table is `vpr_lib/configs/toycity.yaml`.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field

from vpr_lib.config import Strict, load_yaml

TABLE = Path(__file__).parent.parent / "configs" / "toycity.yaml"
Rgb = tuple[float, float, float]
Range = tuple[float, float]
Linear = Annotated[np.ndarray, BeforeValidator(lambda rgb: np.array(rgb, np.float32)[:, None])]  # (3, 1)


class Architecture(Strict):
    """What the houses of a street type have in common; pairs are ranges."""

    materials: tuple[str, ...]
    upper: tuple[str, ...]
    ground: tuple[str, ...]
    doors: tuple[str, ...]
    top: tuple[str, ...] = ()  # other tiles for the top floor
    roofs: tuple[Literal["flat", "across", "along"], ...] = ("flat",)
    width_m: Range = (8.0, 14.0)
    storeys: tuple[int, int] = (2, 4)
    storey_m: Range = (2.8, 3.3)
    bay_m: Range = (1.9, 2.9)
    mansard: float = 0.0  # shares of houses with each feature
    stepped: float = 0.0
    bay_window: float = 0.0
    balconies: float = 0.0
    awning: float = 0.0


class StreetType(Strict):
    """How a kind of street is laid out; pairs are ranges, shares lie between 0 and 1."""

    houses: Architecture
    half_road_m: Range
    pavement_m: Range
    setback_m: Range = (0.0, 0.0)
    gap: float = 0.04  # share of houses followed by a gap
    gap_m: Range = (2.0, 5.0)
    trees: float = 0.3  # share of streets with trees
    parking: float = 0.2  # share of the kerb that is parked upon
    walkers: float = 4.0  # people per 100 m
    hedges: float = 0.0
    surface: tuple[str, ...] = ("asphalt",)
    markings: tuple[str, ...] = ("dashed",)


class Illumination(Strict):
    """Linear colours, float32 (3, 1), of one time and weather."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    zenith: Linear
    horizon: Linear
    ambient: Linear
    sun: Linear = Field((0.0, 0.0, 0.0), validate_default=True)
    cloud: Linear
    cover: float  # cloud density that is half covered: low values mean many clouds


class Looks(Strict):
    """The whole table."""

    wall_colours: dict[str, tuple[Rgb, ...]]  # by material
    frame_colours: tuple[Rgb, ...]
    accent_colours: tuple[Rgb, ...]
    sign_colours: tuple[Rgb, ...]
    roof_colours: dict[str, tuple[Rgb, ...]]  # by material
    streets: dict[str, StreetType]
    light: dict[str, Illumination]  # by time and weather: 'day clear'


LOOKS: Looks = load_yaml(TABLE, Looks)
