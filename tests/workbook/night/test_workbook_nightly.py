"""Nights of a tiny project: the same, better, worse, broken, out of disk, overlapping; and what they leave behind.

Covers workbook.night.night, workbook.night.nightly_pages.
"""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from typer.testing import CliRunner

from vpr_lib import paths
from vpr_lib.cli import _register, app
from vpr_lib.results.records import write_records
from vpr_lib.workbook.book.sentinel import read_json
from vpr_lib.workbook.night import nightly, nightly_compare
from vpr_lib.workbook.night.night import Comparison
from vpr_lib.workbook.night.nightly import Failure, Night, nights, retire, run_nightly, severity
from vpr_lib.workbook.night.recalls import holm
from vpr_lib.workbook.run import status as state
from vpr_lib.workbook.run.lock import Overlap, night_lock, run_lock
from vpr_lib.workbook.run.plan import UsageError
from vpr_lib.workbook.run.prepare import Request
from vpr_lib.workbook.run.process import Child
from vpr_lib.workbook.run.status import find_run, read_status

FAKE = (sys.executable, "-S", str(Path(__file__).parent.with_name("fake_execute.py")))
QUERIES, FULL = 60, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def put_records(hits, model="mixvpr", notebook="02_train", card="card1", seed=1):
    """Records of one evaluation as a notebook would leave them; `hits` is the rank of the first hit per query."""
    hits = np.asarray(hits)
    table = pd.DataFrame(
        {
            "query": np.arange(len(hits)),
            "query_id": [f"q{number}" for number in range(len(hits))],
            "first_hit": hits.astype(np.int32),
            "counted": True,
            "top": [np.array([hit == 1, 2], np.int32) for hit in hits],
            "top_correct": [np.array([hit == 1, False]) for hit in hits],
            "top_distance_m": [np.array([3.0, np.nan], np.float32) for _ in hits],
        }
    )
    constants = dict(dataset="village", protocol="village@25m", card=card, rule="25 m", n_database=100, model=model, system=model,
                     dim=8, profile="tiny", notebook=notebook, seed=seed, device="cpu", precision="fp32")  # fmt: skip
    folder = paths.cache_root() / "tiny" / "records" / notebook
    return write_records(folder, table.assign(**constants))


def ranks(wrong):
    """First hits of QUERIES queries of which the first `wrong` are found at rank three only."""
    return np.where(np.arange(QUERIES) < wrong, 3, 1)


@pytest.fixture
def chain(project):
    """01 <- 02."""
    return project.add("01_data", makes=["01.png"]).add("02_train", makes=["02.png"], needs=["01_data"])


@pytest.fixture
def night(chain):
    """Run one night of the chain."""
    put_records(ranks(10))

    def run(**options):
        child = Child(options.pop("command", FAKE), 0.5, options.pop("slack_s", 60.0))
        asked = {name: options.pop(name) for name in ("overrides", "force", "keep_going", "run_id") if name in options}
        return run_nightly(Request(chain.profile, **asked), child=child, **{"report": False} | options)

    return run


def test_first_night_then_the_same_again(night, chain):
    first = night()
    assert first.exit_code == 0 and first.night.comparison is None and first.run_id.endswith("-tiny-nightly")
    assert "no green night to compare with" in first.night.summary
    kept = first.folder / "records/02_train/village/village@25m/mixvpr__1.parquet"
    assert kept.is_file() and (first.folder / "figures/02.png").is_file()
    second = night()
    assert second.exit_code == 0 and {line.status for line in second.notebooks} == {"resumed"}
    found = second.night.comparison
    assert found.reference == first.run_id and [change.verdict for change in found.recalls] == ["same"]
    assert not (found.files or found.checks or found.environment or found.gone), "nothing has changed"
    put_records(ranks(0))
    assert pd.read_parquet(kept)["first_hit"].eq(3).sum() == 10, "a kept copy does not follow the cache"
    assert read_json(second.folder / "nightly.json", Night) == second.night


def test_improvement_is_told_and_becomes_the_reference(night):
    night()
    put_records(ranks(0))
    better = night(force=True)
    (change,) = better.night.comparison.recalls
    assert better.exit_code == 0 and change.verdict == "improved"
    assert (change.lost, change.gained, change.flips) == (0, 10, tuple(range(10)))
    assert change.before["R@1"] == pytest.approx(100 * 50 / 60) and change.after["R@1"] == 100
    assert change.p_value == pytest.approx(2 * 0.5**10)
    put_records(ranks(10))
    assert night(force=True).night.comparison.reference == better.run_id


def test_significant_regression_alarms_every_night_until_it_is_accepted(night):
    first = night()
    put_records(ranks(20))
    for _ in range(2):
        worse = night(force=True)
        assert worse.exit_code == 4 and worse.night.comparison.reference == first.run_id
        assert {line.status for line in worse.notebooks} == {"green"} and read_status(worse.run_id).exit_code == 4
    assert any(
        "recall regressed: mixvpr on village" in line and "10 queries lost" in line for line in worse.night.summary
    )
    accepted = night(force=True, accept=True)
    assert accepted.exit_code == 4 and accepted.night.accepted
    after = night(force=True)
    assert after.exit_code == 0 and after.night.comparison.reference == accepted.run_id


def test_a_few_flips_are_noise(night):
    night()
    put_records(ranks(13))
    result = night(force=True)
    (change,) = result.night.comparison.recalls
    assert result.exit_code == 0 and change.verdict == "within noise" and change.lost == 3
    assert change.p_value == pytest.approx(0.25)


def test_what_is_gone_or_scored_otherwise_ends_in_6(night):
    path = put_records(ranks(5), model="gem")
    night()
    path.unlink()
    result = night(force=True)
    assert result.exit_code == 6 and result.night.comparison.gone == ("gem on village (village@25m, seed 1, 02)",)
    put_records(ranks(5), model="gem")
    put_records(ranks(10), card="card2")
    result = night(force=True)
    assert result.exit_code == 6 and "scored with different protocol cards" in result.night.comparison.incomparable[0]
    put_records(ranks(10)[:-1])
    assert "scored on different queries" in night(force=True).night.comparison.incomparable[0]


LOST = Comparison(reference="r", gone=("gem",))
FELL = Comparison(
    reference="r",
    gone=("gem",),
    recalls=[
        dict(notebook="02", dataset="town", protocol="p", model="m", seed=1, queries=9, before={"R@1": 90.0},
             after={"R@1": 10.0}, lost=8, gained=0, p_value=0.01, p_adjusted=0.01, verdict="regressed")
    ],
)  # fmt: skip


@pytest.mark.parametrize(
    ("code", "kind", "comparison", "problem", "expected"),
    [
        (143, "disk", FELL, "", 143),
        (2, "invalid", None, "bad parameters", 2),
        (1, "disk", FELL, "", 5),
        (1, "error", FELL, "", 1),
        (0, None, FELL, "No space left on device", 5),
        (0, None, FELL, "the comparison failed", 1),
        (3, "blocked", FELL, "", 3),
        (0, None, FELL, "", 4),
        (0, None, LOST, "", 6),
        (0, None, None, "", 0),
    ],
)
def test_the_worst_decides(code, kind, comparison, problem, expected):
    failures = [Failure(notebook="02", kind=kind, reason="r")] if kind else []
    assert severity(SimpleNamespace(exit_code=code), failures, comparison, problem) == expected


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, 1, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def flaky(project, fault):
    """02 does `fault` in its first attempt, and ends well in later ones."""
    flag = project.root / "tried"
    code = f"first = not os.path.exists('{flag}')\nopen('{flag}', 'a').write('x')\nif first: {fault}"
    project.add("02_train", code, "make('02.png')", "finish()", settings={"timeout_minutes": 0.003})
    return flag


@pytest.mark.parametrize(
    ("fault", "told"), [("os.kill(os.getpid(), 9)", "SIGKILL"), ("time.sleep(60)", "nothing heard for longer")]
)
def test_killed_and_timed_out_get_a_second_attempt(night, chain, fault, told):
    flag = flaky(chain, fault)
    result = night(slack_s=0.3)
    assert result.exit_code == 0 and flag.read_text() == "xx"
    assert told in result.night.retried["02_train"] and (result.folder / "02_train.attempt1.log").is_file()


def test_dead_twice_is_dead_and_a_plain_run_does_not_retry(night, chain):
    flag = chain.root / "tries"
    chain.add("02_train", f"open('{flag}', 'a').write('x'); os.kill(os.getpid(), 9)")
    result = night()
    assert result.exit_code == 1 and flag.read_text() == "xx"
    assert [(f.notebook, f.kind) for f in result.night.failures] == [("02_train", "killed")]
    chain.run()
    assert flag.read_text() == "xxx"


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (
            "raise type('CheckFailed', (AssertionError,), {'__module__': 'm'})('1 of 1 checks do not hold: r1')",
            "check",
            1,
        ),
        ("1 / 0", "error", 1),
        ("raise type('OutOfMemoryError', (RuntimeError,), {'__module__': 'm'})('CUDA out of memory')", "gpu memory", 1),
        ("raise OSError(28, 'No space left on device')", "disk", 5),
    ],
)
def test_what_raised_is_never_tried_again(night, chain, fault, kind, code):
    night()
    flag = flaky(chain, fault)
    result = night()
    assert result.exit_code == code and flag.read_text() == "x" and not result.night.retried
    assert [(f.notebook, f.kind) for f in result.night.failures] == [("02_train", kind)], result.night.failures
    assert result.night.comparison.gone == (), "results of a failed notebook are missing, not gone"
    assert night().exit_code == 0, "the next night resumes"


def test_total_time_of_a_notebook_is_limited(night, chain):
    ticks = ["time.sleep(0.2)"] * 8
    chain.add("02_train", *ticks, settings={"timeout_minutes": 0.005, "minutes": 0.0005})
    result = night()
    assert result.exit_code == 1 and result.night.failures[0].kind == "timeout"
    assert "took longer than 1 s in all" in result.night.failures[0].reason


def test_disk_full_while_the_runner_writes(night, monkeypatch):
    original, calls = paths.write_text, []

    def write(path, text):
        calls.append(path)
        if Path(path).name == "status.json" and len(calls) > 6:
            raise FULL
        return original(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(paths, "write_text", write)
        result = night()
    assert result.exit_code == 5 and "No space left on device" in result.problem
    with night_lock() as dead:
        assert not dead, "the lock was given back"


def test_disk_full_while_the_night_is_written_loses_no_notebook(night, monkeypatch):
    def refuse(*args, **kwargs):
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(nightly_compare, "_take", refuse)
        result = night()
    assert result.exit_code == 5 and "No space left" in result.night.problem
    with monkeypatch.context() as patch:
        patch.setattr("vpr_lib.workbook.night.nightly_pages.write_pages", refuse)
        result = night()
    assert result.exit_code == 5 and json.loads((result.folder / "nightly.json").read_text())["exit_code"] == 5
    again = night()
    assert again.exit_code == 0 and {line.status for line in again.notebooks} == {"resumed"}


def test_second_night_is_refused_and_a_dead_one_makes_way(night, chain):
    code = "import time; from vpr_lib.workbook.run.lock import night_lock\nwith night_lock(): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Overlap, match=f"another nightly run is still at work .process {holder.pid} on"):
        night()
    assert not list(paths.runs_root().glob("*-nightly")), "a refused night leaves nothing behind"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    result = night()
    assert result.exit_code == 0 and f"process {holder.pid} on" in result.night.taken_over
    assert night().night.taken_over == ""


def test_a_plain_run_waits_for_no_night(night, chain):
    with night_lock():
        before = set(paths.runs_root().iterdir())
        with pytest.raises(
            Overlap, match=r"another nightly run is still at work .*would spoil its times and its comparison"
        ):
            chain.run()
        assert set(paths.runs_root().iterdir()) == before, "a refused run leaves nothing behind"
    assert chain.run().exit_code == 0


def test_a_night_waits_for_no_plain_run_and_plain_runs_share(night, chain):
    (paths.runs_root()).mkdir(exist_ok=True)
    (paths.runs_root() / ".nightly.lock").write_text("process 1 on elsewhere")  # of a night that died: not to be blamed
    with run_lock(), run_lock():
        assert chain.run().exit_code == 0
        with pytest.raises(
            Overlap, match=r"another run of the workbook is still at work \(it has not told its name; lock"
        ):
            night()
        folder = chain.run().folder
        status = state.read_status(folder).model_copy(update={"finished": None, "runner_pid": os.getpid()})
        state.write_status(status)
        with pytest.raises(Overlap, match=rf"at work \({folder.name}, process {os.getpid()}; lock"):
            night()
        state.write_status(status.model_copy(update={"finished": state.now()}))
    assert night().night.taken_over == "process 1 on elsewhere"


def test_command_line(night, chain, monkeypatch, tmp_path):
    original = nightly.run_workbook
    monkeypatch.setattr(
        nightly, "run_workbook", lambda *a, child, **k: original(*a, child=replace(child, command=FAKE), **k)
    )
    _register()

    def call(*arguments):
        return CliRunner().invoke(app, ["run", "--profile", str(chain.profile), "--nightly", *arguments])

    found = call("--json", str(tmp_path / "r.json"))
    assert found.exit_code == 0, found.output
    assert "2 of 2 notebooks are green" in found.stdout and "nightly.html" in found.stdout
    put_records(ranks(30))
    found = call("--force")
    assert found.exit_code == 4 and "exit code 4: nightly: all green, but recall fell" in found.stderr
    found = call("--only", "02")
    assert found.exit_code == 2 and "--nightly runs the whole workbook" in found.stderr
    assert call("--keep", "0").exit_code == 2
    with night_lock():
        found = call()
    assert found.exit_code == 2 and "Cannot start: another nightly run is still at work" in found.stderr
    monkeypatch.setattr(nightly, "run_nightly", lambda *a: (_ for _ in ()).throw(FULL))
    assert call().exit_code == 5


def test_unknown_profile_starts_nothing(chain):
    with pytest.raises(UsageError, match="Unknown profile"):
        run_nightly(Request("nothing"))
    assert not paths.runs_root().exists()


def made_up(number, code, profile="tiny"):
    folder = paths.runs_root() / f"n{number}"
    folder.mkdir(parents=True)
    stamp = f"2026-01-{number:02d}T00:00:00+00:00"
    (folder / "nightly.json").write_text(
        Night(run_id=folder.name, profile=profile, started=stamp, exit_code=code).model_dump_json()
    )


def test_retention_keeps_the_latest_of_both_kinds_and_whatever_is_in_use(night):
    for number in range(1, 13):
        made_up(number, 0 if number % 2 else 1)
    made_up(20, 0, profile="other")
    used = paths.runs_root() / "green/tiny/01_data.json"
    used.parent.mkdir(parents=True)
    used.write_text(
        json.dumps({"notebook": "01_data", "profile": "tiny", "key": "k", "run_id": "n1", "executed_in": "n1"})
    )
    (paths.runs_root() / "by-hand").mkdir()
    (paths.runs_root() / "latest").symlink_to("n2")
    assert set(retire("tiny", 2)) == {"n3", "n5", "n7", "n4", "n6", "n8"}
    left = {path.name for path in paths.runs_root().iterdir()}
    assert left == {"n1", "n2", "n9", "n10", "n11", "n12", "n20", "by-hand", "green", "latest"}
    used.write_text("{")
    assert retire("tiny", 1) == (), "with a damaged note nothing is deleted"


def test_the_reference_survives_many_failed_nights(night, chain):
    first = night()
    chain.add("02_train", "1 / 0")
    for _ in range(3):
        last = night(keep_runs=1)
    assert last.exit_code == 1 and first.folder.is_dir() and last.night.comparison.reference == first.run_id
    assert len(nights("tiny")) == 3, "the green one, the failed one kept, and the one just made"
    assert find_run("latest") == last.folder


def test_a_night_dated_in_the_future_does_not_stay_the_reference(night):
    first = night()
    path = first.folder / "nightly.json"
    path.write_text(first.night.model_copy(update={"started": "2099-01-01T00:00:00+00:00"}).model_dump_json())
    put_records(ranks(20))
    second = night(force=True)
    assert second.exit_code == 4 and second.night.comparison.reference == first.run_id  # there is no other one
    accepted = night(force=True, accept=True)
    third = night(force=True)
    assert third.exit_code == 0 and third.night.comparison.reference == accepted.run_id
    assert nights("tiny")[-1].run_id == first.run_id
    made_up(1, 0)
    assert first.run_id in retire("tiny", 1)  # the first to go


def test_records_and_pictures_edited_in_place_are_told(night, chain):
    first = night()
    record = paths.cache_root() / "tiny/records/02_train/village/village@25m/mixvpr__1.parquet"
    other = pd.read_parquet(record)
    other["first_hit"] = other["first_hit"].where(other["query"] >= 40, 3).astype(np.int32)
    content = put_records(ranks(10)).with_suffix(".new")
    other.to_parquet(content)
    with record.open("r+b") as file:  # the same inode: what a link to it would follow
        file.write(content.read_bytes())
        file.truncate()
    (chain.root / "figures/tiny/02.png").open("r+b").write(b"X")
    kept = [*(first.folder / "records").rglob("*.parquet"), first.folder / "figures/02.png"]
    assert all(path.stat().st_nlink == 1 for path in kept)
    second = night()
    assert second.exit_code == 4 and second.night.comparison.recalls[0].lost == 30
    assert (first.folder / "figures/02.png").read_bytes()[:1] != b"X"


def test_killed_night_is_no_reference(night, chain):
    first = night()
    dead = first.night.model_copy(update={"run_id": "dead", "exit_code": None, "started": "2099-01-01T00:00:00+00:00"})
    (paths.runs_root() / "dead").mkdir()
    (paths.runs_root() / "dead/nightly.json").write_text(dead.model_dump_json())
    assert night().night.comparison.reference == first.run_id


def picture(path, shade, size=(40, 30)):
    Image.new("RGB", size, (shade, 0, 0)).save(path)
    return path


@pytest.fixture
def village(tmp_path, monkeypatch):
    """A data set with one picture for everything."""
    path = str(picture(tmp_path / "house.png", 120))
    queries = SimpleNamespace(
        image_paths=lambda: [path] * QUERIES, table=pd.DataFrame({"sample_id": [f"q{n}" for n in range(QUERIES)]})
    )
    benchmark = SimpleNamespace(queries=queries, database=SimpleNamespace(image_paths=lambda: [path] * 100))
    monkeypatch.setattr("vpr_lib.data.catalogue.open_benchmark", lambda name: {"village": benchmark}[name])


def two_nights(night, chain, shade):
    """A night, then one in which recall fell, a figure changed and a check moved."""
    source = picture(chain.root / "fig.png", 100)
    chain.add("02_train", f"make('02.png', '{source}')", "finish()", makes=["02.png"])
    first = night()
    picture(source, shade)
    put_records(ranks(20))
    return first, night(force=True, report=True)


def test_pages_show_the_flips_the_figures_and_need_nothing_from_outside(night, chain, village):
    first, second = two_nights(night, chain, shade=130)
    (file,) = second.night.comparison.files
    assert (file.name, file.kind, file.mean_difference, file.changed_share) == ("02.png", "pixels", 10.0, 1.0)
    html = (second.folder / "nightly.html").read_text()
    soup = BeautifulSoup(html, "html.parser")
    assert len(soup.find_all("img")) == 5 + 2 and all(i["alt"] and i["src"].startswith("data:") for i in soup("img"))
    assert "Query 10 of village: first match right before, wrong tonight." in html
    assert "▼" in html and "regressed" in html and "prefers-color-scheme: dark" in html
    assert not soup.find_all(["script", "iframe", "link", "object"]) and not re.search(
        r"https?://(?!www\.w3\.org)", html
    )
    assert [a["href"] for a in soup("a")] == ["report/index.html"]
    report = second.folder / "report"
    assert '<a href="nightly.html">' in (report / "index.html").read_text()
    assert 'href="index.html"' in (report / "nightly.html").read_text()
    told = (second.folder / "nightly.md").read_text()
    assert (
        told.startswith("# ✗ tiny: nightly: all green, but recall fell") and "| ▼ regressed | mixvpr on village" in told
    )
    assert "100.0 % of the pixels differ, 10.00 of 255" in told and first.run_id in told


def test_no_pictures_without_the_data(night, chain):
    _, second = two_nights(night, chain, shade=100)
    assert not second.night.comparison.files, "the same pixels"
    assert "No pictures of mixvpr on village" in (second.folder / "nightly.html").read_text()


def test_junit(night, chain):
    night()
    put_records(ranks(30))
    chain.add(
        "01_data",
        "raise type('CheckFailed', (AssertionError,), {'__module__': 'm'})('1 of 1 checks do not hold: \\x1b[31mr1')",
    )
    chain.add("03_other", "1 / 0")
    root = ET.parse(night().folder / "junit.xml").getroot()
    counts = {s.get("name"): [s.get(k) for k in ("tests", "failures", "errors", "skipped")] for s in root}
    assert counts == {"notebooks": ["3", "1", "1", "1"], "comparison": ["0", "0", "0", "0"]}
    chain.add("01_data", makes=["01.png"]).add("03_other", makes=["03.png"])
    root = ET.parse(night().folder / "junit.xml").getroot()
    (failure,) = root.findall("testsuite[@name='comparison']/testcase/failure")
    assert failure.get("type") == "regressed" and "lost 20, gained 0" in failure.get("message")


def test_time_memory_checks_findings_environment_and_commits(night, chain):
    def git(*arguments):
        command = ["git", "-C", str(chain.root), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        subprocess.run(command, check=True, capture_output=True)

    check = "dict(key='r1', statement='s', target='at least 0', measured={}, holds=True)"
    git("init"), git("commit", "--allow-empty", "-m", "one")
    chain.add("02_train", "make('02.png')", f"finish(checks=[{check.format(0.5)}])", makes=["02.png"])
    first = night()
    git("commit", "--allow-empty", "-m", "Halve the learning rate")
    chain.add("02_train", "make('02.png')", f"finish(checks=[{check.format(0.25)}])", makes=["02.png"])
    machine = json.loads((first.folder / "env.json").read_text())
    machine["packages"] = {**machine["packages"], "torch": "0.1"}
    assert machine["disk_free_bytes"] > 0
    (first.folder / "env.json").write_text(json.dumps(machine))
    status = json.loads((first.folder / "status.json").read_text())
    status["notebooks"][1] |= {"seconds": 100.0, "peak_memory_bytes": 5}
    (first.folder / "status.json").write_text(json.dumps(status))
    found = night().night.comparison
    assert [(c.key, c.before, c.after) for c in found.checks] == [("r1", 0.5, 0.25)]
    assert found.environment["packages.torch"][0] == "0.1" and "git" in found.environment
    assert [commit.split(" ", 1)[1] for commit in found.commits] == ["Halve the learning rate"]
    cost = {cost.notebook: cost for cost in found.costs}["02_train"]
    assert cost.seconds[0] == 100.0 and cost.remark == "faster" and cost.memory_bytes == (5, 1000)


def test_a_removed_sentinel_is_told(night):
    first = night()
    (first.folder / "02_train.done.json").unlink()
    shutil.rmtree(first.folder / "records")
    result = night(force=True)
    assert result.exit_code == 1 and "has no sentinel of 02_train" in result.night.problem
