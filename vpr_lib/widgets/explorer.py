"""The retrieval explorer: step through queries, compare two models, in JupyterLab and as a static page. No inference here."""

import html
import io
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.paths import write_text

if TYPE_CHECKING:
    import ipywidgets

NEAR_MISS = 2.0  # a wrong first match within this many radii is a near miss
FILTERS = ("all", "wrong", "found", "only first finds", "only second finds", "near misses")
TEMPLATE = Path(__file__).parent / "explorer.html"


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
        records: as `results.records` keeps them; those of other data sets or protocols are passed over.
    Raises:
        ValueError: when there are no records of this benchmark under its default protocol.
    """

    def __init__(self, benchmark: Benchmark, records: pd.DataFrame):
        self.benchmark = benchmark
        card = benchmark.protocol.card
        own = (
            records[(records["dataset"] == benchmark.name) & (records["card"] == card.hash)]
            if len(records)
            else records
        )
        self.answers: dict[str, Answers] = {}
        for (model, _), rows in own.groupby(["model", "seed"], sort=False) if len(own) else ():
            if len(rows) == len(benchmark.queries):
                self.answers.setdefault(model, _answers(model, rows.sort_values("query")))
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
        self, show: str, first: str, second: str | None = None, condition: str = "", within_m: float | None = None
    ) -> np.ndarray:
        """Rows of the queries that a filter leaves, int (n,).

        Args:
            show: one of FILTERS; those about a second model need one (ValueError).
            condition: a word the query carries; '' for any.
            within_m: only queries whose first match of the first model lies this near.
        """
        if show not in FILTERS:
            raise ValueError(f"Unknown filter '{show}'. Known: {', '.join(FILTERS)}.")
        ours = self.answers[first]
        found = ours.first_hit == 1
        if show.startswith("only") and second is None:
            raise ValueError(f"'{show}' compares two models: choose a second one.")
        other = self.answers[second].first_hit == 1 if second else found
        kept = {"all": np.ones(len(found), bool), "wrong": ~found, "found": found, "only first finds": found & ~other,
                "only second finds": other & ~found, "near misses": self._near_miss(ours)}[show]  # fmt: skip
        if condition:
            kept = kept & np.array([condition in words for words in self.conditions])
        if within_m is not None:
            kept = kept & (ours.metres[:, 0] <= within_m)
        return np.flatnonzero(kept)

    def _near_miss(self, ours: Answers) -> np.ndarray:
        if self.radius_m is None:
            return (ours.first_hit > 1) & (ours.first_hit <= 5)
        return (ours.first_hit != 1) & (ours.metres[:, 0] <= NEAR_MISS * self.radius_m)

    def nearest_views(self, east: float, north: float, count: int = 5) -> np.ndarray:
        """Database rows nearest to a point on the map, metres, best first."""
        offsets = self.benchmark.database.positions() - (east, north)
        return np.argsort((offsets**2).sum(axis=1), kind="stable")[:count]

    def page(self, path: Path, first: str, second: str | None = None, limit: int = 120, columns: int = 5) -> Path:
        """Write the static twin: one HTML file with up to `limit` queries, pictures inside, no kernel and no network.

        Queries on which the two models differ come first, then the wrong ones, then the others, evenly spread.
        """
        chosen = self._worth_showing(first, second, limit)
        answers = [self.answers[name] for name in (first, second) if name]
        rows = np.unique(np.concatenate([answer.top[chosen, :columns].ravel() for answer in answers]))
        rows = rows[rows >= 0]
        data = {
            "title": f"{self.benchmark.name}: {' against '.join(answer.model for answer in answers)}",
            "about": f"{len(chosen)} of {len(self.benchmark.queries):,} queries, {self.benchmark.protocol.card.rule_in_words()}",
            "models": [answer.model for answer in answers], "filters": FILTERS if second else [f for f in FILTERS if "only" not in f],
            "conditions": sorted(set().union(*self.conditions)), "map": self._map(rows, chosen),
            "pictures": {**{f"d{row}": thumbnail(self._path("database", row)) for row in rows},
                         **{f"q{row}": thumbnail(self._path("queries", row)) for row in chosen}},
            "queries": [self._entry(int(query), answers, columns) for query in chosen],
        }  # fmt: skip
        kept = {show: set(self.select(show, first, second).tolist()) for show in data["filters"]}
        for entry in data["queries"]:
            entry["filters"] = [show for show, queries in kept.items() if entry["query"] in queries]
        text = json.dumps(data).replace("</", "<\\/")
        page = TEMPLATE.read_text(encoding="utf-8")
        write_text(Path(path), page.replace("/*DATA*/", text).replace("<!--TITLE-->", html.escape(data["title"])))
        return Path(path)

    def _worth_showing(self, first: str, second: str | None, limit: int) -> np.ndarray:
        hit = self.answers[first].first_hit == 1
        other = self.answers[second].first_hit == 1 if second else hit
        order = np.argsort(np.where(hit != other, 0, np.where(~hit, 1, 2)), kind="stable")
        differing = order[: min(int((hit != other).sum()), limit * 2 // 3)]
        rest = order[len(differing) :]
        spread = (
            rest[np.unique(np.linspace(0, len(rest) - 1, max(0, limit - len(differing))).astype(int))]
            if len(rest)
            else rest
        )
        return np.sort(np.concatenate([differing, spread]))

    def _entry(self, query: int, answers: Sequence[Answers], columns: int) -> dict:
        return {
            "query": query, "conditions": sorted(self.conditions[query]),
            "answers": [
                [
                    {"row": int(answer.top[query, rank]), "score": round(float(answer.score[query, rank]), 3),
                     "metres": _number(answer.metres[query, rank]), "correct": bool(answer.correct[query, rank])}
                    for rank in range(min(columns, answer.top.shape[1])) if answer.top[query, rank] >= 0
                ]
                for answer in answers
            ],
        }  # fmt: skip

    def _map(self, rows: np.ndarray, chosen: np.ndarray) -> dict | None:
        """Positions in metres from the south-west corner, with rows of the database; None without positions."""
        database, queries = self.benchmark.database, self.benchmark.queries
        if not (database.has_positions and queries.has_positions):
            return None
        corner = database.positions().min(axis=0)
        return {
            "database": {int(row): (database.positions()[row] - corner).round(1).tolist() for row in rows},
            "queries": {int(row): (queries.positions()[row] - corner).round(1).tolist() for row in chosen},
        }

    def _path(self, side: str, row: int) -> str:
        manifest = getattr(self.benchmark, side)
        return f"{manifest.root}/{manifest.table['image_path'].iloc[row]}"

    def html(self, query: int, models: Sequence[str], columns: int = 5) -> str:
        """One query with the answers of some models as HTML, pictures inside: what the widget shows."""
        head = f"<b>query {query}</b> {' '.join(sorted(self.conditions[query]))}"
        lines = [f'<div class="vpr-query">{_tile(thumbnail(self._path("queries", query)), head, None)}</div>']
        for model in models:
            answer = self.answers[model]
            tiles = "".join(
                _tile(thumbnail(self._path("database", row)), _caption(answer, query, rank), bool(answer.correct[query, rank]))
                for rank, row in enumerate(answer.top[query, :columns]) if row >= 0
            )  # fmt: skip
            lines.append(f'<div><b>{html.escape(model)}</b><div style="display:flex;gap:6px">{tiles}</div></div>')
        return f'<div style="display:flex;flex-direction:column;gap:10px">{"".join(lines)}</div>'

    def widget(self, columns: int = 5) -> "ipywidgets.Widget":
        """The explorer in a notebook: two models, filter, condition, step with the buttons or the slider."""
        import ipywidgets as w

        first = w.Dropdown(options=self.models, description="model")
        second = w.Dropdown(options=["none", *self.models], description="against", value="none")
        show = w.Dropdown(options=list(FILTERS), description="show")
        condition = w.Dropdown(options=["any", *sorted(set().union(*self.conditions))], description="condition")
        place = w.IntSlider(description="query", min=0, max=0, continuous_update=False)
        back, on = w.Button(description="◀ previous"), w.Button(description="next ▶")
        told, picture = w.HTML(), w.HTML()
        state: dict[str, np.ndarray] = {}

        def draw(*_: object) -> None:
            chosen = state["chosen"]
            models = [first.value] + ([second.value] if second.value != "none" else [])
            told.value = f"{len(chosen):,} of {len(self.benchmark.queries):,} queries"
            picture.value = self.html(int(chosen[place.value]), models, columns) if len(chosen) else "<i>none</i>"

        def choose(*_: object) -> None:
            other = None if second.value == "none" else second.value
            wanted = show.value if other or not show.value.startswith("only") else "all"
            state["chosen"] = self.select(
                wanted, first.value, other, "" if condition.value == "any" else condition.value
            )
            last, before = max(0, len(state["chosen"]) - 1), place.value
            place.max, place.value = last, 0
            if before == 0:  # otherwise the change of the slider draws
                draw()

        def step(by: int) -> None:
            place.value = int(np.clip(place.value + by, 0, place.max))

        for control in (first, second, show, condition):
            control.observe(choose, "value")
        place.observe(draw, "value")
        back.on_click(lambda _: step(-1))
        on.on_click(lambda _: step(1))
        choose()
        return w.VBox([w.HBox([first, second]), w.HBox([show, condition]), w.HBox([back, on, place, told]), picture])


def _answers(model: str, rows: pd.DataFrame) -> Answers:
    width = min(len(top) for top in rows["top"])
    stacked = {name: np.stack([np.asarray(row)[:width] for row in rows[name]])
               for name in ("top", "top_score", "top_correct", "top_distance_m")}  # fmt: skip
    return Answers(model, rows["first_hit"].to_numpy(), stacked["top"], stacked["top_score"], stacked["top_correct"],
                   stacked["top_distance_m"])  # fmt: skip


@lru_cache(maxsize=2048)
def thumbnail(path: str, height: int = 110) -> str:
    """A JPEG data URI of an image, `height` pixels high; an unreadable one gives an empty picture."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (3 * height, height))  # decode at reduced size
            image = image.convert("RGB")
            image.thumbnail((3 * height, height))
    except OSError:
        image = Image.new("RGB", (height, height), "#777777")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=78)
    return "data:image/jpeg;base64," + b64encode(buffer.getvalue()).decode()


def _caption(answer: Answers, query: int, rank: int) -> str:
    metres = _number(answer.metres[query, rank])
    where = "" if metres is None else f", {metres:,.0f} m"
    return f"{'✓' if answer.correct[query, rank] else '✗'} {answer.score[query, rank]:.2f}{where}"


def _tile(uri: str, caption: str, correct: bool | None) -> str:
    border = {True: "4px solid #009E73", False: "4px dashed #D55E00", None: "4px solid #555"}[correct]
    return f'<figure style="margin:0"><img src="{uri}" style="border:{border}" alt=""><figcaption>{caption}</figcaption></figure>'


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 1)
