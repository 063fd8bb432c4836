"""The totals of specs/datasets.md §16 on the public metadata files, by the readers."""

import numpy as np
import pytest

from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.published import read_published
from vpr_lib.data.readers.msls_arrays import read_official_matches
from vpr_lib.data.readers.nordland import read_nordland_2760
from vpr_lib.data.readers.pittsburgh import read_npz_positions, read_patchnetvlad
from vpr_lib.data.readers.tokyo import panorama_blocks
from vpr_lib.data.readers.vpr_bench import read_vpr_bench


def test_pitts30k_test(real_data):
    folder = real_data / "metadata"
    lists = (folder / f"pitts30k_imageNames_{side}.txt" for side in ("index", "query"))
    found = read_patchnetvlad(folder, folder / "pitts30k_test.npz", *lists)
    assert (len(found.database), len(found.queries), len(found.positives.indices)) == (10_000, 6_816, 968_448)
    assert found.positives.counts.min() == 24 and found.positives.counts.max() == 360
    assert len(np.unique(found.queries.positions(), axis=0)) == 284
    database, queries = (side.table["pano_id"].str.split("/", n=1).str[1] for side in (found.database, found.queries))
    assert database.nunique() == 417 and queries.nunique() == 286
    assert len(set(database) & set(queries)) == 12  # the same number is another panorama on the other side
    assert not set(found.database.table["pano_id"]) & set(found.queries.table["pano_id"])
    assert found.database.table["nms_group"].value_counts().tolist() == [24] * 416 + [16]


def test_tokyo247(real_data):
    database, queries, radius_m = read_npz_positions(real_data / "metadata/tokyo247.npz")
    found = Positives.from_radius(database, queries, radius_m)
    assert (len(database), len(queries), len(found.indices), int(found.counts.min())) == (75_984, 315, 37_260, 48)
    assert panorama_blocks(database).max() + 1 == 6_332


def test_patchnetvlads_nordland_is_plus_minus_seven(real_data):
    database, queries, radius = read_npz_positions(real_data / "metadata/nordland.npz")
    assert len(Positives.from_radius(database, queries, radius).indices) == 413_824


def test_msls_val(real_data):
    listed, scored, positives = read_official_matches(real_data / "metadata/gsv_cities/msls_val", 18_871)
    assert (len(listed), len(scored), len(positives.indices)) == (747, 740, 7_955)
    dropped = [name.split("/")[-1].removesuffix(".jpg") for name in listed if name not in set(scored)]
    assert dropped[:2] == ["yW1h3Ne2u5cYGyRLEcz9zw", "lk_ffOTb09m79X0BFryzAA"] and len(dropped) == 7
    city = np.array(["/sf/" in name for name in scored])
    sides = positives.indices >= 12_556  # the database lists Copenhagen first
    assert (sides == city[positives.rows]).all()


def test_nordland_2760_and_sped(real_data):
    found = read_nordland_2760(real_data / "metadata/gsv_cities/Nordland")
    assert (len(found.database), len(found.queries), len(found.positives.indices)) == (27_592, 2_760, 8_279)
    sped = read_vpr_bench(real_data / "metadata/gsv_cities/SPED", "sped", arrays="SPED")
    assert [row.tolist() for row in sped.positives] == [[i] for i in range(607)]


def test_every_published_truth_agrees_with_ours(real_data):
    found = [truth.row for truth in read_published(real_data / "metadata")]
    assert [row["set"] for row in found] == [
        "pitts30k_test", "tokyo247", "nordland", "msls_val", "nordland_2760", "sped"
    ]  # fmt: skip
    assert all(row["agrees"] for row in found), found


def test_published_truths_that_are_absent_are_passed_over(tmp_path):
    assert list(read_published(tmp_path)) == []
    with pytest.raises(FileNotFoundError, match="No folder"):
        list(read_published(tmp_path / "nowhere"))
