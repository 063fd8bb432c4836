"""Where queries were found, as files that map programs open: GeoJSON, KML and GPX."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from vpr_lib.paths import write_text
from vpr_lib.widgets.found import Found, Place

KML = """<?xml version="1.0" encoding="UTF-8"?>
<kml xmlns="http://www.opengis.net/kml/2.2"><Document><name>{title}</name>
{body}
</Document></kml>
"""
GPX = """<?xml version="1.0" encoding="UTF-8"?>
<gpx version="1.1" creator="vpr_lib" xmlns="http://www.topografix.com/GPX/1/1">
<metadata><name>{title}</name></metadata>
{body}
</gpx>
"""


def write_geo_files(found: Sequence[Found], title: str, out: Path) -> dict[str, Path]:
    """Write found.geojson, found.kml and found.gpx below `out`; nothing where no match has latitude and longitude.

    A query stands where its best match does, with a line from its own position where it has one; queries that are not in
    the map are left out.
    """
    placed = [one for one in found if one.match_place and not one.foreign]
    if not placed:
        return {}
    content = {"type": "FeatureCollection", "name": title, "features": [f for one in placed for f in _features(one)]}
    texts = {
        "geojson": json.dumps(content, ensure_ascii=False, indent=1),
        "kml": KML.format(title=escape(title), body="\n".join(_placemark(one) for one in placed)),
        "gpx": GPX.format(title=escape(title), body="\n".join(_waypoint(one) for one in placed)),
    }
    return {kind: write_text(Path(out) / f"found.{kind}", text) for kind, text in texts.items()}


def _point(place: Place) -> list[float]:
    return [round(place[1], 7), round(place[0], 7)]  # longitude first, as GeoJSON and KML have it


def _features(one: Found) -> list[dict[str, Any]]:
    about = {"query": one.query, "match": one.match, "similarity": round(one.similarity, 4), "correct": one.correct,
             "distance_m": one.distance_m, "heading_deg": one.heading_deg}  # fmt: skip
    about = {name: value for name, value in about.items() if value is not None}
    shapes: list[dict[str, Any]] = [{"type": "Point", "coordinates": _point(one.match_place)}]
    if one.query_place:
        shapes.append({"type": "LineString", "coordinates": [_point(one.query_place), _point(one.match_place)]})
    return [{"type": "Feature", "properties": about, "geometry": shape} for shape in shapes]


def _placemark(one: Found) -> str:
    points = [_point(place) for place in (one.query_place, one.match_place) if place]
    texts = ["{},{}".format(*point) for point in points]
    line = f"<LineString><coordinates>{' '.join(texts)}</coordinates></LineString>" if len(texts) > 1 else ""
    shape = f"<MultiGeometry><Point><coordinates>{texts[-1]}</coordinates></Point>{line}</MultiGeometry>"
    return f"<Placemark><name>{escape(one.query)}</name><description>{escape(one.in_words())}</description>{shape}</Placemark>"


def _waypoint(one: Found) -> str:
    lat, lon = one.match_place
    return f'<wpt lat="{lat:.7f}" lon="{lon:.7f}"><name>{escape(one.query)}</name><desc>{escape(one.in_words())}</desc></wpt>'
