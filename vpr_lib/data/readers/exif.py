"""Positions that a phone writes into its photos: EXIF GPS, with the compass heading where it is there."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from vpr_lib.data.readers.geo import utm_columns

TAGS = ExifTags.GPS


def read_gps(path: str | Path) -> tuple[float, float, float] | None:
    """Latitude and longitude in degrees and heading (clockwise from north, NaN where it is not recorded) of one photo.

    None for a photo without a position, one whose numbers are none, and a file that is no picture.
    """
    try:
        with Image.open(path) as image:
            gps = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
        lat = _degrees(gps[TAGS.GPSLatitude], gps.get(TAGS.GPSLatitudeRef) == "S")
        lon = _degrees(gps[TAGS.GPSLongitude], gps.get(TAGS.GPSLongitudeRef) == "W")
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OSError, SyntaxError, UnidentifiedImageError):
        return None
    good = np.isfinite([lat, lon]).all() and (lat, lon) != (0, 0) and -80 <= lat <= 84 and abs(lon) <= 180
    return (lat, lon, float(gps.get(TAGS.GPSImgDirection, np.nan))) if good else None


def gps_columns(paths: Sequence[str | Path]) -> dict[str, object] | None:
    """Manifest columns of photos that all carry a position (UTM metres, degrees, heading_deg); None when one does not.

    The first photo without a position ends the reading: a folder without GPS costs one header.
    """
    found = []
    for path in paths:
        if (position := read_gps(path)) is None:
            return None
        found.append(position)
    lat, lon, heading = np.array(found).T
    return utm_columns(lat, lon) | ({"heading_deg": heading} if np.isfinite(heading).any() else {})


def _degrees(parts: Sequence[float], negative: bool) -> float:
    """Degrees, minutes and seconds as EXIF has them."""
    degrees, minutes, seconds = (float(part) for part in parts)
    value = degrees + minutes / 60 + seconds / 3600
    return -value if negative else value
