"""Names that differ only to a program, labels that repeat, odd names among good ones, queries that are in the database."""

import shutil
import unicodedata

import numpy as np
import pytest
from pictures import write_picture
from PIL import Image

from vpr_lib.data.readers.amstertime import read_amstertime
from vpr_lib.data.readers.arrays import read_truth
from vpr_lib.data.readers.folders import read_folders
from vpr_lib.data.readers.gsv_cities import read_gsv_cities
from vpr_lib.data.readers.image_files import list_images
from vpr_lib.data.readers.tokyo import read_tokyo247
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.folders import retrieve_folders
from vpr_lib.retrieval.protocol import evaluate, unanswerable

HEADER = "place_id,year,month,northdeg,city_id,lat,lon,panoid\n"


def cities(root, **tables):
    (root / "Dataframes").mkdir()
    for stem, ids in tables.items():
        rows = [
            f"{p},2015,6,{90 + i},{city},45.{n}{p},7.6{i},pano{n}{p}{i}"
            for n, city in enumerate(ids)
            for p in range(2)
            for i in range(4)
        ]
        (root / "Dataframes" / f"{stem}.csv").write_text(HEADER + "\n".join(rows) + "\n")
    return read_gsv_cities(root).table


@pytest.mark.parametrize(
    ("tables", "places"),
    [
        ({"North": ["Town"], "South": ["Town"]}, 4), ({"One": ["A", "B"]}, 4), ({"One": ["A", "B"], "Two": ["A"]}, 6),
        ({"A": ["A"], "B": ["B"]}, 4),
    ],
)  # fmt: skip
def test_local_ids_of_two_cities_are_two_places(tmp_path, tables, places):
    table = cities(tmp_path, **tables)
    assert table["place_id"].nunique() == places and (table.groupby("place_id").size() == 4).all()


@pytest.mark.parametrize(("on_disk", "in_file"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
@pytest.mark.parametrize("way", ["{}", "./{}", " {} ", "sub\\{}"])
def test_names_are_compared_as_a_person_does(tmp_path, on_disk, in_file, way):
    name, folder = "Stra\u00dfe n\u00f6rdlich.png", "sub/" if "sub" in way else ""
    for side in ("db", "q"):
        write_picture(tmp_path / side / (folder + unicodedata.normalize(on_disk, name)), 1)
    row = way.format(unicodedata.normalize(in_file, name))
    (tmp_path / "p.csv").write_text(f"image,easting,northing\n{row},1000,2000\n", encoding="utf-8")
    assert read_folders(tmp_path / "db", tmp_path / "q", tmp_path / "p.csv").positives[0].tolist() == [0]


def test_a_name_that_is_nearly_there_is_shown(two_folders, tmp_path):
    (tmp_path / "p.csv").write_text("image,easting,northing\n" + "".join(f"{i:02d}.jpg,1,2\n" for i in range(12)))
    with pytest.raises(
        ValueError, match=r"no row in the file of positions, for instance '00\.png'\. The file has '00\.jpg'"
    ):
        read_folders(*two_folders, tmp_path / "p.csv")


def test_one_odd_name_is_told(tmp_path, caplog):
    for side in ("db", "q"):
        for number in range(3):
            write_picture(tmp_path / side / f"@{500000 + 100 * number}@5000000@.png", number)
    write_picture(tmp_path / "db" / "cover.png", 9)
    assert read_folders(tmp_path / "db", tmp_path / "q").protocols == ()
    assert "1 of 4 names carry no '@easting@northing@' position, for instance 'cover.png'" in caplog.text


@pytest.mark.parametrize("layout", ["images/test/database", "test/database", "images/test/gallery", "test/gallery"])
def test_tokyo_without_panorama_ids(tmp_path, caplog, layout):
    for number in range(4):
        for side in (layout, layout.rsplit("/", 1)[0] + "/queries"):
            write_picture(tmp_path / side / f"@{394000 + 100 * number}.5@3950000.5@.png", number)
    found = read_tokyo247(tmp_path)
    assert [protocol.card.name for protocol in found.protocols] == ["tokyo247"]
    assert [row.tolist() for row in found.positives] == [[0], [1], [2], [3]] and "no panorama ids" in caplog.text


@pytest.mark.parametrize("way", ["copied under another name", "linked", "the folder itself"])
def test_queries_that_are_database_images_are_told(two_folders, tmp_path, caplog, way):
    database, queries = two_folders
    if way == "the folder itself":
        queries = database
    else:
        copy = shutil.copy if way.startswith("copied") else lambda a, b: b.symlink_to(a)
        for number in range(3):
            copy(database / f"{number:02d}.png", queries / f"z{number}.png")
    retrieve_folders(build_model("pixels"), read_folders(database, queries), 3, None)
    count = 12 if queries == database else 3
    assert f"{count} of " in caplog.text and "queries are database images themselves (same files)" in caplog.text


def test_queries_without_a_positive_are_told(two_folders, tmp_path, caplog):
    lines = [f"{i:02d}.png,{100 * i},0" for i in range(12)] + [
        f"q{i}.png,{200 * i + 5000 * (i > 3)},0" for i in range(6)
    ]
    (tmp_path / "p.csv").write_text("image,easting,northing\n" + "\n".join(lines))
    benchmark = read_folders(*two_folders, tmp_path / "p.csv")
    evaluate(build_model("pixels"), benchmark, ks=(1,), quiet=True)
    assert unanswerable(benchmark.protocol).startswith("2 of 6 queries that count have no positive")
    assert "2 of 6 queries that count have no positive" in caplog.text


@pytest.mark.parametrize("suffix", ["bmp", "tif"])
def test_queries_with_the_pixels_of_database_images_are_told(two_folders, caplog, suffix):
    database, queries = two_folders
    for number in range(3):
        Image.open(database / f"{number:02d}.png").save(queries / f"z{number}.{suffix}")
    retrieve_folders(build_model("pixels"), read_folders(database, queries), 3, None)
    assert "3 of 9 queries are database images themselves (0 same files, 3 of similarity 1)" in caplog.text


def test_what_systems_leave_is_no_image_and_pictures_without_a_suffix_are_told(tmp_path, caplog):
    write_picture(tmp_path / "a.png", 0)
    for place in ("@eaDir/a.png", "__MACOSX/a.png", "$RECYCLE.BIN/a.png"):
        write_picture(tmp_path / place / "b.png", 1)
    (tmp_path / "notes.txt").write_text("no picture")
    assert list_images(tmp_path) == ["a.png"] and not caplog.text
    (tmp_path / "a.png").rename(tmp_path / "a")
    shutil.copy(tmp_path / "a", tmp_path / "b.png.bak")
    assert list_images(tmp_path) == []
    assert "2 files are left out that begin as pictures and are not named as such" in caplog.text


SPELLINGS = {
    "semicolons, decimal commas": lambda text: text.replace(",", ";").replace(".0", ",0").replace(".1", ",1"),
    "semicolons": lambda text: text.replace(",", ";"), "tabs": lambda text: text.replace(",", "\t"),
    "byte order mark": lambda text: f"\ufeff{text}", "Windows lines": lambda text: text.replace("\n", "\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("way", SPELLINGS)
def test_positions_as_spreadsheets_write_them(tmp_path, way):
    text = "image,lat,lon\n"
    for number in range(4):
        for folder in "dq":
            write_picture(tmp_path / folder / f"{folder}{number}.png", number)
            text += f"{folder}{number}.png,45.0{number}5,7.1{number}\n"
    (tmp_path / "p.csv").write_bytes(SPELLINGS[way](text).encode())
    found = read_folders(tmp_path / "d", tmp_path / "q", tmp_path / "p.csv")
    assert [row.tolist() for row in found.positives] == [[0], [1], [2], [3]]
    assert found.database.table["lat"].tolist() == [45.005, 45.015, 45.025, 45.035]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1.5,2015,6,90,Rome,45.1,7.6,p", "line 2: 1.5 is no place_id"), (",2015,6,90,Rome,45.1,7.6,p", "line 2: '' is no number"),
        ("1,2015,13,90,Rome,45.1,7.6,p", "line 2: 13 is no month"), ('1,2015,6,90,Rome,"45,1",7.6,p', "'45,1' is no number"),
        ("a1,2015,6,90,Rome,45.1,7.6,p", "'a1' is no number"),
    ],
)  # fmt: skip
def test_tables_of_cities_name_the_line_that_is_wrong(tmp_path, row, message):
    (tmp_path / "Dataframes").mkdir()
    (tmp_path / "Dataframes/Rome.csv").write_text(f"{HEADER}{row}\n")
    with pytest.raises(ValueError, match=message):
        read_gsv_cities(tmp_path)
    (tmp_path / "Dataframes/Rome.csv").write_text(f"{HEADER}1.0,2015,6.0,90.0,Rome,45.1,7.60,p\n")
    assert read_gsv_cities(tmp_path).table["image_path"][0] == "Images/Rome/Rome_0000001_2015_06_090_45.1_7.60_p.jpg"


def test_a_table_of_zeros_and_ones_is_no_list_of_indices(tmp_path):
    np.save(tmp_path / "gt.npy", np.array([[1, 0, 0], [0, 1, 0]]))
    with pytest.raises(ValueError, match="a table of 0 and 1, one column per database image"):
        read_truth(tmp_path / "gt.npy", 2, 3)
    np.save(tmp_path / "gt.npy", np.array([[1], [0]]))
    assert [row.tolist() for row in read_truth(tmp_path / "gt.npy", 2, 3)] == [[1], [0]]


def test_two_pictures_of_one_name_are_refused(tmp_path):
    for name in ("new/1.png", "new/1.jpg", "old/1.png"):
        write_picture(tmp_path / name, 1)
    with pytest.raises(ValueError, match="1 names stand for two pictures of one folder, for instance '1'"):
        read_amstertime(tmp_path)
