"""File names and tables of the public data sets that the toy city imitates. Spec: datasets §1.1, §2, §8, §10."""

import base64
import calendar
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import utm

from vpr_lib.toycity.city import UTM_BAND, UTM_ZONE, Site, ToyCitySpec
from vpr_lib.toycity.conditions import Condition
from vpr_lib.toycity.view import Pose

IMAGES_NEAR_US = 700_000  # images this close in time count as taken where a cloud was


def at_name(east: float, north: float, pano: str, heading_deg: float, date: int, note: str) -> str:
    """File name of the Berton format, sixteen tokens between '@'. Spec: datasets §1.1."""
    latitude, longitude = utm.to_latlon(east, north, UTM_ZONE, UTM_BAND)
    tokens = ("", f"{east:010.2f}", f"{north:010.2f}", f"{UTM_ZONE:02d}", UTM_BAND, f"{latitude:09.5f}",
              f"{longitude:010.5f}", pano, "00", f"{round(heading_deg) % 360:03d}", "000", "", "", str(date), note, ".jpg")  # fmt: skip
    return "@".join(tokens)


@dataclass(frozen=True)
class Shot:
    """One row of a GSV-Cities table, columns in the order of the release. Spec: datasets §2."""

    place_id: int
    year: int
    month: int
    northdeg: int
    city_id: str
    lat: float
    lon: float
    panoid: str

    @classmethod
    def at(cls, east: float, north: float, pano_bytes: bytes, **columns: object) -> "Shot":
        """A shot at UTM metres, with a 22-character panorama id spelled from 16 bytes."""
        latitude, longitude = map(float, utm.to_latlon(east, north, UTM_ZONE, UTM_BAND))
        panoid = base64.urlsafe_b64encode(pano_bytes).decode().rstrip("=")
        return cls(lat=latitude, lon=longitude, panoid=panoid, **columns)


@dataclass(frozen=True)
class Frame:
    """One file to be made, an image or (suffix .bin) a cloud."""

    path: str  # below the subset's folder
    site: Site
    pose: Pose
    condition: Condition
    visit: str  # frames of equal visit meet the same cars, people and light
    occluded: bool = False
    shot: Shot | None = None  # what GSV-style tables say about it


def gsv_name(shot: Shot) -> str:
    """File name of the GSV-Cities format; the coordinates are spelled as in the table."""
    return (f"{shot.city_id}_{shot.place_id:07d}_{shot.year:04d}_{shot.month:02d}_{shot.northdeg:03d}"
            f"_{shot.lat}_{shot.lon}_{shot.panoid}.jpg")  # fmt: skip


def run_name(number: int, rng: np.random.Generator) -> tuple[str, int]:
    """Folder of an Oxford-style drive, 19 characters, and its first time stamp in microseconds."""
    date = (2014 + number // 12, 1 + number % 12, *(int(rng.integers(1, high)) for high in (28, 23, 59, 59)))
    return "-".join(f"{part:02d}" for part in date), calendar.timegm((*date, 0, 0, 0)) * 1_000_000


def write_tables(spec: ToyCitySpec, subset: str, frames: Sequence[Frame], folder: Path) -> None:
    """Write what a subset holds besides images and clouds."""
    if subset in ("places", "start"):
        _write_dataframes(frames, folder)
    elif subset == "traverse":
        _write_ground_truth(spec.traverse_frames, folder)
    elif subset == "runs":
        _write_locations(frames, folder)
        _write_lidar2image(frames, folder)


def _write_dataframes(frames: Sequence[Frame], folder: Path) -> None:
    table = pd.DataFrame([asdict(frame.shot) for frame in frames], columns=[f.name for f in fields(Shot)])
    (folder / "Dataframes").mkdir(exist_ok=True)
    for city, rows in table.groupby("city_id"):
        rows.to_csv(folder / "Dataframes" / f"{city}.csv", index=False)


def _write_ground_truth(count: int, folder: Path) -> None:
    """VPR-Bench: row i holds i and the list of frames that count as found, here i - 1 to i + 1."""
    truth = np.empty((count, 2), object)
    for i in range(count):
        truth[i, 0], truth[i, 1] = i, list(range(max(0, i - 1), min(count, i + 2)))
    np.save(folder / "ground_truth_new.npy", truth, allow_pickle=True)


def _write_locations(frames: Sequence[Frame], folder: Path) -> None:
    rows: dict[Path, list[tuple[int, float, float]]] = {}
    for frame in frames:
        path = Path(frame.path)
        if path.suffix == ".bin":
            east, north = frame.site.to_utm(frame.pose.x, frame.pose.y)
            name = path.parent.name.replace("pointcloud", "pointcloud_locations")
            rows.setdefault(path.parent.parent / f"{name}.csv", []).append((int(path.stem), north, east))
    for path, locations in rows.items():
        table = pd.DataFrame(locations, columns=["timestamp", "northing", "easting"])
        table.to_csv(folder / path, index=False)


def _write_lidar2image(frames: Sequence[Frame], folder: Path) -> None:
    """For every cloud's time stamp the images taken there, nearest in time first, at most 20."""
    stamps = {
        kind: np.array(sorted({int(Path(f.path).stem) for f in frames if f.path.endswith(kind)}))
        for kind in (".bin", ".png")
    }
    images, nearest = stamps[".png"], {}
    for cloud in stamps[".bin"]:
        close = images[np.abs(images - cloud) <= IMAGES_NEAR_US]
        nearest[int(cloud)] = [int(stamp) for stamp in close[np.argsort(np.abs(close - cloud), kind="stable")][:20]]
    with open(folder / "images" / "lidar2image_ndx.pickle", "wb") as file:
        pickle.dump(nearest, file)
