"""The report of a run: a folder of self-contained HTML pages that can be mailed, opened offline, and shown in a talk."""

import csv
import html
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpr_lib import paths
from vpr_lib.workbook.book.sentinel import (
    Checked,
    CheckResult,
    FindingResult,
    Output,
    Sentinel,
    read_checked,
    read_sentinel,
)
from vpr_lib.workbook.book.show import SIGNS
from vpr_lib.workbook.report.pages import TEMPLATES, Body, render_notebook
from vpr_lib.workbook.run.plan import Entry, UsageError, load_workbook
from vpr_lib.workbook.run.status import GREENS, SYMBOLS, NotebookStatus, RunStatus, Status, find_run, read_status
from vpr_lib.workbook.run.terminal import brief, duration

if TYPE_CHECKING:
    from PIL import Image

_BENCH_FIELDS = {"what", "size", "peers", "ours", "peers_s", "ours_s", "ratio", "ratio_low", "ratio_high", "repeats",
                 "target", "reached", "parity", "bound", "gflop_per_s", "rate", "share"}  # fmt: skip
_THUMBNAIL = 1100  # pixels wide; a column of the report is at most half of that, on a screen of twice the density


@dataclass(frozen=True)
class Chapter:
    """One notebook as the report shows it."""

    line: NotebookStatus
    entry: Entry | None
    sentinel: Sentinel | None
    checked: Checked
    body: Body | None

    @property
    def number(self) -> str:
        return self.line.name.partition("_")[0]

    @property
    def title(self) -> str:
        return self.line.title or self.line.name

    @property
    def page(self) -> str | None:
        return f"{self.line.name}.html" if self.body else None

    @property
    def held(self) -> int:
        """How many checks hold."""
        return sum(check.holds for check in self.checked.checks)

    @property
    def highlights(self) -> list[Output]:
        """The outputs that open the report, in the order of workbook.yaml, as far as they are there unchanged."""
        made = {output.name: output for output in self.sentinel.outputs} if self.sentinel else {}
        wanted = self.entry.highlights if self.entry else ()
        return [made[name] for name in wanted if name in made and not made[name].fault()]

    @property
    def attachments(self) -> list[Output]:
        """Self-contained pages the notebook wrote beside its figures, unchanged since."""
        made = self.sentinel.outputs if self.sentinel else ()
        return [
            output for output in made if output.name.endswith(".html") and "/" not in output.name and not output.fault()
        ]


def build_report(run: str | Path = "latest") -> Path:
    """Write `runs/<run_id>/report/`: an index and one page per executed notebook; returns the path of the index.

    Raises:
        FileNotFoundError: if there is no such run.
    """
    folder, status = find_run(run), read_status(run)
    chapters = _chapters(folder, status)
    environment = (
        json.loads((folder / "env.json").read_text(encoding="utf-8")) if (folder / "env.json").is_file() else {}
    )
    building, night = folder / ".report", folder / "nightly.html"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    shared = {"run": status, "chapters": chapters}
    shown = [chapter for chapter in chapters if chapter.body]
    for before, chapter, after in zip([None, *shown], shown, [*shown[1:], None]):
        page = render_page("page.html.j2", **shared, chapter=chapter, before=before, after=after)
        (building / chapter.page).write_text(page, encoding="utf-8")
        for output in chapter.attachments:
            shutil.copyfile(paths.project_root() / output.path, building / output.name)
    index = render_page(
        "index.html.j2",
        **shared,
        **_summary(status, chapters),
        environment=environment,
        night=night.is_file(),
        bench=_bench(),
    )
    (building / "index.html").write_text(index, encoding="utf-8")
    if night.is_file():
        (building / "nightly.html").write_text(night.read_text("utf-8").replace('"report/index', '"index'), "utf-8")
    shutil.rmtree(folder / "report", ignore_errors=True)
    building.rename(folder / "report")
    return folder / "report" / "index.html"


def _chapters(folder: Path, status: RunStatus) -> list[Chapter]:
    try:
        entries = {entry.name: entry for entry in load_workbook().notebooks}
    except UsageError:  # an old run of a workbook that has changed since
        entries = {}
    pages = {line.name for line in status.notebooks if (folder / f"{line.name}.ipynb").is_file()}
    return [_chapter(folder, line, entries.get(line.name), pages) for line in status.notebooks]


def _chapter(folder: Path, line: NotebookStatus, entry: Entry | None, pages: set[str]) -> Chapter:
    body = None
    if line.name in pages:
        try:
            body = render_notebook(folder / f"{line.name}.ipynb", pages)
        except ValueError as error:
            note = f"<p>The executed notebook cannot be read: {html.escape(str(error))}</p>"
            body = Body(note, line.title, ())
    green = line.status in GREENS
    try:
        sentinel, checked = read_sentinel(folder, line.name) if green else None, read_checked(folder, line.name)
    except ValueError:
        sentinel, checked = None, Checked()
    return Chapter(line, entry, sentinel, checked, body)


def _summary(status: RunStatus, chapters: Sequence[Chapter]) -> dict[str, Any]:
    """The numbers at the top of the index."""
    selected = [chapter for chapter in chapters if chapter.line.status != Status.SKIPPED]
    green = [chapter for chapter in selected if chapter.line.status in GREENS]
    checks = [check for chapter in chapters for check in chapter.checked.checks if not check.skipped]
    return {
        "selected": len(selected),
        "green": len(green),
        "checks": len(checks),
        "held": sum(check.holds for check in checks),
        "verdicts": verdicts([found for chapter in chapters for found in chapter.checked.findings]),
        "seconds": sum(chapter.line.seconds or 0 for chapter in chapters if chapter.line.status in GREENS),
        "state": status.state,
    }


def _bench() -> dict[str, Any] | None:
    """What `vpr bench` measured last here; None where it has not been run, or by a version that wrote other fields."""
    try:
        rows = json.loads(paths.bench_file().read_text(encoding="utf-8"))
        known = {name: row for name, row in rows["rows"].items() if "skipped" in row or row.keys() >= _BENCH_FIELDS}
        return {
            "machine": {key: rows["machine"][key] for key in ("cpu", "threads", "gpu", "matrix_rates")},
            "rows": known,
        }
    except (OSError, ValueError, KeyError):
        return None


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES / "site"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "gigabytes": _gigabytes, "when": _when, "seconds": brief}
    environment.globals |= {
        "symbols": SYMBOLS,
        "greens": GREENS,
        "thumbnail": thumbnail,
        "rows": table_rows,
        "gauge": gauge,
        "whisker": whisker,
        "verdicts": verdicts,
        "signs": SIGNS,
    }
    return environment


def render_page(template: str, **values: Any) -> str:
    """A self-contained page in the report's style."""
    return _environment().get_template(template).render(css=_css(), **values)


def _gigabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 2**30:.1f} GB"


def _when(stamp: str) -> str:
    return stamp[:16].replace("T", " ") + " UTC"


@cache
def _css() -> str:
    """Our style and Pygments' colours for code in both schemes."""
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="xcode").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    style = (TEMPLATES / "site" / "style.css").read_text(encoding="utf-8")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{style}"


def thumbnail(output: Output) -> str:
    """A picture as a data URI, at most 1100 pixels wide; empty if the file is not a picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(output.file) as picture:
            return picture_address(picture, _THUMBNAIL)
    except (UnidentifiedImageError, OSError):
        return ""


def picture_address(picture: "Image.Image", width: int) -> str:
    """A pillow image as a data URI of the report, at most `width` pixels wide, on white."""
    from vpr_lib.widgets.thumbnails import data_uri

    return data_uri(picture, (width, 2 * width), "WEBP", quality=90)


def table_rows(output: Output) -> list[list[tuple[str, bool]]]:
    """A saved CSV table as rows of (text, is a number), the heading first.

    A column of numbers gets as many decimals as its longest has, at most three.
    """
    with output.file.open(newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    columns = [_column(list(column)) for column in zip(*rows)] or [([], False)] * len(head)
    heading = [(text, right) for text, (_, right) in zip(head, columns)]
    return [heading, *zip(*([(text, right) for text in texts] for texts, right in columns))]


def _column(texts: list[str]) -> tuple[list[str], bool]:
    try:
        numbers = [float(text) if text else None for text in texts]
    except ValueError:
        numbers = []
    if not any(number is not None for number in numbers):
        return [text or "–" for text in texts], False
    digits = min(3, max(len(text.partition(".")[2]) for text in texts))
    return ["–" if number is None else f"{number:.{digits}f}" for number in numbers], True


def verdicts(findings: Sequence[FindingResult]) -> dict[str, int]:
    """How many findings have each verdict, in a fixed order, those that occur."""
    counted = {verdict: sum(found.verdict == verdict for found in findings) for verdict in SIGNS}
    return {verdict: count for verdict, count in counted.items() if count}


def whisker(found: FindingResult) -> dict[str, float] | None:
    """Where to draw a finding's interval, value and bound on a scale from 0 to 100; None if there is nothing to draw."""
    known = [found.low, found.high, found.bound]
    if not all(abs(value) < 1e12 for value in known):  # NaN is not
        return None
    at = _scale(known, 0.12)
    return _band(at(found.low), at(found.high), at(found.value)) | {"bound": round(at(found.bound), 1)}


def gauge(check: CheckResult) -> dict[str, float] | None:
    """Where to draw the target's band and the measured value on a scale from 0 to 100; None if there is nothing to draw."""
    bounds = [bound for bound in (check.low, check.high) if bound is not None]
    if not bounds or not all(abs(value) < 1e12 for value in (check.measured, *bounds)):
        return None
    at = _scale([*bounds, check.measured], 0.35)
    left, right = 0.0 if check.low is None else at(check.low), 100.0 if check.high is None else at(check.high)
    return _band(left, right, at(check.measured))


def _scale(known: Sequence[float], room: float) -> Callable[[float], float]:
    """Values on a scale from 0 to 100 that holds the known ones, with a share of their span as room on both sides."""
    margin = room * ((max(known) - min(known)) or abs(known[0]) or 1.0)
    start, end = min(known) - margin, max(known) + margin
    return lambda value: 100 * (value - start) / (end - start)


def _band(left: float, right: float, dot: float) -> dict[str, float]:
    return {"left": round(left, 1), "width": round(max(right - left, 1.0), 1), "dot": round(dot, 1)}
