"""What a retrieval leaves on disk: matches as CSV, picture strips, and a self-contained page."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vpr_lib.data.images import read_image
from vpr_lib.paths import atomic_path
from vpr_lib.plotting.strips import Tile, draw_strip
from vpr_lib.results.records import Run, query_records, write_records
from vpr_lib.retrieval.folders import FolderRetrieval
from vpr_lib.retrieval.metrics import distances_m
from vpr_lib.retrieval.protocol import score
from vpr_lib.widgets.page import retrieval_page


def write_retrieval(found: FolderRetrieval, out: Path, run: Run, strips: int) -> dict[str, Path]:
    """Write matches.csv, records.parquet, strips/*.png and index.html below `out`; returns the files by name.

    Args:
        strips: draw at most this many queries, evenly spread; 0 draws none.
    """
    out = Path(out)
    files = {"matches": _write_matches(found, out / "matches.csv")}
    if found.benchmark.protocols:
        scored = score(found.ranking.indices, found.benchmark.protocol)
        table = query_records(found.benchmark, scored, found.ranking.scores, run)
        files["records"] = write_records(out / "records", table)
    if strips == 0:
        return files
    n = len(found.benchmark.queries)
    shown = np.unique(np.linspace(0, n - 1, min(strips, n)).round().astype(int))
    rows = [_tiles(found, query) for query in shown]
    names = strip_names([name for name, _, _ in rows])
    for earlier in (out / "strips").glob("*.png"):  # of another retrieval into this folder
        earlier.unlink()
    for file, (_, query, matches) in zip(names, rows):
        with atomic_path(out / "strips" / file) as temporary:
            draw_strip(query, matches).save(temporary)
    words = (
        f"{n} queries, {len(found.benchmark.database)} database images; weights: {run.weights}; {run.device}, "
        f"{run.precision}; showing {len(rows)} queries"
    )
    title = f"{run.model} on {found.benchmark.name}"
    return files | {"strips": out / "strips", "page": retrieval_page(title, words, rows, out / "index.html")}


def strip_names(paths: Sequence[str]) -> list[str]:
    """One file name per picture, all different, on file systems without capitals as well."""
    plain = [Path(path).with_suffix("").as_posix().replace("/", "__") for path in paths]
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


def _correct(found: FolderRetrieval, query: int, match: int) -> bool | None:
    return bool(match in found.benchmark.positives[query]) if found.benchmark.protocols else None


def _write_matches(found: FolderRetrieval, path: Path) -> Path:
    names = [side.table["image_path"].tolist() for side in (found.benchmark.queries, found.benchmark.database)]
    distance = distances_m(found.benchmark.database, found.benchmark.queries, found.ranking.indices)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "rank", "database", "similarity", "distance_m", "correct"])
        for query, (matches, scores) in enumerate(zip(found.ranking.indices, found.ranking.scores)):
            for place, (match, similarity) in enumerate(zip(matches, scores)):
                if match < 0:  # an index that found fewer, or a panorama's other crops
                    continue
                metres = distance[query, place]
                correct = _correct(found, query, match)
                writer.writerow(
                    [
                        cell(names[0][query]),
                        place + 1,
                        cell(names[1][match]),
                        f"{similarity:.6f}",
                        "" if np.isnan(metres) else f"{metres:.2f}",
                        "" if correct is None else int(correct),
                    ]
                )
    return path


def _tiles(found: FolderRetrieval, query: int) -> tuple[str, Tile, list[Tile]]:
    queries, database = found.benchmark.queries, found.benchmark.database
    name = queries.table["image_path"].iloc[query]
    distance = distances_m(database, queries.take([query]), found.ranking.indices[query : query + 1])[0]
    matches = []
    for place, match in enumerate(found.ranking.indices[query]):
        if match < 0:
            continue
        metres = "" if np.isnan(distance[place]) else f"\n{distance[place]:.1f} m"
        caption = f"{place + 1}: similarity {found.ranking.scores[query, place]:.3f}{metres}"
        matches.append(Tile(_picture(database, match), caption, _correct(found, query, match)))
    return name, Tile(_picture(queries, query), f"query\n{Path(name).name[:34]}"), matches


def _picture(manifest, row: int) -> Image.Image:
    return Image.fromarray(read_image(manifest.image_paths()[row]).permute(1, 2, 0).numpy())
