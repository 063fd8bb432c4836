"""What a picture file holds, as 8-bit RGB: orientation, ranges beyond 8 bits, palettes, transparency."""

import re
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

try:
    from torchvision.io import ImageReadMode, decode_png
except ImportError:  # torchvision 0.29 announces that it will go; PIL then reads the upper 8 bits of 16-bit colours
    decode_png = None

ORIENTATION = 0x0112  # EXIF tag; 1 is upright
TURNS = dict(zip(range(2, 9), map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2))))  # as ImageOps.exif_transpose
_BARE = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))  # JPEG markers without a length
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in the data of a scan
CUT_SHORT = "cut short: no end marker after the last scan"
FEW_LEVELS = 64  # of 256: below, a picture's own range is spread instead of its format's


def is_turned(image: Image.Image) -> bool:
    """Whether the camera was turned, as EXIF says; cheap where a file has no EXIF."""
    return image.getexif().get(ORIENTATION, 1) in range(2, 9)


def to_rgb(image: Image.Image, path: str | Path, upright: bool) -> np.ndarray:
    """An opened image as uint8 (H, W, 3).

    Args:
        upright: turn it as EXIF says; otherwise the frame as it is stored.
    """
    if (values := _deep_values(image, path)) is not None:
        colours, turn = _deep_colours(values), TURNS.get(image.getexif().get(ORIENTATION, 1))
        return np.asarray(Image.fromarray(colours).transpose(turn)) if upright and turn is not None else colours
    if upright and image.format != "TIFF" and is_turned(image):  # Pillow turns a TIFF itself
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(_grey(image)[:, :, None], 3, 2)
    if image.mode == "RGB":
        return np.asarray(image)
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        *varies, transparency = (low < high for low, high in rgba.getextrema())
        if transparency or not any(varies):  # one value over a whole picture says nothing: simulators leave it at 0
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))


def _grey(image: Image.Image) -> np.ndarray:
    """More than 8 bits of grey as uint8 (H, W); of a TIFF also without sign, and with white as 0."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    white_is_zero, sign = tags.get(262) == 0, tags.get(339, (1,))
    values = np.asarray(image)
    values = values.view(np.uint32) if tags and values.dtype == np.int32 and sign == (1,) else values
    return to_8_bits(values) ^ (255 * white_is_zero)


def _deep_values(image: Image.Image, path: str | Path) -> np.ndarray | None:
    """16-bit colours (H, W, C) of a PNG or TIFF, of which PIL keeps the upper 8 bits; None for other pictures."""
    deep = any(";16" in str(tile.args if isinstance(tile.args, str) else tile.args[0]) for tile in image.tile)
    if deep and image.format == "PNG" and image.mode != "I;16" and decode_png is not None:
        values = decode_png(torch.from_numpy(np.fromfile(path, np.uint8)), mode=ImageReadMode.UNCHANGED)
        return values.permute(1, 2, 0).numpy() if values.dtype == torch.uint16 else None
    if deep and image.format == "TIFF" and image.mode in ("RGB", "RGBA"):
        with Image.open(path) as other:  # read in the other order of bytes, the lower ones are the upper
            swapped = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}[other.tile[0].args[0][-1]]
            other.tile = [tile._replace(args=(tile.args[0][:-1] + swapped, *tile.args[1:])) for tile in other.tile]
            return np.asarray(image).astype(np.uint16) * 256 + np.asarray(other)
    if not deep and image.format == "TIFF" and image.mode[0] not in "IF" and max(image.tag_v2.get(258, (1,))) > 8:
        raise ValueError("more than 8 bits in separate planes, which Pillow takes for 8")
    return None


def is_whole(data: bytes, kind: str | None) -> bool:
    """Whether the bytes of a picture of Pillow's format `kind` go up to its end, where that can be told.

    Decoders take the zeros that an unfinished copy leaves for picture.
    """
    if kind == "PNG":
        return b"IEND\xae\x42\x60\x82" in data
    if kind in ("WEBP", "AVIF"):  # their last bytes are compressed
        return any(data[: 8 + int.from_bytes(data[4:8], "little") if kind == "WEBP" else None][-32:])
    return kind not in ("JPEG", "MPO") or _is_whole_jpeg(data)


def _is_whole_jpeg(data: bytes) -> bool:
    """Whether a JPEG has its end marker after its last scan; what is appended to it (a film, a map of depths) is not looked at."""
    place = 2
    while 0 <= (place := data.find(b"\xff", place)) < len(data) - 3:
        marker = data[place + 1]
        if marker == 0xD9:
            return True
        if marker == 0xFF or marker in _BARE:
            place += 1 if marker == 0xFF else 2
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
        if marker == 0xDA:
            found = _NEXT_MARKER.search(data, place)
            place = found.start() if found else len(data)
    return data[place : place + 2] == b"\xff\xd9"


def _deep_colours(values: np.ndarray) -> np.ndarray:
    """16-bit colours (H, W, C), grey, grey with alpha, RGB or RGBA, over white where they are transparent."""
    colours = to_8_bits(values[..., : 1 if values.shape[2] < 3 else 3])
    if values.shape[2] in (2, 4) and (np.ptp(values[..., -1]) or not np.ptp(colours)):
        share = values[..., -1:].astype(np.float32) / 65535
        colours = (colours * share + 255 * (1 - share)).round().astype(np.uint8)
    return colours if colours.shape[2] == 3 else np.repeat(colours, 3, 2)


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Integers beyond 8 bits, or floating-point numbers, as uint8 of the same shape.

    Integers: black is 0 and white the largest number of 8, 10, 12, 14 or 16 bits, the fewest that hold the picture, for
    cameras store 12 and 14 bits unscaled in 16. Floating-point numbers: white is 1 or 255. A picture that would keep few
    levels (thermal counts), one with negative numbers, or one beyond those ranges is spread from its least to its largest.

    Raises:
        ValueError: when no number is finite.
    """
    grey = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    finite = np.isfinite(grey)
    if not finite.all():
        if not finite.any():
            raise ValueError("no pixel is a finite number")
        grey = np.where(finite, grey, grey[finite].min())
    low, high = grey.min(), grey.max()
    whites = (1.0, 255.0) if values.dtype.kind == "f" else (255, 1023, 4095, 16_383, 65_535)
    white = next((white for white in whites if high <= white), None)
    counts = values.dtype.kind == "f" or white != 255  # an 8-bit picture may be dark
    spread = low < 0 or white is None or (counts and (high - low) * 255 / white < FEW_LEVELS)
    if not spread:
        return (grey * (255 / white)).round().astype(np.uint8)
    if high == low:
        return np.full(values.shape, 0 if white is None or low <= 0 else round(255 * low / white), np.uint8)
    return ((grey - low) * (255 / (high - low))).round().astype(np.uint8)
