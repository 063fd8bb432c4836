"""Which frames make up a data set: camera poses, visits and file names, all decided before anything is rendered."""

import math
from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np

from vpr_lib.seeds import derive_seed
from vpr_lib.toycity.city import Site, ToyCitySpec, build_street, sites
from vpr_lib.toycity.conditions import CONDITIONS, Condition, random_condition
from vpr_lib.toycity.formats import Frame, Shot, at_name, gsv_name, run_name
from vpr_lib.toycity.view import Pose

RUN_STEP_M = 10.0
_LANE_M = 1.0  # cars drive this far right of the axis


def plan(spec: ToyCitySpec, subset: str) -> list[Frame]:
    """The frames of a subset in a fixed order. Raises ValueError for an unknown subset."""
    check_subset(subset)
    return list(_PLANS[subset](spec))


def check_subset(subset: str) -> None:
    if subset not in SUBSETS:
        raise ValueError(f"Unknown subset '{subset}' of the toy city; the subsets are {', '.join(SUBSETS)}.")


def _rng(spec: ToyCitySpec, *parts: object) -> np.random.Generator:
    return np.random.default_rng(derive_seed(spec.seed, "plan", *parts))


def _places(spec: ToyCitySpec, city: str) -> Iterator[Frame]:
    """Places along every street, each photographed on several dates from about the same spot."""
    for site in sites(spec, city):
        step = site.length_m / spec.places_per_street
        for place in range(spec.places_per_street):
            rng = _rng(spec, city, site.index, place)
            x, facing = (place + 0.5) * step + rng.uniform(-0.1, 0.1) * step, 180.0 * rng.integers(2)
            place_id = site.index * spec.places_per_street + place
            for view in range(spec.views_per_place):
                pose = Pose(
                    x=x + _within(5.0, rng.normal(0, 2.5)), y=rng.uniform(-2, 2),
                    yaw_deg=facing + _within(26.0, rng.normal(0, 11)), height_m=rng.uniform(1.6, 2.3),
                    shift=rng.uniform(0.08, 0.18), fov_deg=rng.uniform(68, 82),
                )  # fmt: skip
                condition = random_condition(rng)
                shot = _shot(site, pose, city, place_id, condition, rng)
                visit = f"{city}/{place_id}/{view}"
                occluded = bool(rng.random() < 0.06)
                yield Frame(f"Images/{city}/{gsv_name(shot)}", site, pose, condition, visit, occluded, shot)


def _within(limit: float, value: float) -> float:
    return max(-limit, min(limit, value))


def _shot(site: Site, pose: Pose, city: str, place_id: int, condition: Condition, rng: np.random.Generator) -> Shot:
    months = {"summer": (4, 5, 6, 7, 8), "autumn": (9, 10, 11), "winter": (12, 1, 2)}[condition.season]
    east, north = site.to_utm(pose.x, pose.y)
    return Shot.at(
        east, north, city_id=city, place_id=place_id, year=int(rng.integers(2012, 2025)), month=months[rng.integers(len(months))],
        northdeg=round(site.heading_deg(pose.yaw_deg)) % 360, pano_bytes=rng.bytes(16),
    )  # fmt: skip


def _benchmark(spec: ToyCitySpec, split: str) -> Iterator[Frame]:
    """A database driven by day in both directions, and off-grid queries under every condition."""
    for site in sites(spec, split):
        yield from _database(spec, site)
    for site in sites(spec, split):
        for number in range(spec.poses_per_street):
            yield from _queries(spec, site, number)


def _database(spec: ToyCitySpec, site: Site) -> Iterator[Frame]:
    rng = _rng(spec, site.split, site.index, "database")
    for direction, yaw in (("forward", 0.0), ("backward", 180.0)):
        name = ("day", "overcast")[rng.integers(2)]
        condition = Condition(weather="clear" if name == "day" else "overcast")
        side = -_LANE_M if direction == "forward" else _LANE_M
        for x in np.arange(spec.database_step_m / 2, site.length_m, spec.database_step_m):
            pose = Pose(float(x), side + float(rng.normal(0, 0.25)), yaw + float(rng.normal(0, 1.5)))
            heading, (east, north) = site.heading_deg(pose.yaw_deg), site.to_utm(pose.x, pose.y)
            file = at_name(east, north, f"{site.name}-{direction}-{x:05.1f}", heading, 201906, f"{name}_{direction}")
            visit = f"{site.name}/{direction}"
            yield Frame(f"images/{site.split}/database/{file}", site, pose, condition, visit)


def _queries(spec: ToyCitySpec, site: Site, number: int) -> Iterator[Frame]:
    """One pose under every query condition (as in Tokyo 24/7); two poses in five are hard."""
    rng = _rng(spec, site.split, site.index, "query", number)
    hard = (2 * number + site.index) % 5 > 2
    spread = (site.length_m - 16) / spec.poses_per_street
    sign = rng.choice((-1, 1), 2)
    reach = build_street(site).half_road_m - 0.9
    y = sign[0] * (rng.uniform(min(1.6, reach), reach) if hard else rng.uniform(0, 1.2))
    turn = sign[1] * (rng.uniform(8, 18) if hard else rng.uniform(0, 6))
    pose = Pose(
        x=8 + (number + rng.uniform(0.1, 0.9)) * spread, y=float(y), yaw_deg=180.0 * rng.integers(2) + float(turn),
        height_m=rng.uniform(1.6, 2.3), shift=rng.uniform(0.09, 0.17), fov_deg=rng.uniform(70, 80),
    )  # fmt: skip
    occluded = bool(hard and rng.random() < 0.3)
    east, north = site.to_utm(pose.x, pose.y)
    for order, name in enumerate(spec.query_conditions):
        condition = CONDITIONS[name]
        level = "easy" if condition.is_dry_day and not hard else "hard"
        note = "_".join([name] + ["occluded"] * occluded + [level])
        pano = f"{site.name}-q{number:03d}-{name}"
        file = at_name(east, north, pano, site.heading_deg(pose.yaw_deg), 202301 + order, note)
        yield Frame(f"images/{site.split}/queries/{file}", site, pose, condition, pano, occluded)


def _traverse(spec: ToyCitySpec) -> Iterator[Frame]:
    """The same journey in summer and in winter."""
    (site,) = sites(spec, "traverse")
    journeys = (("ref", Condition()), ("query", CONDITIONS["winter"]))
    for folder, condition in journeys:
        rng = _rng(spec, "traverse", folder)
        for number in range(spec.traverse_frames):
            x = (number + 0.5) * spec.traverse_step_m
            pose = Pose(x, -_LANE_M + float(rng.normal(0, 0.15)), float(rng.normal(0, 1.0)))
            yield Frame(f"{folder}/{number:07d}.jpg", site, pose, condition, f"traverse/{folder}")


def _runs(spec: ToyCitySpec) -> Iterator[Frame]:
    """Drives through the same streets on several days, with a cloud and an image every 10 m."""
    streets = sites(spec, "runs_train") + sites(spec, "runs_test")
    for number, name in enumerate(spec.run_conditions):
        rng = _rng(spec, "runs", number)
        run, clock = run_name(number, rng)
        for site in streets:
            visit = f"runs/{number}/{site.name}"
            for step, pose in enumerate(_drive(site, rng)):
                clock += int(RUN_STEP_M / rng.uniform(6, 9) * 1e6)
                files = [f"oxford/{run}/pointcloud_20m_10overlap/{clock}.bin"]
                files += [f"oxford/{run}/pointcloud_20m/{clock}.bin"] * (step % 2 == 0)
                files += [f"images/{run}/{clock + int(rng.integers(1000, 40000))}.png"]
                yield from (Frame(file, site, pose, CONDITIONS[name], visit) for file in files)
            clock += 60_000_000  # µs to the next street


def _drive(site: Site, rng: np.random.Generator) -> Iterator[Pose]:
    """Poses of a car that keeps to the right lane, not quite straight."""
    phase, lane = rng.uniform(0, 2 * math.pi), -_LANE_M + rng.normal(0, 0.3)
    for x in np.arange(RUN_STEP_M / 2, site.length_m, RUN_STEP_M):
        y = lane + 0.5 * math.sin(x / 30 + phase)
        yield Pose(float(x + rng.normal(0, 0.8)), float(y), float(rng.normal(0, 2)))


_PLANS: dict[str, Callable[[ToyCitySpec], Iterator[Frame]]] = {
    "places": lambda spec: chain(_places(spec, "ToyNorth"), _places(spec, "ToySouth")),
    "start": lambda spec: _places(spec, "ToyStart"),
    "benchmark": lambda spec: chain(_benchmark(spec, "val"), _benchmark(spec, "test")),
    "traverse": _traverse,
    "runs": _runs,
}
SUBSETS = tuple(_PLANS)
