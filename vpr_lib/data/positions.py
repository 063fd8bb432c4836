"""Which positions can be compared, and how: UTM frames, borders between them, and positions that cannot be."""

import logging

import numpy as np
from scipy.spatial import cKDTree

from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.manifest import Manifest

log = logging.getLogger(__name__)
AXIS_M, FLATTENING = 6_378_137.0, 1 / 298.257223563  # WGS84
NEAR_M = 1.0  # as far as this from (0, 0) is (0, 0): what rounding leaves
FAR_M = 10_000.0  # (0, 0) this far from every other position is no place but a camera without a fix
LOST_M = 200_000.0  # further from the median position than this: no place of the same data set
DEGREES = (180.0, 90.0)
BANDS = frozenset("CDEFGHJKLMNPQRSTUVWX")


def frames(database: Manifest, queries: Manifest) -> tuple[np.ndarray, np.ndarray] | None:
    """UTM zone and hemisphere of every row of both sides as one number, 2 * zone + northern; None where no row has a zone.

    A missing zone or band letter says nothing: it is the one of all others.

    Raises:
        ValueError: for a zone or band that does not exist, or missing ones among several.
    """
    sides = (database, queries)
    zones = _filled([_zones(side) for side in sides], "UTM zone", sides)
    if zones is None:
        return None
    north = _filled([_hemispheres(side) for side in sides], "band letter", sides)
    return tuple(2 * zone + (half if north is not None else 1) for zone, half in zip(zones, north or zones))


def _filled(values: list[np.ndarray], what: str, sides: tuple[Manifest, ...]) -> list[np.ndarray] | None:
    known = np.unique(np.concatenate(values))
    known = known[known >= 0]
    if len(known) == 0:
        return None
    missing = [int((side < 0).sum()) for side in values]
    if sum(missing) and len(known) > 1:
        side = int(missing[0] == 0)
        name = sides[side].table["sample_id"].iloc[int((values[side] < 0).argmax())]
        raise ValueError(
            f"{sum(missing)} images have no {what} although there are several ({', '.join(map(str, known))}), for instance "
            f"'{name}'. Give all of them one, or none."
        )
    return [np.where(side < 0, known[0], side) for side in values]


def _zones(side: Manifest) -> np.ndarray:
    if "utm_zone" not in side.table:
        return np.full(len(side), -1)
    zones = side.table["utm_zone"].fillna(-1).to_numpy(np.int64)
    _refuse(side, (zones != -1) & ((zones < 1) | (zones > 60)), zones, "UTM zone", "1 to 60")
    return zones


def _hemispheres(side: Manifest) -> np.ndarray:
    """1 north, 0 south, -1 not said."""
    if "utm_band" not in side.table:
        return np.full(len(side), -1)
    codes, bands = side.table["utm_band"].factorize(use_na_sentinel=False)
    letters = ["" if not isinstance(band, str) else band.strip().upper() for band in bands]
    wrong = np.array([letter not in BANDS and letter != "" for letter in letters], bool)[codes]
    _refuse(side, wrong, np.array(letters, object)[codes], "UTM band", "a letter from C to X, neither I nor O")
    return np.array([-1 if not letter else int(letter >= "N") for letter in letters])[codes]


def _refuse(side: Manifest, wrong: np.ndarray, values: np.ndarray, what: str, expected: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"'{side.table['sample_id'].iloc[row]}' has {what} '{values[row]}' ({int(wrong.sum())} images); expected {expected}."
        )


def without_fix(*sides: Manifest) -> list[np.ndarray]:
    """Per side the rows, bool, whose position is that of a camera without a fix: (0, 0) within NEAR_M, far from all others."""
    places = [side.positions() for side in sides]
    zero = [(np.abs(place) < NEAR_M).all(1) for place in places]
    others = np.concatenate([place[~none] for place, none in zip(places, zero)])
    if not any(none.any() for none in zero) or len(others) == 0 or (np.abs(others).max(1) < FAR_M).any():
        return [np.zeros(len(place), bool) for place in places]
    return zero


def radius_positives(database: Manifest, queries: Manifest, radius_m: float, group: str | None = None) -> Positives:
    """Database images within `radius_m`, threshold included.

    Metres are those of the UTM grid inside one zone, as published protocols count; across the border of two zones, the
    equator and the date line they are straight lines between points of the ellipsoid. Images without a fix are no positives.

    Args:
        group: a column; only images of one value in it are compared, on the grid.
    Raises:
        ValueError: as `frames`.
    """
    places = database.positions(), queries.positions()
    lost = without_fix(database, queries)
    own = [side.table[group].to_numpy() for side in (database, queries)] if group else frames(database, queries)
    positives = Positives.from_radius(*places, radius_m, *(own if own is not None else (None, None)))
    if not group and own is not None and len(np.unique(np.concatenate(own))) > 1:
        positives = _across_borders(positives, places, own, radius_m)
    if any(none.any() for none in lost):
        positives = positives.where(~lost[1][positives.rows] & ~lost[0][positives.indices])
    return positives


def _across_borders(found: Positives, places: tuple, own: tuple, radius_m: float) -> Positives:
    points = [on_ellipsoid(place, frame) for place, frame in zip(places, own)]
    near = cKDTree(points[0]).query_ball_point(points[1], radius_m)
    lists = [
        np.union1d(found[query], [row for row in rows if own[0][row] != own[1][query]])
        for query, rows in enumerate(near)
    ]
    return Positives.from_lists(lists, found.n_database)


def on_ellipsoid(places: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """UTM positions (N, 2) of frames (N,) as metres from the centre of the earth, float64 (N, 3)."""
    import utm

    points = np.empty((len(places), 3))
    for number in np.unique(frame):
        rows = frame == number
        lat, lon = utm.to_latlon(*places[rows].T, int(number // 2), northern=bool(number % 2), strict=False)
        lat, lon = np.radians(lat), np.radians(lon)
        square = FLATTENING * (2 - FLATTENING)
        normal = AXIS_M / np.sqrt(1 - square * np.sin(lat) ** 2)
        across = normal * np.cos(lat)
        points[rows] = np.stack([across * np.cos(lon), across * np.sin(lon), normal * (1 - square) * np.sin(lat)], 1)
    return points


def check_positions(database: Manifest, queries: Manifest, radius_m: float) -> list[str]:
    """What is odd about the positions of two lists, in sentences.

    Raises:
        ValueError: for degrees in the place of metres.
    """
    places = np.concatenate([side.positions() for side in (database, queries)])
    lost = without_fix(database, queries)
    sides = [side.positions()[~none] for side, none in zip((database, queries), lost)]
    good = np.concatenate(sides)
    _refuse_degrees(database, queries, sides, radius_m)
    warnings = []
    if count := int(sum(none.sum() for none in lost)):
        warnings.append(
            f"{count} of {len(places)} images stand at (0, 0), far from all others: cameras without a fix. They are nobody's "
            "positive, and as queries they have none."
        )
    for side in (database, queries):
        warnings += _against_their_band(side)
    away = np.abs(good - np.median(good, axis=0)).max(1) if len(good) else np.zeros(0)
    if 0 < (lost_fixes := int((away > LOST_M).sum())) < len(good) / 4:
        east, north = good[away.argmax()]
        warnings.append(
            f"{lost_fixes} of {len(places)} images stand more than {LOST_M / 1000:g} km from the others, for instance at easting "
            f"{east:.0f}, northing {north:.0f}: is that what the camera writes without a fix?"
        )
    spread = np.ptp(good, axis=0)
    if len(good) > 1 and np.hypot(*spread) <= radius_m:
        warnings.append(
            f"all {len(good)} positions lie within {np.hypot(*spread):.3g} m: every database image is a positive of every query "
            f"at a radius of {radius_m:g} m, so any answer counts as right."
        )
    elif len(base := database.positions()[~lost[0]]) > 1 and np.hypot(*np.ptp(base, axis=0)) <= radius_m:
        warnings.append(f"the whole database lies within {radius_m:g} m: any answer counts as right where one does.")
    return warnings


def _against_their_band(side: Manifest) -> list[str]:
    """Says when northings are not where the band letter is: an S that means south puts a map into the north."""
    if "utm_band" not in side.table or "lat" in side.table:
        return []
    lowest = {letter: 8 * number - 80 for number, letter in enumerate(sorted(BANDS))}
    south = side.table["utm_band"].map(lambda letter: lowest.get(str(letter).strip().upper())).to_numpy(np.float64)
    north = side.positions()[:, 1]
    lat = np.where(south < 0, north - 1e7, north) / 111_000
    off = (side.positions() != 0).any(1) & ((lat < south - 2) | (lat > south + np.where(south == 72, 14, 10)))
    if not off.any():
        return []
    row = int(off.argmax())
    return [
        f"'{side.table['sample_id'].iloc[row]}' and {int(off.sum()) - 1} others have UTM band {side.table['utm_band'].iloc[row]}, latitude "
        f"{south[row]:g} to {south[row] + 8:g}, and a northing of {north[row]:.0f}, which is not there: maps of them are wrong."
    ]


def _refuse_degrees(database: Manifest, queries: Manifest, sides: list[np.ndarray], radius_m: float) -> None:
    places = np.concatenate(sides)
    if len(places) == 0 or database.table["position_kind"].iloc[0] not in ("gps", "local_metric"):
        return
    for side, other in (sides, sides[::-1]):  # degrees on one side, metres on the other
        if len(side) and len(other) and _in_degrees(side) and (np.abs(other).max(1) >= FAR_M).all():
            raise ValueError(_degrees_told(side))
    fractions = (
        (np.abs(places - places.round(2)) > 1e-9).any(1).mean()
    )  # centimetres have two places, degrees five or six
    zoned = any("utm_zone" in side.table and side.table["utm_zone"].notna().any() for side in (database, queries))
    narrow = np.hypot(*np.ptp(places, axis=0)) <= radius_m
    low = np.abs(places).max(0).min()
    if _in_degrees(places) and (places != 0).any() and (zoned or (fractions > 0.5 and (narrow or low > 25))):
        raise ValueError(_degrees_told(places))


def _in_degrees(places: np.ndarray) -> bool:
    low, high = np.sort(np.abs(places).max(0))
    return bool(low <= DEGREES[1] and high <= DEGREES[0])


def _degrees_told(places: np.ndarray) -> str:
    east, north = places[0]
    return (
        f"Positions such as easting {east:g}, northing {north:g} look like degrees (longitude, latitude), not metres. Give "
        "UTM metres, or a CSV with the columns image, lat, lon (--positions)."
    )
