"""Nordland: every variant under its own name, and seasons that do not show the same frames are refused."""

import numpy as np
import pytest
from miniatures import at_names, frames, objects, vpr_bench
from pictures import write_picture

from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.readers.nordland import (
    frame_number,
    read_nordland_2760,
    read_nordland_3450,
    read_nordland_27592,
)


def test_one_benchmark_four_tolerances(tmp_path):
    numbers = [202, 203, 207, *range(300, 327)]  # frames are missing: pairing is by position in the list
    frames(tmp_path / "summer", numbers)
    frames(tmp_path / "Winter", numbers)
    found = read_nordland_27592(tmp_path)
    assert [p.card.name.split("_")[-1] for p in found.protocols] == ["pm10", "pm7", "pm2", "pm1"]
    assert [int(p.positives.counts[15]) for p in found.protocols] == [21, 15, 5, 3]
    assert found.protocols[3].positives[1].tolist() == [0, 1, 2]  # neighbours in the list, whatever their numbers
    assert found.database.root.name == "summer" and found.queries.root.name == "Winter"
    assert not found.database.has_positions and found.database.table["frame_no"].tolist() == list(range(30))


def test_unfiltered_season_is_refused_until_the_list_is_there(tmp_path):
    frames(tmp_path / "summer", [202, 204])
    frames(tmp_path / "winter", [202, 203, 204])
    with pytest.raises(ValueError, match=r"frame 203 is in one of them only.*cleanImageNames.txt"):
        read_nordland_27592(tmp_path)
    (tmp_path / "cleanImageNames.txt").write_text("images-00202.png\nimages-00204.png\n")
    assert len(read_nordland_27592(tmp_path).queries) == 2


def test_at_layout_is_ordered_by_frame(tmp_path):
    names = [f"@0@{i * 25 / 10.5:07.1f}@@@@@{i}@@@@@@@@.jpg" for i in range(24)]
    at_names(tmp_path / "images/test/database", names)
    at_names(tmp_path / "images/test/queries", names)
    found = read_nordland_27592(tmp_path)
    assert [frame_number(path) for path in found.database.table["image_path"]] == list(range(24))
    database = np.array([[0.0, round(i * 25 / 10.5, 1)] for i in range(24)])
    by_metres = Positives.from_radius(database, database, 25.0)  # what Berton's evaluator does
    assert by_metres.hash == found.positives.hash


def test_patchnetvlads_nominal_ten_is_seven():
    places = np.repeat(np.arange(40.0)[:, None], 2, axis=1)  # its coordinates are (i, i)
    assert Positives.from_radius(places, places, 10.0).hash == Positives.from_window(np.arange(40), 7, 40).hash


def test_totals_of_all_variants():
    everything = np.arange(27592)
    totals = {h: len(Positives.from_window(everything, h, 27592).indices) for h in (1, 2, 7, 10)}
    assert totals == {1: 82_774, 2: 137_954, 7: 413_824, 10: 579_322}
    assert len(Positives.from_window(np.arange(3450), 2, 3450, section=1150).indices) == 17_232
    assert len(Positives.from_window(np.arange(3450), 2, 3450).indices) == 17_244
    assert len(Positives.from_window(10 * np.arange(2760), 1, 27592).indices) == 8_279


def test_sections_end_windows(tmp_path):
    for season in ("summer", "winter"):
        for part in "abc":
            frames(tmp_path / season / part, range(4))
    clipped, contiguous = read_nordland_3450(tmp_path).protocols
    assert clipped.positives[4].tolist() == [4, 5, 6] and contiguous.positives[4].tolist() == [2, 3, 4, 5, 6]
    assert [clipped.card.name, contiguous.card.name] == ["nordland_3450_pm2", "nordland_3450_pm2_contiguous"]
    frames(tmp_path / "summer/c", [9])
    frames(tmp_path / "winter/c", [9])
    with pytest.raises(ValueError, match="13 frames do not divide into 3"):
        read_nordland_3450(tmp_path)


def test_vpr_benchs_cut(tmp_path):
    rows = [(q, list(range(max(0, 10 * q - 1), 10 * q + 2))) for q in range(3)]
    found = read_nordland_2760(vpr_bench(tmp_path / "a", rows, 30, 3))
    assert found.protocol.card.name == "nordland_2760_pm1" and found.queries.table["frame_no"].tolist() == [0, 10, 20]
    np.save(tmp_path / "Nordland_dbImages.npy", np.array([f"ref/{i:07d}.jpg" for i in range(30)]))
    np.save(tmp_path / "Nordland_qImages.npy", np.array([f"query/{i:07d}.jpg" for i in range(3)]))
    np.save(tmp_path / "Nordland_gt.npy", objects([row for _, row in rows]), allow_pickle=True)
    assert read_nordland_2760(tmp_path).protocol.card == found.protocol.card
    with pytest.raises(ValueError, match=r"query 2 is matched with \[19, 20\], expected \[19, 20, 21\]"):
        read_nordland_2760(vpr_bench(tmp_path / "b", [*rows[:2], (2, [19, 20])], 30, 3))


def test_missing_seasons_and_numbers(tmp_path):
    with pytest.raises(FileNotFoundError, match="No folder 'summer'"):
        read_nordland_27592(tmp_path)
    with pytest.raises(ValueError, match="carries no frame number"):
        frame_number("images.png")
    (tmp_path / "summer").mkdir()
    frames(tmp_path / "winter", [1])
    with pytest.raises(ValueError, match=r"No image under .*summer"):
        read_nordland_27592(tmp_path)


def seasons(root, *names):
    for season in ("summer", "winter"):
        for number, name in enumerate(names):
            write_picture(root / season / name, number)


def test_what_the_list_names_and_the_folder_lacks_is_told(tmp_path, caplog):
    seasons(tmp_path, *(f"images-{number:05d}.png" for number in range(8)))
    (tmp_path / "cleanImageNames.txt").write_text("\n".join(f"images-{number:05d}.jpg" for number in range(0, 10, 2)))
    assert len(read_nordland_27592(tmp_path).database) == 4  # of 5, whatever their suffix
    assert "1 of the 5 frames that cleanImageNames.txt names are not there" in caplog.text
    (tmp_path / "cleanImageNames.txt").write_text("other_1.png\n")
    assert len(read_nordland_27592(tmp_path).database) == 8 and "not there: all frames are taken" in caplog.text


def test_a_frame_that_is_there_twice_is_refused(tmp_path):
    seasons(tmp_path, "1.png", "2.png", "02.png")
    with pytest.raises(ValueError, match=r"'02.png' and '2.png' are both frame 2"):
        read_nordland_27592(tmp_path)
