"""The '@' file-name convention: a UTM position and more in sixteen tokens. Spec: datasets §1.1."""

from pathlib import PurePosixPath

import numpy as np

TOKENS = (
    *("", "utm_east", "utm_north", "utm_zone", "utm_band", "lat", "lon", "pano_id", "tile", "heading", "pitch"),
    *("roll", "height", "timestamp", "note", "extension"),
)


def parse_name(name: str) -> dict[str, str]:
    """Tokens of a file name by field; only the basename is read, so an '@' in a parent folder does no harm.

    Raises:
        ValueError: if the name does not start with '@', or its easting and northing are not numbers.
    """
    parts = PurePosixPath(name).name.split("@")
    if len(parts) < 3 or parts[0]:
        raise ValueError(f"'{name}' does not follow the '@easting@northing@...' convention.")
    fields = dict(zip(TOKENS, parts))
    for key in ("utm_east", "utm_north"):
        try:
            float(fields[key])
        except ValueError:
            raise ValueError(f"'{name}': token {TOKENS.index(key)} ({key}) is '{fields[key]}', not a number.") from None
    return fields


def is_at_name(name: str) -> bool:
    """Whether `parse_name` accepts the name."""
    try:
        parse_name(name)
    except ValueError:
        return False
    return True


def columns_from_names(paths: list[str]) -> dict[str, object]:
    """Manifest columns of '@'-named images: positions, and zone, heading, time and conditions where any name has them."""
    fields = [parse_name(path) for path in paths]
    columns: dict[str, object] = {"image_path": paths}
    for key in ("utm_east", "utm_north"):
        columns[key] = np.array([float(f[key]) for f in fields])
    if any(f.get("utm_zone") for f in fields):
        columns["utm_zone"] = [int(f["utm_zone"]) if f.get("utm_zone") else None for f in fields]
        columns["utm_band"] = [f.get("utm_band", "") for f in fields]
    if any(f.get("heading") for f in fields):
        columns["heading_deg"] = [float(f["heading"]) if f.get("heading") else np.nan for f in fields]
    if any(f.get("pano_id") for f in fields):
        columns["pano_id"] = [f.get("pano_id", "") for f in fields]
    if any(f.get("note") for f in fields):
        columns["conditions"] = [[word for word in f.get("note", "").split("_") if word] for f in fields]
    return columns
