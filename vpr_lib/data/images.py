"""From an image file to a uint8 tensor of the size a model wants, and to normalised batches on a device.

One pass over the pixels: decode, resize as uint8 with antialiasing (PIL-equal within rounding), normalise last, on
the device. Pictures are turned as EXIF says; `upright=False` ignores it, as the Pillow-based loaders behind the published
numbers do (datasets §14).
"""

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from vpr_lib.data.pixels import CUT_SHORT, is_turned, is_whole, to_rgb

try:
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:  # torchvision 0.29 announces that it will go; PIL then decodes everything
    decode_jpeg = None

log = logging.getLogger(__name__)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_PIXELS = 400_000_000  # 1.2 GB as RGB; a 3328x512 panorama has 1.7 million
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # its own limit would act before the announced one

CROPS = ("top_left", "top_right", "bottom_left", "bottom_right", "centre")
INTERPOLATIONS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


class ImageError(ValueError):
    """An image that cannot be used, with the file and the reason in its message."""


@dataclass(frozen=True)
class InputSpec:
    """What a model expects of its images.

    `size` is (height, width) in pixels; with `resize="shorter_side"` only its first entry counts and the aspect ratio
    stays, so such images are described one by one; with "cover" the image is scaled until it covers `size` and `crop` is cut out.
    With `resize_after_normalising` the resize works on floating-point
    values as some papers do it: both steps are linear, so all that differs is the rounding to grey levels.
    """

    size: tuple[int, int] = (320, 320)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resize: Literal["exact", "shorter_side", "cover"] = "exact"
    antialias: bool = True
    resize_after_normalising: bool = False
    upright: bool = (
        True  # turn pictures as EXIF says; False keeps the frame as stored, as loaders of published numbers do
    )
    crop: str = "centre"  # of CROPS, with "cover"

    def normalise(self, images: Tensor) -> Tensor:
        """Grey levels 0..255 (B, 3, H, W) on any device -> float32, scaled to [0, 1], mean and std applied, channels last."""
        images = images.to(torch.float32, memory_format=torch.channels_last, copy=images.dtype == torch.float32)
        # channels last, a row of pixels is one run of numbers: rows of repeated means are far quicker than 3-wide loops
        rows = images.permute(0, 2, 3, 1).flatten(2)  # (B, H, 3W), the same memory
        mean = rows.new_tensor(self.mean).mul_(255).repeat(images.shape[3])
        scale = rows.new_tensor(self.std).mul_(255).reciprocal_().repeat(images.shape[3])
        rows.sub_(mean).mul_(scale)
        return images


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """N images (3, H, W) of one size -> (N, 3, H, W) on channels-last memory, which is how `load_image` gives them."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def read_image(path: str | Path, upright: bool = True) -> Tensor:
    """Decode a file to RGB, uint8 (3, H, W) on channels-last memory.

    Grey images get three equal channels, palettes are expanded, transparency is laid over white, ranges beyond 8 bits are
    scaled (`pixels.to_8_bits`), of an animation the first picture is taken; anything PIL or pillow-heif opens is accepted.

    Args:
        upright: turn the picture as its EXIF orientation says.
    Raises:
        ImageError: if the file is missing, empty, not an image, truncated, or larger than MAX_PIXELS. OSError: when the
            process has too many open files.
    """
    know_heif(path)
    # as a file: by its path Pillow scrambles turned TIFFs
    with image_errors(path), open(path, "rb") as file, Image.open(file) as image:
        check_size(image, path)
        _check_end(file, image.format, path)
        plain = image.format == "JPEG" and image.mode in ("RGB", "L") and not (upright and is_turned(image))
        if plain and (decoded := _decode_jpeg(path)) is not None:
            return decoded
        pixels = to_rgb(image, path, upright)
    return torch.from_numpy(pixels.copy() if not pixels.flags.writeable else pixels).permute(2, 0, 1)


def _check_end(file: BinaryIO, kind: str | None, path: str | Path) -> None:
    """Refuse a picture that ends in zeros before its own end, as an unfinished copy does (ImageError)."""
    place = file.tell()
    file.seek(-1, os.SEEK_END)
    if file.read(1) == b"\0":
        file.seek(0)
        if not is_whole(file.read(), kind):
            raise ImageError(f"{path}: damaged ({CUT_SHORT}).")
    file.seek(place)


def know_heif(path: str | Path) -> None:
    """Teach PIL the pictures of telephones, once there is one."""
    if str(path).lower().endswith((".heic", ".heif", ".hif")):
        _register_heif()


@cache
def _register_heif() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()


def _decode_jpeg(path: str | Path) -> Tensor | None:
    """The pixels PIL would give, uint8 (3, H, W), without its two copies; None leaves the file, and its error, to PIL."""
    if decode_jpeg is None:
        return None
    try:
        return decode_jpeg(torch.from_numpy(np.fromfile(path, np.uint8)), mode=ImageReadMode.RGB)
    except RuntimeError:
        return None


@contextmanager
def image_errors(path: str | Path) -> Iterator[None]:
    """Whatever goes wrong with an image inside becomes an ImageError that names the file and the reason."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file.") from error
    except UnidentifiedImageError as error:
        reason = "the file is empty" if Path(path).stat().st_size == 0 else "not an image"
        raise ImageError(f"{path}: {reason}.") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            hint = f"{error.strerror}: this says nothing about the picture. Raise `ulimit -n`, or use fewer workers"
            raise OSError(error.errno, hint, str(path)) from error
        raise ImageError(f"{path}: damaged ({error}).") from error


def check_size(image: Image.Image, path: str | Path) -> None:
    """Refuse an image of more than MAX_PIXELS before it is decoded (ImageError)."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{path}: {width}x{height} pixels, more than the limit of {MAX_PIXELS:,}.")


def resize(image: Tensor, spec: InputSpec) -> Tensor:
    """uint8 (3, H, W) -> uint8 of the spec's size, antialiased, equal to PIL's filter within rounding.

    With `resize_after_normalising` the result is float32, not rounded, still on the scale 0..255.
    """
    size: list[int] = list(spec.size)
    if spec.resize != "exact":
        height, width = image.shape[-2:]
        covers = max(size[0] / height, size[1] / width)
        scale = covers if spec.resize == "cover" else size[0] / min(height, width)
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
    if spec.resize_after_normalising:
        image = image.float()
    if list(image.shape[-2:]) != size:
        image = v2.resize(image, size, INTERPOLATIONS[spec.interpolation], antialias=spec.antialias)
    return cut_out(image, spec.size, spec.crop) if spec.resize == "cover" else image


def cut_out(image: Tensor, size: tuple[int, int], crop: str) -> Tensor:
    """A corner or the centre of an image (3, H, W), (3, height, width); one of CROPS."""
    rows, columns = image.shape[-2] - size[0], image.shape[-1] - size[1]
    top = rows // 2 if crop == "centre" else rows * crop.startswith("bottom")
    left = columns // 2 if crop == "centre" else columns * crop.endswith("right")
    return image[:, top : top + size[0], left : left + size[1]]


def load_image(path: str | Path, spec: InputSpec) -> Tensor:
    """Read and resize one image: uint8 (3, height, width). Raises ImageError."""
    return resize(read_image(path, spec.upright), spec)


def load_images(paths: Sequence[str | Path], spec: InputSpec) -> Tensor:
    """`load_image` for several pictures of one size, uint8 (B, 3, H, W)."""
    return stack_images([load_image(path, spec) for path in paths])


class ImageSet(Dataset):
    """The one image Dataset: paths in, `(uint8 image, key)` out.

    A key is a row number, or `(row, seed)` when `augment` is given; the seed alone decides what the augmentation draws,
    so a sample looks the same whichever worker makes it and however often a run was resumed. A file that cannot be read
    yields an ImageError object in place of the tensor: the caller decides whether that is fatal.

    Args:
        paths: N image files.
        spec: size and interpolation.
        augment: uint8 (3, H, W) -> uint8 (3, H, W), drawing from torch's global generator.
        keep: hold resized images in memory after their first use (small sets only: 3·H·W bytes each).
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        spec: InputSpec,
        augment: Callable[[Tensor], Tensor] | None = None,
        keep: bool = False,
    ):
        self.paths, self.spec, self.augment = list(paths), spec, augment
        self._kept: dict[int, Tensor] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor | ImageError, int]:
        row, seed = key if isinstance(key, tuple) else (key, None)
        try:
            image = self._resized(row)
        except ImageError as error:
            return error, row
        if self.augment is not None and seed is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                image = self.augment(image)
        return image, row

    def _resized(self, row: int) -> Tensor:
        if self._kept is None:
            return load_image(self.paths[row], self.spec)
        if row not in self._kept:
            self._kept[row] = load_image(self.paths[row], self.spec)
        return self._kept[row]

    def batches(self, keys: Sequence[Sequence[int | tuple[int, int]]], workers: int = 0) -> Iterator[Tensor]:
        """For training: uint8 (B, 3, height, width) for each list of keys, in that order.

        A training set must be whole: an image that cannot be read is raised as its ImageError (`vpr data check` finds all).
        """
        pin = torch.cuda.is_available()
        yield from DataLoader(self, batch_sampler=keys, num_workers=workers, collate_fn=_whole_batch, pin_memory=pin)


def _whole_batch(samples: list[tuple[Tensor | ImageError, int]]) -> Tensor:
    for image, _ in samples:
        if isinstance(image, ImageError):
            raise image
    return torch.stack([image for image, _ in samples])
