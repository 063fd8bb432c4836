"""Findings: paired differences with intervals, by hand, by simulation and against planted numbers."""

import numpy as np
import pandas as pd
import pytest

from vpr_lib.config import Finding
from vpr_lib.results.findings import difference, exact, paired

N = 200


def records(model, hits, seed=1, **extra):
    return pd.DataFrame({
        "dataset": "s", "protocol": "25m", "card": "c1", "model": model, "seed": seed, "counted": True,
        "query_id": [f"q{i}" for i in range(len(hits))], "first_hit": np.where(hits, 1, 0),
    } | extra)  # fmt: skip


def first(share):
    return np.arange(N) < share * N


def test_difference_in_points_with_interval_and_mcnemar():
    found = difference(pd.concat([records("a", first(0.6)), records("b", first(0.5))]), {"a": 1, "b": -1})
    assert found.value == pytest.approx(10) and 5 < found.low < 10 < found.high < 15
    assert (found.seeds, found.queries) == (1, N) and found.p_value < 0.001
    assert found.compared == "a - b, s" and found.unit == "points of R@1"


def test_a_share_of_another_models_recall():
    both = pd.concat([records("light", first(0.5)), records("large", first(0.5))])
    assert difference(both, {"light": 1, "large": -0.9}).value == pytest.approx(5)
    assert difference(both, {"light": 1, "large": -0.9}).p_value is None


def test_few_seeds_that_disagree_make_a_wide_interval():
    runs = [records("a", first(share), seed) for seed, share in ((1, 0.62), (2, 0.6), (3, 0.44))]
    runs += [records("b", first(0.5), seed) for seed in (1, 2, 3)]
    found = difference(pd.concat(runs), {"a": 1, "b": -1})
    assert found.seeds == 3 and found.low < -10 and found.high > 15, "seeds 18 points apart decide nothing"
    one = difference(pd.concat([runs[0], runs[3]]), {"a": 1, "b": -1})
    assert one.low > 0, "its own queries alone would have decided"


def test_a_training_free_rival_stands_beside_every_seed():
    runs = [records("a", first(share), seed) for seed, share in ((1, 0.6), (2, 0.62))] + [
        records("pixels", first(0.1), 9)
    ]
    assert difference(pd.concat(runs), {"a": 1, "pixels": -1}).value == pytest.approx(51)


def test_pairs_of_drives_weigh_the_same_and_places_are_drawn_together():
    long = records("a", first(0.5), pair="1 in 2"), records("b", first(0.5), pair="1 in 2")
    short = records("a", np.ones(10, bool), pair="2 in 1"), records("b", np.zeros(10, bool), pair="2 in 1")
    found = difference(pd.concat([*long, *short]), {"a": 1, "b": -1})
    assert found.value == pytest.approx(50), "mean of the pairs' means, 0 and 100"


def test_interval_holds_its_level():
    rng, held = np.random.default_rng(3), 0
    for _ in range(150):
        truth = rng.normal(0, 1, (3, 1)) + rng.normal(0, 8, (1, 60)) + rng.normal(0, 4, (3, 60))
        found = paired(truth)
        held += found.low <= 0 <= found.high
    assert held >= 0.9 * 150


def test_planted_opposites_read_opposite():
    rule = Finding(statement="a beats b", source="paper", above=0)
    better = difference(pd.concat([records("a", first(0.6)), records("b", first(0.4))]), {"a": 1, "b": -1})
    worse = difference(pd.concat([records("a", first(0.4)), records("b", first(0.6))]), {"a": 1, "b": -1})
    level = paired(np.tile([50.0, -50.0], 40))
    assert [rule.verdict(e.low, e.high) for e in (better, worse, level)] == ["reproduced", "contradicted", "undecided"]


def test_rules():
    floor = Finding(statement="s", source="p", at_least=-2)
    assert floor.verdict(-2, 5) == "reproduced" and floor.verdict(-9, -2.1) == "contradicted" and floor.rule() == "≥ -2"
    ceiling = Finding(statement="s", source="p", at_most=0.01)
    count = exact(0.032, "of the published figure")
    assert ceiling.verdict(count.low, count.high) == "contradicted" and ceiling.verdict(0, 0) == "reproduced"
    assert Finding(statement="s", source="p", above=0).verdict(0, 0) == "contradicted", (
        "no difference at all is not more"
    )
    assert ceiling.verdict(float("nan"), 1) == "undecided"
    with pytest.raises(ValueError, match="a finding needs a rule"):
        Finding(statement="s", source="p")


def test_what_cannot_be_compared_is_refused():
    both = pd.concat([records("a", first(0.5)), records("b", first(0.5)[:50])])
    with pytest.raises(ValueError, match="different queries"):
        difference(both, {"a": 1, "b": -1})
    with pytest.raises(ValueError, match="No records of 'c'"):
        difference(both, {"a": 1, "c": -1})
    apart = [records(m, first(0.5), seed) for m, seeds in (("a", (1, 2)), ("b", (3, 4))) for seed in seeds]
    with pytest.raises(ValueError, match="share no seed"):
        difference(pd.concat(apart), {"a": 1, "b": -1})
    with pytest.raises(ValueError, match="at least 2"):
        paired(np.ones(1))
    with pytest.raises(ValueError, match="3 queries and 2 groups"):
        paired(np.ones(3), groups=np.arange(2))
