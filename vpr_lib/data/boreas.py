"""From raw Boreas drives to the submaps and pickles that DistilVPR reads. Spec: distilvpr §8.2, datasets §11.

The generator behind the released pickles, its lists of drives and its radii are not published; the pickles, where you have
them, are authoritative. What is known is kept: the folders, every tenth frame, 4096 points after a 1 m voxel filter, images
at an eighth of their size, and queries that are the whole drive. What is ours: radii as for Oxford (10 m and 50 m to train,
25 m to test), positions of the LiDAR in east and north, drives rather than streets kept apart between training and test, and
the random choice among the voxels, which follows from the time stamp.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vpr_lib.data.clouds import POINTS, CloudError, voxelise
from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.readers.lists import read_csv
from vpr_lib.data.readers.pointnetvlad import BOREAS, write_evaluation_pickles, write_training_pickle
from vpr_lib.data.readers.submaps import run_card, submap_manifest
from vpr_lib.data.run_pairs import RunPairs, make_run_pairs
from vpr_lib.data.tuples import TupleSet, radius_tuples
from vpr_lib.paths import atomic_path
from vpr_lib.progress import track

CLOUDS = "lidar_1_4096_interval10"
RAW_COLUMNS = 6  # x, y, z, intensity, laser ring, time
VOXEL_M = 1.0
REDUCTION = 8  # of the images: 2448 x 2048 -> 306 x 256
LARGEST_GAP_US = 500_000  # between a cloud and its image


@dataclass(frozen=True)
class RawFrame:
    """A LiDAR frame of a drive with its position (easting, northing) and the nearest image; times in µs."""

    run: str
    stamp: int
    position: tuple[float, float]
    image: int

    @property
    def cloud_path(self) -> str:
        """Below the data set's root."""
        return f"boreas/{self.run}/{CLOUDS}/{self.stamp}.npy"

    @property
    def image_path(self) -> str:
        """Below the data set's root."""
        return BOREAS.images.format(run=self.run, stamp=self.image)


def raw_frames(raw: Path, run: str, every: int = 10) -> list[RawFrame]:
    """Every so many-th LiDAR frame of a raw drive that has a pose, by time.

    Raises:
        FileNotFoundError: for a drive without `lidar/`, `camera/` or `applanix/lidar_poses.csv`; test drives are released
            without poses. ValueError: for another run name, no frame with a pose, or a frame without an image near in time.
    """
    folder = Path(raw) / run
    if len(run) != BOREAS.run_length:
        raise ValueError(f"'{run}' is no drive of Boreas: expected a name like boreas-2020-11-26-13-58.")
    poses = read_csv(
        folder / "applanix" / "lidar_poses.csv",
        ("GPSTime", "easting", "northing"),
        ("GPSTime",),
        ("easting", "northing"),
    )
    place = {
        int(time.split(".")[0]): row for time, row in zip(poses["GPSTime"], poses[["easting", "northing"]].to_numpy())
    }
    clouds, images = (_stamps(folder / name) for name in ("lidar/*.bin", "camera/*.png"))
    chosen = np.array([stamp for stamp in clouds if int(stamp) in place][::every], np.int64)
    if not len(chosen):
        raise ValueError(
            f"{folder}: none of {len(clouds)} LiDAR frames has a pose of its time in applanix/lidar_poses.csv."
        )
    after = np.searchsorted(images, chosen).clip(1, max(1, len(images) - 1))
    sides = images[np.stack([after - 1, np.minimum(after, len(images) - 1)])]
    nearest = np.where(chosen - sides[0] <= np.abs(sides[1] - chosen), sides[0], sides[1])
    gap = np.abs(nearest - chosen)
    if gap.max() > LARGEST_GAP_US:
        raise ValueError(
            f"{folder}: LiDAR frame {chosen[gap.argmax()]} is {gap.max() / 1e6:.1f} s from the nearest image; is camera/ whole?"
        )
    return [
        RawFrame(run, int(stamp), (float(place[stamp][0]), float(place[stamp][1])), int(image))
        for stamp, image in zip(chosen.tolist(), nearest)
    ]


def _stamps(pattern: Path) -> np.ndarray:
    """Times in µs of the files of a folder, int64, rising."""
    stamps = np.array(sorted(int(path.stem) for path in pattern.parent.glob(pattern.name)), np.int64)
    if not len(stamps):
        raise FileNotFoundError(f"No {pattern}; expected the official layout of a raw drive.")
    return stamps


def reduce_cloud(path: Path, points: int = POINTS) -> np.ndarray:
    """A raw LiDAR frame, float32 (N, 6), as a submap: the first point of every 1 m voxel, `points` of them at random.

    With fewer voxels some points come twice, which leaves their voxels as they are. The file's name decides the draw.

    Returns:
        x, y, z in metres around the sensor, float32 (points, 3).
    Raises:
        CloudError: for a file that is cut short, empty, or holds values that are not finite.
    """
    values = np.fromfile(path, "<f4")
    if not values.size or values.size % RAW_COLUMNS:
        raise CloudError(f"{path}: {values.size} values are no rows of {RAW_COLUMNS}; the file is cut short.")
    cloud = np.ascontiguousarray(values.reshape(-1, RAW_COLUMNS)[:, :3])
    if not np.isfinite(cloud).all():
        raise CloudError(f"{path}: {int((~np.isfinite(cloud)).any(1).sum())} points are not finite.")
    firsts = voxelise(cloud, VOXEL_M)[1]
    rng = np.random.default_rng(int(Path(path).stem))
    chosen = rng.permutation(firsts)[:points]
    return cloud[np.concatenate([chosen, rng.choice(firsts, points - len(chosen))])]


def build_boreas(
    raw: Path, root: Path, test: Sequence[str], train: Sequence[str], every: int = 10, quiet: bool = False
) -> tuple[RunPairs, TupleSet]:
    """Write submaps, images and the four pickles of some raw drives below `root`; what is there already stays.

    Args:
        raw: folder of the raw drives. test: drives to evaluate on, in both roles. train: other drives, to train on.
    Returns:
        what `read_boreas` and `read_boreas_tuples` then read.
    Raises:
        ValueError: when a drive is in both lists, or fewer than two are to be tested; and as `raw_frames`, `reduce_cloud`.
    """
    if both := sorted(set(test) & set(train)):
        raise ValueError(f"{both[0]} is to be trained and tested on; a drive is for one of them.")
    if len(set(test)) < 2 or not train:
        raise ValueError(
            f"Two test drives or more and one to train on are needed, got {len(set(test))} and {len(train)}."
        )
    root = Path(root)
    frames = {run: raw_frames(raw, run, every) for run in (*test, *train)}
    for frame in track([frame for own in frames.values() for frame in own], "Boreas submaps", quiet=quiet):
        _write_frame(Path(raw), root, frame)
    nearest = {frame.stamp: [frame.image] for own in frames.values() for frame in own}
    with atomic_path(root / BOREAS.lidar2image) as temporary, temporary.open("wb") as file:
        pickle.dump(nearest, file, protocol=4)

    def manifest(runs: Sequence[str], split: str, role: str):
        own = [frame for run in runs for frame in frames[run]]
        positions = np.array([frame.position for frame in own])
        return submap_manifest(root, BOREAS, split, role, [frame.cloud_path for frame in own], positions, nearest)

    databases = tuple(manifest([run], "test", "db") for run in test)
    positives = {
        (q, d): Positives.from_radius(databases[d].positions(), databases[q].positions(), 25.0)
        for q in range(len(test)) for d in range(len(test)) if q != d
    }  # fmt: skip
    everything = tuple(np.arange(len(database)) for database in databases)
    pairs = make_run_pairs("boreas", list(test), databases, everything, positives, run_card("boreas", "boreas", 25.0))
    own = manifest(train, "train", "train")
    tuples = radius_tuples(own, own, positive_m=10.0, non_negative_m=50.0)
    write_evaluation_pickles(root, pairs, "boreas")
    write_training_pickle(root, tuples, "boreas_training_queries_baseline.pickle")
    return pairs, tuples


def _write_frame(raw: Path, root: Path, frame: RawFrame) -> None:
    cloud, image = root / frame.cloud_path, root / frame.image_path
    if not cloud.is_file():
        points = reduce_cloud(raw / frame.run / "lidar" / f"{frame.stamp}.bin")
        with atomic_path(cloud) as temporary, temporary.open("wb") as file:
            np.save(file, points)
    if not image.is_file():
        with Image.open(raw / frame.run / "camera" / f"{frame.image}.png") as picture:
            small = picture.convert("RGB").resize(
                (picture.width // REDUCTION, picture.height // REDUCTION), Image.Resampling.BICUBIC
            )
        with atomic_path(image) as temporary:
            small.save(temporary, format="PNG")
