"""The map: how many streets each split has, where they lie, and how large the data sets are."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from vpr_lib.seeds import derive_seed
from vpr_lib.toycity.street import Street

UTM_ZONE, UTM_BAND = 32, "U"
_ORIGIN_EAST, _ORIGIN_NORTH = 430_000.0, 5_400_000.0
_SPACING_M = 260.0  # between the cells of neighbouring streets, so that 25 m never reach from one to another
SPLITS = ("ToyNorth", "ToySouth", "ToyStart", "val", "test", "traverse", "runs_train", "runs_test")


@dataclass(frozen=True)
class ToyCitySpec:
    """Everything a toy city follows from; sizes are (height, width) in pixels."""

    seed: int = 1
    image_size: tuple[int, int] = (112, 112)
    street_m: float = 200.0
    streets_per_city: int = 21  # `places`: two cities, ToyNorth and ToySouth
    places_per_street: int = 5
    views_per_place: int = 6
    start_streets: int = 10  # `start`: one more city, to pretrain on
    val_streets: int = 2  # `benchmark`
    test_streets: int = 7
    database_step_m: float = 10.0
    poses_per_street: int = 5  # query poses; each is photographed under every query condition
    query_conditions: tuple[str, ...] = ("day", "overcast", "dusk", "night", "rain", "fog", "winter", "night_rain")
    traverse_frames: int = 80  # `traverse`
    traverse_step_m: float = 8.0
    run_conditions: tuple[str, ...] = ("day", "overcast", "night", "winter", "rain")  # `runs`: one drive each
    runs_train_streets: int = 3
    runs_test_streets: int = 2
    run_street_m: float = 160.0
    run_image_size: tuple[int, int] = (90, 120)
    supersampling: int = 1
    jpeg_quality: int = 90

    def streets_in(self, split: str) -> int:
        """Number of streets of a split. Raises ValueError for an unknown one."""
        counts = {"ToyNorth": self.streets_per_city, "ToySouth": self.streets_per_city, "ToyStart": self.start_streets,
                  "val": self.val_streets, "test": self.test_streets, "traverse": 1,
                  "runs_train": self.runs_train_streets, "runs_test": self.runs_test_streets}  # fmt: skip
        if split not in counts:
            raise ValueError(f"Unknown split '{split}' of the toy city; the splits are {', '.join(SPLITS)}.")
        return counts[split]

    def street_length_m(self, split: str) -> float:
        if split == "traverse":
            return self.traverse_frames * self.traverse_step_m
        return self.run_street_m if split.startswith("runs") else self.street_m


TOY = ToyCitySpec()
CITY = ToyCitySpec(
    image_size=(320, 320), street_m=300.0, streets_per_city=200, places_per_street=10, views_per_place=10,
    start_streets=100, val_streets=20, test_streets=60, poses_per_street=13, traverse_frames=1000, run_street_m=300.0,
    run_conditions=("day", "overcast", "night", "winter", "rain", "dusk", "fog", "overcast", "day", "night_rain"),
    runs_train_streets=16, runs_test_streets=8, run_image_size=(240, 320),
)  # fmt: skip
GPU = replace(  # what 16 cores render in half a minute: 11,000 pictures
    CITY, streets_per_city=50, views_per_place=6, start_streets=10, val_streets=4, test_streets=10, poses_per_street=12,
    traverse_frames=150, run_street_m=240.0, run_conditions=TOY.run_conditions, runs_train_streets=6, runs_test_streets=3,
)  # fmt: skip
TOWN = replace(  # the toy city at the size of ImageNet networks: 2,880 pictures of 360 places in half a minute on two cores
    TOY, image_size=(224, 224), streets_per_city=30, places_per_street=6, views_per_place=8, val_streets=4, test_streets=12,
    poses_per_street=6,
)  # fmt: skip
PRESETS = {"toy": TOY, "town": TOWN, "city": CITY, "gpu": GPU}


@dataclass(frozen=True)
class Site:
    """A street on the map: `east`, `north` are where its axis begins, in UTM metres; bearing is clockwise from north."""

    split: str
    index: int
    seed: int
    city_seed: int
    length_m: float
    east: float
    north: float
    bearing_deg: float

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index:03d}"

    def to_utm(self, x: float, y: float) -> tuple[float, float]:
        """Easting and northing of a point x metres along the street and y metres to the left of its axis."""
        sin, cos = math.sin(math.radians(self.bearing_deg)), math.cos(math.radians(self.bearing_deg))
        return self.east + x * sin - y * cos, self.north + x * cos + y * sin

    def heading_deg(self, yaw_deg: float) -> float:
        """Compass heading in [0, 360) of a camera turned `yaw_deg` anticlockwise from the street."""
        return (self.bearing_deg - yaw_deg) % 360


def sites(spec: ToyCitySpec, split: str) -> tuple[Site, ...]:
    """The streets of a split, on a grid of their own; no seed is shared between splits."""
    count, length = spec.streets_in(split), spec.street_length_m(split)
    per_row = math.ceil(math.sqrt(count))
    cell = length + _SPACING_M
    block = sum(_block_width_m(spec, before) for before in SPLITS[: SPLITS.index(split)])
    places = []
    for index in range(count):
        seed = derive_seed(spec.seed, "street", split, index)
        bearing = np.random.default_rng((seed, 1)).uniform(0, 360)
        sin, cos = math.sin(math.radians(bearing)), math.cos(math.radians(bearing))
        east = _ORIGIN_EAST + block + (index % per_row + 0.5) * cell - length / 2 * sin
        north = _ORIGIN_NORTH + (index // per_row + 0.5) * cell - length / 2 * cos
        places.append(Site(split, index, seed, derive_seed(spec.seed, "city", split), length, east, north, bearing))
    return tuple(places)


def _block_width_m(spec: ToyCitySpec, split: str) -> float:
    columns = math.ceil(math.sqrt(spec.streets_in(split)))
    return columns * (spec.street_length_m(split) + _SPACING_M) + 1000.0


@lru_cache(maxsize=4)
def build_street(site: Site) -> Street:
    """The geometry of a site; neighbouring frames reuse it."""
    return Street(site.seed, site.city_seed, site.length_m)


def street_polylines(spec: ToyCitySpec, split: str) -> dict[str, np.ndarray]:
    """For maps: the axis of every street of a split, name -> float64 (2, 2) of easting and northing at both ends."""
    return {site.name: np.array([site.to_utm(0, 0), site.to_utm(site.length_m, 0)]) for site in sites(spec, split)}
