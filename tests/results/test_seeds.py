"""Means over seeds, gains over a control, and the Pareto front."""

import numpy as np
import pandas as pd
import pytest

from vpr_lib.results.seeds import first_seed, seed_table
from vpr_lib.results.statistics import mean_interval, pareto_front


def records(model, seed, first_hits, dataset="d"):
    n = len(first_hits)
    return pd.DataFrame({
        "query": range(n), "query_id": [f"q{i}" for i in range(n)], "first_hit": first_hits, "counted": True, "dataset": dataset,
        "protocol": "p", "card": "c", "rule": "r", "n_database": 50, "model": model, "seed": seed, "system": "S", "dim": 4,
        "profile": "toy", "device": "cpu", "precision": "fp32",
    })  # fmt: skip


def test_gain_over_the_control_seed_by_seed():
    table = seed_table(pd.concat([
        records("control", 1, [1, 2, 0, 1]), records("control", 2, [1, 0, 0, 0]),
        records("taught", 1, [1, 1, 0, 1]), records("taught", 2, [1, 1, 1, 0]), records("once", 1, [1, 1, 1, 1]),
    ]), "control").set_index("model")  # fmt: skip
    assert table.loc["control", "R@1"] == 37.5 and table.loc["taught", "R@1"] == 75.0
    assert table.loc["taught", "R@1 gain"] == 37.5 and table.loc["taught", "R@5 gain"] == 25.0
    assert (
        table.loc["taught", ["R@1 low", "R@1 high"]].tolist() == [75, 75] and table.loc["control", "R@1 high"] == 100
    )  # cut
    assert list(table.columns[2:6]) == ["R@1", "R@1 low", "R@1 high", "R@1 gain"]
    assert table.loc["taught", "R@1 gain low"] == pytest.approx(37.5 - 12.7062 * 12.5)  # t for 1 degree of freedom
    assert (
        np.isnan(table.loc["once", "R@1 gain"])
        and np.isnan(table.loc["once", "R@1 low"])
        and table.loc["control", "R@5"] == 50
    )
    with pytest.raises(ValueError, match="No records of the control 'x'"):
        seed_table(records("a", 1, [1]), "x")
    with pytest.raises(ValueError, match="one data set"):
        seed_table(pd.concat([records("control", 1, [1]), records("control", 1, [1], "e")]), "control")


def test_mean_interval_is_students():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2 and high - 2 == pytest.approx(4.30265 / 3**0.5, rel=1e-5) and low == pytest.approx(4 - high)


def test_pareto_front():
    cost, value = np.array([1, 2, 3, 2, 1]), np.array([10, 20, 15, 18, 10])
    assert pareto_front(cost, value).tolist() == [True, True, False, False, True]
    assert pareto_front([1, 1], [5, 6]).tolist() == [False, True]


def test_the_first_seed_of_every_model():
    rows = [("a", "x", 2), ("a", "x", 1), ("a", "y", 3), ("b", "x", 2)]
    records = pd.DataFrame([{"dataset": d, "protocol": "p", "model": m, "seed": s} for d, m, s in rows])
    assert first_seed(records)["seed"].tolist() == [1, 3, 2]
