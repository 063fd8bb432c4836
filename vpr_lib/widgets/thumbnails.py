"""Pictures small enough to sit inside a page: JPEG thumbnails and attention maps as data URIs."""

import io
from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from PIL import Image

from vpr_lib.data.images import know_heif
from vpr_lib.data.pixels import is_turned, to_rgb

HEIGHT = 160  # pixels; the page shows them between 110 and 240, with the width of the window
_POOL = ThreadPoolExecutor(4, thread_name_prefix="thumbnail")  # decoding releases the interpreter's lock


@lru_cache(maxsize=4096)
def thumbnail(path: str, height: int = HEIGHT) -> str:
    """A JPEG data URI of an image, `height` pixels high; an unreadable one gives a grey square."""
    try:
        know_heif(path)
        with open(path, "rb") as file, Image.open(file) as image:
            image.draft("RGB", (3 * height, height))  # decode at reduced size
            plain = image.format == "JPEG" and image.mode in ("RGB", "L") and not is_turned(image)
            return picture_uri(image if plain else Image.fromarray(to_rgb(image, path, upright=True)), height)
    except (OSError, ValueError):
        return picture_uri(Image.new("RGB", (height, height), "#777777"), height)


def picture_uri(image: Image.Image, height: int = HEIGHT) -> str:
    """A JPEG data URI of an open image, at most `height` pixels high and three times as wide."""
    return data_uri(image, (3 * height, height))


def data_uri(image: Image.Image, size: tuple[int, int], kind: str = "JPEG", quality: int = 78) -> str:
    """A data URI of an open image, at most `size` (width, height) pixels large, on white where it is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.thumbnail(size, Image.Resampling.LANCZOS)
    return _uri(image, kind, quality=quality)


def thumbnails(paths: Sequence[str]) -> list[str]:
    """`thumbnail` of several images at once."""
    return list(_POOL.map(thumbnail, paths))


def heat_overlay(heat: np.ndarray) -> str:
    """A PNG data URI to lay over a picture: a map (h, w) in 0..1, vermilion, the more opaque the higher."""
    rgba = np.zeros((*heat.shape, 4), np.uint8)
    rgba[..., :3] = (255, 60, 0)
    rgba[..., 3] = np.rint(190 * np.clip(heat, 0, 1))
    return _uri(Image.fromarray(rgba), "PNG")


def _uri(image: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{b64encode(buffer.getvalue()).decode()}"
