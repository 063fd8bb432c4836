"""A map without tiles: where the database is, and a line from every query to its best match. SVG inside the page."""

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vpr_lib.data.positions import frames, without_fix
from vpr_lib.retrieval.folders import FolderRetrieval
from vpr_lib.widgets.found import Found, headings

HERE = Path(__file__).parent
WIDTH, HEIGHT, MARGIN = 1000, 520, 46  # of the drawing, in its own units
MOST = 20_000  # database images drawn, evenly spread
TICK = 13  # length of the line that says where a camera looks

KEYS = {
    "db": ('<path class="db" d="M13 6h0"/>', "database"),
    "line": ('<path class="q" d="M4 6h0"/><path class="line" d="M4 6h20"/>', "query and its best match"),
    "right": (
        '<g class="right"><path class="q" d="M4 6h0"/><path class="line" d="M4 6h20"/></g>',
        "query, match correct",
    ),
    "wrong": ('<g class="wrong"><path class="q" d="M4 6h0"/><path class="line" d="M4 6h20"/></g>', "match wrong"),
    "foreign": ('<g class="foreign"><path class="q" d="M9 2l8 8m0-8l-8 8"/></g>', "query, not in this map"),
    "here": ('<path class="q" d="M13 6h0"/>', "query, where its best match stands"),
}


def draw_map(found: FolderRetrieval, about: Sequence[Found], shown: Sequence[int]) -> str:
    """HTML of the map; '' where the database has no positions on one grid.

    Args:
        about: every query with its best match.
        shown: queries that have a row on the page, which their marks lead to.
    """
    database, queries = found.benchmark.database, found.benchmark.queries
    if not database.has_positions:
        return ""
    both = queries.has_positions
    sides = (database, queries) if both else (database, database)
    zones = frames(*sides)
    if zones is not None and len(np.unique(np.concatenate(zones))) > 1:
        return ""
    places = [np.where(lost[:, None], np.nan, side.positions()) for side, lost in zip(sides, without_fix(*sides))]
    known = np.concatenate(places[: 1 + both])
    known = known[np.isfinite(known).all(1)]
    if len(known) == 0:
        return ""
    metres, place = _scale(known)
    best = found.ranking.indices[:, 0]
    hits = place(places[0][best])
    own = place(places[1]) if both else np.full_like(hits, np.nan)
    marks = [_mark(one, *ends, query in shown, query) for query, (one, *ends) in enumerate(zip(about, own, hits))]
    kinds = {kind for kind, _ in marks}
    keys = "".join(
        f'<span class="key"><svg viewBox="0 0 26 12">{shape}</svg>{words}</span>'
        for kind, (shape, words) in KEYS.items()
        if kind in kinds | {"db"}
    )
    dots = places[0][:: max(1, -(-len(database) // MOST))]
    looks = _looks(place(places[0]), headings(database)) if len(database) <= MOST else ""
    world = f'<path class="db" d="{_dots(place(dots))}"/>{looks}{"".join(mark for _, mark in marks)}'
    return (
        f'<figure class="map"><svg viewBox="0 0 {WIDTH} {HEIGHT}" data-metres="{metres}" role="img" '
        f'aria-label="Map of the database and of {len(about)} queries"><g class="world">{world}</g>{_furniture(metres)}</svg>'
        f"<figcaption>{keys}North is up; wheel and drag move the map, a double click resets it.</figcaption></figure>"
        f"<script>\n{(HERE / 'found_map.js').read_text(encoding='utf-8')}</script>"
    )


def _scale(known: np.ndarray):
    """Metres per unit, and the function from metres (N, 2) to units of the drawing."""
    low, high = known.min(0), known.max(0)
    room = np.array([WIDTH, HEIGHT]) - 2 * MARGIN
    metres = float(max(((high - low) / room).max(), 0.02))
    middle = (low + high) / 2

    def place(points: np.ndarray) -> np.ndarray:
        units = (points - middle) / metres
        return np.stack([WIDTH / 2 + units[..., 0], HEIGHT / 2 - units[..., 1]], -1)

    return metres, place


def _dots(points: np.ndarray) -> str:
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points if np.isfinite(x))


def _looks(points: np.ndarray, heading_deg: np.ndarray) -> str:
    """A short line in the direction of every camera whose heading is known."""
    rows = np.isfinite(heading_deg) & np.isfinite(points).all(1)
    angle = np.radians(heading_deg[rows])
    ends = zip(points[rows], TICK * np.sin(angle), -TICK * np.cos(angle))
    ticks = "".join(f"M{x:.1f} {y:.1f}l{right:.1f} {down:.1f}" for (x, y), right, down in ends)
    return f'<path class="look" d="{ticks}"/>' if ticks else ""


def _mark(one: Found, own: np.ndarray, hit: np.ndarray, has_row: bool, query: int) -> tuple[str, str]:
    """The kind of a query's mark, and its SVG; '' where there is nothing to draw."""
    here, there = np.isfinite(own).all(), np.isfinite(hit).all()
    if one.foreign:
        kind = "foreign"
        shape = '<path class="q" d="M{:.1f} {:.1f}l8 8m0-8l-8 8"/>'.format(*(own - 4)) if here else ""
    elif here and there:
        kind = {True: "right", False: "wrong", None: "line"}[one.correct]
        shape = '<path class="line" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>'.format(*own, *hit)
        shape += f'<path class="hit" d="{_dots(hit[None])}"/><path class="q" d="{_dots(own[None])}"/>'
    else:
        kind = "here"
        shape = f'<path class="q" d="{_dots(hit[None])}"/>' if there else ""
    if not shape:
        return "", ""
    title = f"<title>{html.escape(f'{one.query}: {one.in_words()}')}</title>"
    mark = f'<g class="{kind}">{title}{shape}</g>'
    return kind, f'<a href="#q{query}">{mark}</a>' if has_row else mark


def _furniture(metres: float) -> str:
    """Scale bar and north."""
    step = 10.0 ** np.floor(np.log10(190 * metres))
    length = step * next(n for n in (5, 2, 1) if n * step <= 190 * metres)
    words = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    x, y = MARGIN / 2, HEIGHT - MARGIN / 2
    return (
        f'<path class="bar" data-x="{x}" data-y="{y}" d="M{x} {y}h{length / metres:.1f}"/>'
        f'<text class="metres" x="{x}" y="{y - 8}">{words}</text>'
        f'<path class="bar" style="stroke-width:2" d="M{WIDTH - 26} 48V18m-6 9l6-9l6 9"/><text x="{WIDTH - 31}" y="66">N</text>'
    )
