"""Point clouds from disk to the voxels a network reads. Spec: distilvpr §2.1, §2.3; datasets §10."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vpr_lib.config import Strict
from vpr_lib.data.images import ImageSet, InputSpec
from vpr_lib.data.manifest import Manifest

POINTS = 4096
VOXEL_SIZE = {"bin_f64x3": 0.01, "npy": 1.0}  # Oxford: submaps scaled to [-1, 1]; Boreas: metres
VOXEL_LIMIT = 31_744  # what a packed key of `models.voxel_grid` holds


class CloudError(ValueError):
    """A cloud that cannot be used, with the file and the reason in its message."""


def read_cloud(path: str | Path, cloud_format: str = "bin_f64x3", points: int = POINTS) -> np.ndarray:
    """Points of a submap, float32 (points, 3).

    Args:
        cloud_format: "bin_f64x3" (PointNetVLAD: little-endian float64) or "npy" (Boreas; columns beyond x, y, z are
            left out).
    Raises:
        CloudError: when the file is missing or damaged, has another number of points, or values that are not finite.
    """
    path = Path(path)
    try:
        if cloud_format == "npy":
            cloud = np.load(path, allow_pickle=False)
        elif cloud_format == "bin_f64x3":
            cloud = np.frombuffer(path.read_bytes(), "<f8")
            cloud = cloud.reshape(-1, 3) if cloud.size == 3 * points else cloud
        else:
            raise CloudError(f"Unknown cloud format '{cloud_format}'; known: {', '.join(VOXEL_SIZE)}.")
    except FileNotFoundError as error:
        raise CloudError(f"{path}: no such file.") from error
    except CloudError:
        raise
    except (ValueError, EOFError, OSError) as error:
        raise CloudError(f"{path}: damaged ({error}).") from error
    if cloud.ndim != 2 or len(cloud) != points or cloud.shape[1] < 3:
        raise CloudError(
            f"{path}: expected {points} points with x, y, z as {cloud_format}, got an array of shape {cloud.shape} "
            f"({path.stat().st_size:,} bytes); the file is cut short or was made for another set."
        )
    cloud = np.ascontiguousarray(cloud[:, :3], np.float32)
    if not np.isfinite(cloud).all():
        raise CloudError(f"{path}: {int((~np.isfinite(cloud)).any(1).sum())} points are not finite.")
    return cloud


def voxelise(points: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """The occupied voxels of a cloud and the points that stand for them.

    A point belongs to voxel floor(point / size), computed in float32; the first point of every voxel is kept, in the
    order of the points.

    Args:
        points: float32 (N, 3).
    Returns:
        voxels int32 (V, 3) and the kept rows int64 (V,).
    Raises:
        ValueError: for another shape, a size that is not positive, or voxels too far from the origin.
    """
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"A cloud is (points, 3), got {points.shape}.")
    if not size > 0:
        raise ValueError(f"The voxel size must be positive, got {size}.")
    points = points.astype(np.float32, copy=False)
    voxels = np.floor(points if size == 1 else points / np.float32(size))
    if (reach := float(np.abs(voxels).max())) > VOXEL_LIMIT:
        raise ValueError(
            f"A point lies {reach:,.0f} voxels of {size:g} from the origin, the limit is {VOXEL_LIMIT:,}: wrong unit?"
        )
    voxels = voxels.astype(np.int32)
    keys = voxels.astype(np.int64) + (1 << 15) << np.array([32, 16, 0])
    firsts = np.sort(np.unique(keys.sum(1), return_index=True)[1])
    return voxels[firsts], firsts


def collate_voxels(clouds: Sequence[np.ndarray | Tensor]) -> Tensor:
    """Voxels (V_i, 3) of B clouds -> int32 rows (cloud, x, y, z), (sum V_i, 4)."""
    parts = [torch.as_tensor(voxels, dtype=torch.int32) for voxels in clouds]
    return torch.cat([torch.cat([part.new_full((len(part), 1), i), part], 1) for i, part in enumerate(parts)])


class CloudAugmentation(Strict):
    """Training augmentation of one cloud; the defaults are DistilVPR's for Oxford. Spec: distilvpr §2.3."""

    yaw_deg: float = 5.0
    flip_probability: float = 0.25  # of negating x, and again of negating y
    jitter: float = 0.001
    jitter_limit: float = 0.002
    remove: float = 0.1  # at most this share of the points
    shift: float = 0.01
    block_probability: float = 0.4
    block_area: tuple[float, float] = (0.02, 0.33)
    block_aspect: tuple[float, float] = (0.3, 3.3)


BOREAS_AUGMENTATION = CloudAugmentation(yaw_deg=0.0, flip_probability=0.0, shift=0.0)


def augment_cloud(points: np.ndarray, recipe: CloudAugmentation, rng: np.random.Generator) -> np.ndarray:
    """A randomly turned, mirrored, jittered, thinned and shifted copy, float32 (N, 3). Removed points move to the origin."""
    cloud = points.astype(np.float32, copy=True)
    yaw = np.radians(rng.uniform(-recipe.yaw_deg, recipe.yaw_deg))
    cos, sin = np.cos(yaw), np.sin(yaw)
    cloud = cloud @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float32)
    draw = rng.random()
    if draw <= recipe.flip_probability:
        cloud[:, 0] *= -1
    elif draw <= 2 * recipe.flip_probability:
        cloud[:, 1] *= -1
    noise = rng.normal(0, recipe.jitter, cloud.shape) if recipe.jitter else 0.0
    cloud += np.clip(noise, -recipe.jitter_limit, recipe.jitter_limit).astype(np.float32)
    removed = rng.choice(len(cloud), int(len(cloud) * rng.uniform(0, recipe.remove)), replace=False)
    cloud[removed] = 0
    cloud += rng.normal(0, recipe.shift, (1, 3)).astype(np.float32) if recipe.shift else 0
    if rng.random() < recipe.block_probability:
        cloud[_in_block(cloud, recipe, rng)] = 0
    return cloud


def _in_block(cloud: np.ndarray, recipe: CloudAugmentation, rng: np.random.Generator) -> np.ndarray:
    """Points inside a random upright rectangle of the ground plane, bool (N,)."""
    low, high = cloud[:, :2].min(0), cloud[:, :2].max(0)
    area = rng.uniform(*recipe.block_area) * np.prod(high - low)
    aspect = rng.uniform(*recipe.block_aspect)
    extent = np.sqrt([area / aspect, area * aspect])
    corner = low + rng.random(2) * (high - low - extent)
    return ((cloud[:, :2] > corner) & (cloud[:, :2] < corner + extent)).all(1)


class CloudSet(Dataset):
    """The clouds of a manifest as voxels: key -> int32 (V, 3). Raises CloudError.

    A key is a row number, or (row, seed): then the cloud is augmented, and the seed alone decides how.

    Args:
        size: of a voxel; default by the manifest's format.
        keep: hold the points in memory after their first use (48 kB each).
    """

    def __init__(
        self,
        manifest: Manifest,
        augmentation: CloudAugmentation | None = None,
        size: float | None = None,
        keep: bool = False,
    ):
        if "cloud_path" not in manifest.table:
            raise ValueError(f"The {len(manifest)} rows under {manifest.root} have no clouds (cloud_path).")
        self.format = str(manifest.table["cloud_format"].iloc[0])
        self.paths = [f"{manifest.root}/{path}" for path in manifest.table["cloud_path"]]
        self.augmentation = augmentation
        self.size = VOXEL_SIZE[self.format] if size is None else size
        self._kept: dict[int, np.ndarray] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int | tuple[int, int]) -> np.ndarray:
        row, seed = key if isinstance(key, tuple) else (key, None)
        points = self._points(row)
        if self.augmentation is not None and seed is not None:
            points = augment_cloud(points, self.augmentation, np.random.default_rng(seed))
        return voxelise(points, self.size)[0]

    def _points(self, row: int) -> np.ndarray:
        if self._kept is None:
            return read_cloud(self.paths[row], self.format)
        if row not in self._kept:
            self._kept[row] = read_cloud(self.paths[row], self.format)
        return self._kept[row]


class SubmapSet(Dataset):
    """Submaps for a model that reads images, clouds or both: key -> (uint8 image or None, voxels int32 (V, 3) or None).

    A key is a row, or (row, seed) for an augmented sample, see `ImageSet` and `CloudSet`. What is not asked for is not
    loaded.

    Args:
        spec: of the images; None for models without an image branch.
        clouds: voxels, augmented as they say; None for image models.
        candidates: with a seed, draw one of the row's `image_candidates` in place of the nearest image.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: InputSpec | None = None,
        clouds: CloudSet | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
        keep: bool = False,
        candidates: bool = False,
    ):
        if spec is not None and "image_path" not in manifest.table:
            raise ValueError(
                f"The {len(manifest)} submaps under {manifest.root} have no images (no lidar2image file was found); "
                "use a model that reads clouds alone, or build that file."
            )
        self.length, self.clouds = len(manifest), clouds
        self.choices = _choices(manifest, candidates) if spec is not None else []
        paths = list(dict.fromkeys(path for choice in self.choices for path in choice))
        self._row_of = {path: row for row, path in enumerate(paths)}
        absolute = [f"{manifest.root}/{path}" for path in paths]
        self.images = ImageSet(absolute, spec, augment, keep) if spec is not None else None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor | None, np.ndarray | None]:
        """Raises ImageError or CloudError: a training set and a benchmark must be whole."""
        row, seed = key if isinstance(key, tuple) else (key, None)
        image = voxels = None
        if self.images is not None:
            choice = self.choices[row]
            path = choice[0] if seed is None else choice[np.random.default_rng(seed).integers(len(choice))]
            image, _ = self.images[self._row_of[path] if seed is None else (self._row_of[path], seed)]
            if isinstance(image, Exception):
                raise image
        if self.clouds is not None:
            voxels = self.clouds[key]
        return image, voxels


def _choices(manifest: Manifest, candidates: bool) -> list[list[str]]:
    if candidates and "image_candidates" in manifest.table:
        return [[image["path"] for image in row] for row in manifest.table["image_candidates"]]
    return [[path] for path in manifest.table["image_path"]]


def collate_submaps(samples: Sequence[tuple]) -> tuple[Tensor | None, Tensor | None]:
    """(uint8 images (B, 3, H, W) or None, voxels int32 (sum V, 4) or None)."""
    images, clouds = zip(*samples)
    return (
        torch.stack(images) if images[0] is not None else None,
        collate_voxels(clouds) if clouds[0] is not None else None,
    )
