"""The folders are what the field's readers expect, and say the truth about the poses.

Covers toycity.formats.
"""

import pickle

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vpr_lib.data.readers.berton import read_berton
from vpr_lib.data.readers.geo import utm_columns
from vpr_lib.data.readers.gsv_cities import read_gsv_cities
from vpr_lib.data.readers.submaps import read_toy_runs, read_toy_tuples
from vpr_lib.data.readers.vpr_bench import read_vpr_bench
from vpr_lib.toycity.plan import plan


def frames_at(tiny, subset):
    return {frame.path: frame for frame in plan(tiny, subset)}


def test_places_are_gsv_cities(tiny, tiny_root):
    manifest, frames = read_gsv_cities(tiny_root["places"]), frames_at(tiny, "places")
    assert sorted(manifest.table["city"].unique()) == ["ToyNorth", "ToySouth"]
    assert manifest.table["place_id"].value_counts().eq(tiny.views_per_place).all()
    utm = utm_columns(manifest.table["lat"], manifest.table["lon"])
    assert set(utm["utm_zone"] if np.ndim(utm["utm_zone"]) else [utm["utm_zone"]]) == {32}
    for row, (path, heading) in enumerate(zip(manifest.table["image_path"], manifest.table["heading_deg"])):
        frame = frames[path]
        assert Image.open(tiny_root["places"] / path).size == tiny.image_size[::-1]
        east, north = frame.site.to_utm(frame.pose.x, frame.pose.y)
        assert np.hypot(utm["utm_east"][row] - east, utm["utm_north"][row] - north) < 0.01
        off = (heading - frame.site.heading_deg(frame.pose.yaw_deg) + 180) % 360 - 180
        assert abs(off) <= 0.5
    months = manifest.table["timestamp"] % 12
    winter = [frames[path].condition.season == "winter" for path in manifest.table["image_path"]]
    assert months[winter].isin([0, 1, 2]).all()
    assert manifest.table["pano_id"].str.len().eq(22).all()


def test_start_has_the_same_format(tiny_root):
    manifest = read_gsv_cities(tiny_root["start"])
    assert set(manifest.table["city"]) == {"ToyStart"} and len(manifest) == 12


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_benchmark_is_in_the_at_format(tiny, tiny_root, split):
    benchmark, frames = read_berton(tiny_root["benchmark"], split), frames_at(tiny, "benchmark")
    assert (benchmark.protocols[0].positives.counts > 0).all()
    for side, folder in ((benchmark.database, "database"), (benchmark.queries, "queries")):
        for path, east, north, heading in side.table[["image_path", "utm_east", "utm_north", "heading_deg"]].itertuples(
            index=False
        ):
            frame = frames[f"images/{split}/{folder}/{path.rsplit('/', 1)[-1]}"]
            assert (east, north) == pytest.approx(frame.site.to_utm(frame.pose.x, frame.pose.y), abs=0.006)
            assert abs((heading - frame.site.heading_deg(frame.pose.yaw_deg) + 180) % 360 - 180) <= 0.5


def test_every_query_pose_is_seen_under_every_condition(tiny, tiny_root):
    queries = read_berton(tiny_root["benchmark"], "test").queries.table
    assert queries.groupby(["utm_east", "utm_north"]).size().eq(len(tiny.query_conditions)).all()
    words = [list(note) for note in queries["conditions"]]
    assert all(note[-1] in ("easy", "hard") for note in words)
    assert all(note[-1] == "hard" for note in words if note[0] == "night")
    assert {note[-1] for note in words if note[0] == "day"} == {"easy", "hard"}


def test_the_traverse_is_vpr_bench(tiny, tiny_root):
    benchmark = read_vpr_bench(tiny_root["traverse"])
    n = tiny.traverse_frames
    assert len(benchmark.database) == len(benchmark.queries) == n
    assert [row.tolist() for row in benchmark.protocols[0].positives] == [
        [i for i in (q - 1, q, q + 1) if 0 <= i < n] for q in range(n)
    ]
    truth = np.load(tiny_root["traverse"] / "ground_truth_new.npy", allow_pickle=True)
    assert truth.shape == (n, 2) and truth.dtype == object
    summer, winter = (
        np.asarray(Image.open(tiny_root["traverse"] / f"{side}/0000002.jpg"), float) for side in ("ref", "query")
    )
    assert winter[-8:].mean() > summer[-8:].mean() + 15


def test_the_runs_are_oxford(tiny, tiny_root):
    root = tiny_root["runs"]
    runs = sorted(path.name for path in (root / "oxford").iterdir())
    assert len(runs) == len(tiny.run_conditions) and all(len(run) == 19 for run in runs)
    frames = frames_at(tiny, "runs")
    for run in runs:
        table = pd.read_csv(root / "oxford" / run / "pointcloud_locations_20m_10overlap.csv")
        assert list(table.columns) == ["timestamp", "northing", "easting"]
        for stamp, north, east in table.itertuples(index=False):
            path = f"oxford/{run}/pointcloud_20m_10overlap/{stamp}.bin"
            frame = frames[path]
            assert (east, north) == pytest.approx(frame.site.to_utm(frame.pose.x, frame.pose.y))
            assert len(str(stamp)) == 16 and (root / path).stat().st_size == 98_304
        assert np.abs(np.fromfile(root / path, "<f8")).max() <= 1
    nearest = pickle.loads((root / "images/lidar2image_ndx.pickle").read_bytes())
    images = {int(path.stem): path.parent.name for path in (root / "images").glob("*/*.png")}
    assert all(1 <= len(stamps) <= 20 and stamps[0] in images for stamps in nearest.values())
    assert all(type(stamp) is int for stamp in nearest)


def test_the_runs_make_pairs_and_tuples(tiny, tiny_root):
    pairs, tuples = read_toy_runs(tiny_root["runs"]), read_toy_tuples(tiny_root["runs"])
    assert len(pairs.runs) == len(tiny.run_conditions)
    assert len(tuples.database if hasattr(tuples, "database") else tuples.queries) > 0


def test_frames_csv_lists_every_file(tiny_root):
    for subset, folder in tiny_root.items():
        table = pd.read_csv(folder / "frames.csv")
        files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in (".jpg", ".png", ".bin")}
        assert set(table["path"]) == files, subset
        assert set(table["time"]) <= {"day", "dusk", "night"}
