"""`check` on data sets that are damaged in every way we know."""

import shutil
import unicodedata

import numpy as np
import pytest
from miniatures import at_name, objects, oxford_locations, touch_image, vpr_bench

from vpr_lib.data.catalogue import open_dataset
from vpr_lib.data.findings import check_dataset, summary
from vpr_lib.data.prepare import prepared_folder


def damaged_corridor(root):
    """A corridor of 6 + 6 with everything wrong that files can have wrong."""
    vpr_bench(root, [(n, [n]) for n in range(6)], 6, 6)
    (root / "ref/0000001.jpg").write_bytes((root / "ref/0000001.jpg").read_bytes()[:200])
    (root / "ref/0000002.jpg").write_bytes(b"")
    (root / "ref/0000003.jpg").write_text("not found")
    shutil.copy(root / "ref/0000004.jpg", root / "query/0000004.jpg")
    shutil.copy(root / "query/0000000.jpg", root / "query/0000001.jpg")
    return root


def told(report, level):
    return [finding.what for finding in report.findings if finding.level == level]


def test_a_damaged_set(tmp_path):
    report = check_dataset("corridor", damaged_corridor(tmp_path), quiet=True)
    assert not report.ok and report.files == 12
    assert told(report, "failure") == [
        "database: expected 111 [V], found 6", "queries: expected 111 [V], found 6",
        "positives corridor@listed: expected 549 [V], found 6", "1 of 12 files are empty", "2 of 12 files cannot be read",
    ]  # fmt: skip
    assert told(report, "warning") == ["1 queries are also database images"]
    assert "1 files of queries repeat another one" in told(report, "note")
    unread = next(f for f in report.findings if "cannot be read" in f.what)
    assert any("not an image" in line for line in unread.examples) and unread.do == "Fetch them again."
    assert summary(report.findings) == "5 failures, 1 warning"
    assert report.as_dict()["ok"] is False and report.as_dict()["findings"][0]["level"] == "failure"


def test_what_was_learnt_is_in_the_prepared_table(tmp_path):
    check_dataset("corridor", damaged_corridor(tmp_path), quiet=True)
    table = open_dataset("corridor", tmp_path).database.table
    assert table["exclude_reason"].notna().tolist() == [False, True, True, True, False, False]
    assert table["width"].tolist()[0] == 8 and table["image_sha256"].nunique() == 3


def test_missing_images_of_a_list(tmp_path):
    np.save(tmp_path / "SPED_dbImages.npy", np.array(["ref/1.jpg", "ref/2.jpg"]))
    np.save(tmp_path / "SPED_qImages.npy", np.array(["query/1.jpg", "query/2.jpg"]))
    np.save(tmp_path / "SPED_gt.npy", objects([[0], [1]]), allow_pickle=True)
    touch_image(tmp_path / "ref/1.jpg")
    report = check_dataset("sped", tmp_path, quiet=True)
    failures = told(report, "failure")
    assert "3 of 4 files are missing" in failures
    assert sum("has md5" in what for what in failures) == 3  # not the lists of the release


def test_without_decoding_nothing_is_opened(tmp_path):
    report = check_dataset("corridor", damaged_corridor(tmp_path), decode=False, quiet=True)
    assert report.files == 0 and len(told(report, "failure")) == 3


def test_hearsay_only_warns(tmp_path):
    (tmp_path / "new").mkdir()
    for stem in ("1", "2"):
        touch_image(tmp_path / f"new/{stem}.png", int(stem))
        touch_image(tmp_path / f"old/{stem}.jpg", 5)
    report = check_dataset("amstertime", tmp_path, quiet=True)
    assert report.ok and "database: expected 1,231 [R], found 2" in told(report, "warning")
    assert "1 files of queries repeat another one" in told(report, "note")


def test_names_that_trap_other_tools(tmp_path):
    root = tmp_path / "me@home"
    for index, name in enumerate(("-a.jpg", unicodedata.normalize("NFD", "ä.jpg"), "b .jpg", " c.jpg", "D.JPG")):
        touch_image(root / "ref" / name, index)
    touch_image(root / "query/q.png", 9)
    vpr_bench(root, [(0, [0])], 0, 0)
    notes = told(check_dataset("corridor", root, quiet=True), "note")
    for words in (
        "1 names begin with '-'",
        "1 names are not in Unicode's composed form",
        "1 names begin or end with a space",
        "1 names end in capitals",
    ):
        assert any(note.startswith(words) for note in notes), notes
    for side in ("database", "queries"):
        touch_image(root / "images/test" / side / at_name(1000, 2000, side), 3 + len(side))
    warnings = told(check_dataset("san_francisco", root, quiet=True), "warning")
    assert any("has an '@' in its path" in what for what in warnings)


def test_overlap_with_another_split(tmp_path):
    for split, name in (("train", "a"), ("test", "b")):
        for side in ("database", "queries"):
            touch_image(
                tmp_path / "images" / split / side / at_name(1000, 2000, name + side),
                1 if side == "database" else len(name + split),
            )
    first = check_dataset("pitts30k_train", tmp_path, quiet=True)
    assert not any("are also in" in f.what for f in first.findings)
    report = check_dataset("pitts30k_test", tmp_path, quiet=True)
    leak = next(f for f in report.findings if "are also in pitts30k_train" in f.what)
    assert leak.level == "warning" and leak.what.startswith("1 images") and "Training and test overlap" in leak.do


def test_modes_and_sizes_are_noted(tmp_path):
    from PIL import Image

    vpr_bench(tmp_path, [(0, [0]), (1, [1])], 2, 2)
    Image.new("L", (30, 20), 5).save(tmp_path / "ref/0000001.jpg")
    notes = told(check_dataset("corridor", tmp_path, quiet=True), "note")
    assert "modes RGB 3, L 1; all are read as RGB" in notes and any(note.startswith("2 image sizes") for note in notes)


def test_clouds_are_checked_too(tmp_path, monkeypatch):
    from miniatures import RUNS

    from vpr_lib.data.readers import submaps

    monkeypatch.setattr(submaps, "EVALUATION_RUNS", RUNS)
    root = oxford_locations(tmp_path)
    next((root / "oxford" / RUNS[0] / "pointcloud_20m").iterdir()).write_bytes(b"short")
    report = check_dataset("oxford", root, quiet=True)
    assert "1 of 18 files cannot be read" in told(report, "failure") and "runs: expected 23 [V], found 3" in told(
        report, "failure"
    )


def test_a_second_check_is_quick_and_sees_repairs(tmp_path):
    root = damaged_corridor(tmp_path)
    check_dataset("corridor", root, quiet=True)
    touch_image(root / "ref/0000002.jpg", 77)
    report = check_dataset("corridor", root, quiet=True)
    assert (
        "1 of 12 files are empty" not in told(report, "failure")
        and (prepared_folder("corridor") / "audit.parquet").is_file()
    )


def test_what_cannot_be_read_at_all_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="0 images in ref/"):
        (tmp_path / "ref").mkdir()
        (tmp_path / "query").mkdir()
        check_dataset("corridor", tmp_path, quiet=True)


def test_pairs_close_to_the_radius_and_training_tables(tmp_path):
    touch_image(tmp_path / "a/images/test/database" / at_name(1000.00, 2000, "d"), 1)
    touch_image(tmp_path / "a/images/test/queries" / at_name(1025.01, 2000, "q"), 2)
    assert "1 pairs lie within 5 cm of the radius; keep positions in float64" in told(
        check_dataset("st_lucia", tmp_path / "a", quiet=True), "note"
    )
    (tmp_path / "g/Dataframes").mkdir(parents=True)
    (tmp_path / "g/Dataframes/Rome.csv").write_text(
        "place_id,year,month,northdeg,city_id,lat,lon,panoid\n1,2010,1,3,Rome,1.5,2.5,a\n"
    )
    report = check_dataset("gsv_cities", tmp_path / "g", quiet=True)
    assert "cities: expected 23 [V], found 1" in told(report, "failure") and "1 of 1 files are missing" in told(
        report, "failure"
    )
    assert open_dataset("gsv_cities", tmp_path / "g").table["exclude_reason"].tolist() == ["missing"]


def test_what_a_form_of_the_set_does_not_tell(tmp_path):
    np.save(tmp_path / "msls_val_dbImages.npy", np.array(["cph/database/images/d.jpg"]))
    np.save(tmp_path / "msls_val_qImages.npy", np.array(["cph/query/images/q.jpg"]))
    np.save(tmp_path / "msls_val_gt_25m.npy", objects([[0]]), allow_pickle=True)
    notes = told(check_dataset("msls_val", tmp_path, decode=False, quiet=True), "note")
    assert "counted msls_val@11k: expected 11,084 [U], but this form of the data set does not tell" in notes
