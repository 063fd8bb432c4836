import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from vpr_lib.results.precision import (
    mean_reciprocal_rank,
    one_percent,
    precision_recall,
    trust_table,
)


def drawn(seed, n=60):
    generator = np.random.default_rng(seed)
    matchable = generator.random(n) < 0.7
    correct = matchable & (generator.random(n) < 0.6)
    return np.round(generator.random(n) + 0.4 * correct, 2), correct, matchable  # rounded: ties happen


def by_loop(similarity, correct, matchable):
    """Precision and recall at every threshold, one at a time, as on paper."""
    rows = []
    for threshold in sorted(set(similarity), reverse=True):
        accepted = [i for i, s in enumerate(similarity) if s >= threshold]
        right = sum(bool(correct[i]) for i in accepted)
        rows.append((threshold, right / len(accepted), right / sum(matchable)))
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_agrees_with_a_plain_loop(seed):
    found, expected = precision_recall(*drawn(seed)), by_loop(*drawn(seed))
    cut = len(found.threshold)  # scikit-learn may stop when all right ones are found; what is left adds no recall
    assert np.allclose(np.stack([found.threshold, found.precision, found.recall], 1), expected[:cut])
    before, area = 0.0, 0.0
    for _, precision, recall in expected:
        area, before = area + (recall - before) * precision, recall
    assert found.average_precision == pytest.approx(area)
    assert found.recall_at_full_precision == pytest.approx(max((r for _, p, r in expected if p == 1), default=0))


def test_with_every_query_matchable_and_right_or_not_it_is_scikit_learns_average_precision():
    similarity, correct, _ = drawn(7)
    share = correct.mean()
    found = precision_recall(similarity, correct, np.ones(len(correct), bool)).average_precision
    assert found == pytest.approx(share * average_precision_score(correct, similarity))


def test_by_hand_a_foreign_query_costs_precision_only():
    curve = precision_recall(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), np.array([True, False, True]))
    assert curve.precision.tolist() == pytest.approx([1, 0.5, 2 / 3]) and curve.recall.tolist() == [0.5, 0.5, 1]
    assert curve.recall_at_full_precision == 0.5 and curve.average_precision == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert curve.threshold_for(1.0) == 0.9 and curve.threshold_for(0.6) == 0.7


def test_no_right_match_at_all_is_a_curve_at_zero():
    curve = precision_recall(np.array([0.5, 0.4]), np.zeros(2, bool), np.ones(2, bool))
    assert curve.average_precision == 0 and curve.recall_at_full_precision == 0
    assert curve.threshold_for(1.0) == np.inf


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="Got 2 similarities, 1 verdicts"):
        precision_recall(np.zeros(2), np.zeros(1, bool), np.zeros(2, bool))
    with pytest.raises(ValueError, match="under panorama suppression none is recorded"):
        precision_recall(np.array([np.nan]), np.ones(1, bool), np.ones(1, bool))
    with pytest.raises(ValueError, match="No query has a true match"):
        precision_recall(np.ones(1), np.zeros(1, bool), np.zeros(1, bool))


def test_reciprocal_ranks_and_one_per_cent_by_hand():
    assert mean_reciprocal_rank(np.array([1, 2, 0, 4])) == pytest.approx((1 + 0.5 + 0 + 0.25) / 4)
    assert [one_percent(n) for n in (10, 149, 250, 1000)] == [1, 1, 2, 10]


def records(n=80, seed=3, **changes):
    similarity, correct, matchable = drawn(seed, n)
    return pd.DataFrame({
        "dataset": "town", "protocol": "town@25m", "model": "m", "seed": 0, "card": "c", "counted": True,
        "n_positives": matchable.astype(int), "first_hit": np.where(correct, 1, np.where(matchable, 3, 0)),
        "top_score": [[s, 0.1] for s in similarity], "top_correct": [[c, False] for c in correct], "n_database": 300,
    }).assign(**changes)  # fmt: skip


def test_the_table_has_every_measure_with_an_interval_around_it():
    row = trust_table(records(), resamples=100).iloc[0]
    for name in ("AP", "MRR", "R@1%"):
        assert row[f"{name} low"] < row[name] < row[f"{name} high"]
    assert row["R@100P low"] <= row["R@100P"] <= row["R@100P high"]
    table = records()
    assert row["R@1%"] == pytest.approx(100 * table["first_hit"].between(1, 3).mean())
    assert row["without a match"] == (table["n_positives"] == 0).sum()
    assert trust_table(records(), resamples=100).equals(trust_table(records(), resamples=100))


def test_one_per_cent_beyond_the_ranking_is_missing_and_so_is_precision_under_suppression():
    assert "R@1%" not in trust_table(records(n_database=40_000), resamples=5)
    silent = records()
    silent["top_score"] = [[np.nan, np.nan]] * len(silent)
    assert "AP" not in trust_table(silent, resamples=5)
