"""MSLS: 740 is not 11k, cities never meet, keys stay text, the tables must agree."""

import re
from pathlib import Path

import numpy as np
import pytest
from miniatures import msls_folder, msls_val, objects, touch_image

from vpr_lib.data.readers.msls import CITIES, read_msls, read_msls_submission, write_msls_submission
from vpr_lib.data.readers.msls_arrays import read_msls_test, read_msls_val, read_official_matches


def cards(benchmark):
    return {protocol.card.name.split("@")[1]: protocol for protocol in benchmark.protocols}


def keys(manifest):
    return [path.split("/")[-1].removesuffix(".jpg") for path in manifest.table["image_path"]]


def test_four_cards_over_one_set_of_rankings(tmp_path):
    found = read_msls_val(msls_val(tmp_path))
    assert keys(found.database) == ["d1", "-d2", "d3", "s1"] and keys(found.queries) == ["q1", "q3", "q4", "1e5000"]
    assert [p.card.name for p in found.protocols] == [f"msls_val@{n}" for n in ("740", "747", "11k", "11k_matchable")]
    counted = {name: found.queries.take(np.flatnonzero(p.counted)) for name, p in cards(found).items()}
    assert {name: keys(queries) for name, queries in counted.items()} == {
        "740": ["q1", "1e5000"], "747": ["q1", "q3", "1e5000"], "11k": ["q1", "q3", "q4", "1e5000"],
        "11k_matchable": ["q1", "q4", "1e5000"],
    }  # fmt: skip


def test_cities_with_equal_coordinates_stay_apart(tmp_path):
    found = read_msls_val(msls_val(tmp_path))
    assert [row.tolist() for row in found.positives] == [[0, 1], [], [0, 1], [3]]
    assert found.protocol.card.cross_city_distractors
    assert found.database.table["utm_zone"].tolist() == [33, 33, 33, 10]


def test_what_the_tables_say_is_kept(tmp_path):
    row = read_msls_val(msls_val(tmp_path)).queries.table.iloc[0]
    assert row["conditions"] == ["night", "sideways"] and row["heading_deg"] == 10.5 and row["run"] == "seq1"
    assert row["timestamp"] == 1498780800000000 and row["city"] == "cph"  # 2017-06-30


def test_per_city_search(tmp_path):
    alone = {city: read_msls(msls_val(tmp_path), cities=[city]) for city in ("cph", "sf")}
    assert [len(benchmark.database) for benchmark in alone.values()] == [3, 1]
    assert [protocol.card.cross_city_distractors for protocol in alone["sf"].protocols] == [False] * 4


def test_subtasks_filter_both_sides_and_drop_the_11k_cards(tmp_path):
    rows = [dict(key="d1", s2w=True), dict(key="d2", east=500.0)]
    msls_folder(tmp_path / "train_val/cph/database", rows)
    msls_folder(tmp_path / "train_val/cph/query", [dict(key="q1", s2w=True), dict(key="q2", east=500.0)])
    found = read_msls(tmp_path, cities=["cph"], subtask="s2w")
    assert found.name == "msls_val_s2w" and keys(found.database) == ["d1"]
    assert [p.card.name for p in found.protocols] == ["msls_val_s2w@matchable", "msls_val_s2w@listed"]
    with pytest.raises(ValueError, match="no database image of cph is in the subtask 'd2n'"):
        read_msls(tmp_path, cities=["cph"], subtask="d2n")
    msls_folder(tmp_path / "train_val/cph/query", [dict(key="q1", s2w=True, east=900.0), dict(key="q2")])
    with pytest.raises(ValueError, match="no query of the subtask has a database image"):
        read_msls(tmp_path, cities=["cph"], subtask="s2w")
    with pytest.raises(ValueError, match="the subtasks"):
        read_msls(tmp_path, subtask="night")


def test_training_has_ten_and_twenty_five_metres(tmp_path):
    msls_folder(
        tmp_path / "train_val/austin/database",
        [dict(key="a"), dict(key="b", east=20.0)],
        ["seq_info", "postprocessed", "raw"],
    )
    msls_folder(tmp_path / "train_val/austin/query", [dict(key="q", east=1.0)], ["seq_info", "postprocessed", "raw"])
    found = read_msls(tmp_path, "train", ["austin"])
    assert [(p.card.name, p.positives[0].tolist()) for p in found.protocols] == [
        ("msls_train@10m", [0]), ("msls_train@25m", [0, 1])
    ]  # fmt: skip


def test_the_tables_of_a_folder_must_agree(tmp_path):
    query = msls_val(tmp_path) / "train_val/cph/query"
    good = {path: path.read_text() for path in query.glob("*.csv")}
    changes = [
        ("raw.csv", lambda text: text.replace("q1", "q9"), r"line 2 is 'q9' in raw.csv and 'q1' in seq_info.csv"),
        (
            "subtask_index.csv",
            lambda text: text.rstrip().rsplit("\n", 1)[0],
            "subtask_index.csv has 3 rows, seq_info.csv 4",
        ),
        ("postprocessed.csv", lambda text: text.replace("easting", "x"), r"lacks the columns \['easting'\]"),
        ("postprocessed.csv", lambda text: text.replace("250.0", "far"), r"line 3: 'far' is no number \(easting\)"),
        ("raw.csv", lambda text: text.replace("True", "maybe"), "holds 'maybe', expected True or False"),
        ("seq_info.csv", lambda text: "", "not a readable CSV"),
    ]
    for name, change, message in changes:
        (query / name).write_text(change(good[query / name]))
        with pytest.raises(ValueError, match=message):
            read_msls_val(tmp_path)
        (query / name).write_text(good[query / name])
    (query / "raw.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"raw.csv; expected a CSV with the columns key, lon"):
        read_msls_val(tmp_path)
    with pytest.raises(FileNotFoundError, match="nor train_val/cph"):
        read_msls_val(tmp_path / "absent")


def test_arrays_are_the_same_protocol_as_the_tables(tmp_path):
    tables = read_msls_val(msls_val(tmp_path))
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    official = [0, 1, 3]  # the list of 747
    kept = np.flatnonzero(cards(tables)["740"].counted)
    paths = np.array(tables.queries.table["image_path"].tolist())
    np.save(arrays / "msls_val_dbImages.npy", np.array(tables.database.table["image_path"].tolist()))
    np.save(arrays / "msls_val_qImages.npy", paths[official])
    np.save(arrays / "msls_val_qIdx.npy", np.searchsorted(official, kept))
    np.save(arrays / "msls_val_pIdx.npy", objects([tables.positives[q] for q in kept]), allow_pickle=True)
    found = read_msls_val(arrays)
    assert found.protocol.card == tables.protocol.card and keys(found.queries) == ["q1", "1e5000"]
    listed, scored, positives = read_official_matches(arrays, 4)
    assert (len(listed), len(scored), positives.counts.tolist()) == (3, 2, [2, 1])
    for rows in ([0, 9], [1, 0], [0.5, 1]):
        np.save(arrays / "msls_val_qIdx.npy", np.array(rows))
        with pytest.raises(ValueError, match="expected rising positions between 0 and 2"):
            read_msls_val(arrays)


@pytest.mark.parametrize(
    "names",
    [
        ("msls_val_dbImages", "msls_val_qImages", "msls_val_gt_25m"),
        ("msls_val_ref_image_names", "msls_val_query_image_names", "msls_val_ground_truth_25m"),
    ],
)
def test_openvprlab_bundles(tmp_path, names):
    for name, rows in zip(
        names, (np.array(["cph/database/images/d.jpg"]), np.array(["cph/query/images/q.jpg"]), objects([[0]]))
    ):
        np.save(tmp_path / f"{name}.npy", rows, allow_pickle=True)
    found = read_msls_val(tmp_path)
    assert found.protocol.card.name == "msls_val@740" and found.positives[0].tolist() == [0]


def test_test_cities_have_no_answers_but_a_submission(tmp_path):
    for city in CITIES["test"]:
        for role, rows in (("database", "ab"), ("query", "q")):
            folder = tmp_path / "test" / city / role
            msls_folder(folder, [dict(key=f"{city[:2]}{n}") for n in rows] + [dict(key=f"{city[:2]}x", all=False)],
                        ["seq_info", "subtask_index"])  # fmt: skip
    found = read_msls_test(tmp_path)
    assert found.protocols == () and (len(found.database), len(found.queries)) == (12, 6)
    path = write_msls_submission(tmp_path / "s.csv", found, np.tile([1, 0], (6, 1)), top_k=2)
    assert path.read_text().splitlines()[0] == "miq mib mia"
    assert np.array_equal(read_msls_submission(path, found), np.tile([1, 0], (6, 1)))
    lines = path.read_text().splitlines()
    for wrong, error in (
        (["# header", *lines[1:]], r"names 5 of 6 queries"),
        (["zz mib mia", *lines[1:]], r"line 1: query 'zz' is unknown"),
        ([*lines, lines[0]], r"line 7: query 'miq' is named twice"),
        (["miq zz mia", *lines[1:]], r"no database image 'zz'"),
    ):
        (tmp_path / "w.txt").write_text("\n".join(wrong))
        with pytest.raises(ValueError, match=error):
            read_msls_submission(tmp_path / "w.txt", found)
    for ranking in (np.zeros((5, 2), int), np.zeros((6, 1), int), np.full((6, 2), -1)):
        with pytest.raises(ValueError, match="A submission needs 2 database images"):
            write_msls_submission(path, found, ranking, top_k=2)


def test_labels_of_the_test_cities_make_cards(tmp_path):
    """April 2026: read where they lie as in the other cities; SALAD's lists beside them are not needed."""
    for number, city in enumerate(CITIES["test"]):
        for role, places in (("database", (0.0, 20.0, 500.0)), ("query", (1.0, 900.0))):
            rows = [dict(key=f"{city[:2]}{role[0]}{n}", east=1000.0 * number + east) for n, east in enumerate(places)]
            msls_folder(tmp_path / "test" / city / role, [*rows, dict(key=f"{city[:2]}x", all=False)])
    np.save(tmp_path / "msls_test_dbImages.npy", np.array(["test/miami/database/images/a.jpg"]))
    found = read_msls_test(tmp_path)
    assert (len(found.database), len(found.queries)) == (18, 12)  # the official subtask
    counted = {protocol.card.name: int(protocol.counted.sum()) for protocol in found.protocols}
    assert counted == {"msls_test@matchable": 6, "msls_test@listed": 12} and found.positives[0].tolist() == [0, 1]
    path = write_msls_submission(tmp_path / "s.csv", found, np.zeros((12, 1), int), top_k=1)
    assert path.read_text().splitlines()[1] == "miq1 mid0"
    (tmp_path / "test/miami/query/raw.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"raw.csv; expected a CSV with the columns key, lon"):
        read_msls_test(tmp_path)


def test_salads_test_lists(tmp_path):
    names = np.empty(2, object)
    names[:] = ["test/miami/database/images/-a.jpg", "test/miami/database/images/_b.jpg"]
    np.save(tmp_path / "msls_test_dbImages.npy", names, allow_pickle=True)
    np.save(tmp_path / "msls_test_qImages.npy", names[:1], allow_pickle=True)
    found = read_msls_test(tmp_path)
    assert keys(found.database) == ["-a", "_b"] and found.protocols == ()


def test_release_cities():
    assert {split: len(names) for split, names in CITIES.items()} == {"train": 22, "val": 2, "test": 6}
    assert "saopaulo" in CITIES["train"] and all(
        re.fullmatch("[a-z]+", city) for names in CITIES.values() for city in names
    )


def test_the_command_writes_a_file_that_reads_back(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from vpr_lib.cli import _register, app

    monkeypatch.setenv("VPR_CACHE", str(tmp_path / "cache"))
    root = msls_val(tmp_path / "msls")
    benchmark = read_msls_val(root)
    for side in (benchmark.database, benchmark.queries):
        for seed, path in enumerate(side.image_paths()):
            touch_image(Path(path), seed)
    _register()
    out = tmp_path / "s.txt"
    words = [
        "submit",
        "msls",
        "pixels",
        "--dataset",
        "msls_val",
        "--root",
        root,
        "--top-k",
        2,
        "--out",
        out,
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert out.read_text().split()[0] == "q1" and len(read_msls_submission(out, benchmark)[0]) == 2
