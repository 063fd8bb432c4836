"""A self-contained HTML page of retrievals: pictures, verdicts, distances, no kernel, no network."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vpr_lib.paths import write_text
from vpr_lib.plotting.strips import Tile, verdict
from vpr_lib.widgets.thumbnails import data_uri

HERE = Path(__file__).parent
PICTURE = (660, 220)  # pixels, width and height at most


@dataclass(frozen=True)
class Row:
    """A query on the page: its name, its tile, its matches (best first), and what was found in words."""

    name: str
    query: Tile
    matches: Sequence[Tile]
    words: str = ""
    foreign: bool = False
    number: int = 0  # among all queries; the row is found under #q<number>


def retrieval_page(title: str, about: str, rows: Sequence[Row], path: Path, picture: str = "") -> Path:
    """Write the page.

    Args:
        picture: HTML above the rows.
    """
    body = "\n".join([picture, *map(_row, rows)])
    sheets = ["page.css", "found_map.css"] if picture else ["page.css"]
    style = "\n".join((HERE / sheet).read_text(encoding="utf-8") for sheet in sheets)
    write_text(
        path,
        f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>{html.escape(title)}</title>
<style>
{style}</style></head><body><h1>{html.escape(title)}</h1><p class="about">{html.escape(about)}</p>
{body}</body></html>""",
    )
    return Path(path)


def _row(row: Row) -> str:
    tiles = "".join(_figure(tile, f"match {rank} of {row.name}") for rank, tile in enumerate(row.matches, 1))
    words = f"<span>{'' if row.foreign else '→ '}{html.escape(row.words)}</span>" if row.words else ""
    return (
        f'<section class="row{" foreign" * row.foreign}" id="q{row.number}"><h2>{html.escape(row.name)}{words}</h2>'
        f'<div class="tiles">{_figure(row.query, f"query {row.name}", "query")}{tiles}</div></section>'
    )


def _figure(tile: Tile, alternative: str, kind: str = "") -> str:
    kind = kind or {True: "right", False: "wrong", None: ""}[tile.correct]
    word = {"right": "correct", "wrong": "wrong"}.get(kind, "")
    sign = f"<b>{verdict(tile.correct)[0]} {word}</b>\n" if word else ""
    return (
        f'<figure class="{kind}"><img src="{data_uri(tile.image, PICTURE, quality=82)}" alt="{html.escape(f"{alternative} {word}".strip())}" '
        f'loading="lazy"><figcaption>{sign}{html.escape(tile.caption)}</figcaption></figure>'
    )
