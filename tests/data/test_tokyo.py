"""Tokyo 24/7 with and without panorama suppression, and the time machine's other-time rule."""

import numpy as np
import pytest
from miniatures import at_name, at_names, tokyo247, tokyo_tm

from vpr_lib.data.readers.tokyo import panorama_blocks, read_tokyo247, read_tokyo_tm
from vpr_lib.retrieval.protocol import score


def test_names_end_in_jpg_and_files_in_png(tmp_path):
    found = read_tokyo247(tokyo247(tmp_path))
    first = found.database.table.iloc[0]
    assert first["image_path"] == "database_gsv_vga/03810/381400/abcdefghijklmnopqrstu0_012_000.png"
    assert (tmp_path / first["image_path"]).is_file()
    assert found.queries.table["image_path"].tolist() == [f"247query_subset_v2/0000{n}.jpg" for n in range(3)]
    assert (
        found.database.table["tile"].tolist()[:12] == list(range(12)) and first["pano_id"] == "abcdefghijklmnopqrstu0"
    )


def test_two_cards_on_one_ranking(tmp_path):
    found = read_tokyo247(tokyo247(tmp_path))
    assert [p.card.name for p in found.protocols] == ["tokyo247", "tokyo247@nms"]
    assert [len(row) for row in found.positives] == [24, 24, 24]
    assert found.protocols[0].card.hash != found.protocols[1].card.hash
    ranking = np.array([[24, *range(25, 36), *range(24)]] * 3)  # all crops of the wrong panorama come first
    plain, nms = (score(ranking, protocol, ks=(1, 2)) for protocol in found.protocols)
    assert plain.recall[1] == nms.recall[1] == 0
    assert score(ranking, found.protocols[0], ks=(13,)).recall[13] == 1
    assert nms.ranking[0, :2].tolist() == [24, 0]  # one crop per panorama: the right one is second


def test_panoramas_are_blocks_not_positions(tmp_path):
    groups = read_tokyo247(tokyo247(tmp_path)).database.table["nms_group"]
    assert groups.tolist() == [n // 12 for n in range(36)]  # the first two share their position and stay two
    positions = np.repeat([[0.0, 0.0], [5.0, 0.0]], 12, axis=0)
    with pytest.raises(ValueError, match="Row 1 is not where the other crops"):
        panorama_blocks(positions[[0, 12, *range(1, 12), *range(13, 24)]])


def test_at_layout_takes_the_panorama_from_the_name(tmp_path):
    names = [at_name(381000, 3946000, pano, heading=f"{h:03d}", zone="54", band="S") for pano in "ab" for h in (0, 30)]
    at_names(tmp_path / "images/test/database", names)
    at_names(tmp_path / "images/test/queries", [at_name(381001, 3946000, "00399.jpg", zone="54", band="S")])
    found = read_tokyo247(tmp_path)
    assert found.database.table["nms_group"].tolist() == [0, 0, 1, 1]
    assert found.queries.table["pano_id"].tolist() == ["00399.jpg"]


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No tokyo247.mat under .*datasets/tokyo247.mat"):
        read_tokyo247(tmp_path)


def test_time_machine_wants_another_time(tmp_path):
    found = read_tokyo_tm(tokyo_tm(tmp_path))
    assert [p.card.name for p in found.protocols] == ["tokyotm_train@25m_other_time", "tokyotm_train@10m_other_time"]
    assert [p.positives[0].tolist() for p in found.protocols] == [[1, 2], [1]]  # row 0 is the query's own panorama
    with pytest.raises(ValueError, match="has no time stamps"):
        read_tokyo_tm(tokyo_tm(tmp_path / "b", qTimeStamp=None))
