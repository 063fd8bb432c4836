"""One executed notebook as the body of an HTML page: nbconvert, our own template, formulas as MathML, nothing foreign."""

import ast
import re
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vpr_lib import paths
from vpr_lib.workbook.report.formulas import markdown_renderer
from vpr_lib.workbook.report.sanitize import clean
from vpr_lib.workbook.run.execute import without_heavy_imports

TEMPLATES = Path(__file__).parent / "templates"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_PRIORITY = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]
_MARK = re.compile(r"vpr-picture-(\d+)-")
_PICTURES = {"image/png", "image/jpeg"}
_MOST_LETTERS, _MOST_MARKS = (
    20_000_000,
    50_000,
)  # of all outputs of a notebook: a page beyond is read in minutes, by nobody
_HEAD = 5_000  # letters that are shown of a text without room


@dataclass(frozen=True)
class Body:
    """The inside of a page."""

    html: str
    title: str  # text of the first heading
    contents: tuple[tuple[str, str], ...]  # (id, text) of every second-level heading


@cache
def _exporter() -> Any:
    with without_heavy_imports():
        from jinja2 import pass_context
        from nbconvert.exporters.html import HTMLExporter
        from nbconvert.filters.markdown_mistune import MarkdownWithMath
        from traitlets.config import Config

    @pass_context
    def markdown(context, source):
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = markdown_renderer(escape=False, attachments=attachments, exclude_anchor_links=True)
        return MarkdownWithMath(renderer=renderer).render(source)

    config = Config({"NbConvertBase": {"display_data_priority": _PRIORITY}})
    exporter = HTMLExporter(config=config, template_name="body", extra_template_basedirs=[str(TEMPLATES)])
    exporter.optimistic_validation = True  # once at the end, not after each of eleven preprocessors
    exporter.register_filter("markdown2html", markdown)
    return exporter


def render_notebook(path: Path, pages: Container[str] = ()) -> Body:
    """Convert an executed notebook.

    Args:
        path: the .ipynb file; half-executed ones are shown as far as they came.
        pages: names of the notebooks that have a page, for the links between them.
    Raises:
        ValueError: if the file is not a notebook (for instance because its writer was killed).
    """
    exporter = _exporter()
    import nbformat
    from bs4 import BeautifulSoup

    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises several kinds, and plain JSON errors
        raise ValueError(f"{path} is not a notebook: {error}") from error
    pictures = _prepare(notebook)
    html, _ = exporter.from_notebook_node(notebook)
    soup = BeautifulSoup(html, "html.parser")
    clean(soup, paths.notebooks_root(), pages)
    title, contents = _headings(soup)
    return Body(_MARK.sub(lambda mark: pictures[int(mark[1])], str(soup)), title, contents)


def _prepare(notebook: Any) -> list[str]:
    """Mark the cells for the template and swap the pictures' data for short marks, which are cheap to parse.

    Widgets go: without a kernel their saved state shows nothing, and nbconvert would load a script to find that out.
    """
    pictures: list[str] = []
    room = {"letters": _MOST_LETTERS, "marks": _MOST_MARKS}
    notebook.metadata.pop("widgets", None)
    notebook.cells = [
        cell for cell in notebook.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])
    ]
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        tags = cell.metadata.get("tags", [])
        cell.outputs = _with_room([shown for output in cell.outputs if (shown := _shown(output))], room)
        count = cell.execution_count or "not executed"
        cell.metadata.vpr_label = f"[{count}]" + (" parameters of this run" * ("injected-parameters" in tags))
        cell.metadata.vpr_folded = _only_imports(cell.source)
        cell.metadata.vpr_failed = any(output.output_type == "error" for output in cell.outputs)
        for output in cell.outputs:
            for kind, data in output.get("data", {}).items():
                if kind in _PICTURES:
                    output.data[kind] = f"vpr-picture-{len(pictures)}-"
                    pictures.append("".join(data.split()))
    return pictures


def _shown(output: Any) -> Any:
    """The output as a static page can show it; None for what it cannot."""
    data = output.get("data")
    if data is None:
        return output
    if _WIDGET in data:
        data.pop(_WIDGET)
        if not set(data) - {"text/plain"}:
            data["text/plain"] = "[interactive widget: open the notebook in JupyterLab to use it]"
    data.pop("application/javascript", None)
    return output if set(data) & set(_PRIORITY) else None


def _with_room(outputs: list[Any], room: dict[str, int]) -> list[Any]:
    """The outputs that have room on the page, and a note with the first letters of those that have none.

    Args:
        room: letters and marks that are left; what is kept is taken from it.
    """
    from nbformat.v4 import new_output

    kept, rest, total = [], [], 0
    for output in outputs:
        data = output.get("data", {})
        texts = [output.get("text", ""), *output.get("traceback", [])]
        texts += [text for kind, text in data.items() if kind not in _PICTURES and isinstance(text, str)]
        taken = {"letters": sum(map(len, texts)), "marks": 1 + sum(t.count("<") + t.count("\x1b") for t in texts)}
        taken["marks"] += sum(len(data.get(kind, "")) // 20 for kind in ("text/markdown", "text/latex"))
        if any(taken[what] > room[what] for what in room):
            rest.append(next((text for text in (*texts[:2], data.get("text/plain", "")) if text), ""))
            total += taken["letters"]
            continue
        kept.append(output)
        for what in room:
            room[what] -= taken[what]
    if rest:
        note = f"[{len(rest)} outputs of {total / 1e6:.1f} MB have no room on this page: open the executed notebook to see them]"
        kept.append(new_output("stream", name="stderr", text=f"{rest[0][:_HEAD].replace(chr(27), '')}\n{note}".strip()))
    return kept


def _only_imports(source: str) -> bool:
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False
    return bool(body) and all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in body)


def _headings(soup: Any) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Give every heading an id and return the title and the second-level headings."""
    title, contents, taken = "", [], Counter()
    for tag in soup.find_all(["h1", "h2", "h3"]):
        text = tag.get_text(" ", strip=True)
        slug = base = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"
        while slug in taken:
            taken[base] += 1
            slug = f"{base}-{taken[base]}"
        taken[slug] = 1
        tag["id"] = slug
        if tag.name == "h1" and not title:
            title = text
        elif tag.name == "h2":
            contents.append((slug, text))
    return title, tuple(contents)
