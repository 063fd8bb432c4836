"""The catalogue: names, places, cards that are documented, and prepared data sets that are only believed while they fit."""

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from miniatures import at_name, at_names, msls_val, pittsburgh, tokyo247, touch_image, vpr_bench
from pictures import picture
from PIL import Image

from vpr_lib.config import load_yaml
from vpr_lib.data import catalogue, prepare
from vpr_lib.data.catalogue import (
    KINDS,
    TABLE,
    Table,
    default_root,
    find,
    how_to_get,
    load_table,
    open_benchmark,
    open_dataset,
    prepare_dataset,
    status,
)
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.prepare import prepared_folder
from vpr_lib.data.readers.exif import gps_exif
from vpr_lib.data.totals import near_threshold, totals
from vpr_lib.files import content_hashes, forget_used, used_files


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The folder above all data sets."""
    monkeypatch.setenv("VPR_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_every_reader_exists_and_takes_its_arguments():
    import inspect

    for name, dataset in load_table().datasets.items():
        signature = inspect.signature(catalogue._reader(dataset))
        arguments = dict(dataset.arguments) | ({"name": name} if dataset.pass_name else {})
        signature.bind("root", **arguments)  # TypeError when it does not
        assert dataset.kind in KINDS


def test_card_names_are_unique_and_begin_with_their_data_set():
    cards = [(name, card) for name, dataset in load_table().datasets.items() for card in dataset.protocols]
    assert len({card for _, card in cards}) == len(cards)
    assert all(card.startswith(name) for name, card in cards)


@pytest.mark.parametrize(
    ("name", "write"),
    [("pitts30k_test", pittsburgh), ("msls_val", msls_val), ("msls_val_cph", msls_val), ("tokyo247", tokyo247)],
)
def test_cards_are_the_documented_ones(data, name, write):
    write(data / find(name).folders[0])
    assert status(name)["here"] == "yes" and default_root(name) == data / find(name).folders[0]
    assert [p.card.name for p in open_benchmark(name).protocols] == list(find(name).protocols)


def test_the_folder_that_holds_the_set_wins(data):
    assert default_root("msls_val") == data / "msls"
    (data / "msls").mkdir(parents=True)
    (data / "msls-val").mkdir()
    (data / "msls-val/msls_val_gt_25m.npy").touch()
    assert default_root("msls_val") == data / "msls-val"
    assert status("msls_val_cph")["here"] == "no"


def test_what_one_can_ask_wrongly(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`vpr data get pitts30k_test` says how"):
        open_benchmark("pitts30k_test")
    with pytest.raises(ValueError, match=r"'gsv_cities' is no benchmark.*open_dataset"):
        open_benchmark("gsv_cities")
    with pytest.raises(ValueError, match="Did you mean 'pitts30k_test'"):
        how_to_get("pitts30k_tst")
    with pytest.raises(AttributeError, match="no attribute 'SETS'"):
        _ = catalogue.SETS
    assert catalogue.DATASETS is load_table().datasets


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["datasets"]["sped"].update(family="x"), "names the unknown family 'x'"),
        (lambda t: t["datasets"]["sped"].pop("marks"), "nor how to tell"),
        (lambda t: t["datasets"]["sped"].update(expected={"queries": [1, "Q"]}), "datasets.sped.expected.queries"),
        (lambda t: t["datasets"]["sped"].update(colour=1), "datasets.sped.colour: Extra inputs"),
    ],
)
def test_a_wrong_table_is_told(tmp_path, change, message):
    table = yaml.safe_load(TABLE.read_text())
    change(table)
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(table))
    with pytest.raises(ValueError, match=message):
        load_yaml(tmp_path / "t.yaml", Table)


# ---- prepared


@pytest.fixture
def reads(monkeypatch):
    """Counts how often data sets are read from their own files."""
    count = []
    original = catalogue.read_dataset
    monkeypatch.setattr(catalogue, "read_dataset", lambda *a: count.append(a) or original(*a))
    return count


def test_prepared_sets_are_used_while_they_fit(tmp_path, reads):
    root = vpr_bench(tmp_path / "set", [(0, [0]), (1, [1])], 2, 2)
    first, kept = prepare_dataset("corridor", root)
    assert kept == prepared_folder("corridor") and len(reads) == 1
    again = open_benchmark("corridor", root)
    assert len(reads) == 1 and again.protocol.card == first.protocol.card
    open_benchmark("corridor", vpr_bench(tmp_path / "other", [(0, [0])], 1, 1))
    assert len(reads) == 2  # another folder


def added_with_the_folder_s_old_time(folder):
    before = folder.stat().st_mtime_ns
    touch_image(folder / "0000002.jpg")
    os.utime(folder, ns=(1, before))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: touch_image(root / "ref/0000002.jpg"),
        lambda root: (root / "query/0000001.jpg").rename(root / "query/0000001.png"),
        lambda root: vpr_bench(root, [(0, [1]), (1, [0])], 2, 2, files=False),
        lambda root: (prepared_folder("corridor") / "stamp.json").write_text("{"),
        lambda root: added_with_the_folder_s_old_time(root / "ref"),
    ],
)
def test_prepared_sets_that_no_longer_fit_are_read_again(tmp_path, reads, change):
    root = vpr_bench(tmp_path / "set", [(0, [0]), (1, [1])], 2, 2)
    prepare_dataset("corridor", root)
    for folder in (root / "ref", root / "query", root / "ground_truth_new.npy"):
        os.utime(folder, ns=(1, folder.stat().st_mtime_ns - 5))  # not in the same tick as the change
    prepare_dataset("corridor", root)
    change(root)
    open_benchmark("corridor", root)
    assert len(reads) == 3


def test_photos_with_positions_that_were_rewritten_in_place_are_read_again(tmp_path):
    def photo(name, lat):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture(0)).save(tmp_path / name, exif=gps_exif(lat, 8.0))

    for step in range(3):  # 111 m apart
        photo(f"database/{step}.jpg", 48 + step / 1000)
    photo("queries/q.jpg", 48.0)
    prepare_dataset("st_lucia", tmp_path)
    photo("queries/q.jpg", 48.002)
    assert open_benchmark("st_lucia", tmp_path).positives[0].tolist() == [2]


@pytest.mark.parametrize("name", ["benchmark.json", "queries.parquet", "database.parquet"])
def test_what_was_kept_and_is_damaged_is_read_again(tmp_path, reads, name):
    for side in ("database", "queries"):
        at_names(tmp_path / "set" / side, [at_name(500_000 + 100 * n, 4_000_000, f"p{n}") for n in range(3)])
    first, kept = prepare_dataset("st_lucia", root := tmp_path / "set")
    data = bytearray((kept / name).read_bytes())
    data[len(data) // 3] ^= 1
    (kept / name).write_bytes(data)
    again = open_benchmark("st_lucia", root)
    assert len(reads) == 2 and (again.queries.positions() == first.queries.positions()).all()


@pytest.mark.parametrize("prepared", [False, True])
def test_what_was_opened_rests_on_its_lists_and_on_which_images_there_are(tmp_path, prepared):
    root = vpr_bench(tmp_path / "set", [(0, [0]), (1, [1])], 2, 2)
    if prepared:
        prepare_dataset("corridor", root)
    forget_used()
    open_benchmark("corridor", root)
    before = used_files()
    changed = lambda: [Path(path).name for path, value in before.items() if content_hashes([path]) != [value]]
    assert changed() == []
    vpr_bench(root, [(0, [1]), (1, [0])], 2, 2, files=False)
    assert changed() == ["ground_truth_new.npy"]
    touch_image(root / "ref/0000002.jpg")
    assert sorted(changed()) == ["ground_truth_new.npy", "ref"]


def test_new_code_reads_again(tmp_path, reads, monkeypatch):
    root = vpr_bench(tmp_path / "set", [(0, [0])], 1, 1)
    prepare_dataset("corridor", root)
    monkeypatch.setattr(prepare, "code_version", lambda: "another")
    open_benchmark("corridor", root)
    assert len(reads) == 2


def test_an_interrupted_preparation_is_not_believed(tmp_path, reads, monkeypatch):
    root = vpr_bench(tmp_path / "set", [(0, [0])], 1, 1)
    prepare_dataset("corridor", root)

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Manifest, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset("corridor", root)
    monkeypatch.undo()
    assert not (prepared_folder("corridor") / "stamp.json").exists()


def test_all_kinds_are_kept(tmp_path, monkeypatch):
    from miniatures import RUNS, oxford_locations

    from vpr_lib.data.readers import submaps

    monkeypatch.setattr(submaps, "EVALUATION_RUNS", RUNS)
    root = oxford_locations(tmp_path / "oxford")
    made, _ = prepare_dataset("oxford", root)
    assert open_dataset("oxford", root).card == made.card and totals(made)["pairs"] == 6
    (tmp_path / "gsv/Dataframes").mkdir(parents=True)
    (tmp_path / "gsv/Dataframes/Rome.csv").write_text(
        "place_id,year,month,northdeg,city_id,lat,lon,panoid\n1,2010,1,3,Rome,1.5,2.5,a\n"
    )
    prepare_dataset("gsv_cities", tmp_path / "gsv")
    assert totals(open_dataset("gsv_cities", tmp_path / "gsv")) == {"images": 1, "places": 1, "cities": 1}


def test_totals_and_close_calls(tmp_path):
    found = open_benchmark("msls_val", msls_val(tmp_path))
    numbers = totals(found)
    assert (numbers["counted msls_val@740"], numbers["unmatched msls_val@747"], numbers["positives msls_val@11k"]) == (
        2,
        1,
        5,
    )
    assert near_threshold(found) == 0
    with pytest.raises(TypeError, match="no totals for ndarray"):
        totals(np.zeros(3))
