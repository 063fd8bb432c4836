"""The papers' tables: what is published, what we put beside it, and what it looks like in a paper."""

import pandas as pd
import pytest

from vpr_lib.results.paper_tables import layouts, missing_and_why, own_table, paper_table
from vpr_lib.results.reported import measured_beside


def measured(
    protocol="msls_val@740", model="mixvpr_resnet50_4096", system="MixVPR", dim=4096, seed=0, recall=88.4, card="c"
):
    row = {"dataset": protocol.split("@")[0], "protocol": protocol, "model": model, "system": system, "dim": dim, "seed": seed,
           "card": card, "rule": "within 25 m"}  # fmt: skip
    for k in (1, 5, 10):
        row |= {f"R@{k}": recall + k, f"R@{k} low": recall + k - 2, f"R@{k} high": recall + k + 2}
    return row


def cell(table, method, dataset, recall, D=None):
    shown = table.shown[table.shown[("", "method")] == method]
    shown = shown if D is None else shown[shown[("", "D")] == D]
    return shown[(dataset, recall)].iloc[0]


def test_the_layout_is_the_papers():
    table = paper_table("mixvpr")
    assert list(dict.fromkeys(top for top, _ in table.shown.columns))[1:] == [
        "Pitts250k-test",
        "MSLS-val",
        "SPED",
        "Nordland",
    ]
    assert (
        cell(table, "MixVPR", "Nordland", "R@1") == "**58.4** [S]"
        and cell(table, "AVG", "MSLS-val", "R@10") == "85.8 [M]"
    )
    assert cell(table, "Conv-AP", "MSLS-val", "R@1") == "–"
    clusvpr = paper_table("clusvpr")
    assert list(clusvpr.shown.columns[-2:]) == [("", "parameters M"), ("", "GMAC")]
    assert (
        cell(clusvpr, "GPM", "MSLS-challenge", "R@5") == "**58.6** [?]"
        and cell(clusvpr, "NetVLAD", "Pitts30k-test", "R@1") == "85.6"
    )


@pytest.mark.parametrize("name", layouts().tables)
def test_every_doubt_is_shown(name):
    table = paper_table(name)
    doubtful = table.tidy["confidence"].isin(set(layouts().marks) - {"missing"})
    cells = table.shown.iloc[:, 3:].stack(level=[0, 1]).astype(str)
    assert cells.str.contains(r"\[[DSMU?]\]").sum() == doubtful.sum()
    assert all(
        f"[{mark}] {layouts().marks[mark]}" in table.caption for mark in set(table.tidy.loc[doubtful, "confidence"])
    )
    assert (cells == "n/a").sum() == (table.tidy["confidence"] == "missing").sum()
    assert not table.tidy.duplicated(["method", "backbone", "D", "dataset", "protocol", "metric", "k"]).any()


def test_the_log_goes_before_the_chart():
    """DINO-Mix's own log gives all cut-offs, the chart R@1 of its rivals to a tenth."""
    table = paper_table("dinomix")
    assert (
        cell(table, "DINO-Mix", "Tokyo 24/7", "R@1") == "**91.75**"
        and cell(table, "CosPlace", "Tokyo 24/7", "R@1") == "63.2 [D]"
    )
    assert cell(paper_table("distilvpr"), "DistilVPR-SC", "Oxford", "AR@1", "") == "94.7 [?]"
    assert cell(paper_table("lightweight_mixvpr"), "Lightweight-MixVPR", "MSLS-val", "R@1", "128") == "65.00"


def test_ours_stands_below_the_row_it_belongs_to():
    table = paper_table("mixvpr_weights", pd.DataFrame([measured()]))
    names = table.shown[("", "method")].tolist()
    assert names == ["MixVPR", "measured here: mixvpr_resnet50_4096", "MixVPR", "MixVPR"]
    assert table.shown[("MSLS-val", "R@1")].iloc[1] == "89.4 (87.4 to 91.4), +1.2 inside"
    assert (
        table.shown[("Pitts30k-test", "R@1")].iloc[1] == "–"
        and "3 of the 27 numbers were measured here" in table.caption
    )


@pytest.mark.parametrize(
    "other", [dict(protocol="msls_val@747"), dict(dim=512), dict(system="GeM"), dict(model="mixvpr_swinv2_4096")]
)
def test_nothing_else_is_put_beside_it(other):
    table = paper_table("mixvpr", pd.DataFrame([measured(**other)]))
    assert (table.tidy["verdict"] == "not measured").all() and len(table.shown) == 8


def test_of_several_seeds_the_first_counts():
    published = pd.DataFrame(
        [{"method": "MixVPR", "backbone": "ResNet50", "D": 4096, "protocol": "msls_val@740", "k": 1, "published": 95.0}]
    )
    found = measured_beside(published, pd.DataFrame([measured(seed=2, recall=60), measured(seed=1)]))
    assert (
        found["measured"].tolist() == [89.4]
        and found["verdict"].tolist() == ["outside"]
        and found["card"].tolist() == ["c"]
    )


def test_latex_is_ready_for_booktabs():
    text = paper_table("mixvpr_weights").latex("weights")
    assert all(
        rule in text
        for rule in (
            r"\toprule",
            r"\midrule",
            r"\bottomrule",
            r"\multicolumn{3}{c}{Pitts250k-test}",
            r"\label{tab:weights}",
        )
    )
    assert r"\textbf{94.3}" in text and "**" not in text and r"pitts250k\_test@25m" in text
    assert r"\textbf{58.4}\,[S]" in paper_table("mixvpr").latex("m")


def test_an_unknown_table_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"Known: clusvpr, dinomix"):
        paper_table("table 7")


def test_ours_in_the_same_layout():
    rows = [measured(recall=50), measured(recall=60, seed=1), measured(model="gem_resnet50_2048", system="GeM", dim=2048, recall=70),
            measured(protocol="toycity@25m", recall=40), measured(protocol="lonely", recall=1)]  # fmt: skip
    rows.append(measured(protocol="toycity@25m", model="third", system="AVG", dim=8, recall=20))
    rows.append(
        measured(protocol="toycity@25m", model="mixvpr_resnet50_4096", system="Another of that name", dim=96, recall=30)
    )
    table = own_table(pd.DataFrame(rows))
    shown = table.shown.set_index([("", "method"), ("", "seeds")])
    assert shown[("msls_val@740", "R@1")].to_dict() == {
        ("GeM", "1"): "**71.0**",
        ("MixVPR", "2"): "56.0",
        ("Another of that name", "1"): "–",
        ("AVG", "1"): "–",
    }
    assert shown[("toycity@25m", "R@5")].loc[("Another of that name", "1")] == "35.0"
    assert ("lonely", "R@1") not in shown and "card c" in table.caption


def test_what_is_missing_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("VPR_DATA", str(tmp_path))
    found = missing_and_why({"clusvpr": paper_table("clusvpr"), "distilvpr": paper_table("distilvpr")}).set_index(
        ["table", "why"]
    )
    reasons = found["numbers"].to_dict()
    assert reasons["clusvpr", "scored by the data set's server only"] == 4  # ClusVPR and NetVLAD, R@1 and R@5
    assert reasons["distilvpr", "not to be had from the public record: nothing to compare with"] == 44
    assert found["numbers"].sum() == 96 + 47
    assert (
        "pitts30k_test"
        in found.loc[("clusvpr", "the data set is not on this disk: vpr data get says how to come by it"), "data sets"]
    )
    assert missing_and_why({}).empty
