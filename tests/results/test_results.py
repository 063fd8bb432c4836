import numpy as np
import pandas as pd
import pytest

from vpr_lib.paths import git_state
from vpr_lib.results.records import Run, read_records, write_records
from vpr_lib.results.reported import beside_reported
from vpr_lib.results.statistics import mcnemar, wilson_interval
from vpr_lib.results.tables import (
    MixedProtocols,
    compare,
    recall_by_condition,
    recall_table,
    recall_within,
    seed_spread,
)


def test_wilson_against_published_values():
    # Newcombe, Statistics in Medicine 17 (1998), Table I: 81/263 and 0/20, method 3 (score, no correction)
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert np.isnan(wilson_interval(0, 0)).all()


def test_mcnemar_by_hand():
    first = np.array([1, 1, 1, 1, 1, 1, 0, 0], bool)
    second = np.array([1, 0, 0, 0, 0, 0, 1, 0], bool)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (5, 1)
    assert found.p_value == pytest.approx(2 * (1 + 6) / 2**6)  # two tails of Binomial(6, 1/2)
    assert mcnemar(first, first).p_value == 1.0
    with pytest.raises(ValueError, match="same queries"):
        mcnemar(first, second[:3])


def records(model, hits, card="c1", seed=0, **extra):
    n = len(hits)
    return pd.DataFrame({
        "dataset": "s", "protocol": "25m", "card": card, "model": model, "system": model, "dim": 8, "seed": seed,
        "profile": "toy", "device": "cpu", "precision": "fp32", "rule": "within 25 m", "n_database": 100,
        "query": range(n), "query_id": [f"q{i}" for i in range(n)], "first_hit": hits, "counted": True, "notebook": "",
    } | extra)  # fmt: skip


def test_recall_table_from_records():
    table = recall_table(records("a", [1, 3, 0, 7]), ks=(1, 5, 10, 200)).iloc[0]
    assert (table["R@1"], table["R@5"], table["R@10"], table["queries"]) == (25.0, 50.0, 75.0, 4)
    for k, hits in ((1, 1), (5, 2), (10, 3)):
        assert (table[f"R@{k} low"], table[f"R@{k} high"]) == tuple(100 * end for end in wilson_interval(hits, 4))
    assert recall_table(records("a", [100] * 3), ks=(100,))["R@100"][0] == 100  # as large as the database
    assert "R@200" not in table  # above the database


def test_queries_that_do_not_count():
    table = records("a", [1, 0]).assign(counted=[True, False])
    assert recall_table(table, (1,))["R@1"][0] == 100


def test_cards_never_mix():
    both = pd.concat([records("a", [1]), records("b", [1], card="c2")])
    with pytest.raises(MixedProtocols, match="different protocol cards"):
        recall_table(both)


def test_compare_needs_the_same_queries():
    both = pd.concat([records("a", [1, 1, 0]), records("b", [1, 2, 0])])
    assert (compare(both, "a", "b").only_first, compare(both, "a", "b", k=5).only_first) == (1, 0)
    lost = pd.concat([records("a", [1, 1, 0]), records("b", [1, 0, 5])])  # 0: found nowhere
    assert [(t.only_first, t.only_second) for t in (compare(lost, "a", "b", k) for k in (1, 4, 5))] == [
        (1, 0), (1, 0), (1, 1),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="No records of 'z'"):
        compare(both, "a", "z")
    with pytest.raises(ValueError, match="different queries"):
        compare(pd.concat([records("a", [1]), records("b", [1, 1])]), "a", "b")


def test_records_on_disk(tmp_path):
    assert read_records(tmp_path).empty
    write_records(tmp_path, records("a", [1, 2]))
    write_records(tmp_path, records("a", [1, 1]))  # the same evaluation again replaces the first
    write_records(tmp_path, records("a", [0, 1], seed=2))
    assert read_records(tmp_path).groupby("seed")["first_hit"].sum().to_dict() == {0: 2, 2: 1}


def test_run_columns_say_where_numbers_come_from():
    run = Run("m")
    assert run.git == git_state() != "" and run.date.endswith("+00:00")


def test_a_baseline_of_two_notebooks_counts_once(tmp_path):
    made = [("01", "a", [1, 0]), ("02", "a", [1, 0]), ("03", "a", [1, 1]), ("03", "b", [0, 1])]
    for notebook, model, hits in made:
        write_records(tmp_path / notebook, records(model, hits, notebook=f"{notebook}_some"))
    found = recall_table(read_records(tmp_path), (1,)).set_index("model")
    assert found["queries"].to_dict() == {"a": 2, "a (03)": 2, "b": 2}
    assert found["R@1"].to_dict() == {"a": 50.0, "a (03)": 100.0, "b": 50.0}


def test_lenses_on_records():
    table = records("a", [1, 0, 1, 2], top_distance_m=[[3.0, 9.0], [40.0, 1.0], [12.0, 2.0], [np.nan, 1.0]],
                    conditions=["night", "night,rain", "", "rain"])  # fmt: skip
    within = recall_within(table, (5, 25, 50))
    assert within.loc["a"].tolist() == [25.0, 50.0, 75.0]
    words = recall_by_condition(table)
    assert words.loc["a"].to_dict() == {"night (2)": 50.0, "rain (2)": 0.0}
    assert recall_by_condition(table.drop(columns="conditions")).empty


def test_spread_over_seeds():
    table = pd.concat([records("a", [1, 0]), records("a", [1, 1], seed=1), records("b", [1, 1])])
    found = seed_spread(table)
    assert found["model"].tolist() == ["a"] and (found["mean"][0], found["seeds"][0]) == (75.0, 2)
    assert found["standard deviation"][0] == pytest.approx(np.std([50, 100], ddof=1))


def test_published_numbers_beside_ours():
    ours = recall_table(
        records("x", [1] * 9 + [0], dataset="msls_val", protocol="msls_val@740", system="MixVPR").assign(dim=4096)
    )
    found = beside_reported(ours)
    same = found[found["verdict"] != "not measured"]
    assert (
        set(same["method"]) == {"MixVPR"} and set(same["protocol"]) == {"msls_val@740"} and set(same["dim"]) == {"4096"}
    )
    assert (same["verdict"] == "inside").all() and same["measured"].eq(
        90
    ).all()  # 88.0 and 88.2, interval of ten queries
    assert (found["verdict"] == "not measured").sum() > 20


def test_the_command_line_s_records_come_after_the_notebooks(tmp_path):
    for folder, name, hits, card in (
        ("n", "a", [1, 0], "c1"),
        ("c", "a", [0, 1], "c1"),
        ("c", "b", [1, 1], "c1"),
        ("c", "z", [1, 1], "c2"),
    ):
        write_records(tmp_path / folder, records(name, hits, card))
    table = read_records(tmp_path / "n", tmp_path / "c")
    assert set(table["model"]) == {"a", "a (command line)", "b"}  # of another card: nothing that a table could not hold
    assert table.loc[table["model"] == "b", "notebook"].eq("command line").all()
    assert read_records(tmp_path / "none", tmp_path / "nothing").empty
