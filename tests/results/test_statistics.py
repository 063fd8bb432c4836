"""Intervals and fronts against what can be counted by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpr_lib.results.statistics import mcnemar, mean_interval, pareto_front, wilson_interval


def test_students_interval_by_hand():
    mean, low, high = mean_interval(np.array([1.0, 2.0, 3.0]))
    half = 4.302653 * 1.0 / 3**0.5  # t of two degrees of freedom, standard deviation 1 with n - 1
    assert mean == 2.0 and low == pytest.approx(2 - half, rel=1e-6) and high == pytest.approx(2 + half, rel=1e-6)
    _, narrow, _ = mean_interval(np.array([1.0, 2.0, 3.0]), 0.5)
    assert narrow == pytest.approx(2 - 0.8164966 / 3**0.5, rel=1e-6)
    two = mean_interval(np.array([1.0, 2.0]))
    assert two[0] == 1.5 and two[2] - two[1] == pytest.approx(12.7062047, rel=1e-6)


def test_a_single_run_has_no_interval():
    mean, low, high = mean_interval(np.array([4.0]))
    assert mean == 4.0 and np.isnan(low) and np.isnan(high)


def test_wilson_and_mcnemar_at_their_ends():
    assert np.isnan(wilson_interval(0, 0)).all()
    low, high = wilson_interval(1, 1)
    assert high == pytest.approx(1) and low == pytest.approx(1 / (1 + 1.959964**2), rel=1e-5)
    found = mcnemar([1, 1, 0, 0, 1], [1, 0, 1, 0, 0])
    assert (found.only_first, found.only_second, found.p_value) == (2, 1, pytest.approx(1.0))
    assert mcnemar([1, 0], [1, 0]).p_value == 1.0
    with pytest.raises(ValueError, match="the same queries"):
        mcnemar([1], [1, 0])


def test_a_front_by_hand():
    cost, value = np.array([1, 2, 2, 3, 1, 4]), np.array([5, 7, 6, 7, 5, 9])
    # 2 is beaten at its own cost, 3 by the same value for less; equals (0 and 4) do not beat each other
    assert pareto_front(cost, value).tolist() == [True, True, False, False, True, True]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_a_front_by_a_plain_loop(points):
    beats = lambda a, b: a[0] <= b[0] and a[1] >= b[1] and a != b
    cost, value = map(np.array, zip(*points))
    assert pareto_front(cost, value).tolist() == [not any(beats(a, b) for a in points) for b in points]
