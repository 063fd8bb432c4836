"""What a retrieval leaves on disk: matches as CSV, strips, map files, and a self-contained page with a map."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vpr_lib.data.images import read_image
from vpr_lib.data.readers.geo import degrees
from vpr_lib.paths import atomic_path
from vpr_lib.plotting.strips import Tile, draw_strip
from vpr_lib.results.records import Run, query_records, write_records
from vpr_lib.retrieval.folders import FolderRetrieval
from vpr_lib.retrieval.metrics import distances_m
from vpr_lib.retrieval.protocol import score
from vpr_lib.widgets.found import Found, correct, find_all, headings
from vpr_lib.widgets.found_map import draw_map
from vpr_lib.widgets.geo_files import write_geo_files
from vpr_lib.widgets.page import Row, retrieval_page

RECORDS = "records/*/*/*.parquet"
LONGEST = 180  # bytes; file systems hold 255, and some go to what makes a name unique


def write_retrieval(found: FolderRetrieval, out: Path, run: Run, strips: int) -> dict[str, Path]:
    """Write matches.csv, records.parquet, strips/*.png, index.html and, with positions, found.geojson, .kml and .gpx below
    `out`; returns the files by name.

    Args:
        strips: draw at most this many queries, evenly spread; 0 draws none.
    """
    out, about, title = Path(out), find_all(found), f"{run.model} on {found.benchmark.name}"
    _forget_earlier(out)
    files = {"matches": _write_matches(found, out / "matches.csv")} | write_geo_files(about, title, out)
    if found.benchmark.protocols:
        scored = score(found.ranking.indices, found.benchmark.protocol)
        table = query_records(found.benchmark, scored, found.ranking.scores, run)
        files["records"] = write_records(out / "records", table)
    if strips == 0:
        return files
    n = len(found.benchmark.queries)
    shown = np.unique(np.linspace(0, n - 1, min(strips, n)).round().astype(int))
    rows = [_row(found, query, about[query]) for query in shown]
    names = strip_names([row.name for row in rows])
    for file, row in zip(names, rows):
        with atomic_path(out / "strips" / file) as temporary:
            draw_strip(row.query, row.matches).save(temporary, compress_level=1)  # 5 x quicker, 11 % more bytes
    words = (
        f"{n} queries, {len(found.benchmark.database)} database images; weights: {run.weights}; {run.device}, "
        f"{run.precision}; showing {len(rows)} queries"
    )
    if found.foreign_below is not None:
        words += f"; {int(found.foreign.sum())} not in this map, by a best similarity under {found.foreign_below:.3f}"
    page = retrieval_page(title, words, rows, out / "index.html", draw_map(found, about, shown))
    return files | {"strips": out / "strips", "page": page}


def _forget_earlier(out: Path) -> None:
    """Remove what another retrieval wrote into this folder: what this one does not write again would pass for its own."""
    if (out / "matches.csv").is_file():
        for pattern in ("index.html", "strips/*.png", "found.geojson", "found.kml", "found.gpx", "run.json", RECORDS):
            for file in out.glob(pattern):
                file.unlink()


def strip_names(paths: Sequence[str]) -> list[str]:
    """One file name per picture, all different, on file systems without capitals as well, and none longer than those hold."""
    plain = [Path(path).with_suffix("").as_posix().replace("/", "__") for path in paths]
    plain = [name.encode()[-LONGEST:].decode(errors="ignore") for name in plain]
    taken = Counter(name.casefold() for name in plain)
    names = [
        name if taken[name.casefold()] == 1 else f"{name}_{Path(path).suffix[1:]}" for name, path in zip(plain, paths)
    ]
    seen: Counter = Counter()
    for row, name in enumerate(names):
        while (key := names[row].casefold()) in seen:
            seen[name.casefold()] += 1
            names[row] = f"{name}_{seen[name.casefold()]}"
        seen[key] = 1
    return [f"{name}.png" for name in names]


def cell(text: str) -> str:
    """A name as a cell of a CSV: spreadsheets run what begins like a formula; '@' before a number is a position."""
    runs = text[:1] in ("=", "+", "-", "\t", "\r") or (text[:1] == "@" and text[1:2].isalpha())
    return f"'{text}" if runs else text


def _write_matches(found: FolderRetrieval, path: Path) -> Path:
    names = [side.table["image_path"].tolist() for side in (found.benchmark.queries, found.benchmark.database)]
    distance = distances_m(found.benchmark.database, found.benchmark.queries, found.ranking.indices)
    places, looks = degrees(found.benchmark.database), headings(found.benchmark.database)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        head = ["query", "rank", "database", "similarity", "distance_m", "correct"]
        writer.writerow([*head, "lat", "lon", "heading_deg", "not_in_this_map"])
        for query, (matches, scores) in enumerate(zip(found.ranking.indices, found.ranking.scores)):
            for place, (match, similarity) in enumerate(zip(matches, scores)):
                if match < 0:  # an index that found fewer, or a panorama's other crops
                    continue
                right = correct(found, query, match)
                lat, lon = places[match] if places is not None else (np.nan, np.nan)
                writer.writerow(
                    [
                        cell(names[0][query]),
                        place + 1,
                        cell(names[1][match]),
                        f"{similarity:.6f}",
                        _number(distance[query, place], 2),
                        "" if right is None else int(right),
                        _number(lat, 7),
                        _number(lon, 7),
                        _number(looks[match], 1),
                        "" if found.foreign_below is None else int(found.foreign[query]),
                    ]
                )
    return path


def _number(value: float, places: int) -> str:
    return "" if np.isnan(value) else f"{value:.{places}f}"


def _row(found: FolderRetrieval, query: int, about: Found) -> Row:
    queries, database = found.benchmark.queries, found.benchmark.database
    ranked = found.ranking.indices[query]
    distance = distances_m(database, queries.take([query]), ranked[None])[0]
    looks, matches = headings(database), []
    for place, match in enumerate(ranked):
        if match < 0:
            continue
        words = [f"{distance[place]:.1f} m"] if np.isfinite(distance[place]) else []
        words += [f"heading {looks[match]:.0f}°"] if np.isfinite(looks[match]) else []
        caption = f"{place + 1}: similarity {found.ranking.scores[query, place]:.3f}\n{', '.join(words)}".rstrip()
        matches.append(Tile(_picture(database, match), caption, correct(found, query, match)))
    told = "query" + ", not in this map" * about.foreign
    look = f", heading {headings(queries)[query]:.0f}°" if np.isfinite(headings(queries)[query]) else ""
    tile = Tile(_picture(queries, query), f"{told}{look}\n{Path(about.query).name[:34]}")
    return Row(about.query, tile, matches, about.in_words(), about.foreign, query)


def _picture(manifest, row: int) -> Image.Image:
    return Image.fromarray(read_image(manifest.image_paths()[row]).permute(1, 2, 0).numpy())
