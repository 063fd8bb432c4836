"""The camera: where it stands in a street, and the rays of its pixels."""

from dataclasses import dataclass

import numpy as np

FAR_M = 110.0


@dataclass(frozen=True)
class Pose:
    """A camera in the frame of its street."""

    x: float  # metres along the street
    y: float  # metres to the left of its axis
    yaw_deg: float  # anticlockwise from the axis
    height_m: float = 1.8
    shift: float = 0.13  # vertical lens shift: the tangent of elevation in the middle of the image
    fov_deg: float = 75.0  # horizontal


@dataclass(frozen=True)
class View:
    """Rays of an image of H x W pixels: column c looks along (dx[c], dy[c]), row r climbs by slopes[r] per metre."""

    pose: Pose
    eye: np.ndarray  # (x, y)
    dx: np.ndarray  # float32 (W,); the direction has length 1 along the optical axis
    dy: np.ndarray
    slopes: np.ndarray  # float32 (H,), falling
    focal: float  # pixels

    @property
    def height(self) -> np.float32:
        return np.float32(self.pose.height_m)

    @property
    def yaw(self) -> float:
        return np.radians(self.pose.yaw_deg)

    @property
    def half_fov(self) -> float:
        return np.radians(self.pose.fov_deg) / 2


def make_view(pose: Pose, image_size: tuple[int, int]) -> View:
    """The rays of a pinhole camera; `image_size` is (height, width), pixels are square."""
    rows, columns = image_size
    focal = columns / 2 / np.tan(np.radians(pose.fov_deg) / 2)
    right = ((np.arange(columns) + 0.5) - columns / 2) / focal
    cos, sin = np.cos(np.radians(pose.yaw_deg)), np.sin(np.radians(pose.yaw_deg))
    return View(
        pose=pose,
        eye=np.array((pose.x, pose.y)),
        dx=(cos + sin * right).astype(np.float32),
        dy=(sin - cos * right).astype(np.float32),
        slopes=((rows / 2 - (np.arange(rows) + 0.5)) / focal + pose.shift).astype(np.float32),
        focal=float(focal),
    )
