"""A GPX track: where somebody was at which time."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

SLACK_S = 5.0  # beyond its ends a track still says where somebody stood


@dataclass(frozen=True)
class Track:
    """`times` float64 (N,), seconds since 1970 in rising order; `lat` and `lon` in degrees, (N,)."""

    times: np.ndarray
    lat: np.ndarray
    lon: np.ndarray

    def at(self, times: np.ndarray) -> np.ndarray:
        """Latitude and longitude at some times, (M, 2), between points in a straight line; NaN beyond the ends."""
        places = np.stack([np.interp(times, self.times, values) for values in (self.lat, self.lon)], 1)
        places[(times < self.times[0] - SLACK_S) | (times > self.times[-1] + SLACK_S)] = np.nan
        return places


def read_gpx(path: Path) -> Track:
    """The points with a time of all tracks in a file.

    Raises:
        ValueError: for a file that is no GPX, or holds no point with position and time.
    """
    try:
        points = [node for node in ElementTree.parse(path).iter() if node.tag.rpartition("}")[2] == "trkpt"]
        recorded = sorted(
            (seconds(time.text), float(node.get("lat", "")), float(node.get("lon", "")))
            for node in points
            for time in node
            if time.tag.rpartition("}")[2] == "time"
        )
    except (ElementTree.ParseError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a readable GPX track: {error}") from error
    if not recorded:
        raise ValueError(f"{path}: {len(points)} track points, none with a time; frames are placed by time.")
    return Track(*np.array(recorded).T)


def seconds(text: str) -> float:
    """Seconds since 1970 of a time in ISO 8601; without a zone it is UTC."""
    time = datetime.fromisoformat(text.strip())
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
