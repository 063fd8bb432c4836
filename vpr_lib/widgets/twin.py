"""The explorer's static twin: one HTML file with pictures, filters, map and keys; no kernel, no network."""

import html
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vpr_lib.paths import write_text
from vpr_lib.widgets.explorer import DISTANCES, FILTERS, MAP_WORDS, Answers, Explorer, some
from vpr_lib.widgets.thumbnails import heat_overlay, thumbnails

HERE = Path(__file__).parent
Kept = Callable[[str, int, int], np.ndarray | None]  # model, query, match -> two maps (2, h, w), or None


def write_twin(
    explorer: Explorer,
    path: Path,
    models: Sequence[str],
    limit: int = 120,
    columns: int = 5,
    attention: Kept | None = None,
) -> Path:
    """Write the page with up to `limit` queries.

    Queries on which the first two models differ come first, then the wrong ones, then the others, evenly spread.

    Args:
        models: to choose from; the first two are shown when the page opens.
        attention: gives the maps that were kept (`Live.kept`); nothing is computed here.
    """
    chosen = worth_showing(explorer, *models[:2], limit=limit)
    answers = [explorer.answers[name] for name in models]
    marks = [{"near": explorer.near_miss(name), "sure": explorer.sure_but_wrong(name)} for name in models]
    rows = np.unique(np.concatenate([answer.top[chosen, :columns].ravel() for answer in answers]))
    rows = rows[rows >= 0]
    paths = [explorer.path("database", row) for row in rows] + [explorer.path("queries", row) for row in chosen]
    keys = [f"d{row}" for row in rows] + [f"q{row}" for row in chosen]
    data = {
        "title": f"{explorer.benchmark.name}: {' against '.join(models[:2])}",
        "about": f"{len(chosen)} of {len(explorer.benchmark.queries):,} queries, {explorer.benchmark.protocol.card.rule_in_words()}. "
        "Arrow keys step; a click on the map shows the nearest views. An own image, and attention maps that were not kept, take a "
        "network: open notebook 09 for them.",
        "models": list(models), "filters": FILTERS if len(models) > 1 else [show for show in FILTERS if "only" not in show],
        "conditions": sorted(set().union(*explorer.conditions)), "map": _map(explorer, rows, chosen),
        "distances": [{"words": words, "limits": limits and [limits[0], min(limits[1], 1e9)]} for words, limits in DISTANCES.items()],
        "pictures": dict(zip(keys, thumbnails(paths))),
        "queries": [
            {"query": int(query), "conditions": sorted(explorer.conditions[query]),
             "answers": [_answer(answer, of, query, columns) for answer, of in zip(answers, marks)]}
            for query in chosen
        ],
        "attention": {} if attention is None else _overlays(answers, chosen, attention),
    }  # fmt: skip
    page = (HERE / "explorer.html").read_text(encoding="utf-8")
    parts = {"/*CSS*/": (HERE / "explorer.css").read_text(encoding="utf-8"), "/*JS*/": (HERE / "explorer.js").read_text(encoding="utf-8"),
             "<!--TITLE-->": html.escape(data["title"]), "/*DATA*/": json.dumps(data, allow_nan=False).replace("</", "<\\/")}  # fmt: skip
    for mark, text in parts.items():
        page = page.replace(mark, text)
    write_text(Path(path), page)
    return Path(path)


def worth_showing(explorer: Explorer, first: str, second: str | None = None, limit: int = 120) -> np.ndarray:
    """Up to `limit` queries in order: where two models differ, then wrong ones, then the rest, evenly spread."""
    hit = explorer.answers[first].first_hit == 1
    other = explorer.answers[second].first_hit == 1 if second else hit
    order = np.argsort(np.where(hit != other, 0, np.where(~hit, 1, 2)), kind="stable")
    differing = order[: min(int((hit != other).sum()), limit * 2 // 3)]
    rest = order[len(differing) :]
    rest = some(rest, max(0, limit - len(differing)))
    return np.sort(np.concatenate([differing, rest]))


def _answer(answer: Answers, marks: dict[str, np.ndarray], query: int, columns: int) -> dict:
    ranks = [rank for rank in range(min(columns, answer.top.shape[1])) if answer.top[query, rank] >= 0]
    matches = [
        {"row": int(answer.top[query, rank]), "score": _number(answer.score[query, rank], 3),
         "metres": _number(answer.metres[query, rank]), "correct": bool(answer.correct[query, rank])}
        for rank in ranks
    ]  # fmt: skip
    told = {mark: bool(of[query]) for mark, of in marks.items()}
    return {"found": bool(answer.first_hit[query] == 1), "matches": matches} | told


def _overlays(answers: Sequence[Answers], chosen: np.ndarray, attention: Kept) -> dict[str, list[str]]:
    kept = {}
    for place, answer in enumerate(answers):
        for query in chosen:
            if (maps := attention(answer.model, int(query), int(answer.top[query, 0]))) is not None:
                kept[f"{place}/{query}"] = [heat_overlay(heat) for heat in maps]
    return kept


def _map(explorer: Explorer, rows: np.ndarray, chosen: np.ndarray) -> dict | None:
    """Positions of what is on the page, metres from the south-west corner; None without positions."""
    if not explorer.has_map:
        return None
    database, queries = explorer.places["database"][rows], explorer.places["queries"][chosen]
    return {
        "size": np.concatenate([database, queries]).max(axis=0).round(1).tolist(), "words": MAP_WORDS, "dots": some(rows).tolist(),
        "database": dict(zip(rows.tolist(), database.round(1).tolist())),
        "queries": dict(zip(chosen.tolist(), queries.round(1).tolist())),
    }  # fmt: skip


def _number(value: float, digits: int = 1) -> float | None:
    return None if np.isnan(value) else round(float(value), digits)
