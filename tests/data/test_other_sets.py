"""SF-XL, SVOX, AmsterTime, SPED and the like: sets that share a layout but not its traps."""

import numpy as np
import pytest
from miniatures import at_name, at_names, objects, touch_image, vpr_bench

from vpr_lib.data.readers.amstertime import read_amstertime
from vpr_lib.data.readers.arrays import read_arrays
from vpr_lib.data.readers.berton import read_berton, read_mock_pairs
from vpr_lib.data.readers.sfxl import read_sfxl
from vpr_lib.data.readers.vpr_bench import read_vpr_bench

SF = dict(zone="10", band="S")


def sfxl(root, size="processed"):
    database = [at_name(550000, 4180000, "p", heading=f"{h:03d}", **SF) for h in (0, 90, 300)]
    at_names(root / size / "test/database/37.70", database)
    for name, east in (("v1", 550010), ("v2", 550024), ("night", 550400), ("occlusion", 550000)):
        at_names(root / size / f"test/queries_{name}", [at_name(east, 4180000, name, **SF)])
    at_names(root / size / "val/database", database[:1])
    at_names(root / size / "val/queries", [at_name(550001, 4180000, "v", **SF)])
    return root


def test_sfxl_query_sets_share_one_database(tmp_path):
    sets = [read_sfxl(sfxl(tmp_path), queries=f"queries_{name}") for name in ("v1", "v2", "night", "occlusion")]
    assert [b.name for b in sets] == [f"sfxl_test_{name}" for name in ("v1", "v2", "night", "occlusion")]
    assert len({b.database.list_hash for b in sets}) == 1  # descriptors are keyed by it
    assert [b.positives.counts.tolist() for b in sets] == [[3], [3], [0], [3]]
    assert [p.card.name for p in sets[2].protocols] == ["sfxl_test_night@25m", "sfxl_test_night@25m_matchable"]
    assert [p.counted.sum() for p in sets[2].protocols] == [1, 0]


def test_sfxl_headings_turn_clockwise_and_to_the_centre(tmp_path):
    found = read_sfxl(sfxl(tmp_path))
    half = 180 * 512 / 3328
    assert found.database.table["heading_deg"].tolist() == pytest.approx([half, 270 + half, 60 + half])  # 90 is west
    assert found.database.table["heading_raw"].tolist() == ["000", "090", "300"]


def test_small_sfxl_has_its_own_name(tmp_path):
    small = read_sfxl(sfxl(tmp_path, "small"), size="small", name="sfxl_small_v1")
    large = read_sfxl(sfxl(tmp_path))
    assert small.name == "sfxl_small_v1" and small.protocol.card.dataset == "sfxl_small"
    assert small.protocol.card.hash != large.protocol.card.hash
    assert read_sfxl(tmp_path, "val", "queries").name == "sfxl_val"
    with pytest.raises(FileNotFoundError, match=r"No folder 'queries_v3'.*queries_occlusion"):
        read_sfxl(tmp_path, queries="queries_v3")


def test_lists_replace_folders(tmp_path):
    folder = tmp_path / "processed/test"
    folder.mkdir(parents=True)
    names = [at_name(550000 + n, 4180000, f"p{n}", **SF) for n in (3, 1, 2)]
    (folder / "database_images_paths.txt").write_text("\n".join(f"./37.70/{name}" for name in names) + "\n\n")
    (folder / "queries_v1_images_paths.txt").write_text(at_name(550002, 4180000, "q", **SF))
    found = read_sfxl(tmp_path)
    assert found.database.table["pano_id"].tolist() == ["p1", "p2", "p3"]  # sorted, whatever the order of the list
    for text, message in [
        ("/etc/passwd", "lead out of the data set"),
        ("a/../../b.jpg", "lead out"),
        ("\n", "names no file"),
    ]:
        (folder / "database_images_paths.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_sfxl(tmp_path)


def test_what_a_list_leaves_out_is_told(tmp_path, caplog):
    at_names(tmp_path / "images/test/queries", [at_name(620_000, 5_735_000, "q")])
    at_names(tmp_path / "images/test/database", [at_name(620_000 + n, 5_735_000, f"p{n}") for n in range(3)])
    listed = tmp_path / "images/test/database_images_paths.txt"
    listed.write_text("\n".join(at_name(620_000 + n, 5_735_000, f"p{n}") for n in range(3)))
    assert len(read_berton(tmp_path).database) == 3 and "leaves out" not in caplog.text
    listed.write_text("\n".join(at_name(620_000 + n, 5_735_000, f"p{n}") for n in range(2)))
    assert len(read_berton(tmp_path).database) == 2
    assert f"names 2 images and leaves out 1 of {listed.parent / 'database'}, for instance '@0620002" in caplog.text


def test_svox_conditions_share_the_gallery(tmp_path):
    at_names(tmp_path / "images/test/gallery", [at_name(620000, 5735000, "g", zone="30", band="U")])
    for name in ("queries", "queries_night"):
        at_names(tmp_path / "images/test" / name, [at_name(620005, 5735000, name, zone="30", band="U")])
    both = [
        read_berton(tmp_path, queries=queries, name=name, dataset="svox", matchable=True)
        for queries, name in (("queries", "svox"), ("queries_night", "svox_night"))
    ]
    assert both[0].database.list_hash == both[1].database.list_hash
    assert [b.protocol.card.name for b in both] == ["svox@25m", "svox_night@25m"]
    assert [len(b.positives.indices) for b in both] == [1, 1]


def test_an_at_sign_above_the_data_does_no_harm(tmp_path):
    root = tmp_path / "me@home@17"
    at_names(root / "test/database", [at_name(1000, 2000)])
    at_names(root / "test/queries", [at_name(1010, 2000, "q")])
    assert read_berton(root).positives[0].tolist() == [0]


def test_a_name_without_position_is_named(tmp_path):
    at_names(tmp_path / "test/database", [at_name(1000, 2000)])
    at_names(tmp_path / "test/queries", [at_name(1010, 2000), "IMG_1.jpg"])
    with pytest.raises(ValueError, match=r"1 of 2, for instance 'IMG_1.jpg'"):
        read_berton(tmp_path)
    (tmp_path / "test/queries/IMG_1.jpg").rename(tmp_path / "test/queries/@north@2.jpg")
    with pytest.raises(ValueError, match=r"'@north@2.jpg': token 1 \(utm_east\) is 'north', not a number"):
        read_berton(tmp_path)


def test_mock_positions_are_places_not_metres(tmp_path):
    for folder in ("database", "queries"):
        at_names(tmp_path / "images/test" / folder, [f"@0@{1000 * n}@@@@@{n}@@@@@@@@.jpg" for n in (0, 1, 10)])
    found = read_mock_pairs(tmp_path, name="sped")
    assert [row.tolist() for row in found.positives] == [[0], [1], [2]]
    assert not found.database.has_positions and found.protocol.card.rule == "place_id"
    (tmp_path / "images/test/queries/plain.jpg").touch()
    with pytest.raises(ValueError, match=r"for instance 'plain.jpg'"):
        read_mock_pairs(tmp_path)


def test_amstertime_as_published(tmp_path):
    for stem in ("10", "2", "1"):
        touch_image(tmp_path / "new" / f"{stem}.png")
        touch_image(tmp_path / "old" / f"{stem}.jpg")
    found = read_amstertime(tmp_path)
    assert found.protocol.card.name == "amstertime@pairs"
    pairs = [
        (found.queries.table["place_id"][q], found.database.table["place_id"][row[0]])
        for q, row in enumerate(found.positives)
    ]
    assert all(a == b for a, b in pairs) and len(pairs) == 3
    (tmp_path / "new/2.png").unlink()
    with pytest.raises(ValueError, match="have no partner of the same name, for instance '2'"):
        read_amstertime(tmp_path)
    at = at_names(tmp_path / "at/images/test/database", ["@0@1000@@@@@1@@@@@@@@.jpg"]).parent
    at_names(at / "queries", ["@0@1000@@@@@1@@@@@@@@.jpg"])
    assert read_amstertime(tmp_path / "at").protocol.card.name == "amstertime@pairs"


@pytest.mark.parametrize("rows", [np.array([[0], [1], [2]]), objects([[0], [1], [2]]), np.array([0, 1, 2])])
def test_three_arrays_in_either_representation(tmp_path, rows):
    np.save(tmp_path / "SPED_dbImages.npy", np.array([f"ref/{n:07d}.jpg" for n in range(3)]))
    np.save(tmp_path / "SPED_qImages.npy", np.array([f"query/{n:07d}.jpg" for n in range(3)]))
    np.save(tmp_path / "SPED_gt.npy", rows, allow_pickle=True)
    found = read_vpr_bench(tmp_path, "sped", arrays="SPED")
    assert [row.tolist() for row in found.positives] == [[0], [1], [2]]
    folder = vpr_bench(tmp_path / "folder", [(n, [n]) for n in range(3)], 3, 3)
    assert found.protocol.card == read_vpr_bench(folder, "sped").protocol.card


def test_metadata_may_lie_elsewhere(tmp_path):
    (tmp_path / "lists").mkdir()
    np.save(tmp_path / "lists/a.npy", np.array(["ref/1.jpg"]))
    np.save(tmp_path / "lists/gt.npy", np.array([[0]]))
    found = read_arrays(tmp_path / "images", ("a.npy", "a.npy", "gt.npy"), "x", tmp_path / "lists")
    assert found.database.image_paths() == [f"{tmp_path}/images/ref/1.jpg"]
    with pytest.raises(FileNotFoundError, match="No list of names"):
        read_arrays(tmp_path, ("b.npy", "a.npy", "gt.npy"), "x", tmp_path / "lists")


def test_vpr_bench_sets_whose_lists_reach_too_far(tmp_path, caplog):
    rows = [(n, [n - 2, n - 1, n, n + 1, n + 2]) for n in range(6)]  # as 17 Places and GardensPointWalking
    found = read_vpr_bench(vpr_bench(tmp_path, rows, 6, 6), "17places")
    assert [row.tolist() for row in found.positives][-1] == [3, 4, 5]
    assert "2 rows point beyond the 6 references" in caplog.text
    assert found.protocol.card.name == "17places@listed"


def test_accents_spelled_in_two_ways_are_one_name(tmp_path):
    touch_image(tmp_path / "db" / "caf\u00e9.jpg")
    touch_image(tmp_path / "db" / "cafe\u0301.jpg")
    touch_image(tmp_path / "q" / "x.jpg")
    from vpr_lib.data.readers.folders import read_folders

    with pytest.raises(ValueError, match="case or by the spelling of accents"):
        read_folders(tmp_path / "db", tmp_path / "q")
    (tmp_path / "db" / "caf\u00e9.jpg").unlink()
    one = read_folders(tmp_path / "db", tmp_path / "q").database
    (tmp_path / "db" / "cafe\u0301.jpg").rename(tmp_path / "db" / "caf\u00e9.jpg")
    other = read_folders(tmp_path / "db", tmp_path / "q").database
    assert one.list_hash == other.list_hash and one.image_paths() != other.image_paths()
