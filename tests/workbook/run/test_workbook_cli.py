"""`vpr run`, `vpr status`, `vpr report`: exit codes, messages, JSON, and what the terminal shows."""

import io
import json
import os
import re
import subprocess
import sys

import pytest

from vpr_lib import paths
from vpr_lib.cli import main
from vpr_lib.workbook.run.process import Child, Progress
from vpr_lib.workbook.run.status import NotebookStatus, Status
from vpr_lib.workbook.run.terminal import LiveDisplay, PlainDisplay, duration


@pytest.fixture
def vpr(chain, fake, monkeypatch, capsys):
    """Call the command line with the stand-in for the kernel; returns exit code, stdout and stderr."""
    from vpr_lib.workbook.run import runner

    original = runner.run_workbook
    monkeypatch.setattr(runner, "run_workbook", lambda *args: original(*args, child=Child(fake, grace_s=0.5)))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["vpr", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    call.profile = ("--profile", str(chain.profile))
    return call


def test_green_run_says_where_everything_is(vpr, chain, tmp_path):
    code, out, _ = vpr("run", *vpr.profile, "--run-id", "a", "--json", str(tmp_path / "r.json"))
    assert code == 0
    assert "✓ 02_train  green" in out and "▸ 02_train  running  expected 0:06" in out
    assert (
        f"figures  {chain.root}/figures/tiny\nrun      {chain.root}/runs/a\nreport   {chain.root}/runs/a/report/" in out
    )
    told = json.loads((tmp_path / "r.json").read_text())
    assert (
        told["exit_code"] == 0 and told["notebooks"][1]["status"] == "green" and told["report"].endswith("index.html")
    )


def test_status_and_report(vpr, chain, tmp_path):
    vpr("run", *vpr.profile, "--run-id", "a", "--no-report")
    assert not (chain.root / "runs/a/report").exists()
    code, out, _ = vpr("status", "--json", str(tmp_path / "s.json"))
    assert code == 0 and "a: finished, exit code 0, profile tiny" in out and "✓ green" in out
    assert json.loads((tmp_path / "s.json").read_text())["run_id"] == "a"
    code, out, _ = vpr("report", "a")
    assert code == 0 and out.strip() == str(chain.root / "runs/a/report/index.html")
    code, _, err = vpr("report", "b")
    assert code == 2 and "No run 'b' under" in err


def test_failure_tells_the_reason_and_the_log(vpr, chain):
    chain.add("01_data", "1 / 0")
    code, out, err = vpr("run", *vpr.profile, "--run-id", "a")
    assert code == 1
    assert re.search(r"✗ 01_data  failed  0:\d\d  cell 3 of 3 raised ZeroDivisionError", out)
    assert f"log: {chain.root}/runs/a/01_data.log" in err and "02_train is blocked: needs 01_data (failed)" in err
    assert "exit code 1: a notebook failed" in err


def test_refusals_end_in_2_and_list_what_is_known(vpr):
    code, _, err = vpr("run", *vpr.profile, "--set", "02.epoch=3")
    assert code == 2 and "unknown parameter 'epoch'" in err and "epochs: int = 3  # passes over the data" in err
    code, _, err = vpr("run", *vpr.profile, "--set", "epochs=3")
    assert code == 2 and "Cannot start: --set expects NOTEBOOK.NAME=VALUE" in err
    code, _, err = vpr("run", "--profile", "nothing")
    assert code == 2 and "Unknown profile 'nothing'" in err


def test_blocked_only_ends_in_3(vpr):
    code, _, err = vpr("run", *vpr.profile, "--only", "02")
    assert code == 3 and "exit code 3: nothing failed, but a notebook is blocked" in err


def test_a_terminal_without_our_signs_shows_the_words(chain, fake):
    chain.add("01_data", "print('▸ ✓')", "raise ValueError('ünï ▸')")
    code = (
        "import sys; from vpr_lib.cli import main; from vpr_lib.workbook.run import runner; from vpr_lib.workbook.run.process import Child\n"
        f"whole = runner.run_workbook; runner.run_workbook = lambda *a: whole(*a, child=Child({fake!r}, grace_s=0.5)); sys.argv[0] = 'vpr'; main()"
    )
    plain = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for words in (["run", "--profile", str(chain.profile)], ["status"], ["report"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, env=os.environ | plain)
        assert b"Traceback" not in done.stderr and b"codec" not in done.stdout + done.stderr
        assert done.returncode == (1 if words[0] == "run" else 0), done.stderr
        if words[0] == "run":
            assert b"? 01_data  failed" in done.stdout and b"? 03_other  green" in done.stdout
    assert "▸ ✓" in (chain.root / "runs/latest/01_data.log").read_text(encoding="utf-8")


def test_a_damaged_record_is_named_and_the_exit_code_is_the_runs_own(vpr, chain):
    assert vpr("run", *vpr.profile, "--no-report")[0] == 0
    record = paths.cache_root() / "tiny/records/02_train/set/rule/model__0.parquet"
    record.parent.mkdir(parents=True)
    record.write_bytes(b"PAR1 cut")
    code, out, err = vpr("run", *vpr.profile, "--no-report")
    assert code == 0 and "no table of recalls" in out and "model__0.parquet is damaged" in out
    chain.add("03_other", "1 / 0")
    code, out, err = vpr("run", *vpr.profile, "--no-report")
    assert code == 1 and "model__0.parquet is damaged" in out and "exit code 1: a notebook failed" in err


def test_plain_lines():
    stream, line = io.StringIO(), NotebookStatus(name="02_train", minutes=2)
    display = PlainDisplay(stream, every_s=0)
    display.update(line)
    display.update(line.model_copy(update={"status": Status.RUNNING}))
    display.cell("02_train", Progress(cells=5, cell=2))
    display.update(line.model_copy(update={"status": Status.FAILED, "seconds": 75.0, "reason": "one\ntwo"}))
    assert stream.getvalue().splitlines() == [
        "▸ 02_train  running  expected 2:00", "  02_train  cell 2/5  0:00", "✗ 02_train  failed  1:15  one",
    ]  # fmt: skip


def test_live_table():
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    display = LiveDisplay(console)
    display.lines = {"02_train": NotebookStatus(name="02_train", minutes=2)}
    display.update(display.lines["02_train"].model_copy(update={"status": Status.RUNNING}))
    display.cell("02_train", Progress(cells=5, cell=2, line="model = fit()"))
    console.print(display.table())
    assert "▸ running  02_train  0:00 / 2:00  cell 2/5  model = fit()" in console.file.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(None, ""), (7, "0:07"), (750, "12:30"), (10930, "3:02:10")])
def test_duration(seconds, text):
    assert duration(seconds) == text
