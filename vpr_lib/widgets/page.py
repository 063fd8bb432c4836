"""A self-contained HTML page of retrievals: pictures, verdicts, distances, no kernel, no network."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vpr_lib.paths import write_text
from vpr_lib.plotting.strips import Tile, verdict
from vpr_lib.widgets.found_map import STYLE as MAP_STYLE
from vpr_lib.widgets.thumbnails import data_uri

PICTURE = (660, 220)  # pixels, width and height at most

STYLE = """
:root{color-scheme:light dark;--ink:#1d2329;--soft:#5b6670;--paper:#fff;--line:#d8dee4;--right:#00775a;--wrong:#b94700;--query:#0072b2}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa6b2;--paper:#14181c;--line:#333b43;--right:#3fcf9f;--wrong:#ff9a5c;--query:#56b4e9}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;max-width:1400px;padding:1rem}
h1{font-size:1.5rem;margin:.2rem 0}p.about{color:var(--soft);margin:.2rem 0 1rem}
.row{border-top:1px solid var(--line);padding:.8rem 0}.row h2{font-size:1rem;font-weight:600;margin:0 0 .4rem}
.row h2 span{font-weight:400;color:var(--soft);margin-left:.5rem}.row.foreign h2 span{color:var(--wrong)}
.row:target{box-shadow:-8px 0 0 -4px var(--query)}.row.foreign .tiles figure:not(.query){opacity:.55}
.tiles{display:flex;gap:.6rem;overflow-x:auto;padding-bottom:.4rem}figure{margin:0;flex:none}
figure img{display:block;height:clamp(140px,13vw,260px);border:4px solid var(--soft);border-radius:3px}
figure.query{margin-right:1rem}figure.right img{border-color:var(--right)}
figure.wrong img{border-color:var(--wrong);border-style:dashed}
figcaption{font-size:.8rem;color:var(--soft);max-width:220px;white-space:pre-line}
.right b{color:var(--right)}.wrong b{color:var(--wrong)}
"""


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
    write_text(
        path,
        f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>{html.escape(title)}</title>
<style>{STYLE}{MAP_STYLE if picture else ""}</style></head><body><h1>{html.escape(title)}</h1><p class="about">{html.escape(about)}</p>
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
