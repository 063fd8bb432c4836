"""Raw Boreas drives in the official layout, written small, to the cut that DistilVPR reads.

Covers cli.data.
"""

import numpy as np
import pytest
from miniatures import BOREAS_EAST, BOREAS_NORTH, DRIVES, POSES, START, write_drive
from PIL import Image
from typer.testing import CliRunner

from vpr_lib.cli import _register, app
from vpr_lib.data.boreas import build_boreas, raw_frames, reduce_cloud
from vpr_lib.data.clouds import CloudError, read_cloud, voxelise
from vpr_lib.data.readers.pointnetvlad import read_boreas, read_boreas_tuples
from vpr_lib.models.zoo import ZOO


@pytest.fixture
def raw(tmp_path):
    for number in range(3):
        write_drive(tmp_path / "raw", number)
    return tmp_path / "raw"


def test_every_tenth_frame_with_a_pose_and_its_nearest_image(raw):
    frames = raw_frames(raw, DRIVES[1])
    first = START + 10**9
    assert [frame.stamp for frame in frames] == [
        first + 10**6 * i for i in range(4)
    ]  # the fifth, frame 40, has no pose
    assert [frame.image for frame in frames] == [frame.stamp + 30_000 for frame in frames]
    assert [frame.position for frame in frames] == [(BOREAS_EAST + 20.0 * i, BOREAS_NORTH + 1) for i in range(4)]
    assert len(raw_frames(raw, DRIVES[1], every=1)) == 36


def test_a_cloud_is_one_point_per_metre_and_4096_of_them(tmp_path):
    rng = np.random.default_rng(0)
    for name, spread, count in (("7", 60, 30_000), ("8", 3, 5000)):  # more and fewer voxels than points
        values = rng.uniform(-spread, spread, (count, 6)).astype("<f4")
        values.tofile(tmp_path / f"{name}.bin")
        cloud, voxels = reduce_cloud(tmp_path / f"{name}.bin"), voxelise(values[:, :3].copy(), 1.0)[0]
        assert cloud.shape == (4096, 3) and cloud.dtype == np.float32
        kept = voxelise(cloud, 1.0)[0]
        assert len(kept) == min(4096, len(voxels)) and set(map(tuple, kept)) <= set(map(tuple, voxels))
        assert np.array_equal(cloud, reduce_cloud(tmp_path / f"{name}.bin"))


def test_the_cut_reads_back(raw, tmp_path):
    root = tmp_path / "cut"
    pairs, tuples = build_boreas(raw, root, DRIVES[:2], DRIVES[2:], every=2, quiet=True)
    found, trained = read_boreas(root), read_boreas_tuples(root)
    assert found.runs == DRIVES[:2] and [len(d) for d in found.databases] == [18, 18]
    assert all(np.array_equal(rows, np.arange(18)) for rows in found.query_rows)  # queries are the whole drive
    assert found.positives[0, 1][0].tolist() == list(
        range(7)
    )  # 4 m a frame, 1 m aside: 6 frames are sqrt(577) = 24.02 m
    assert {key: value.hash for key, value in found.positives.items()} == {
        k: v.hash for k, v in pairs.positives.items()
    }
    assert trained.positives[9].tolist() == [7, 8, 10, 11] and trained.positives.hash == tuples.positives.hash
    assert trained.non_negatives[0].tolist() == list(range(13))
    table, spec = trained.database.table, ZOO["minklocpp_boreas_384"]
    assert table["cloud_format"][0] == "npy" and table["utm_zone"][0] == 17 and table["run"][0] == DRIVES[2]
    assert read_cloud(root / table["cloud_path"][0], "npy").shape == (4096, 3) and spec.voxel_size == 1.0
    image = Image.open(root / table["image_path"][3])
    assert image.size == (6, 5) and image.getpixel((2, 2)) == (6, 0, 0)
    written = {path: path.stat().st_mtime_ns for path in root.rglob("*.npy")}
    build_boreas(raw, root, DRIVES[:2], DRIVES[2:], every=2, quiet=True)
    assert written == {path: path.stat().st_mtime_ns for path in root.rglob("*.npy")}  # nothing is made twice


def test_what_raw_drives_may_lack(raw, tmp_path):
    drive = raw / DRIVES[0]
    with pytest.raises(ValueError, match="'boreas-1' is no drive of Boreas"):
        raw_frames(raw, "boreas-1")
    with pytest.raises(ValueError, match="to be trained and tested on"):
        build_boreas(raw, tmp_path, DRIVES[:2], DRIVES[1:])
    with pytest.raises(ValueError, match="got 1 and 1"):
        build_boreas(raw, tmp_path, DRIVES[:1], DRIVES[1:2])
    for path in list((drive / "camera").glob("*.png"))[1:]:
        path.unlink()
    with pytest.raises(ValueError, match=r"LiDAR frame \d+ is \d\.\d s from the nearest image"):
        raw_frames(raw, DRIVES[0])
    next((drive / "camera").glob("*.png")).unlink()
    with pytest.raises(FileNotFoundError, match=r"camera/\*\.png; expected the official layout"):
        raw_frames(raw, DRIVES[0])
    poses = raw / DRIVES[1] / "applanix/lidar_poses.csv"
    poses.write_text(POSES + "\n" + "1,2,3" + ",0" * 10 + "\n")
    with pytest.raises(ValueError, match="none of 41 LiDAR frames has a pose"):
        raw_frames(raw, DRIVES[1])
    poses.unlink()
    with pytest.raises(FileNotFoundError, match=r"lidar_poses\.csv"):
        raw_frames(raw, DRIVES[1])
    cut = tmp_path / "5.bin"
    np.zeros(7, "<f4").tofile(cut)
    with pytest.raises(CloudError, match="7 values are no rows of 6"):
        reduce_cloud(cut)
    np.full(12, np.nan, "<f4").tofile(cut)
    with pytest.raises(CloudError, match="2 points are not finite"):
        reduce_cloud(cut)


def test_the_command(raw, tmp_path):
    _register()
    names = ["--test", DRIVES[0], "--test", DRIVES[1], "--train", DRIVES[2]]
    done = CliRunner().invoke(
        app, ["data", "build", "boreas", "--root", str(tmp_path / "c"), "--raw", str(raw), *names]
    )
    assert done.exit_code == 0, done.output
    assert "2 drives to test with 8 submaps, 8 queries" in done.output.replace("\n", " ")
    without = CliRunner().invoke(app, ["data", "build", "boreas", "--root", str(tmp_path / "d")])
    assert "say where they are with --raw" in str(without.exception)
