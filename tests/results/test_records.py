"""Records on disk: one folder is one data set, what a killed writer left is no record, a damaged one is named."""

import numpy as np
import pandas as pd
import pytest
from pictures import write_picture

from vpr_lib.data.readers.berton import read_berton
from vpr_lib.models.zoo import build_model
from vpr_lib.results.records import DamagedRecord, Run, query_records, read_record, read_records, write_records
from vpr_lib.results.tables import MixedProtocols, refuse_mixed_cards
from vpr_lib.retrieval.protocol import evaluate
from vpr_lib.widgets.explorer import Explorer

RUN = Run("pixels", git="x", host="x", date="x")


def set_of(root, seed):
    for side in ("database", "queries"):
        for number in range(3):
            name = f"@{500_000 + 100 * number}@{5_000_000}@33@T@{number}@.png"
            write_picture(root / side / name, seed + number)
    return read_berton(root)


def records_of(benchmark):
    found = evaluate(build_model("pixels"), benchmark, quiet=True)
    return query_records(found.benchmark, found.scores[0], found.ranking.scores, RUN)


def test_one_row_per_query_says_what_was_found_and_under_which_conditions(tmp_path):
    benchmark = set_of(tmp_path / "town", 0)
    benchmark.queries.table["conditions"] = [("night", "rain"), None, ()]
    table = records_of(benchmark)
    assert table["conditions"].tolist() == ["night,rain", "", ""] and table["query"].tolist() == [0, 1, 2]
    assert table["first_hit"].tolist() == [1, 1, 1] and table["n_positives"].tolist() == [1, 1, 1]
    assert [row[0] for row in table["top"]] == [0, 1, 2] and (table["n_database"] == 3).all()
    assert [row.tolist() for row in table["top_correct"]] == [[True, False, False]] * 3
    assert [sorted(row.tolist()) for row in table["top_distance_m"]] == [[0, 100, 200], [0, 100, 100], [0, 100, 200]]
    assert [row[0] for row in table["top_score"]] == pytest.approx([1, 1, 1])


def test_two_folders_of_one_name_are_two_data_sets(tmp_path):
    one, two = (records_of(set_of(tmp_path / place / "town", seed)) for place, seed in (("a", 0), ("b", 50)))
    assert one["card"].iloc[0] != two["card"].iloc[0]
    files = {write_records(tmp_path / "r", table) for table in (one, two, one, two)}
    assert len(files) == 2
    both = read_records(tmp_path / "r")
    assert sorted(both["root"].unique()) == [str(tmp_path / place / "town/database") for place in "ab"]
    with pytest.raises(MixedProtocols):
        refuse_mixed_cards(both)


def test_other_pictures_in_one_folder_replace_its_records(tmp_path):
    first = records_of(set_of(tmp_path / "town", 0))
    second = records_of(set_of(tmp_path / "town", 50))
    assert first["card"].iloc[0] != second["card"].iloc[0]
    assert write_records(tmp_path / "r", first) == write_records(tmp_path / "r", second)
    assert set(read_records(tmp_path / "r")["card"]) == {second["card"].iloc[0]}


def test_records_of_other_weights_are_replaced_and_that_is_told(tmp_path, caplog):
    caplog.set_level("WARNING", logger="vpr_lib")
    table = records_of(set_of(tmp_path / "town", 0)).assign(weights="a.pth")
    for weights in ("a.pth", "a.pth", "b.pth"):
        assert "replaced" not in caplog.text
        path = write_records(tmp_path / "r", table.assign(weights=weights))
    assert "pixels with weights a.pth are replaced by those with weights b.pth" in caplog.text
    assert set(read_record(path)["weights"]) == {"b.pth"}


def test_the_explorer_finds_records_of_described_pictures(tmp_path):
    benchmark = set_of(tmp_path / "town", 0)
    assert Explorer(benchmark, records_of(benchmark)).models == ["pixels"]


def test_hidden_leftovers_are_no_records(tmp_path):
    path = write_records(tmp_path, records_of(set_of(tmp_path / "town", 0)))
    (path.parent / ".pixels__0.abcd.parquet").write_bytes(path.read_bytes()[:500])
    (path.parent / ".hidden").mkdir()
    (path.parent / ".hidden" / "x.parquet").write_bytes(b"")
    assert len(read_records(tmp_path)) == 3


def test_no_flipped_byte_of_a_record_is_believed(tmp_path):
    path = write_records(tmp_path, records_of(set_of(tmp_path / "town", 0)))
    whole, expected, damaged = path.read_bytes(), read_record(path), 0
    for place in np.random.default_rng(1).choice(len(whole), 300, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            pd.testing.assert_frame_equal(read_record(path), expected)
        except DamagedRecord:
            damaged += 1
    assert damaged > 100  # elsewhere are statistics and names that nothing is made of


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 300])
def test_a_damaged_record_is_named_and_can_be_replaced(tmp_path, content):
    table = records_of(set_of(tmp_path / "town", 0))
    path = write_records(tmp_path, table)
    path.write_bytes(content)
    with pytest.raises(DamagedRecord, match=r"pixels__0\.parquet is damaged .*measure 'pixels' again"):
        read_records(tmp_path)
    assert write_records(tmp_path, table) == path and len(read_records(tmp_path)) == 3
