"""The map: disjoint streets, far enough apart, rightly turned."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from vpr_lib.toycity import CITY, TOY, street_polylines
from vpr_lib.toycity.city import SPLITS, Site, build_street, sites
from vpr_lib.toycity.plan import plan


def test_no_two_splits_share_a_street():
    seeds = [site.seed for split in SPLITS for site in sites(CITY, split)]
    assert len(set(seeds)) == len(seeds)
    places = {site.seed for site in sites(TOY, "ToyNorth") + sites(TOY, "ToySouth")}
    assert not places & {site.seed for split in ("val", "test", "ToyStart") for site in sites(CITY, split)}


def test_streets_lie_at_least_200_m_apart():
    ends = np.concatenate([np.array(list(street_polylines(TOY, split).values())) for split in SPLITS])  # (S, 2, 2)
    steps = np.linspace(0, 1, 30)[:, None]
    points = ends[:, None, 0] * (1 - steps) + ends[:, None, 1] * steps  # (S, 30, 2)
    gaps = [np.linalg.norm(a[:, None] - b[None], axis=-1).min() for a, b in combinations(points, 2)]
    assert min(gaps) > 200


def test_bearing_and_heading_are_clockwise_from_north():
    east_bound = Site("test", 0, 1, 1, 100.0, 500_000.0, 5_400_000.0, bearing_deg=90.0)
    assert east_bound.to_utm(10, 0) == pytest.approx((500_010, 5_400_000))
    assert east_bound.to_utm(0, 3) == pytest.approx((500_000, 5_400_003))  # left of east is north
    assert east_bound.heading_deg(90) == pytest.approx(0)  # a quarter turn to the left
    assert east_bound.heading_deg(-90) == pytest.approx(180)


def test_polylines_run_along_the_street(tiny):
    (name, line), *_ = street_polylines(tiny, "test").items()
    assert name == "test-000" and np.linalg.norm(line[1] - line[0]) == pytest.approx(tiny.street_m)


def test_a_site_always_builds_the_same_street(tiny):
    site = sites(tiny, "val")[0]
    first = build_street(site).prisms.copy()
    build_street.cache_clear()
    assert (build_street(site).prisms == first).all()
    other = sites(replace(tiny, seed=2), "val")[0]
    assert other.seed != site.seed


def test_the_presets_have_the_promised_size():
    images = {
        s: sum(not f.path.endswith(".bin") for f in plan(TOY, s))
        for s in ("places", "benchmark", "start", "traverse", "runs")
    }
    assert images["places"] + images["benchmark"] <= 2000 and sum(images.values()) <= 3050
    train = CITY.streets_per_city * 2 * CITY.places_per_street * CITY.views_per_place
    assert train == 40_000


def test_unknown_names_list_the_known_ones(tiny):
    with pytest.raises(ValueError, match="Unknown split 'Rome' of the toy city; the splits are ToyNorth"):
        tiny.streets_in("Rome")
    with pytest.raises(ValueError, match="Unknown subset 'train' of the toy city; the subsets are places"):
        plan(tiny, "train")
