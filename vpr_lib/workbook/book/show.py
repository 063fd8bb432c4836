"""How a notebook's book-keeping looks in JupyterLab and in the report: pictures, tables, verdicts."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpr_lib.config import NotebookSettings, Profile
from vpr_lib.workbook.book.sentinel import CheckResult, FindingResult, Sentinel

if TYPE_CHECKING:
    import pandas


def figure_of(thing: Any) -> Any:
    """The matplotlib figure behind a figure, axes, array or sequence of axes, or a seaborn grid."""
    while not hasattr(thing, "savefig") or not hasattr(thing, "get_size_inches"):
        if hasattr(thing, "figure"):
            thing = thing.figure
        elif hasattr(thing, "flat") or isinstance(thing, Sequence):
            thing = next(iter(getattr(thing, "flat", thing)))
        else:
            raise TypeError(f"Expected a matplotlib figure or axes, got {type(thing).__name__}.")
    return thing


def _display(data: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
    from IPython.display import display

    display(dict(data), metadata=dict(metadata or {}), raw=True)


def picture(path: Path, alt: str, caption: str, dpi: int) -> None:
    """Show a PNG at its size on paper, with its alternative text, and the caption below it."""
    data = path.read_bytes()
    width = int.from_bytes(data[16:20], "big") * 100 // dpi
    _display(
        {"image/png": data, "text/plain": f"[Figure {path.stem}: {alt}]"}, {"image/png": {"alt": alt, "width": width}}
    )
    _display({"text/markdown": f"*{caption}*", "text/plain": caption}, {"vpr": {"caption": True}})


def plain_index(frame: "pandas.DataFrame") -> bool:
    """Whether the index only counts rows, those of a longer table too, and tells a reader nothing."""
    return frame.index.nlevels == 1 and frame.index.name is None and frame.index.dtype.kind in "iu"


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.{digits}f}"
    return "–" if value is None else str(value)


def _rows(frame: "pandas.DataFrame", digits: int) -> list[list[str]]:
    return [[_cell(value, digits) for value in row] for row in frame.itertuples(index=False, name=None)]


def markdown_table(frame: "pandas.DataFrame", digits: int = 3) -> str:
    """The table in GitHub's Markdown; numbers are right-aligned, heads of two levels are joined."""
    head = [_joined(column) for column in frame.columns]
    rule = ["--:" if dtype.kind in "iufc" else ":--" for dtype in frame.dtypes]
    rows = [
        [text.replace("|", "\\|").replace("\n", " ") for text in row] for row in [head, rule, *_rows(frame, digits)]
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _joined(column: Any) -> str:
    return " ".join(part for part in column if part) if isinstance(column, tuple) else str(column)


def html_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    caption: str = "",
    groups: Sequence[str] = (),
) -> str:
    """A plain HTML table; the report styles it through the class `vpr`. A cell that opens in **stars** is bold there.

    Args:
        groups: for each column the head above it; equal neighbours share one.
    """

    styles = {True: "text-align:right;white-space:nowrap", False: "text-align:left"}

    def line(tag: str, texts: Sequence[str]) -> str:
        cells = zip(texts, numeric)
        return "".join(f'<{tag} style="{styles[right]}">{_emphasised(text)}</{tag}>' for text, right in cells)

    above = "".join(
        f'<th colspan="{len(list(same))}" style="text-align:center">{escape(group)}</th>'
        for group, same in groupby(groups)
    )
    above = f"<tr>{above}</tr>" if above else ""
    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    words = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(caption))
    title = f'<caption style="caption-side:bottom;text-align:left">{words}</caption>' if caption else ""
    return f'<table class="vpr">{title}<thead>{above}<tr>{line("th", head)}</tr></thead><tbody>{body}</tbody></table>'


def _emphasised(text: str) -> str:
    bold = re.match(r"\*\*(.+?)\*\*", text)
    return f"<b>{escape(bold[1])}</b>{escape(text[bold.end() :])}" if bold else escape(text)


def table(frame: "pandas.DataFrame", caption: str, digits: int = 3) -> None:
    """Show a table with its caption; columns may have two levels."""
    numeric = [dtype.kind in "iufc" for dtype in frame.dtypes]
    groups, head = [], [str(column) for column in frame.columns]
    if frame.columns.nlevels == 2:
        groups, head = ([str(column[level]) for column in frame.columns] for level in (0, 1))
        numeric = [bool(group) for group in groups]
    html = html_table(head, _rows(frame, digits), numeric, caption, groups)
    _display({"text/html": html, "text/plain": f"{caption}\n{markdown_table(frame, digits)}"})


def checks(results: Sequence[CheckResult], notes: Mapping[str, float]) -> None:
    """Show checks and whether they hold, as sign and word."""
    head = ["check", "target", "measured", ""]
    rows = [
        [
            r.statement + (f" ({r.source})" if r.source else ""),
            r.target,
            r.number,
            f"{r.sign} {r.verdict}",
        ]
        for r in results
    ]
    rows += [[key, "none", f"{value:.4g}", "noted"] for key, value in notes.items()]
    plain = "\n".join(" | ".join(row) for row in rows)
    unbroken = [[*row[:3], row[3].replace(" ", "\u00a0")] for row in rows]
    _display({"text/html": html_table(head, unbroken, [False, True, True, False]), "text/plain": plain})


SIGNS = {"reproduced": "✓", "contradicted": "✗", "undecided": "?", "not measured": "–"}


def finding(result: FindingResult) -> None:
    """One sentence: sign, statement, number."""
    text = f"**{SIGNS[result.verdict]} {result.sentence}**"
    _display({"text/markdown": text, "text/plain": text})


def takeaways(method: Sequence[str], results: Sequence[FindingResult]) -> None:
    """Bullets: what belongs to the method, then what the run found."""
    lines = [f"- {text}" for text in method] + [f"- {SIGNS[result.verdict]} {result.sentence}" for result in results]
    text = "\n".join(lines)
    _display({"text/markdown": text, "text/plain": text})


def hole(name: str, why: str) -> None:
    """One line for what is left out."""
    _display({"text/markdown": f"*Left out: **{name}**. {why}*", "text/plain": f"Left out: {name}. {why}"})


def finished(sentinel: Sentinel) -> None:
    """One line at the end of the notebook."""
    counted = {"file": len(sentinel.outputs), "check": len(sentinel.checks), "finding": len(sentinel.findings)}
    made = ", ".join(f"{count} {noun}{'s' * (count != 1)}" for noun, count in counted.items())
    made += f", {sentinel.seconds:.0f} s"
    text = f"Finished: {sentinel.headline + '; ' if sentinel.headline else ''}{made}."
    _display({"text/markdown": f"**{text}**", "text/plain": text})


def card(name: str, profile: Profile, settings: NotebookSettings) -> str:
    """The opening card of a notebook: profile, expected time, which papers' statements it tests, and what must hold."""
    rows = [["finding", f.statement, f.rule(), f.source] for f in settings.findings.values()]
    rows += [["check", check.statement, check.target(), check.source] for check in settings.checks.values()]
    title = f"{name}: profile {profile.name}, about {settings.minutes:g} min on {profile.hardware}"
    return html_table(["", "statement", "expected", "source"], rows, [False, False, True, False], title)
