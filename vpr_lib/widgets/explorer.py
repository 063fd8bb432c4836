"""What the explorer shows: answers of models on one benchmark, filters, and one query as a view. No inference here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.results.precision import precision_recall
from vpr_lib.widgets.thumbnails import thumbnails

NEAR_MISS = 2.0  # a wrong first match within this many radii is a near miss
FILTERS = ("all", "wrong", "found", "only first finds", "only second finds", "near misses", "sure but wrong")
SURE = 0.95  # precision of the matches that are at least as similar as those called sure
DISTANCES: dict[str, tuple[float, float] | None] = {  # of the first match, metres: from, below
    "any distance": None, "within 10 m": (0, 10), "10 to 25 m": (10, 25), "25 to 50 m": (25, 50), "50 to 100 m": (50, 100),
    "beyond 100 m": (100, np.inf),
}  # fmt: skip
MOST_DOTS = 3000  # positions drawn on a map; more would only cost time
MAP_WORDS = "◆ the query, ● correct and ■ wrong matches of the first model, ○ views like an own image, + the chosen point. North is up."


@dataclass(frozen=True)
class Answers:
    """What one model answered: one row per query, in the order of the benchmark's queries."""

    model: str
    first_hit: np.ndarray  # rank of the first positive, 0 for none, (Q,)
    top: np.ndarray  # database rows, best first, (Q, R)
    score: np.ndarray  # similarity, (Q, R)
    correct: np.ndarray  # bool (Q, R)
    metres: np.ndarray  # distance to the query, NaN when unknown, (Q, R)


class Explorer:
    """Answers of one or more models on one benchmark, with the questions one asks of them.

    Args:
        records: as `results.records` keeps them; those of other data sets or protocols are passed over. A model that was
            trained under several seeds is there once for each.
    Raises:
        ValueError: when there are no records of this benchmark under its default protocol.
    """

    def __init__(self, benchmark: Benchmark, records: pd.DataFrame):
        self.benchmark = benchmark
        card = benchmark.protocol.card
        own = records
        if len(records):
            images = records["images"] if "images" in records else pd.Series("", records.index)
            cards = images.map({one: card.model_copy(update={"images_hash": one}).hash for one in images.unique()})
            own = records[(records["dataset"] == benchmark.name) & (records["card"] == cards)]
        self.answers: dict[str, Answers] = {}
        for model, runs in own.groupby("model", sort=False) if len(own) else ():
            for seed, rows in runs.groupby("seed"):
                if len(rows) == len(benchmark.queries):
                    name = model if runs["seed"].nunique() == 1 else f"{model}, seed {seed}"
                    self.answers[name] = _answers(name, rows.sort_values("query"))
        if not self.answers:
            raise ValueError(
                f"No records of '{benchmark.name}' under '{card.name}': run a notebook that measures it first."
            )
        table = benchmark.queries.table
        words = table["conditions"] if "conditions" in table else [[]] * len(table)
        self.conditions = [set(own or ()) for own in words]
        self.radius_m = card.threshold if card.rule == "radius_m" else None

    @property
    def models(self) -> list[str]:
        return list(self.answers)

    def select(
        self,
        show: str,
        first: str,
        second: str | None = None,
        condition: str = "",
        metres: tuple[float, float] | None = None,
    ) -> np.ndarray:
        """Rows of the queries that a filter leaves, int (n,).

        Args:
            show: one of FILTERS; those about a second model need one (ValueError).
            condition: a word the query carries; '' for any.
            metres: only queries whose first match of the first model lies at least so far and less than so far away.
        """
        if show not in FILTERS:
            raise ValueError(f"Unknown filter '{show}'. Known: {', '.join(FILTERS)}.")
        ours = self.answers[first]
        found = ours.first_hit == 1
        if show.startswith("only") and second is None:
            raise ValueError(f"'{show}' compares two models: choose a second one.")
        other = self.answers[second].first_hit == 1 if second else found
        kept = {"all": np.ones(len(found), bool), "wrong": ~found, "found": found, "only first finds": found & ~other,
                "only second finds": other & ~found, "near misses": self.near_miss(first),
                "sure but wrong": self.sure_but_wrong(first)}[show]  # fmt: skip
        if condition:
            kept = kept & self._carries[condition]
        if metres is not None:
            far = np.nan_to_num(ours.metres[:, 0], nan=np.inf)
            kept = kept & (far >= metres[0]) & (far < metres[1])
        return np.flatnonzero(kept)

    @cached_property
    def _carries(self) -> dict[str, np.ndarray]:
        """Which queries carry a condition word, bool (Q,) by word."""
        return {word: np.array([word in words for words in self.conditions]) for word in set().union(*self.conditions)}

    def near_miss(self, model: str) -> np.ndarray:
        """Wrong first matches within NEAR_MISS radii, bool (Q,); found by the fifth where the protocol has no radius."""
        ours = self.answers[model]
        if self.radius_m is None:
            return (ours.first_hit > 1) & (ours.first_hit <= 5)
        return (ours.first_hit != 1) & (ours.metres[:, 0] <= NEAR_MISS * self.radius_m)

    def sure_but_wrong(self, model: str) -> np.ndarray:
        """Wrong first matches as similar as those of which `SURE` are right, bool (Q,): no threshold would have refused them.

        None where no similarity reaches that precision, or none is recorded (after panorama suppression).
        """
        best, right = self.answers[model].score[:, 0], self.answers[model].first_hit == 1
        if not np.isfinite(best).all():
            return np.zeros(len(best), bool)
        return ~right & (best >= precision_recall(best, right, np.ones(len(best), bool)).threshold_for(SURE))

    @property
    def has_map(self) -> bool:
        return self.benchmark.database.has_positions and self.benchmark.queries.has_positions

    @cached_property
    def places(self) -> dict[str, np.ndarray]:
        """Of `queries` and `database`: metres east and north of the south-west corner of both, (N, 2)."""
        sides = {side: getattr(self.benchmark, side).positions() for side in ("queries", "database")}
        corner = np.concatenate(list(sides.values())).min(axis=0)
        return {side: positions - corner for side, positions in sides.items()}

    def nearest_views(self, east: float, north: float, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Database rows nearest to a point of the map (see `places`), best first, and how far they are in metres."""
        metres = np.hypot(*(self.places["database"] - (east, north)).T)
        rows = np.argsort(metres, kind="stable")[:count]
        return rows, metres[rows]

    def path(self, side: str, row: int) -> str:
        """The picture of a row of `queries` or `database`."""
        return self._paths[side][row]

    @cached_property
    def _paths(self) -> dict[str, list[str]]:
        return {side: getattr(self.benchmark, side).image_paths() for side in ("queries", "database")}

    def view(
        self,
        query: int,
        models: Sequence[str],
        columns: int = 5,
        attention: Mapping[str, tuple[str, str]] | None = None,
        point: tuple[float, float] | None = None,
    ) -> dict:
        """One query with the answers of some models, as the drawing code takes it, pictures inside.

        Args:
            attention: per model two overlays (data URIs): on the query, and on the first match.
            point: metres as in `places`; the nearest views to it are shown, too.
        """
        attention, rows = attention or {}, {}
        for model in models:
            answer = self.answers[model]
            rows[model] = [(int(row), rank) for rank, row in enumerate(answer.top[query, :columns]) if row >= 0]
        wanted = list(dict.fromkeys(row for tiles in rows.values() for row, _ in tiles))
        own, *pictures = thumbnails([self.path("queries", query)] + [self.path("database", row) for row in wanted])
        source = dict(zip(wanted, pictures))
        shown = [
            {
                "title": f"query {query} {' '.join(sorted(self.conditions[query]))}",
                "tiles": [query_tile(own, f"query {query}")],
            }
        ]
        for model, tiles in rows.items():
            answer, over = self.answers[model], attention.get(model)
            line = (
                [query_tile(own, f"query {query}", "where the query resembles the first match", over[0])]
                if over
                else []
            )
            for row, rank in tiles:
                values = answer.score[query, rank], answer.metres[query, rank], bool(answer.correct[query, rank])
                line.append(match_tile(source[row], model, rank, *values, over=over[1] if over and rank == 0 else None))
            shown.append({"title": model, "tiles": line})
        view = {"rows": shown, "notes": []}
        if self.has_map:
            first = self.answers[models[0]]
            matches = [(row, bool(first.correct[query, rank])) for row, rank in rows[models[0]]]
            view["map"] = self.map(matches, self.places["queries"][query], point)
            if point is not None:
                view["near"] = self.near(point, columns)
        return view

    def near(self, point: tuple[float, float], columns: int = 5) -> dict:
        """The views nearest to a point of the map, as a row of a view."""
        rows, metres = self.nearest_views(*point, columns)
        pictures = thumbnails([self.path("database", row) for row in rows])
        tiles = [
            {"src": picture, "kind": "", "alt": f"view {row}", "caption": f"{far:.0f} m"}
            for row, far, picture in zip(rows, metres, pictures)
        ]
        return {"title": "nearest views to the point", "tiles": tiles}

    def map(
        self,
        matches: Sequence[tuple[int, bool | None]],
        query: np.ndarray | None = None,
        point: tuple[float, float] | None = None,
    ) -> dict:
        """The map of a view, metres as in `places`: some of the database, a query, matches (row, correct or unknown), a point."""
        place = lambda row: self.places["database"][row].round(1).tolist()
        return {
            **self._ground, "query": None if query is None else np.round(query, 1).tolist(), "point": point,
            "matches": [{"at": place(row), "correct": correct} for row, correct in matches],
        }  # fmt: skip

    @cached_property
    def _ground(self) -> dict:
        """What all maps share: their size and the evenly chosen dots of the database."""
        database = self.places["database"]
        size = np.concatenate(list(self.places.values())).max(axis=0)
        return {"size": size.round(1).tolist(), "words": MAP_WORDS, "dots": some(database).round(1).tolist()}


def some(rows: np.ndarray, most: int = MOST_DOTS) -> np.ndarray:
    """At most so many rows, evenly chosen."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]


def _answers(model: str, rows: pd.DataFrame) -> Answers:
    width = min(len(top) for top in rows["top"])
    stacked = {name: np.stack([np.asarray(row)[:width] for row in rows[name]])
               for name in ("top", "top_score", "top_correct", "top_distance_m")}  # fmt: skip
    return Answers(model, rows["first_hit"].to_numpy(), stacked["top"], stacked["top_score"], stacked["top_correct"],
                   stacked["top_distance_m"])  # fmt: skip


def query_tile(source: str, name: str, caption: str = "", over: str | None = None) -> dict:
    """The tile of a query; `over` is an overlay to lay on the picture."""
    return {"src": source, "kind": "query", "alt": name, "caption": caption, "over": over}


def match_tile(
    source: str, model: str, rank: int, score: float, metres: float, correct: bool | None, over: str | None = None
) -> dict:
    """The tile of a match; `rank` counts from 0, NaN scores (after suppression) and metres are left out, as is a verdict of None."""
    word, sign = {True: ("right", "✓ correct\n"), False: ("wrong", "✗ wrong\n"), None: ("", "")}[correct]
    known = [f"{score:.2f}"] * (not np.isnan(score)) + [f"{metres:,.0f} m"] * (not np.isnan(metres))
    spoken = sign.strip("✓✗ \n")
    return {"src": source, "kind": word, "caption": f"{sign}{', '.join(known)}", "over": over,
            "alt": f"match {rank + 1} of {model}{', ' + spoken if spoken else ''}"}  # fmt: skip
