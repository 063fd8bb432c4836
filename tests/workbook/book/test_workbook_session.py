"""What notebooks call: figures with provenance, tables, checks, findings, the sentinel.

Covers workbook.book.shelf.
"""

import json
import math
import sys
from types import SimpleNamespace

import matplotlib
import pandas as pd
import pytest

from vpr_lib import paths
from vpr_lib.results.findings import Evidence
from vpr_lib.workbook.book.sentinel import Checked, read_checked, read_sentinel
from vpr_lib.workbook.book.session import CheckFailed, open_notebook
from vpr_lib.workbook.book.show import html_table
from vpr_lib.workbook.run.status import checked_of, remember_green

matplotlib.use("Agg")
CHECKS = {
    "recall_at_1": {"statement": "finds half of the streets", "expected": 0.5, "tolerance": 0.1, "source": "Table 1"},
    "loss": {"statement": "the loss falls", "at_most": 0.3},
}
FINDINGS = {
    "mixing_wins": {"statement": "mixing beats pooling", "source": "Table 2", "above": 0},
    "left_out": {"statement": "depth helps", "source": "Table 3", "above": 0},
}


@pytest.fixture
def book(project):
    project.add("02_train", settings={"checks": CHECKS, "findings": FINDINGS})
    return open_notebook("02_train", project.profile, "run-1")


def draw():
    import matplotlib.pyplot as plt

    axes = plt.figure(figsize=(3, 2)).subplots()
    axes.plot([0, 1], [0, 1])
    return axes


@pytest.fixture
def axes():
    return draw()


def test_figure_with_provenance(book, axes, project):
    import matplotlib.pyplot as plt

    path = book.figure(axes, "02_curve", alt="It rises from 0 to 1.", caption="A curve.")
    assert path == project.root / "figures/tiny/02_curve.png" and path.stat().st_size > 1000
    told = json.loads(path.with_suffix(".json").read_text())
    assert told | {"profile": "tiny", "notebook": "02_train", "run_id": "run-1", "alt": "It rises from 0 to 1."} == told
    assert {"git", "device", "date", "sha256", "caption"} <= set(told)
    assert list(book.outputs) == ["02_curve.png"]
    assert not plt.fignum_exists(axes.figure.number), "a figure that stays open is shown twice"


def test_the_same_figure_has_the_same_bytes(book):
    path = book.figure(draw(), "02_curve", alt="a", caption="c")
    first = path.read_bytes()
    book.figure(draw(), "02_curve", alt="a", caption="c")
    assert path.read_bytes() == first


def test_figure_refusals(book, axes):
    with pytest.raises(ValueError, match=r"needs a caption and an alt text"):
        book.figure(axes, "02_curve", alt=" ", caption="c")
    with pytest.raises(ValueError, match=r"is not a plain file name"):
        book.figure(axes, "../curve.png", alt="a", caption="c")
    with pytest.raises(TypeError, match=r"Expected a matplotlib figure or axes, got int"):
        book.figure(3, "02_curve", alt="a", caption="c")


def test_figures_come_as_grids_and_arrays_too(book):
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, 2)
    assert book.figure(grid, "02_grid", alt="a", caption="c").is_file()
    assert not plt.fignum_exists(figure.number)


def test_table(book, project):
    frame = pd.DataFrame({"R@1": [0.61234, math.nan], "a|b": ["x", None]}, index=pd.Index(["mix", "gem"], name="model"))
    path = book.table(frame, "08_recall", "Recall.", digits=2)
    assert pd.read_csv(path).columns.tolist() == ["model", "R@1", "a|b"]
    assert "0.61234" in path.read_text()
    assert path.with_suffix(".md").read_text() == (
        "| model | R@1 | a\\|b |\n| :-- | --: | :-- |\n| mix | 0.61 | x |\n| gem | – | – |\n\nRecall.\n"
    )


def test_a_table_in_another_layout(book, capsys):
    tidy = pd.DataFrame({"model": ["mix"], "value": [0.5]})
    shown = pd.DataFrame([["mix", "**50.0** [M]", "–"]], columns=pd.MultiIndex.from_tuples([("", "model"), ("set", "R@1"), ("set", "R@5")]))  # fmt: skip
    path = book.table(tidy, "08_paper", "Recall.", shown=shown, latex="\\toprule")
    assert pd.read_csv(path).equals(tidy) and path.with_suffix(".tex").read_text() == "\\toprule"
    assert path.with_suffix(".md").read_text().splitlines()[::2] == ["| model | set R@1 | set R@5 |", "| mix | **50.0** [M] | – |", "Recall."]  # fmt: skip
    assert set(book.outputs) == {"08_paper.csv", "08_paper.md", "08_paper.tex"}
    html = html_table(
        ["model", "R@1", "R@5"], [["mix", "**50.0** [<M>]", "–"]], [False, True, True], groups=["", "set", "set"]
    )
    assert '<th colspan="2" style="text-align:center">set</th>' in html and "<b>50.0</b> [&lt;M&gt;]" in html


def test_a_path_at_the_end_of_a_cell_is_not_printed(book):
    from IPython.core.formatters import DisplayFormatter

    path = book.table(pd.DataFrame({"a": [1]}), "08_small", "Small.")
    assert (
        DisplayFormatter().format(path) == ({}, {})
        and path.with_suffix(".md").is_file()
        and f"{path}".endswith("08_small.csv")
    )


def test_checks_and_findings_outlive_their_run(book, project):
    other = paths.runs_root() / "run-2"
    assert checked_of("tiny", "02_train", other) == (Checked(), "")
    book.check({"recall_at_1": 0.55, "loss": 0.1})
    book.finding("mixing_wins", Evidence(3.0, 1.0, 5.0, "points"))
    assert [check.key for check in checked_of("tiny", "02_train", book.run_folder)[0].checks] == ["recall_at_1", "loss"]
    book.finish()
    (book.run_folder / "02_train.ipynb").write_text("{}")
    remember_green("tiny", "02_train", "key", "run-1", {})
    checked, run = checked_of("tiny", "02_train", other)
    assert run == "run-1" and [check.key for check in checked.checks] == ["recall_at_1", "loss"]
    assert [found.verdict for found in checked.findings] == ["reproduced", "not measured"]


@pytest.mark.parametrize(
    ("value", "opening"),
    [(3.0, "✓ Reproduced here: mixing beats pooling (Table 2): +3.0"),
     (-3.0, "✗ Contradicted here, it does not hold that mixing beats pooling (Table 2): -3.0"),
     (0.5, "? Undecided here, whether mixing beats pooling (Table 2): +0.5")],
)  # fmt: skip
def test_what_is_said_follows_from_what_was_measured(book, capsys, value, opening):
    evidence = Evidence(value, value - 1, value + 1, "points of R@1", "a - b", 3, 576)
    book.finding("mixing_wins", evidence)
    assert f"**{opening} points of R@1 [{value - 1:+.1f}, {value + 1:+.1f}], 3 seeds, 576 queries; expected > 0" in (
        capsys.readouterr().out
    )
    book.takeaways("Mixing is two matrix products.")
    told = capsys.readouterr().out
    first, second = told.index("- Mixing is two matrix products."), told.index(f"- {opening}")
    assert first < second < told.index("- – Not measured here, whether depth helps (Table 3).")
    book.check({"recall_at_1": 0.55, "loss": 0.1})
    book.finish()
    assert read_sentinel(book.run_folder, "02_train").findings[0].sentence in told


def test_a_count_is_told_without_an_interval(book, capsys):
    book.finding("mixing_wins", Evidence(2.5, 2.5, 2.5, "times"))
    assert "mixing beats pooling (Table 2): 2.5 times; expected > 0" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"There is no finding 'speed' for 02_train; there are: mixing_wins, left_out"):
        book.finding("speed", Evidence(1, 1, 1, "s"))


def test_checks_that_hold(book, capsys):
    book.check({"recall_at_1": 0.55}, notes={"seconds": 12})
    book.check({"loss": 0.1})
    book.finish("R@1 55 %")
    sentinel = read_sentinel(book.run_folder, "02_train")
    assert (sentinel.run_id, sentinel.profile, sentinel.headline) == ("run-1", "tiny", "R@1 55 %")
    assert [(check.key, check.measured, check.verdict) for check in sentinel.checks] == [
        ("recall_at_1", 0.55, "holds"), ("loss", 0.1, "holds"),
    ]  # fmt: skip
    assert (sentinel.checks[0].low, sentinel.checks[0].high) == pytest.approx((0.4, 0.6))
    assert sentinel.notes == {"seconds": 12.0}
    assert "finds half of the streets (Table 1) | 0.5 ± 0.1 | 0.55 | ✓ holds" in capsys.readouterr().out


@pytest.mark.parametrize("loss", [0.4, math.nan, math.inf])
def test_failing_checks_are_recorded_before_they_stop_the_notebook(book, loss):
    with pytest.raises(CheckFailed, match=r"2 of 2 checks do not hold: recall_at_1: .* measured 0.7; loss: .* ≤ 0.3"):
        book.check({"recall_at_1": 0.7, "loss": loss})
    kept = read_checked(book.run_folder, "02_train").checks
    assert [check.holds for check in kept] == [False, False]
    assert kept[1].measured == loss or (math.isnan(kept[1].measured) and math.isnan(loss))


def test_checks_and_values_belong_together(book):
    with pytest.raises(ValueError, match=r"has no check speed for 02_train; its checks: recall_at_1, loss. .* notes="):
        book.check({"speed": 1.0})
    book.check({"loss": 0.1})
    with pytest.raises(CheckFailed, match=r"did not measure the checks recall_at_1"):
        book.finish()
    assert read_sentinel(book.run_folder, "02_train") is None


def test_other_outputs(book, tmp_path):
    weights = tmp_path / "data/weights.bin"
    weights.parent.mkdir()
    weights.write_bytes(b"1234")
    book.output(weights, "Trained weights.")
    with pytest.raises(FileNotFoundError, match=r"announced as an output, but it is not a file"):
        book.output(tmp_path / "nothing.bin")
    (output,) = book.outputs.values()
    assert (output.name, output.bytes, output.fault()) == ("data/weights.bin", 4, "")
    weights.write_bytes(b"1235")
    assert output.fault() == "data/weights.bin has changed since it was written"


def test_interactive_session_has_an_id_of_its_own_and_the_toy_profile_is_the_default(project, monkeypatch):
    project.add("02_train")
    book = open_notebook("02_train", project.profile)
    assert book.run_id.startswith("interactive-")
    book.finish()
    assert read_sentinel(book.run_folder, "02_train").key == ""
    monkeypatch.setattr("vpr_lib.workbook.book.session.load_profile", lambda name: {"toy": book.profile}[name])
    assert open_notebook("02_train", run_id="").profile.name == "tiny"


def test_folders_seed_device(book, project, monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(device=str, cuda=cuda, __version__="2"))  # 2 s to import
    assert book.cache.is_dir() and book.cache.name == "tiny"
    assert book.seed == 1 and str(book.device) == "cpu"
    project.settings["device"] = "cuda"
    needy = open_notebook("02_train", project.write().profile)
    with pytest.raises(RuntimeError, match=r"needs a CUDA device and torch .* sees none"):
        _ = needy.device


def test_unknown_notebook(project):
    project.add("02_train")
    with pytest.raises(ValueError, match=r"says nothing about notebook '03'. It has: 02_train"):
        open_notebook("03", project.profile)


def test_card_shows_what_is_tested_and_what_must_hold(book):
    assert "mixing beats pooling" in book._repr_html_()
    assert "finds half of the streets" in book._repr_html_() and "0.5 ± 0.1" in book._repr_html_()


def test_a_check_that_cannot_be_run_says_why_and_blocks_nothing(book, capsys):
    book.check({"recall_at_1": 0.55}, skipped={"loss": "onnxruntime is not installed"})
    assert "– not run: onnxruntime is not installed" in capsys.readouterr().out
    book.finish()
    assert [(c.holds, c.skipped) for c in read_sentinel(book.run_folder, "02_train").checks] == [
        (True, ""), (False, "onnxruntime is not installed"),
    ]  # fmt: skip
