"""When a picture is taken: time of day, weather and season, and what changes from one visit to the next."""

from bisect import bisect
from dataclasses import dataclass

import numpy as np

TIMES, WEATHERS, SEASONS = (
    ("day", "dusk", "night"),
    ("clear", "overcast", "rain", "fog"),
    ("summer", "autumn", "winter"),
)
_UP_TO = (0.6, 0.76, 1.0), (0.42, 0.70, 0.90, 1.0), (0.5, 0.75, 1.0)  # cumulative shares of times, weathers, seasons


@dataclass(frozen=True)
class Condition:
    """A kind of visit. Raises ValueError for a word that is not in TIMES, WEATHERS or SEASONS."""

    time: str = "day"
    weather: str = "clear"
    season: str = "summer"

    def __post_init__(self):
        for word, known in ((self.time, TIMES), (self.weather, WEATHERS), (self.season, SEASONS)):
            if word not in known:
                raise ValueError(f"'{word}' is not one of {', '.join(known)}.")

    @property
    def is_dry_day(self) -> bool:
        return self.time == "day" and self.weather in ("clear", "overcast")


CONDITIONS: dict[str, Condition] = {
    "day": Condition(),
    "overcast": Condition(weather="overcast", season="autumn"),
    "dusk": Condition(time="dusk"),
    "night": Condition(time="night"),
    "rain": Condition(weather="rain"),
    "fog": Condition(weather="fog", season="autumn"),
    "winter": Condition(weather="overcast", season="winter"),
    "night_rain": Condition(time="night", weather="rain", season="autumn"),
}


def random_condition(rng: np.random.Generator) -> Condition:
    """What a photographer who comes back now and then would meet: mostly day, mostly dry."""
    time, weather, season = (bisect(shares, rng.random()) for shares in _UP_TO)
    return Condition(TIMES[time], WEATHERS[weather], SEASONS[season])


@dataclass(frozen=True)
class Visit:
    """One drive through the town: a condition with everything that chance adds to it."""

    condition: Condition
    seed: int  # where cars are parked, who walks by, which windows are lit
    sun_azimuth_rad: float  # in the frame of the street, anticlockwise from its axis
    sun_elevation_rad: float
    exposure: float
    white_balance: tuple[float, float, float]
    visibility_m: float  # distance at which 63 % of the contrast is gone
    snow: float  # 0 none, 1 everything white
    wetness: float
    cloud_shift: float  # share of a turn
    traffic: float

    @property
    def evening(self) -> float:
        """How much artificial light there is, 0..1."""
        return {"day": 0.0, "dusk": 0.55, "night": 1.0}[self.condition.time]

    @classmethod
    def sample(cls, condition: Condition, seed: int) -> "Visit":
        rng = np.random.default_rng(seed)
        night = condition.time == "night"
        visibility = {"clear": (500, 900), "overcast": (250, 450), "rain": (80, 160), "fog": (35, 70)}[
            condition.weather
        ]
        return cls(
            condition=condition,
            seed=int(seed % 2**31),
            sun_azimuth_rad=rng.uniform(-np.pi, np.pi),
            sun_elevation_rad=rng.uniform(0.06, 0.16) if condition.time == "dusk" else rng.uniform(0.45, 1.05),
            exposure=rng.uniform(0.82, 1.2) * (1.0 if not night else rng.uniform(0.85, 1.25)),
            white_balance=tuple(1 + rng.normal(0, 0.035, 3)),
            visibility_m=rng.uniform(*visibility),
            snow=rng.uniform(0.55, 1.0) if condition.season == "winter" else 0.0,
            wetness=rng.uniform(0.7, 1.0) if condition.weather == "rain" else 0.0,
            cloud_shift=rng.random(),
            traffic=rng.uniform(0.4, 1.4) * (0.5 if night else 1.0),
        )
