"""Pittsburgh: by field name, from arrays, in the '@' layout; all three find the same positives."""

import numpy as np
import pytest
from miniatures import EAST, NORTH, at_name, at_names, cells, db_struct, objects, pittsburgh, touch_image

from vpr_lib.data.readers.mat import read_db_struct
from vpr_lib.data.readers.pittsburgh import read_npz_positions, read_patchnetvlad, read_pittsburgh


def test_the_mat_route(tmp_path):
    found = read_pittsburgh(pittsburgh(tmp_path))
    assert (len(found.database), len(found.queries)) == (72, 24)
    assert found.protocol.card.name == "pitts30k_test@25m" and found.protocol.card.threshold == 25
    assert all(row.tolist() == list(range(48)) for row in found.positives)  # 1 m and 19 m away; 39 m is too far
    database, queries = found.database.table, found.queries.table
    assert database["image_path"][0] == "000/000820_pitch1_yaw1.jpg"
    assert queries["image_path"][0] == "queries_real/000/000821_pitch1_yaw1.jpg"
    assert database["tile"].tolist()[:24] == [*range(12), *range(24, 36)]
    assert database["yaw_deg"].max() == 330 and database["nms_group"].nunique() == 3


def test_panorama_ids_of_both_sides_never_meet(tmp_path):
    found = read_pittsburgh(pittsburgh(tmp_path))
    assert not set(found.database.table["pano_id"]) & set(found.queries.table["pano_id"])


def test_fields_are_found_by_name_in_any_order(tmp_path):
    rows = [("a.jpg", 1.0, 2.0), ("b.jpg", 3.0, 4.0)]
    path = db_struct(tmp_path / "a.mat", rows, rows[:1])
    struct = read_db_struct(path)
    assert struct.database == ["a.jpg", "b.jpg"] and struct.database_positions.tolist() == [[1, 2], [3, 4]]
    assert struct.queries == ["a.jpg"] and struct.query_positions.tolist() == [[1, 2]] and struct.radius_m == 25
    other = dict(
        dbImages=cells([" a b.jpg "]), locDb=np.array([[1.0], [2.0]]), qImages=cells(["q.jpg"]), locQ=np.array([[1.0], [2.0]]),
        numDb=1, numQ=1, **dict.fromkeys(("dbImageFns", "utmDb", "qImageFns", "utmQ", "numImages", "numQueries")),
    )  # fmt: skip
    struct = read_db_struct(db_struct(tmp_path / "oxdatapart.mat", rows, rows, **other))
    assert struct.database == ["a b.jpg"] and struct.query_positions.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(numImages=5), r"72 names of database, but it says 5 \(numImages\)"),
        (dict(utmQ=None), r"lacks the field utmQ; it has \['whichSet'"),
        (dict(utmDb=np.zeros((72, 2))), r"utmDb has the shape \(72, 2\), expected \(2, 72\)"),
        (dict(qImageFns=cells(["x/y.jpg"] * 24)), "is no Pittsburgh name"),
    ],
)
def test_what_a_mat_must_hold(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        read_pittsburgh(pittsburgh(tmp_path, **fields))


def test_files_that_are_no_mat(tmp_path):
    from scipy.io import savemat

    (tmp_path / "text.mat").write_text("hello")
    (tmp_path / "hdf.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    savemat(tmp_path / "other.mat", {"something": 1})
    whole = (pittsburgh(tmp_path) / "datasets/pitts30k_test.mat").read_bytes()
    (tmp_path / "cut.mat").write_bytes(whole[: len(whole) // 2])
    for name, message in [
        ("text", "not a MATLAB 5 file"),
        ("hdf", "not a MATLAB 5 file"),
        ("other", "holds no struct"),
        ("cut", "not a MATLAB 5 file"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_db_struct(tmp_path / f"{name}.mat")
    with pytest.raises(FileNotFoundError, match="netvlad_v100_datasets"):
        read_db_struct(tmp_path / "absent.mat")


def test_nothing_there_names_all_ways_in(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"No pitts250k_val .*datasets/pitts250k_val.mat.*pitts250k_val_gt_25m.npy"
    ):
        read_pittsburgh(tmp_path, "250k", "val")


def test_openibl_folders(tmp_path):
    touch_image(pittsburgh(tmp_path) / "Pittsburgh/images/000/000820_pitch1_yaw1.jpg")
    touch_image(tmp_path / "Pittsburgh/queries/000/000821_pitch1_yaw1.jpg")
    found = read_pittsburgh(tmp_path)
    assert found.database.table["image_path"][0].startswith("Pittsburgh/images/000/")
    assert found.queries.table["image_path"][0].startswith("Pittsburgh/queries/000/")


@pytest.mark.parametrize("suffix", ["gt", "gt_25m"])
def test_three_ways_one_ground_truth(tmp_path, suffix):
    mat = read_pittsburgh(pittsburgh(tmp_path / "mat"))
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    np.save(arrays / "pitts30k_test_dbImages.npy", np.array(mat.database.table["image_path"].tolist()))
    np.save(arrays / "pitts30k_test_qImages.npy", np.array(mat.queries.table["image_path"].tolist()))
    np.save(arrays / f"pitts30k_test_{suffix}.npy", objects(mat.positives), allow_pickle=True)
    stored = read_pittsburgh(arrays)
    assert stored.protocol.card == mat.protocol.card  # same lists, same rule, same positives: one protocol
    images = tmp_path / "at/images/test"
    for folder, table in (("database", mat.database.table), ("queries", mat.queries.table)):
        names = [at_name(e, n, f"{i:06d}") for i, (e, n) in enumerate(zip(table["utm_east"], table["utm_north"]))]
        at_names(images / folder, names)
    berton = read_pittsburgh(tmp_path / "at")
    assert berton.protocol.card.name == "pitts30k_test@25m"
    assert [len(row) for row in berton.positives] == [len(row) for row in mat.positives]


def test_stored_matches_of_other_lists(tmp_path):
    np.save(tmp_path / "pitts30k_val_dbImages.npy", np.array(["000/000001_pitch1_yaw1.jpg"]))
    np.save(tmp_path / "pitts30k_val_qImages.npy", np.array(["queries_real/000/000001_pitch1_yaw1.jpg"]))
    for rows, message in [
        ([[0], [0]], "expected one row per query"),
        ([[1]], "point beyond the 1 database images"),
    ]:
        np.save(tmp_path / "pitts30k_val_gt.npy", objects(rows), allow_pickle=True)
        with pytest.raises(ValueError, match=message):
            read_pittsburgh(tmp_path, split="val")
    np.save(tmp_path / "pitts30k_val_gt.npy", np.array([[0.5]]))
    with pytest.raises(ValueError, match="entries are not integers"):
        read_pittsburgh(tmp_path, split="val")


def test_patchnetvlad_lists(tmp_path):
    (tmp_path / "index.txt").write_text("./Pittsburgh250k/000/000829_pitch1_yaw1.jpg\n\n")
    (tmp_path / "query.txt").write_text("./Pittsburgh250k/queries_real/000/000546_pitch1_yaw1.jpg\n")
    np.savez(tmp_path / "p.npz", utmDb=[[EAST, NORTH]], utmQ=[[EAST + 25.0, NORTH]], posDistThr=25)
    found = read_patchnetvlad(tmp_path, tmp_path / "p.npz", tmp_path / "index.txt", tmp_path / "query.txt")
    assert found.positives[0].tolist() == [0]  # the threshold is inside
    np.savez(tmp_path / "p.npz", utmDb=[[EAST, NORTH]] * 2, utmQ=[[EAST, NORTH]], posDistThr=25)
    with pytest.raises(ValueError, match="2 positions for 1 images"):
        read_patchnetvlad(tmp_path, tmp_path / "p.npz", tmp_path / "index.txt", tmp_path / "query.txt")
    np.savez(tmp_path / "p.npz", utmDb=[[0, 0]])
    with pytest.raises(ValueError, match="lacks the arrays"):
        read_npz_positions(tmp_path / "p.npz")
