"""The runner's decisions, with a stand-in for the kernel: what is green, blocked, resumed, and what each run returns.

Covers workbook.run.steps.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vpr_lib import paths
from vpr_lib.workbook.run import verify
from vpr_lib.workbook.run.execute import EXITS
from vpr_lib.workbook.run.plan import UsageError
from vpr_lib.workbook.run.process import Ended, Job, Progress
from vpr_lib.workbook.run.status import find_run, read_status

ALL = ["01_data", "02_train", "03_other", "08_results"]


def lines(result):
    return {line.name: line for line in result.notebooks}


def test_all_green_then_resumed_without_starting_anything(chain, never):
    first = chain.run()
    assert first.exit_code == 0 and {line.status for line in first.notebooks} == {"green"}
    second = chain.run(command=never)
    assert second.exit_code == 0 and {line.status for line in second.notebooks} == {"resumed"}
    assert {line.from_run for line in second.notebooks} == {first.run_id}
    third = chain.run(command=never)
    assert {line.from_run for line in third.notebooks} == {first.run_id}, "the origin is kept over several runs"
    assert all((third.folder / f"{name}.ipynb").is_file() for name in ALL), "a run folder is complete"
    shutil.rmtree(first.folder)
    shutil.rmtree(second.folder)
    assert {line.status for line in chain.run(command=never).notebooks} == {"resumed"}, "older runs can be deleted"


def test_failure_blocks_its_dependants_only_and_results_run(chain):
    chain.add("01_data", "epochs", "1 / 0", "finish()")
    result = chain.run()
    found = lines(result)
    assert {name: str(line.status) for name, line in found.items()} == {
        "01_data": "failed", "02_train": "blocked", "03_other": "green", "08_results": "green",
    }  # fmt: skip
    assert result.exit_code == 1
    assert found["01_data"].reason.startswith("cell 4 of 5 raised ZeroDivisionError: division by zero")
    assert found["02_train"].reason == "needs 01_data (failed)"
    again = chain.statuses()
    assert again["03_other"] == "resumed", "what was green is not lost"
    assert again["08_results"] == "green", "results over holes are never resumed"
    assert chain.add("01_data", makes=["01.png"]).statuses() == dict.fromkeys(ALL, "green") | {"03_other": "resumed"}


@pytest.mark.parametrize(
    ("code", "ended"),
    [(-1, " (SIGHUP)"), (129, " (SIGHUP)"), (-11, " (SIGSEGV)"), (137, " (SIGKILL, often the system's out-of-memory"),
     (255, " (signal 127)")],
)  # fmt: skip
def test_what_ended_the_child_is_named(chain, code, ended):
    name = ALL[0]
    job = Job(name, chain.root / f"{name}.ipynb", chain.root, chain.root, {}, 60)
    verdict = verify._broken(job, Ended(code, 1.0, Progress()), "cell 2 of 5")
    assert verdict.status == "killed" and f"died in cell 2 of 5{ended}" in verdict.reason


@pytest.mark.parametrize(
    ("end", "reason"),
    [("error", "R@1 is 3, expected 4"), ("dead", "the kernel died in cell 2 of 5 (exit code 0): recalls"),
     ("timeout", "cell 2 of 5 ran longer than its limit of 60 s: recalls")],
)  # fmt: skip
def test_a_failed_check_speaks_for_itself(chain, end, reason):
    job = Job(ALL[0], chain.root / "a.ipynb", chain.root, chain.root, {}, 60)
    failure = {"ename": "CheckFailed", "evalue": "R@1 is 3, expected 4", "tail": ["a line"]}
    progress = Progress(line="recalls", kernel_returncode=0, failure=failure)
    assert verify._broken(job, Ended(EXITS[end], 1.0, progress), "cell 2 of 5").reason == reason


def test_stop_at_the_first_failure(chain):
    chain.add("01_data", "1 / 0")
    found = chain.statuses(keep_going=False)
    assert found == {"01_data": "failed", "02_train": "skipped", "03_other": "skipped", "08_results": "green"}


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (["make('01.png')"], "it wrote no 01_data.done.json: end the notebook with book.finish"),
        (["make('01.png')", "finish(run_id='other')"], "belongs to notebook 01_data, run other"),
        (["make('01.png')", "finish(key='old')"], "key old; expected 01_data"),
        (["make('01.png')", "finish(notebook='02_train')"], "belongs to notebook 02_train"),
        (["finish()"], "declared in workbook.yaml but not made by this run: 01.png"),
        (["make('01.png')", "finish(headline=[])"], "is damaged or was written by another version"),
        (["make('01.png')", "finish()", "raise SystemExit(0)", "never = 1"], "2 of 6 code cells did not run"),
        (["make('01.png')", "finish()", "open(job['output'], 'w'); save = None; os._exit(0)"], "cannot be read"),
        (["make('01.png')", "finish()", "os.remove(os.environ['VPR_HOME'] + '/figures/tiny/01.png')"], "01.png is gone"),
        (["make('01.png')", "finish()", "open(os.environ['VPR_HOME'] + '/figures/tiny/01.png', 'a').write('x')"],
         "01.png has 16 bytes, 15 were written"),
    ],
)  # fmt: skip
def test_exit_code_zero_is_not_enough(project, cells, reason):
    project.add("01_data", *cells, makes=["01.png"])
    (line,) = project.run().notebooks
    assert line.status == "failed" and reason in line.reason


def test_output_of_an_earlier_run_does_not_count(project):
    project.add("01_data", makes=["01.png"]).run()
    project.add("01_data", "finish()")
    (line,) = project.run().notebooks
    assert "not made by this run: 01.png (01.png on disk is of an earlier run)" in line.reason


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("os._exit(4)", "killed", "the kernel died in cell 3 of 3"),
        ("os._exit(3)", "timeout", "cell 3 of 3 ran longer than its limit of 5 min"),
        ("os.kill(os.getpid(), 9)", "killed", "(SIGKILL, often the system's out-of-memory killer"),
        ("os._exit(5)", "failed", "exit code 5, cell 3 of 3; see"),
    ],
)
def test_classes_of_death(project, code, status, reason):
    (line,) = project.add("01_data", code).run().notebooks
    assert line.status == status and reason in line.reason


def test_silent_child_that_ignores_sigterm_is_killed_with_its_family(project):
    family = "import subprocess, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    family += "child = subprocess.Popen(['sleep', '600']); open(job['output'] + '.pid', 'w').write(str(child.pid))\n"
    project.add("01_data", family + "time.sleep(600)", settings={"timeout_minutes": 0.002})
    started = time.monotonic()
    result = project.run(slack_s=0.5)
    assert time.monotonic() - started < 15
    assert result.notebooks[0].status == "timeout" and "nothing heard for longer" in result.notebooks[0].reason
    pid = int((result.folder / "01_data.ipynb.pid").read_text())
    with pytest.raises(ProcessLookupError):
        for _ in range(50):
            os.kill(pid, 0)
            if "Z (zombie)" in Path(f"/proc/{pid}/status").read_text():
                raise ProcessLookupError
            time.sleep(0.1)


def test_invalid_parameters_start_nothing(chain, never):
    result = chain.run(command=never, overrides=["02.epoch=3", "02.rate=fast", "03.epochs=[1]"])
    assert result.exit_code == 2
    assert {name: str(line.status) for name, line in lines(result).items()} == {
        "01_data": "skipped", "02_train": "invalid", "03_other": "invalid", "08_results": "skipped",
    }  # fmt: skip
    for part in ("unknown parameter 'epoch'", "'rate' must be float, got fast", "'epochs' must be int, got [1] (list)"):
        assert part in result.problem
    assert "epochs: int = 3  # passes over the data" in result.problem
    assert read_status().exit_code == 2


def test_parameters_of_the_profile_are_checked_too(chain, never):
    chain.settings["notebooks"]["02_train"]["parameters"] = {"epochs": "three"}
    result = chain.write().run(command=never)
    assert result.exit_code == 2 and "'epochs' must be int, got 'three' (str)" in result.problem


def test_usage_errors(chain):
    for options, message in [
        ({"overrides": ["02.epochs=1"], "only": ["03"]}, "02_train is not part of this run"),
        ({"only": ["07"]}, "Unknown notebook '07'"),
        ({"run_id": "../x"}, "A run id has letters"),
        ({"run_id": "latest"}, "A run id has letters"),
    ]:
        with pytest.raises(UsageError, match=message):
            chain.run(**options)
    with pytest.raises(UsageError, match=r"Unknown profile 'toyy'. Known"):
        from vpr_lib.workbook.run.prepare import Request
        from vpr_lib.workbook.run.runner import run_workbook

        run_workbook(Request("toyy"))
    assert not paths.runs_root().exists(), "nothing is left behind by a run that never was"


def test_overrides_reach_the_notebook_and_change_the_key(chain):
    chain.add("02_train", "assert epochs == 9 and rate == 0.001", "make('02.png')", "finish()")
    result = chain.run(overrides=["02.epochs=9", "02.rate=1e-3"])
    assert result.exit_code == 0
    assert lines(result)["02_train"].parameters["epochs"] == 9
    found = chain.statuses(overrides=["02.epochs=9", "02.rate=0.001"])
    assert found == dict.fromkeys(ALL, "resumed"), "the value counts, not how it is written"
    assert chain.statuses()["02_train"] == "failed"


def test_changed_source_invalidates_it_and_its_dependants(chain):
    chain.run()
    chain.add("02_train", "more = 1", "make('02.png')", "finish()")
    assert chain.statuses() == dict.fromkeys(ALL, "green") | {"01_data": "resumed", "03_other": "resumed"}


def test_outputs_and_counts_in_the_source_change_nothing(chain, never):
    chain.run()
    path = chain.root / "notebooks/01_data.ipynb"
    source = json.loads(path.read_text())
    source["cells"][1]["execution_count"] = 5
    path.write_text(json.dumps(source, indent=3))
    assert set(chain.statuses(command=never).values()) == {"resumed"}


def test_changed_library_check_seed_input_or_device_invalidates(chain, monkeypatch):
    (chain.root / "table.csv").write_text("a")
    chain.entries[0]["reads"] = ["*.csv"]
    chain.write().run()
    assert set(chain.statuses().values()) == {"resumed"}
    (chain.root / "table.csv").write_text("b")
    assert chain.statuses() == dict.fromkeys(ALL, "green") | {"03_other": "resumed"}
    chain.settings["notebooks"]["03_other"]["checks"] = {"a": {"statement": "s", "at_least": 0}}
    assert chain.write().statuses() == dict.fromkeys(ALL, "resumed") | {"03_other": "green"}
    chain.settings["notebooks"]["03_other"]["minutes"] = 5
    assert set(chain.write().statuses().values()) == {"resumed"}, "an expected time changes no number"
    monkeypatch.setattr("vpr_lib.workbook.run.keys.device_kind", lambda wanted: "cuda:H100")
    assert set(chain.statuses().values()) == {"green"}
    monkeypatch.setattr("vpr_lib.workbook.run.keys.library_digest", lambda: "edited")
    assert set(chain.statuses().values()) == {"green"}
    chain.settings["seed"] = 2
    assert set(chain.write().statuses().values()) == {"green"}


def test_lost_or_changed_outputs_are_made_again(chain):
    chain.run()
    (chain.root / "figures/tiny/02.png").write_text("painted over!!!")
    (chain.root / "figures/tiny/03.png").unlink()
    assert chain.statuses() == dict.fromkeys(ALL, "resumed") | {"02_train": "green", "03_other": "green"}


def test_what_was_executed_or_recorded_is_looked_at_again(chain):
    chain.run()
    latest = chain.root / "runs/latest"
    for name in ("02_train", "03_other"):
        executed = (latest / f"{name}.ipynb").resolve()
        executed.write_text("{}" if name == "02_train" else executed.read_text() + " ")
    assert chain.statuses() == dict.fromkeys(ALL, "resumed") | {"02_train": "green", "03_other": "green"}


def test_a_check_that_could_not_be_run_is_green(project):
    check = dict(
        key="export", statement="change", target="≤ 0", measured=float("nan"), holds=False, skipped="no runtime"
    )
    [line] = project.add("01_data", f"nan = float('nan')\nfinish(checks=[{check!r}])").run().notebooks
    assert line.status == "green", line.reason


def test_a_swallowed_check_is_not_green(project):
    check = dict(key="recall_at_1", statement="R@1", target="at least 0.5", measured=0.1, holds=False)
    [line] = project.add("01_data", f"finish(checks=[{check!r}])").run().notebooks
    assert (
        line.status == "failed"
        and "a failed check was swallowed" in line.reason
        and "recall_at_1 is 0.1" in line.reason
    )


def test_force_runs_everything_selected_and_forgets_a_green_that_failed(chain):
    chain.run()
    assert chain.statuses(force=True, only=["03"])["03_other"] == "green"
    flag = chain.root / "flag"
    chain.add("03_other", f"assert not os.path.exists('{flag}'), 'flaky'", "make('03.png')", "finish()")
    assert chain.statuses()["03_other"] == "green"
    flag.touch()
    assert chain.statuses()["03_other"] == "resumed"
    assert chain.statuses(force=True)["03_other"] == "failed"
    assert chain.statuses()["03_other"] == "failed", "the earlier green under this key is no longer believed"


def test_only_needs_what_was_green_before(chain):
    result = chain.run(only=["02"])
    assert result.exit_code == 3
    assert lines(result)["02_train"].status == "blocked"
    assert "01_data (not selected; it has not been green yet; run it first)" in lines(result)["02_train"].reason
    chain.run(only=["01"])
    result = chain.run(only=["02"])
    assert result.exit_code == 0 and lines(result)["02_train"].status == "green"
    assert lines(result)["01_data"].reason.startswith("not selected; green in run ")
    assert chain.statuses() == {"01_data": "resumed", "02_train": "resumed", "03_other": "green", "08_results": "green"}


def test_from_runs_the_rest(chain):
    chain.run(only=["01"])
    assert chain.statuses(start_from="02") == dict.fromkeys(ALL, "green") | {"01_data": "skipped"}


def test_notebook_that_the_profile_leaves_out(chain):
    del chain.settings["notebooks"]["02_train"]
    found = lines(chain.write().run())
    assert found["02_train"].status == "skipped" and "profile 'tiny' has no settings for it" in found["02_train"].reason
    assert found["08_results"].status == "green"


def test_run_folder_latest_and_environment(chain):
    result = chain.run(run_id="nightly-1")
    assert result.folder == chain.root / "runs/nightly-1" == find_run("latest") == find_run("nightly-1")
    machine = json.loads((result.folder / "env.json").read_text())
    assert {"python", "cpu", "memory_bytes", "gpus", "git", "packages", "threads", "variables"} <= set(machine)
    assert machine["variables"]["VPR_HOME"] == str(chain.root)
    assert chain.run().run_id != chain.run().run_id
    with pytest.raises(FileNotFoundError, match=r"No run 'nothing' under .* Latest runs: "):
        find_run("nothing")


def test_latest_as_a_text_file_where_links_are_refused(chain, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    result = chain.run(only=["01"])
    assert (chain.root / "runs/latest").read_text().strip() == result.run_id
    assert find_run() == result.folder


DRIVER = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
from pathlib import Path
from vpr_lib.workbook.run import keys
from vpr_lib.workbook.run.prepare import Request
from vpr_lib.workbook.run.process import Child
from vpr_lib.workbook.run.runner import run_workbook
keys.library_digest = lambda: "library"
result = run_workbook(Request(Path(sys.argv[1])), child=Child(sys.argv[2:] or ("python",), grace_s=0.5))
sys.exit(result.exit_code)
"""


def start_driver(project, *command):
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(project.profile), *command], start_new_session=True)


def wait_for(path, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def slow_second(project):
    """02 shows that it started, then sleeps until a file is there."""
    wait = f"import pathlib; flag = pathlib.Path('{project.root}'); (flag / 'started').touch()"
    project.add("02_train", wait, "while not (flag / 'go').exists(): time.sleep(0.02)", "make('02.png')", "finish()")


def test_notebooks_side_by_side_wait_for_what_they_need_alone(chain, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    chain.settings["side_by_side"] = 2
    flag = f"import os, pathlib; flag = pathlib.Path('{chain.root}')"
    until = "while not (flag / 'third').exists(): time.sleep(0.02)"
    told = "(flag / 'threads').write_text(os.environ.get('OMP_NUM_THREADS', 'all'))"
    chain.add("01_data", flag, until, told, "make('01.png')", "finish()")
    chain.add("03_other", flag, "(flag / 'third').touch()", "make('03.png')", "finish()")
    chain.add("04_last", flag, "assert (flag / 'figures/tiny/02.png').exists()", "finish()", after=["02_train"])
    assert chain.statuses() == dict.fromkeys([*ALL, "04_last"], "green"), "01 ends only once 03 runs beside it"
    assert int((chain.root / "threads").read_text()) == max(1, len(os.sched_getaffinity(0)) // 2)
    chain.settings["side_by_side"] = 1
    (chain.root / "third").touch()
    assert chain.write().statuses()["01_data"] == "green", "another number of threads computes other numbers"
    again = chain.add("02_train", "1 / 0").statuses()
    assert again["04_last"] == "resumed", "`after` orders, and needs nothing"


def test_a_second_run_of_a_profile_waits_for_the_notebook_and_takes_it_over(chain, fake):
    """Records, figures and tables of a profile have one place: the second run emptied it below the first."""

    def states(name):
        found = [read_status(path.parent) for path in paths.runs_root().glob("2*/status.json")]
        return sorted(str(line.status) for status in found for line in status.notebooks if line.name == name)

    def another(so_many):
        driver = start_driver(chain, *fake)
        while states("01_data") != ["green", *["resumed"] * so_many]:
            assert driver.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        return driver

    slow_second(chain)
    first = start_driver(chain, *fake)
    wait_for(chain.root / "started")
    (chain.root / "started").unlink()
    second, third = another(1), another(2)
    os.kill(third.pid, signal.SIGINT)
    assert third.wait(20) == 130, "one that waits can be stopped"
    assert second.poll() is None and not (chain.root / "started").exists(), "it is not executed beside the first"
    (chain.root / "go").touch()
    assert first.wait(60) == second.wait(60) == 0 and not (chain.root / "started").exists()
    assert states("02_train") == ["green", "resumed", "skipped"]


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_ends_in_a_clean_state(chain, fake, number, code, together):
    chain.settings["side_by_side"] = together
    if together == 2:
        chain.add("03_other", "while True: time.sleep(0.02)")
    slow_second(chain)
    driver = start_driver(chain, *fake)
    wait_for(chain.root / "started")
    os.kill(driver.pid, number)
    assert driver.wait(20) == code
    status = read_status()
    found = {line.name: str(line.status) for line in status.notebooks}
    third = {1: "skipped", 2: "killed"}[together]
    assert found == {"01_data": "green", "02_train": "killed", "03_other": third, "08_results": "skipped"}
    assert status.exit_code == code and status.state == "finished"
    (chain.root / "go").touch()
    chain.add("03_other", makes=["03.png"])
    assert chain.statuses() == dict.fromkeys(ALL, "green") | {"01_data": "resumed"}


def test_runner_killed_with_sigkill_loses_nothing_that_was_green(chain, fake):
    slow_second(chain)
    driver = start_driver(chain, *fake)
    wait_for(chain.root / "started")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    status = read_status()
    assert status.state == "interrupted" and status.finished is None
    assert [str(line.status) for line in status.notebooks] == ["green", "running", "pending", "pending"]
    (chain.root / "go").touch()  # lets the orphan end, which the stand-in does not watch for
    assert chain.statuses() == dict.fromkeys(ALL, "green") | {"01_data": "resumed"}
