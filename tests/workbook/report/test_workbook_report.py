"""The report: self-contained, readable without a network, with words for every picture and every status.

Covers workbook.report.sanitize.
"""

import base64
import io
import json
import re
import resource
import time

import pytest
from bs4 import BeautifulSoup
from PIL import Image

from vpr_lib.paths import bench_file, write_text
from vpr_lib.workbook.book.sentinel import CheckResult, FindingResult, checked_path, describe_output
from vpr_lib.workbook.report.build import build_report, gauge, whisker
from vpr_lib.workbook.report.formulas import mathml
from vpr_lib.workbook.report.pages import render_notebook
from vpr_lib.workbook.run.status import read_status

LOADING = (
    "src",
    "href",
    "xlink:href",
    "srcset",
    "action",
    "formaction",
    "poster",
    "data",
    "background",
    "cite",
    "ping",
)
NASTY = """# Title with [a paper](https://arxiv.org/abs/1) and <https://example.org>

![remote](https://example.org/x.png) ![local](../pic.png) ![gone](../gone.png) [next](02_train.ipynb#top) [top](#title)

<script src="https://cdn.example.org/a.js">alert(1)</script><iframe src="//example.org"></iframe>
<link rel="stylesheet" href="https://fonts.example.org/css"><img src=x onerror="alert(1)"><form action="https://x.org"></form>
<div style="background: url(https://example.org/b.png); color: red" onclick="alert(1)">styled</div>
<style>@import "https://example.org/c.css"; p { background: url('https://example.org/d.png'); color: blue }</style>
<svg><image xlink:href="https://example.org/e.png"/><use href="#a"/></svg><video src="https://example.org/f.mp4"></video>
"""


def png() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def outside(html: str) -> list[str]:
    """Every address in the page that is not inside the report."""
    soup, found = BeautifulSoup(html, "html.parser"), []
    for tag in soup.find_all(True):
        for name in LOADING:
            value = tag.get(name)
            if value and not re.match(r"(#|data:|[\w\-]+\.html(#|$))", value):
                found.append(f"{tag.name} {name}={value[:60]}")
    styles = " ".join(
        [style.get_text() for style in soup("style")] + [tag["style"] for tag in soup.find_all(style=True)]
    )
    found += re.findall(r"url\((?!['\"]?(?:data:|#))[^)]*\)|@import[^;]*", styles)
    assert not soup.find_all(["script", "iframe", "link", "object", "embed", "base", "form"])
    return found


def output(data, metadata=None):
    return {"output_type": "display_data", "data": data, "metadata": metadata or {}}


@pytest.fixture
def executed(project):
    """A run with two executed notebooks of which the first has all sorts of outputs; returns its folder."""
    project.add("01_data", NASTY and "#md " + NASTY, "import os", "finish()", makes=["01.png"])
    project.add("02_train", "1 / 0", needs=["01_data"])
    (project.root / "pic.png").write_bytes(base64.b64decode(png()))
    result = project.run(only=["01"])
    path = result.folder / "01_data.ipynb"
    notebook = json.loads(path.read_text())
    notebook["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    notebook["cells"][-1]["outputs"] = [
        output({"image/png": png(), "text/plain": "x"}, {"image/png": {"alt": "A white field", "width": 20}}),
        output({"image/png": png()}),
        output({"text/markdown": "*Caption*"}, {"vpr": {"caption": True}}),
        output({"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "IntSlider()"}),
        output({"application/javascript": "alert(1)"}),
        output({"text/html": "<table><tr><td>cell</td></tr></table><script src='https://x.org'></script>"}),
        output({"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'></svg>"}),
        {"output_type": "stream", "name": "stderr", "text": "\x1b[31mred\x1b[0m"},
    ]
    path.write_text(json.dumps(notebook))
    return result.folder


def test_no_page_reaches_outside(executed):
    index = build_report(executed.name)
    pages = sorted(index.parent.glob("*.html"))
    assert [page.name for page in pages] == ["01_data.html", "index.html"]
    for page in pages:
        html = page.read_text()
        assert outside(html) == [], page.name
        assert "default-src 'none'" in html and "<script" not in html
        assert not re.findall(r"cdn|cloudflare|unpkg|mathjax|require\.js|googleapis", html, re.IGNORECASE)


def test_outside_links_stay_legible_and_inside_links_work(executed):
    html = render_notebook(executed / "01_data.ipynb", {"01_data", "02_train"}).html
    text = BeautifulSoup(html, "html.parser").get_text()
    assert "a paper (arxiv.org/abs/1)" in text and "https://example.org" in text
    assert 'href="02_train.html#top"' in html and 'href="#title"' in html
    assert "[picture left out: remote]" in html and "[picture left out: gone]" in html
    assert 'style=" color: red"' in html and "styled" in html and "color: blue" in html
    without_page = render_notebook(executed / "01_data.ipynb", {"01_data"}).html
    assert "02_train.html" not in without_page


def test_every_picture_has_words(executed):
    soup = BeautifulSoup(render_notebook(executed / "01_data.ipynb").html, "html.parser")
    alts = [image["alt"] for image in soup("img")]
    assert alts == ["local", "A white field", "Picture without a description", "Picture without a description"]
    assert all(image["src"].startswith("data:image/") for image in soup("img"))
    assert soup("img")[1]["src"].endswith(png()) and soup("img")[1]["width"] == "20"
    assert "prose caption" in str(soup)


def test_widgets_and_scripts_leave_a_note(executed):
    html = render_notebook(executed / "01_data.ipynb").html
    assert "[interactive widget: open the notebook in JupyterLab to use it]" in html
    assert "widget-state" not in html and "alert(1)" not in html and "IntSlider" not in html
    assert '<span class="ansi-red-fg">red</span>' in html


def test_status_is_told_in_words_with_reason_and_link(project):
    project.add("01_data", "#md # One", "1 / 0", "finish()").add("02_train", needs=["01_data"])
    result = project.run(report=True)
    index = BeautifulSoup(result.report.read_text(), "html.parser")
    chips = [chip.get_text(" ", strip=True) for chip in index.select(".chip")]
    assert chips == ["✗ failed", "⊘ blocked"]
    assert "0 of 2 notebooks are green" in index.h1.get_text()
    assert "cell 3 of 4 raised ZeroDivisionError" in index.get_text() and "needs 01_data (failed)" in index.get_text()
    page = BeautifulSoup((result.report.parent / "01_data.html").read_text(), "html.parser")
    assert "ZeroDivisionError" in page.select_one(".alarm").get_text()
    assert not (result.report.parent / "02_train.html").exists()


def test_scoreboard_and_highlights(project):
    project.add("01_data", makes=["01.png", "01.csv"], shows=["01.csv", "01.png"])
    result = project.run()
    picture, table = project.root / "figures/tiny/01.png", project.root / "figures/tiny/01.csv"
    Image.new("RGB", (3000, 400), "white").save(picture)
    table.write_text("model,R@1,n\nmix,61.25,384\ngem,58.6,384\nnone,,\n")
    path = result.folder / "01_data.done.json"
    outputs = [
        describe_output(picture, "01.png", "A field.", "White <all> over."),
        describe_output(table, "01.csv", "Recall."),
    ]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"outputs": [item.model_dump() for item in outputs]}))
    check = {"key": "a", "statement": "It <rises>", "target": "≥ 0.5", "measured": 0.25, "holds": False, "low": 0.5}
    found = {"key": "f", "statement": "mixing wins", "source": "Table 2", "rule": "> 0", "bound": 0, "verdict": "contradicted",
             "value": -3.0, "low": -5.0, "high": -1.0, "unit": "points of R@1", "seeds": 3, "queries": 576}  # fmt: skip
    checked_path(result.folder, "01_data").write_text(json.dumps({"checks": [check], "findings": [found]}))
    index = BeautifulSoup(build_report(result.run_id).read_text(), "html.parser")
    assert "✗ does not hold" in index.get_text(" ", strip=True) and "It <rises>" in index.get_text()
    text = index.get_text(" ", strip=True)
    assert "0 / 1 checks hold" in text and "1 findings: 1 contradicted" in text, "told apart"
    assert "mixing wins Table 2 -3.0 points of R@1 [-5.0, -1.0], 3 seeds, 576 queries > 0 ✗ contradicted" in text
    (image,) = index("img")
    assert image["alt"] == "White <all> over."
    assert Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).size == (1100, 147)
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in index.select("figure tr")]
    assert rows == [["model", "R@1", "n"], ["mix", "61.25", "384"], ["gem", "58.60", "384"], ["none", "–", "–"]]
    picture.unlink()
    assert BeautifulSoup(build_report(result.run_id).read_text(), "html.parser")("img") == []


def test_half_written_notebook_does_not_stop_the_report(project):
    result = project.add("01_data").run()
    (result.folder / "01_data.ipynb").write_text('{"cells": [')
    page = (build_report(result.run_id).parent / "01_data.html").read_text()
    assert "The executed notebook cannot be read" in page


def test_report_of_a_run_that_was_killed(project):
    result = project.add("01_data").run()
    status = read_status().model_copy(update={"finished": None, "runner_pid": 2**22 - 3})
    (result.folder / "status.json").write_text(status.model_dump_json())
    assert "Interrupted after 1 of 1" in build_report().read_text()


def test_report_that_cannot_be_built_is_told_and_costs_the_green_exit_code(project, monkeypatch):
    def fail(run):
        raise OSError("disk full")

    monkeypatch.setattr("vpr_lib.workbook.report.build.build_report", fail)
    result = project.add("01_data").run(report=True)
    assert result.exit_code == 1 and "could not be built (OSError: disk full). Try: vpr report" in result.problem
    assert result.notebooks[0].status == "green" and read_status().exit_code == 1


@pytest.mark.parametrize(
    ("source", "inside", "not_inside"),
    [
        ("price `$5` and `$6`", "<code>$5</code>", "<math"),
        ("```\na $x$ b\n```", "a $x$ b", "<math"),
        ("let $x_i$ be", "<msub><mi>x</mi><mi>i</mi></msub>", "$"),
        ("$$\nx = 1\n$$", 'display="block"', "$"),
        (r"\begin{align} a &= b \\ c &= d \end{align}", "<mtable", "<mi>&amp;"),
        (r"$\nonsense{x}$", r'<code class="tex">\nonsense{x}</code>', "<math"),
        ("$x_{$", '<code class="tex">x_{</code>', "<math"),
        ("a \\$5 b \\$6", "$5 b", "<math"),
    ],
)
def test_formulas(project, source, inside, not_inside):
    result = project.add("01_data", "#md " + source, "finish()").run()
    html = render_notebook(result.folder / "01_data.ipynb").html.split('<section class="cell code">')[2]
    html = html[html.index('class="cell prose"') :]
    assert inside in html and not_inside not in html


BIG = {
    "many tags": ("text/html", "<b>x</b>" * 6_000_000),
    "deep tags": ("text/html", "<div>" * 10_000_000),
    "one long style": ("text/html", "<p style='" + "a:" * 9_000_000 + "url(//x.org)'>x</p>"),
    "a long picture": ("text/html", "<img alt='' src='data:image/png;base64," + "A" * 19_000_000 + "'>"),
    "markdown": ("text/markdown", "*x* " * 12_000_000),
    "text": ("text/plain", "<&>\n" * 12_000_000), "colours": ("stream", "\x1b[31mx\x1b[0m" * 4_000_000),
    "many outputs": ("stream", ["<b>x\n"] * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("what", BIG)
def test_an_output_of_50_megabytes_costs_seconds(project, what):
    kind, text = BIG[what]
    run = project.add("01_data").run()
    path = run.folder / "01_data.ipynb"
    notebook = json.loads(path.read_text())
    many = text if isinstance(text, list) else [text]
    make = lambda text: (
        {"output_type": "stream", "name": "stdout", "text": text} if kind == "stream" else output({kind: text})
    )
    notebook["cells"][-1]["outputs"] = [output({"text/plain": "before"}), *map(make, many)]
    path.write_text(json.dumps(notebook))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    page = render_notebook(path).html
    assert time.process_time() - started < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 800_000  # kilobytes
    assert "before" in page and len(page) < 25_000_000
    assert ("no room on this page" in page) == (what not in ("one long style", "a long picture"))


@pytest.mark.parametrize("depth", [200, 5_000])
def test_tags_in_tags_and_the_same_heading_again(project, depth):
    run = project.add("01_data").run()
    path = run.folder / "01_data.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][-1]["outputs"] = [output({"text/html": "<div>" * depth + "deep" + "<h2>Twice</h2>" * depth})]
    path.write_text(json.dumps(notebook))
    body = render_notebook(path)
    assert "deep" in body.html and len({slug for slug, _ in body.contents}) == depth


def test_formula_has_its_latex_as_alternative_text():
    assert mathml('a < "b"').startswith('<math alttext="a &lt; &quot;b&quot;" display="inline">')
    assert "http" not in mathml(r"\frac{1}{2}", block=True)


def test_gauge():
    def check(measured, low=None, high=None):
        return CheckResult(key="a", statement="", target="", measured=measured, holds=True, low=low, high=high)

    assert gauge(check(0.5, 0.4, 0.6)) == pytest.approx({"left": 20.6, "width": 58.8, "dot": 50.0})
    assert gauge(check(0.5)) is None and gauge(check(float("nan"), 0.4)) is None
    assert gauge(check(3648.0, 3648.0, 3648.0))["width"] == 1.0


def test_whisker():
    found = FindingResult(
        key="f", statement="", source="", rule="> 0", bound=0, verdict="undecided", value=1, low=-1, high=3
    )
    assert whisker(found) == {"left": 9.7, "width": 80.6, "dot": 50.0, "bound": 29.8}
    assert whisker(found.model_copy(update={"low": float("nan")})) is None


@pytest.mark.browser
def test_in_a_browser_nothing_is_asked_for_and_nothing_sticks_out(executed, chromium):
    from playwright import sync_api

    index, asked = build_report(executed.name), []
    unseen = (
        "() => [...document.images].filter(image => !image.complete || !image.naturalWidth || !image.alt.trim()).length"
    )
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for width, scheme in ((390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")):
            page = browser.new_context(
                offline=True, viewport={"width": width, "height": 800}, color_scheme=scheme
            ).new_page()
            page.on("request", lambda request: asked.append(request.url))
            for name in ("index.html", "01_data.html"):
                page.goto((index.parent / name).as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.evaluate(unseen) == 0, name
                ink, paper = (
                    page.evaluate(f"getComputedStyle(document.body).{side}") for side in ("color", "backgroundColor")
                )
                assert abs(brightness(ink) - brightness(paper)) > 128 and (brightness(paper) < 128) == (
                    scheme == "dark"
                )
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def brightness(colour: str) -> float:
    """Mean of red, green and blue of a computed style such as 'rgb(1, 2, 3)'."""
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3


def test_a_page_of_its_own_travels_with_the_report(project):
    project.add("01_data", makes=["explorer.html", "01.png"])
    folder = project.run().folder
    index = build_report(folder.name)
    assert (index.parent / "explorer.html").read_text() == "made by 01_data"
    soup = BeautifulSoup((index.parent / "01_data.html").read_text(), "html.parser")
    assert soup.find("a", href="explorer.html").get_text() == "Open explorer.html"
    (project.root / "figures/tiny/explorer.html").write_text("changed since")
    assert not (build_report(folder.name).parent / "explorer.html").exists()


def test_the_last_bench_is_shown(project):
    project.add("01_data", "finish()")
    result = project.run()
    page = lambda: BeautifulSoup(build_report(result.run_id).read_text(), "html.parser")
    speed = lambda: [
        row.get_text(" ", strip=True)
        for heading in page().find_all("h2", string="Speed")
        for row in heading.parent.select("tbody tr")
    ]
    assert speed() == []
    measured = {"what": "exact search", "size": "5 x 8", "peers": "faiss", "ours": "search()", "peers_s": 2.5, "ours_s": 0.5,
                "ratio": 5.0, "ratio_low": 4.5, "ratio_high": 5.25, "repeats": 3, "target": 2.5, "reached": True,
                "parity": {"same top-25": 1.0}, "bound": "<memory>", "gflop_per_s": 81.6, "rate": None, "share": None}  # fmt: skip
    rows = {
        "a": measured,
        "b": measured | {"target": None},
        "c": {"skipped": "not measured: no CUDA device here"},
        "d": {"ratio": 1},
        "e": measured | {"target": 0.95, "rate": "fp32", "share": 0.966},
    }
    write_text(
        bench_file(),
        json.dumps(
            {"machine": {"cpu": "a CPU", "threads": 2, "gpu": None, "matrix_rates": {"fp32": 95.2}}, "rows": rows}
        ),
    )
    assert speed() == [
        "exact search 5 x 8; faiss | search() 2.50 s 500.0 ms ×5.00 (4.50–5.25, n = 3) ×2.5 ✓ reached same top-25 1 <memory> (82 GFLOP/s)",
        "exact search 5 x 8; faiss | search() 2.50 s 500.0 ms ×5.00 (4.50–5.25, n = 3) – same top-25 1 <memory> (82 GFLOP/s)",
        "c not measured: no CUDA device here",
        "exact search 5 x 8; faiss | search() 2.50 s 500.0 ms ×5.00 (4.50–5.25, n = 3) 95 % of bare fp32 ✓ reached same top-25 1 <memory> (82 GFLOP/s, 97 % of bare fp32)",
    ]
    write_text(bench_file(), "{")
    assert speed() == []
