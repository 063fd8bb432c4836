"""Readers on miniatures in the exact on-disk format, and on real data where it is at hand."""

import pickle

import numpy as np
import pytest
from pictures import write_picture

from vpr_lib.data.catalogue import open_benchmark
from vpr_lib.data.pickles import UnsafePickle, load_array, load_arrays, read_hdf5, write_hdf5
from vpr_lib.data.readers.berton import read_berton
from vpr_lib.data.readers.folders import read_folders
from vpr_lib.data.readers.gsv_cities import read_gsv_cities
from vpr_lib.data.readers.names import parse_name
from vpr_lib.data.readers.vpr_bench import read_vpr_bench


def object_rows(rows):
    table = np.empty((len(rows), 2), object)
    for index, (query, references) in enumerate(rows):
        table[index] = [query, references]
    return table


def vpr_bench(root, rows, n_ref=4, n_query=3):
    for index in range(n_ref):
        write_picture(root / "ref" / f"{index:07d}.jpg", index)
    for index in range(n_query):
        write_picture(root / "query" / f"{index:07d}.jpg", 50 + index)
    np.save(root / "ground_truth_new.npy", object_rows(rows), allow_pickle=True)
    return root


def test_vpr_bench_with_sentinel_and_rows_out_of_range(tmp_path, caplog):
    found = read_vpr_bench(vpr_bench(tmp_path, [(1, [1, 2]), (0, [-1]), (2, [3, 4])]))
    assert [row.tolist() for row in found.positives] == [[], [1, 2], [3]]  # ordered by query; -1 and 4 are gone
    assert found.protocol.counted.all()  # the query without a match stays in the denominator
    assert "1 rows point beyond the 4 references" in caplog.text


def test_a_lost_image_does_not_shift_the_others(tmp_path, caplog):
    root = vpr_bench(tmp_path, [(0, [0]), (1, [2]), (2, [3])])
    (root / "ref/0000001.jpg").unlink()
    found = read_vpr_bench(root)
    assert [found.database.table["image_path"][row[0]] for row in found.positives] == [
        f"ref/000000{n}.jpg" for n in (0, 2, 3)
    ]
    assert "1 images are missing, the first is number 1" in caplog.text
    (root / "ref/cover.jpg").touch()
    with pytest.raises(ValueError, match=r"1 of 4 names do not follow the others, for instance 'cover\.jpg'"):
        read_vpr_bench(root)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, [0]), (1, [1])], "2 rows for 3 images"),
        ([(0, [0]), (1, [1]), (9, [1])], "row for query 9"),
        ([(0, [0]), (1, [1]), (1, [1])], "row for query 1"),
        ([(0, [9]), (1, [9]), (2, [9])], "no row names one of the 4 references"),
    ],
)
def test_vpr_bench_ground_truth_of_another_set(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_vpr_bench(vpr_bench(tmp_path, rows))


@pytest.mark.parametrize(
    "row", [[0, 2], (0, 2), np.array([2, 0]), np.array([0.0, 2.0]), [[0], [2]], np.array([0, 2], object), [0, 2, -1]]
)
def test_a_row_of_the_ground_truth_as_people_write_it(tmp_path, row):
    found = read_vpr_bench(vpr_bench(tmp_path, [(0, row), (1.0, 3), (np.int64(2), [])]))
    assert [row.tolist() for row in found.positives] == [[0, 2], [3], []]


@pytest.mark.parametrize(
    "row", [[True, False, True, False], np.array([True, False]), [0.5], [float("nan")], [float("inf")], [None], [{}]]
)
def test_what_is_no_index_is_refused(tmp_path, row):
    with pytest.raises(ValueError, match=r"ground_truth_new\.npy: .* are no indices"):
        read_vpr_bench(vpr_bench(tmp_path, [(0, [0]), (1, row), (2, [2])]))


@pytest.mark.parametrize(
    "row", [(0, ["0000001.jpg"]), (0, "0000001.jpg"), ("0000000.jpg", [1]), (0, np.array([b"0000001.jpg"]))]
)
def test_names_in_a_row_are_explained(tmp_path, row):
    with pytest.raises(ValueError, match="the rows name files"):
        read_vpr_bench(vpr_bench(tmp_path, [row, (1, [1]), (2, [2])]))


def test_vpr_bench_shape_and_missing_parts(tmp_path):
    root = vpr_bench(tmp_path, [(0, [0]), (1, [1]), (2, [2])])
    np.save(root / "ground_truth_new.npy", np.zeros((3, 3)))
    with pytest.raises(ValueError, match="array of shape"):
        read_vpr_bench(root)
    (root / "ground_truth_new.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"No ground truth .*ground_truth_new.npy"):
        read_vpr_bench(root)
    for path in (root / "query").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="0 images in query/"):
        read_vpr_bench(root)


def test_real_corridor(real_data):
    found = read_vpr_bench(real_data / "vpr_bench_corridor")
    assert (len(found.database), len(found.queries), len(found.positives.indices)) == (111, 111, 549)
    assert found.positives[0].tolist() == [0, 1, 2] and found.positives[50].tolist() == [48, 49, 50, 51, 52]


class Evil:
    def __reduce__(self):
        return (print, ("code from a data file ran",))


def test_hostile_arrays_are_refused(tmp_path, capsys):
    array = np.empty(1, object)
    array[0] = Evil()
    np.save(tmp_path / "evil.npy", array, allow_pickle=True)
    with pytest.raises(UnsafePickle, match=r"builtins.print"):
        load_array(tmp_path / "evil.npy")
    assert capsys.readouterr().out == ""


def test_damaged_arrays(tmp_path):
    array = np.empty(2, object)
    array[:] = [[1, 2], [3]]
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    assert load_array(tmp_path / "a.npy").tolist() == [[1, 2], [3]]
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[:-9])
    (tmp_path / "none.npy").touch()
    (tmp_path / "text.npy").write_text("hello")
    np.savez(tmp_path / "several", a=array[0], b=array[1])
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    (tmp_path / "header.npy").write_bytes(data.replace(b"(2,)", b"(2,\xa3"))
    (tmp_path / "huge.npy").write_bytes(data[:128] + b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f")  # a text of 2^63 letters
    expected = dict(cut="damaged", none="empty", text="not a NumPy array", header="not a NumPy array", huge="damaged",
                    several=r"an archive \(.npz\); expected one array")  # fmt: skip
    for name, message in expected.items():
        with pytest.raises(ValueError, match=message):
            load_array(tmp_path / f"{name}.npy")


def test_python_2_pickles_are_read(tmp_path):
    array = np.empty(1, object)
    array[0] = [4]
    with (tmp_path / "old.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        pickle.dump(array, file, protocol=2)
    assert load_array(tmp_path / "old.npy")[0] == [4]


# ---- '@' names and folders


def test_parse_name():
    fields = parse_name(
        "some@folder/@0584825.96@4476945.61@17@T@040.43590@-080.00020@pano@03@120@@@@2017@night_cph@.jpg"
    )
    assert (fields["utm_east"], fields["utm_zone"], fields["note"]) == ("0584825.96", "17", "night_cph")
    for name, message in [("plain.jpg", "does not follow"), ("@a@4.0@.jpg", "not a number")]:
        with pytest.raises(ValueError, match=message):
            parse_name(name)


def at_name(east, north, note=""):
    return f"@{east:010.2f}@{north:010.2f}@17@T@@@id{east:.0f}@@090@@@@@{note}@.png"


def test_berton_layout(tmp_path):
    for index in range(4):
        write_picture(tmp_path / "images/test/gallery" / at_name(1000 + 20 * index, 500), index)
    write_picture(tmp_path / "images/test/queries" / at_name(1001, 500, "night_rain"), 9)
    found = read_berton(tmp_path)
    assert found.positives[0].tolist() == [0, 1]
    assert found.queries.table["conditions"][0] == ["night", "rain"]
    assert found.database.table["heading_deg"].tolist() == [90.0] * 4
    write_picture(tmp_path / "images/test/queries" / "plain.png", 9)
    with pytest.raises(ValueError, match="some names carry no"):
        read_berton(tmp_path)


def test_different_zones_are_never_compared(tmp_path):
    write_picture(tmp_path / "db" / "@0001000.00@0000500.00@17@T@@@a@@@@@@@@.png", 0)
    write_picture(tmp_path / "db" / "@0001000.00@0000500.00@18@T@@@b@@@@@@@@.png", 1)
    write_picture(tmp_path / "q" / "@0001000.00@0000500.00@18@T@@@c@@@@@@@@.png", 2)
    assert read_folders(tmp_path / "db", tmp_path / "q").positives[0].tolist() == [1]


def test_positions_from_csv(tmp_path, two_folders):
    database, queries = two_folders
    rows = [f"{p.name},{10 * i},0" for i, p in enumerate(sorted(database.iterdir()))]
    rows += [f"{p.name},{20 * i},0" for i, p in enumerate(sorted(queries.iterdir()))]
    table = tmp_path / "positions.csv"
    table.write_text("image,easting,northing\n" + "\n".join(rows))
    assert read_folders(database, queries, table).positives[1].tolist() == [0, 1, 2, 3, 4]
    table.write_text(
        "image,lat,lon\n"
        + "\n".join(f"{p.name},48.85,{2.35 + 1e-4 * i}" for i, p in enumerate(sorted(database.iterdir())))
    )
    with pytest.raises(ValueError, match="have no row"):
        read_folders(database, queries, table)
    table.write_text("image,x\n")
    with pytest.raises(ValueError, match="needs the columns"):
        read_folders(database, queries, table)
    table.write_text("image,easting,northing\na.png,1,2\na.png,1,2\n")
    with pytest.raises(ValueError, match=r"names 'a.png' twice"):
        read_folders(database, queries, table)
    with pytest.raises(FileNotFoundError, match="No table"):
        read_folders(database, queries, tmp_path / "absent.csv")


@pytest.mark.parametrize("prefix", ["database/", "./database/"])
def test_rows_may_begin_with_the_folders_name(tmp_path, prefix, caplog):
    for side in ("database", "query"):
        for number in range(3):
            write_picture(tmp_path / side / f"{number}.png", number)
    rows = [f"{prefix}{number}.png,{1000 * number},0" for number in range(3)]
    rows += [f"query/{number}.png,{2000 - 1000 * number},0" for number in range(3)]
    (tmp_path / "p.csv").write_text("image,easting,northing\n" + "\n".join(rows))
    found = read_folders(tmp_path / "database", tmp_path / "query", tmp_path / "p.csv")
    assert [row.tolist() for row in found.positives] == [[2], [1], [0]] and "one row for both" not in caplog.text


def test_one_row_for_an_image_in_either_folder_is_told(tmp_path, caplog):
    for side in ("database", "query"):
        for number in range(3):
            write_picture(tmp_path / side / f"{number}.png", number)
    rows = [f"{number}.png,{1000 * number},0" for number in range(3)]
    (tmp_path / "p.csv").write_text("image,easting,northing\n" + "\n".join(rows))
    read_folders(tmp_path / "database", tmp_path / "query", tmp_path / "p.csv")
    assert (
        "3 names, for instance '0.png', are in both folders, and the file of positions has one row for both"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("columns", "rows", "positives"),
    [
        ("utm_zone", ["32", "33", "32", "33"], [[0], [1]]), ("utm_zone,utm_band", ["32,T", "32,H", "32,T", "32,H"], [[0], [1]]),
        ("note", ["32", "33", "32", "33"], [[0, 1], [0, 1]]),
    ],
)  # fmt: skip
def test_zones_of_a_table_tell_equal_metres_apart(tmp_path, columns, rows, positives):
    names = ["a.png", "b.png", "c.png", "d.png"]
    for number, name in enumerate(names):
        write_picture(tmp_path / ("db" if number < 2 else "q") / name, number)
    lines = [f"{name},500000.5,4990000.5,{more}" for name, more in zip(names, rows)]
    (tmp_path / "p.csv").write_text(f"image,easting,northing,{columns}\n" + "\n".join(lines))
    found = read_folders(tmp_path / "db", tmp_path / "q", tmp_path / "p.csv")
    assert [row.tolist() for row in found.positives] == positives


def test_positions_on_one_side_only_are_told(tmp_path, caplog):
    caplog.set_level("INFO")
    for number in range(2):
        write_picture(tmp_path / "db" / f"@{500000 + number}@5000000@.png", number)
        write_picture(tmp_path / "q" / f"{number}.png", number)
    assert read_folders(tmp_path / "db", tmp_path / "q").protocols == ()
    assert f"{tmp_path / 'q'}: only the other folder's images have positions" in caplog.text


def test_matches_from_a_file(tmp_path, two_folders):
    np.save(tmp_path / "m.npy", object_rows([(q, [2 * q]) for q in range(6)]), allow_pickle=True)
    found = read_folders(*two_folders, matches=tmp_path / "m.npy", name="mine")
    assert found.protocol.card.name == "mine@listed" and found.positives[5].tolist() == [10]


def test_degrees_become_metres(tmp_path, two_folders):
    database, queries = two_folders
    names = [p.name for folder in two_folders for p in sorted(folder.iterdir())]
    table = tmp_path / "positions.csv"
    table.write_text(
        "image,lat,lon\n" + "\n".join(f"{name},48.8582,{2.2945 + 0.0001 * i}" for i, name in enumerate(names))
    )
    found = read_folders(database, queries, table)
    east, north = found.database.positions()[0]
    assert (round(east), round(north)) == (448252, 5411933)  # the Eiffel tower: 31U 448251.795 5411932.678
    assert found.database.table["utm_zone"][0] == 31


def test_plain_folders_have_no_ground_truth(two_folders, tmp_path):
    assert read_folders(*two_folders).protocols == ()
    (tmp_path / "void").mkdir()
    with pytest.raises(ValueError, match="No image under"):
        read_folders(tmp_path / "void", two_folders[1])


# ---- GSV-Cities


def test_gsv_cities_names_are_rebuilt_digit_for_digit(tmp_path):
    (tmp_path / "Dataframes").mkdir()
    header = "place_id,year,month,northdeg,city_id,lat,lon,panoid\n"
    (tmp_path / "Dataframes/London.csv").write_text(
        header + "6553,2008,10,263,London,51.51773366144955,-0.1279837045183434,cJvHsqb_EJPfIZ71qIXMPg\n"
    )
    (tmp_path / "Dataframes/Atlantis.csv").write_text(header + "1,2010,1,584,Atlantis,10,1.50,1e5x\n")
    manifest = read_gsv_cities(tmp_path)
    assert manifest.table["image_path"].tolist() == [
        "Images/London/London_0006553_2008_10_263_51.51773366144955_-0.1279837045183434_cJvHsqb_EJPfIZ71qIXMPg.jpg",
        "Images/Atlantis/Atlantis_0000001_2010_01_584_10_1.50_1e5x.jpg",
    ]  # released cities first, in the authors' order; text as in the table
    assert manifest.table["heading_deg"].tolist() == [263, 224]
    assert manifest.table["place_id"].tolist() == ["London/6553", "Atlantis/1"]


def test_gsv_cities_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="No CSV"):
        read_gsv_cities(tmp_path)
    (tmp_path / "Dataframes").mkdir()
    (tmp_path / "Dataframes/Rome.csv").write_text("place_id,year\n1,2\n")
    with pytest.raises(ValueError, match="lacks the columns"):
        read_gsv_cities(tmp_path)
    with pytest.raises(FileNotFoundError, match="No table for"):
        read_gsv_cities(tmp_path, ["Paris"])


def test_catalogue_messages(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown data set 'toycty'. Did you mean 'toycity'"):
        open_benchmark("toycty")
    with pytest.raises(ValueError, match="say where it is with --root"):
        open_benchmark("vpr_bench")
    with pytest.raises(FileNotFoundError, match="No folder"):
        open_benchmark("vpr_bench", tmp_path / "absent")


def test_a_damaged_archive_of_arrays_is_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(1000), b=np.ones(3))
    whole, odd = path.read_bytes(), []
    for data in (
        b"",
        whole[:200],
        *(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :] for at in range(len(whole))),
    ):
        path.write_bytes(data)
        try:
            odd += [] if load_arrays(path, {"a"})["a"].tolist() == list(range(1000)) else [data]
        except ValueError as error:
            assert str(path) in str(error)
    assert not odd  # what was read is what was written
    np.savez(path, b=np.ones(3))
    with pytest.raises(ValueError, match=r"a\.npz cannot be used: it lacks the arrays \['a'\]; it has \['b'\]"):
        load_arrays(path, {"a"})


def test_no_flipped_byte_of_an_hdf5_file_is_believed(tmp_path):
    written = np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32)
    path, told = write_hdf5(tmp_path / "a.h5", {"a": written, "b": written[0]}, "key"), 0
    whole = path.read_bytes()
    assert read_hdf5(path, ("a", "b"))[1] == "key"
    for place in np.random.default_rng(2).choice(len(whole), 800, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            np.testing.assert_array_equal(read_hdf5(path, ("a",))[0][0], written)
        except ValueError as error:
            assert "a.h5 is not an HDF5 file of these arrays, or is damaged" in str(error)
            told += 1
    assert told > 20
