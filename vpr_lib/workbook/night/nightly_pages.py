"""A night for its readers: `nightly.md` for a message, `junit.xml` for a CI server, `nightly.html` for the morning."""

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vpr_lib import paths
from vpr_lib.workbook.night.night import Comparison, Night, RecallChange
from vpr_lib.workbook.run.status import GREENS, RunStatus, Status

if TYPE_CHECKING:
    from PIL import Image


SIGNS = {"regressed": "▼", "improved": "▲", "within noise": "≈", "same": "="}
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_EVALUATIONS, _STRIPS, _FIGURES = 4, 6, 6  # shown with pictures


@dataclass(frozen=True)
class Strip:
    """A flipped query as a picture: the query, its first match in the last green night, and tonight's."""

    change: RecallChange
    query: int
    lost: bool
    address: str

    @property
    def alt(self) -> str:
        was, now = ("right", "wrong") if self.lost else ("wrong", "right")
        return f"Query {self.query} of {self.change.dataset}: first match {was} before, {now} tonight."


@dataclass(frozen=True)
class Pair:
    """A figure before and after."""

    name: str
    before: str
    after: str


def write_pages(folder: Path, night: Night, status: RunStatus) -> None:
    """Write the three files into the run folder, each atomically."""
    from vpr_lib.workbook.report.build import render_page

    shared = {"night": night, "run": status, "signs": SIGNS}
    paths.write_text(folder / "nightly.md", render_page("nightly.md.j2", **shared).strip() + "\n")
    paths.write_text(folder / "junit.xml", junit(night, status))
    strips, note = flip_strips(folder, night.comparison) if night.comparison else ([], "")
    pairs = figure_pairs(folder, night.comparison) if night.comparison else []
    page = render_page("nightly.html.j2", **shared, strips=strips, note=note, pairs=pairs)
    paths.write_text(folder / "nightly.html", page)


def junit(night: Night, status: RunStatus) -> str:
    """Two suites: the notebooks, and the comparison with one case per evaluation."""
    root = ET.Element("testsuites", name=f"vpr nightly {night.profile}")
    notebooks = ET.SubElement(root, "testsuite", name="notebooks", timestamp=night.started)
    kinds = {failure.notebook: failure.kind for failure in night.failures}
    for line in status.notebooks:
        case = ET.SubElement(
            notebooks, "testcase", classname="notebooks", name=line.name, time=f"{line.seconds or 0:.2f}"
        )
        if line.status in GREENS:
            continue
        if line.status in {Status.SKIPPED, Status.BLOCKED}:
            ET.SubElement(case, "skipped", message=_plain(line.reason))
            continue
        tag = "failure" if kinds.get(line.name) == "check" else "error"
        fault = ET.SubElement(case, tag, type=kinds.get(line.name, str(line.status)))
        fault.set("message", _plain((line.reason.splitlines() or [str(line.status)])[0]))
        fault.text = _plain(line.reason)
    compared = ET.SubElement(root, "testsuite", name="comparison", timestamp=night.started)
    if night.problem:
        case = ET.SubElement(compared, "testcase", classname="comparison", name="night")
        ET.SubElement(case, "error", message=_plain(night.problem))
    if night.comparison:
        for change in night.comparison.recalls:
            case = ET.SubElement(compared, "testcase", classname="recall", name=change.name)
            if change.verdict == "regressed":
                text = f"R@1 {change.before['R@1']:.2f} to {change.after['R@1']:.2f}, lost {change.lost}, "
                text += f"gained {change.gained}, adjusted p {change.p_adjusted:.2g}"
                ET.SubElement(case, "failure", type="regressed", message=text)
        for kind, names in (("gone", night.comparison.gone), ("not comparable", night.comparison.incomparable)):
            for name in names:
                case = ET.SubElement(compared, "testcase", classname="recall", name=_plain(name))
                ET.SubElement(case, "failure", type=kind, message=_plain(name))
    for suite in (notebooks, compared):
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
        suite.set("tests", str(len(suite)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _plain(text: str) -> str:
    """Without the control characters that XML 1.0 cannot hold (a traceback may carry terminal colours)."""
    return _NOT_XML.sub("�", text)


def flip_strips(folder: Path, found: Comparison) -> tuple[list[Strip], str]:
    """Pictures of some flipped queries, the worst evaluations first; and why there are none for some."""
    changed = [change for change in found.recalls if change.flips][:_EVALUATIONS]
    strips, notes = [], []
    for change in changed:
        try:
            strips += _strips_of(change, paths.runs_root() / found.reference, folder)
        except (OSError, ValueError, KeyError, IndexError) as error:
            notes.append(f"No pictures of {change.name}: {error}")
    return strips, " ".join(notes)


def _strips_of(change: RecallChange, before: Path, after: Path) -> list[Strip]:
    from vpr_lib.data.catalogue import open_benchmark
    from vpr_lib.plotting.strips import Tile, draw_strip
    from vpr_lib.workbook.report.build import picture_address

    sides = [_records(run, change).set_index("query") for run in (before, after)]
    if "pair" in sides[0]:
        raise ValueError("pairs of drives have no single picture per query")
    benchmark, strips = open_benchmark(change.dataset), []
    queries, database = benchmark.queries.image_paths(), benchmark.database.image_paths()
    names = benchmark.queries.table["sample_id"].tolist()
    lost = [q for q in change.flips if sides[0].loc[q, "first_hit"] == 1]
    gained = [q for q in change.flips if q not in set(lost)]
    for query in (*_spread(lost, _STRIPS), *_spread(gained, _STRIPS // 2)):
        if names[query] != sides[1].loc[query, "query_id"]:
            raise ValueError(f"the list of queries on disk is not the evaluated one (query {query})")
        tiles = [
            Tile(_open(database[row["top"][0]]), _caption(when, row), bool(row["top_correct"][0]))
            for when, row in zip(("last green night", "tonight"), (side.loc[query] for side in sides))
        ]
        strip = draw_strip(Tile(_open(queries[query]), f"query {query}"), tiles, height=130)
        strips.append(Strip(change, query, query in lost, picture_address(strip, 760)))
    return strips


def _spread(queries: list[int], count: int) -> list[int]:
    """At most `count` of them, evenly spread: neighbours often show the same street."""
    return queries[:: max(1, -(-len(queries) // count))]


def _caption(when: str, row) -> str:
    metres = row["top_distance_m"][0]
    return when if metres != metres else f"{when}\n{metres:.0f} m"  # NaN: no metric positions


def _records(run: Path, change: RecallChange):
    from vpr_lib.results.records import read_record

    folder = run / "records" / change.notebook / change.dataset / change.protocol
    return read_record(folder / f"{change.model}__{change.seed}.parquet")


def _open(path: str) -> "Image.Image":
    from PIL import Image

    with Image.open(path) as picture:
        picture.thumbnail((640, 640))
        return picture.convert("RGB")


def figure_pairs(folder: Path, found: Comparison) -> list[Pair]:
    """The figures that changed most, before and after."""
    from vpr_lib.workbook.report.build import picture_address

    changed = [file for file in found.files if file.kind in {"size", "pixels"}]
    changed.sort(key=lambda file: -(file.mean_difference if file.mean_difference is not None else 256))
    pairs = []
    for file in changed[:_FIGURES]:
        sides = [run / "figures" / Path(file.name).name for run in (paths.runs_root() / found.reference, folder)]
        pairs.append(Pair(file.name, *(picture_address(_open(side), 520) for side in sides)))
    return pairs
