"""The explorer in a notebook: a stage that draws pictures and a map and hears keys and clicks, and the controls above it."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import anywidget
import ipywidgets as w
import numpy as np
import traitlets
from PIL import Image

from vpr_lib.data.images import ImageError
from vpr_lib.widgets.explorer import DISTANCES, FILTERS, Explorer, match_tile, query_tile
from vpr_lib.widgets.live import Live
from vpr_lib.widgets.thumbnails import heat_overlay, picture_uri, thumbnails

HERE = Path(__file__).parent


class Stage(anywidget.AnyWidget):
    """Draws `view` (see `Explorer.view`) and sends {kind: 'step' | 'point', value} for keys and clicks on the map."""

    _esm = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("explorer.js", "stage.js"))
    _css = (HERE / "explorer.css").read_text(encoding="utf-8")
    view = traitlets.Dict({"rows": [], "notes": []}).tag(sync=True)


class Browser:
    """The explorer of one or more data sets, with the state of what is shown.

    Args:
        explorers: by data set.
        live: by data set, networks for attention and own images; without one, both controls only say so.
        models: one or two, shown at first.
    """

    def __init__(
        self,
        explorers: Mapping[str, Explorer],
        live: Mapping[str, Live] | None = None,
        models: Sequence[str] = (),
        columns: int = 5,
    ):
        self.explorers, self.live, self.columns = dict(explorers), dict(live or {}), columns
        self._preferred = [*models, *[None] * 2][:2]
        self.dataset = w.Dropdown(options=list(self.explorers), description="data set")
        self.first, self.second = w.Dropdown(description="model"), w.Dropdown(description="against")
        self.show = w.Dropdown(options=list(FILTERS), description="show")
        self.condition = w.Dropdown(description="condition")
        self.distance = w.Dropdown(options=list(DISTANCES), description="first match")
        self.place = w.IntSlider(description="query", min=0, max=0, readout=False, continuous_update=True)
        self.back, self.on = w.Button(description="◀ previous"), w.Button(description="next ▶")
        self.look = w.Button(
            description="attention", tooltip="compute and show where the query resembles its first match"
        )
        self.upload = w.FileUpload(accept="image/*", description="own image")
        self.told, self.stage = w.HTML(), Stage()
        self.chosen, self.looking, self.point, self.own = np.array([], int), False, None, None
        self._quiet = False
        for control in (self.first, self.second, self.show, self.condition, self.distance):
            control.observe(self._choose, "value")
        self.dataset.observe(self._open, "value")
        self.place.observe(self._move, "value")
        self.back.on_click(lambda _: self.step(-1))
        self.on.on_click(lambda _: self.step(1))
        self.look.on_click(self._look)
        self.upload.observe(self._drop, "value")
        self.stage.on_msg(self._hear)
        self._open()

    @property
    def widget(self) -> w.Widget:
        rows = [[self.dataset, self.first, self.second], [self.show, self.condition, self.distance],
                [self.back, self.on, self.place, self.look, self.upload]]  # fmt: skip
        wrap = w.Layout(flex_flow="row wrap")
        return w.VBox([*(w.HBox(row, layout=wrap) for row in rows), self.told, self.stage])

    @property
    def explorer(self) -> Explorer:
        return self.explorers[self.dataset.value]

    @property
    def models(self) -> list[str]:
        """The one or two that are compared."""
        return list(dict.fromkeys([self.first.value] + ([self.second.value] if self.second.value != "none" else [])))

    @property
    def query(self) -> int | None:
        return int(self.chosen[self.place.value]) if len(self.chosen) else None

    def step(self, by: int) -> None:
        """To the next or an earlier query; after the last comes the first."""
        if len(self.chosen):
            self.place.value = (self.place.value + by) % len(self.chosen)

    def _open(self, *_: object) -> None:
        models, words = self.explorer.models, sorted(set().union(*self.explorer.conditions))
        self._quiet = True
        first, second = (name if name in models else None for name in self._preferred)
        self.first.options, self.second.options, self.condition.options = models, ["none", *models], ["any", *words]
        self.first.value, self.second.value, self.condition.value = first or models[0], second or "none", "any"
        self._quiet = False
        self._choose()

    def _choose(self, *_: object) -> None:
        if self._quiet:
            return
        other = self.second.value if len(self.models) > 1 else None
        show = self.show.value if other or not self.show.value.startswith("only") else "all"
        word = "" if self.condition.value == "any" else self.condition.value
        self.chosen = self.explorer.select(show, self.first.value, other, word, DISTANCES[self.distance.value])
        self._quiet = True
        self.place.max, self.place.value = max(0, len(self.chosen) - 1), 0
        self._quiet = False
        self._move()

    def _move(self, *_: object) -> None:
        if not self._quiet:
            self.point, self.own = None, None
            self.draw()

    def draw(self) -> None:
        """Show what is chosen; only maps that were computed before are laid over the pictures."""
        total = f"{len(self.chosen):,} of {len(self.explorer.benchmark.queries):,} queries"
        self.told.value = (
            f"{self.place.value + 1:,} of {total}" if len(self.chosen) else f"{total}: choose another filter"
        )
        if self.query is None and self.own is None:
            self.stage.view = {"rows": [], "notes": []}
        elif self.own is not None:
            self.stage.view = self._own_view(*self.own)
        else:
            self.stage.view = self.explorer.view(self.query, self.models, self.columns, self._kept(), self.point)

    def _hear(self, _: object, message: dict, __: object) -> None:
        if message.get("kind") == "step":
            self.step(int(np.sign(message["value"])))
        elif message.get("kind") == "point":
            self.point = tuple(float(metres) for metres in message["value"])
            self.draw()

    def _pairs(self) -> list[tuple[str, int, int]]:
        return [(model, self.query, int(self.explorer.answers[model].top[self.query, 0])) for model in self.models]

    def _kept(self) -> dict[str, tuple[str, str]]:
        live = self.live.get(self.dataset.value)
        if not self.looking or live is None:
            return {}
        kept = {pair[0]: live.kept(*pair) for pair in self._pairs()}
        return {model: tuple(heat_overlay(heat) for heat in maps) for model, maps in kept.items() if maps is not None}

    def _look(self, _: object) -> None:
        """Compute the maps of the shown query, or hide them when they are there."""
        if self.query is None:
            return
        self.point, self.own = None, None
        if self.looking and len(self._kept()) == len(self.models):
            self.looking = False
            return self.draw()
        self.looking, problems = True, []
        live = self.live.get(self.dataset.value)
        for pair in self._pairs():
            try:
                if live is None:
                    raise ValueError("No network is at hand for this data set.")
                live.attention(*pair)
            except (ValueError, OSError) as error:
                problems.append(str(error))
        self.draw()
        self._note(problems)

    def _drop(self, change: dict) -> None:
        """Describe an uploaded image with the first model and show the nearest views."""
        if not change["new"]:
            return
        file, live = change["new"][-1], self.live.get(self.dataset.value)
        name, content = file["name"], bytes(file["content"])
        try:
            if live is None:
                raise ValueError("No network is at hand for this data set.")
            ranking = live.matches(self.first.value, name, content, self.columns)
            self.point, self.own = None, (name, _thumbnail_of(content), ranking.indices[0], ranking.scores[0])
            self.draw()
        except (ImageError, ValueError, OSError) as error:
            self._note([str(error)])

    def _own_view(self, name: str, source: str, rows: np.ndarray, scores: np.ndarray) -> dict:
        explorer, model = self.explorer, self.first.value
        pictures = thumbnails([explorer.path("database", row) for row in rows])
        tiles = [
            match_tile(picture, model, rank, score, np.nan, None)
            for rank, (picture, score) in enumerate(zip(pictures, scores))
        ]
        view = {
            "rows": [
                {"title": name, "tiles": [query_tile(source, name)]},
                {"title": f"nearest views, {model}", "tiles": tiles},
            ],
            "notes": [],
        }
        if explorer.has_map:
            view["map"] = explorer.map([(int(row), None) for row in rows], point=self.point)
            if self.point is not None:
                view["near"] = explorer.near(self.point, self.columns)
            far = np.hypot(*(explorer.places["database"][rows] - explorer.places["database"][rows[0]]).T).max()
            east, north = explorer.places["database"][rows[0]]
            view["notes"].append(
                f"Its place, if the first view is right: {east:,.0f} m east, {north:,.0f} m north of the corner; the {len(rows)} views lie "
                f"within {far:,.0f} m of the first. An image from elsewhere has nearest views, too: {scores[0]:.2f} is a similarity, no proof."
            )  # fmt: skip
        return view

    def _note(self, problems: list[str]) -> None:
        if problems:
            self.stage.view = {**self.stage.view, "notes": [*self.stage.view["notes"], *dict.fromkeys(problems)]}


def _thumbnail_of(content: bytes) -> str:
    with Image.open(io.BytesIO(content)) as image:
        return picture_uri(image)
