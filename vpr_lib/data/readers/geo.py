"""Degrees to UTM metres, so that neighbours stay neighbours, and back. Spec: datasets §13.3 rule 1."""

import numpy as np

from vpr_lib.data.manifest import Manifest
from vpr_lib.data.positions import frames

NO_FIX_DEG = 1e-3  # nearer to latitude and longitude 0 is open sea: a camera without a fix
ONE_ZONE_DEG = 6.0  # a set no wider than a zone is converted in one zone, wherever the border runs


def utm_columns(lat: np.ndarray, lon: np.ndarray) -> dict[str, object]:
    """Manifest columns lat, lon, utm_east, utm_north (metres), utm_zone and utm_band of N positions in degrees.

    A set that is at most six degrees wide is converted in the zone of its middle: two images on either side of a zone
    border, or of the equator, are neighbours. Wider sets have several zones; latitude and longitude 0 is no position.

    Raises:
        ValueError: for a latitude beyond 80° S or 84° N, or a longitude beyond 180°, with the row.
    """
    import utm

    lat, lon = np.asarray(lat, np.float64), np.asarray(lon, np.float64)
    good = (lat >= -80) & (lat <= 84) & (np.abs(lon) <= 180)
    if not good.all():
        row = int((~good).argmax())
        raise ValueError(
            f"Row {row}: latitude {lat[row]:g}, longitude {lon[row]:g} is no position in degrees; expected -80 to 84 and "
            "-180 to 180, latitude first."
        )
    nowhere = np.maximum(np.abs(lat), np.abs(lon)) < NO_FIX_DEG  # (0, 0) metres says the same to `data/positions.py`
    if nowhere.any() and not nowhere.all():
        columns = utm_columns(lat[~nowhere], lon[~nowhere])
        spread = {name: np.zeros(len(lat)) for name in ("utm_east", "utm_north")}
        for name, values in spread.items():
            values[~nowhere] = columns[name]
        zones = {name: np.full(len(lat), columns[name] if np.ndim(columns[name]) == 0 else columns[name][0], object)
                 for name in ("utm_zone", "utm_band")}  # fmt: skip
        for name, values in zones.items():
            values[~nowhere] = columns[name]
        return {
            "lat": lat,
            "lon": lon,
            **spread,
            "utm_zone": zones["utm_zone"].astype(np.int64),
            "utm_band": zones["utm_band"],
        }
    if np.ptp(lon) > ONE_ZONE_DEG:
        converted = [utm.from_latlon(*point) for point in zip(lat, lon)]
        east, north, zone, band = (np.array(values) for values in zip(*converted))
    else:
        zone, band = utm_zone(lat, lon)
        east, north, _, _ = utm.from_latlon(lat, lon, force_zone_number=zone, force_northern=bool(np.median(lat) >= 0))
    return {"lat": lat, "lon": lon, "utm_east": east, "utm_north": north, "utm_zone": zone, "utm_band": band}


def utm_zone(lat: np.ndarray, lon: np.ndarray) -> tuple[int, str]:
    """Zone number and band letter of the middle of some positions."""
    import utm

    middle = float(np.median(lat)), float(np.median(lon))
    return utm.latlon_to_zone_number(*middle), utm.latitude_to_zone_letter(middle[0])


def degrees(side: Manifest) -> np.ndarray | None:
    """Latitude and longitude of every row, float64 (N, 2), NaN for a camera without a fix; None without such positions."""
    import utm

    if not side.has_positions:
        return None
    places, zones = side.positions(), frames(side, side)
    if {"lat", "lon"} <= set(side.table):
        latlon = side.table[["lat", "lon"]].to_numpy(np.float64)
    elif zones is None:
        return None
    else:
        latlon = np.empty((len(side), 2))
        for number in np.unique(zones[0]):
            rows = zones[0] == number
            zone, north = int(number // 2), bool(number % 2)
            latlon[rows] = np.stack(utm.to_latlon(*places[rows].T, zone, northern=north, strict=False), 1)
    return np.where((places == 0).all(1)[:, None], np.nan, latlon)
