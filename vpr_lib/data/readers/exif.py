"""Positions that a phone writes into its photos: EXIF GPS, with the compass heading where it is there."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from vpr_lib.data.readers.geo import utm_columns

log = logging.getLogger(__name__)
TAGS = ExifTags.GPS
LOOKED_AT = 20  # photos of a folder that say whether it has positions at all


def read_gps(path: str | Path) -> tuple[float, float, float] | None:
    """Latitude and longitude in degrees and heading (clockwise from north, NaN where it is not recorded) of one photo.

    None for a photo without a position, one whose numbers are none or lack their hemisphere, one that the camera marked void
    (its last fix, taken elsewhere), and a file that is no picture.
    """
    gps = _gps(path)
    try:
        lat = _degrees(gps[TAGS.GPSLatitude], gps[TAGS.GPSLatitudeRef], "NS")
        lon = _degrees(gps[TAGS.GPSLongitude], gps[TAGS.GPSLongitudeRef], "EW")
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    good = (
        np.isfinite([lat, lon]).all()
        and _letter(gps.get(TAGS.GPSStatus, "A")) != "V"
        and (lat, lon) != (0, 0)
        and -80 <= lat <= 84
        and abs(lon) <= 180
    )
    return (lat, lon, float(gps.get(TAGS.GPSImgDirection, np.nan))) if good else None


def _gps(path: str | Path) -> dict[int, Any]:
    """What EXIF says of the position, by tag; empty where it says nothing or the file is no picture."""
    try:
        with Image.open(path) as image:
            return image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    except (KeyError, TypeError, ValueError, OSError, SyntaxError, UnidentifiedImageError):
        return {}


def gps_columns(paths: Sequence[str | Path]) -> dict[str, object] | None:
    """Manifest columns of photos of which some carry a position (UTM metres, degrees, heading_deg); None when none does.

    A photo without one stands at (0, 0) among others, as of a camera without a fix (`data/positions.py`). Where none of
    LOOKED_AT photos has a position the others are not opened: a large folder without GPS costs a few headers.
    """
    if not has_gps(paths):
        if unusable := sum(TAGS.GPSLatitude in _gps(paths[row]) for row in _some(paths)):
            why = "no hemisphere (N or S, E or W), a void fix, or no place on earth"
            log.warning("%s: GPS of %d photos gives no position: %s", Path(paths[0]).parent, unusable, why)
        return None
    lat, lon, heading = np.array([read_gps(path) or (0.0, 0.0, np.nan) for path in paths]).T
    return utm_columns(lat, lon) | ({"heading_deg": heading} if np.isfinite(heading).any() else {})


def has_gps(paths: Sequence[str | Path]) -> bool:
    """Whether one of LOOKED_AT photos has a position."""
    return any(read_gps(paths[row]) is not None for row in _some(paths))


def _some(paths: Sequence[str | Path]) -> list[int]:
    """Rows of LOOKED_AT photos, evenly over the folder."""
    return sorted(set(np.linspace(0, len(paths) - 1, LOOKED_AT).round().astype(int)))


def gps_exif(lat: float, lon: float) -> Image.Exif:
    """What `read_gps` reads, to be saved with a picture; without a position (NaN) it is empty."""
    exif = Image.Exif()
    if np.isfinite([lat, lon]).all():
        values = {TAGS.GPSLatitude: _parts(lat), TAGS.GPSLongitude: _parts(lon)}
        values |= {TAGS.GPSLatitudeRef: "NS"[int(lat < 0)], TAGS.GPSLongitudeRef: "EW"[int(lon < 0)]}
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(values)
    return exif


def _parts(degrees: float) -> tuple[float, float, float]:
    """Degrees, minutes and seconds, the last to a ten-thousandth: 3 mm."""
    minutes, seconds = divmod(round(abs(degrees) * 3600, 4), 60)
    return minutes // 60, minutes % 60, seconds


def _degrees(parts: Sequence[float], letter: str | bytes, sides: str) -> float:
    """Degrees, minutes and seconds as EXIF has them; `letter` is one of the two `sides` (ValueError: it says neither)."""
    degrees, minutes, seconds = (float(part) for part in parts)
    return (1 - 2 * list(sides).index(_letter(letter))) * (degrees + minutes / 60 + seconds / 3600)


def _letter(value: str | bytes) -> str:
    """The first letter, large, of what cameras write: "N", "North", b"n\\0"; "" for none."""
    return (value.decode("latin1") if isinstance(value, bytes) else value).strip("\0 ")[:1].upper()
