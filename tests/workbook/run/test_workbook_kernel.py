"""Real kernels under papermill: it calls a dead kernel 'completed'; we do not.

Covers workbook.run.execute, workbook.run.verify.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from vpr_lib.workbook.run.process import EXECUTE
from vpr_lib.workbook.run.status import read_status

OPEN = "from vpr_lib.workbook.book.session import open_notebook\nbook = open_notebook('{name}', profile, run_id)"
DRAW = (
    "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\n"
    "book.figure(axes, '{name}', alt='Nothing is drawn.', caption='Empty axes.')"
)


def add(project, name, *cells, **entry):
    cells = [cell.replace("{name}", name) for cell in (OPEN, *cells)]
    return project.add(name, *cells, **entry)


def cells_of(result, name):
    cells = json.loads((result.folder / f"{name}.ipynb").read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kernel_of(folder, name) -> int:
    events = [json.loads(line) for line in (folder / f"{name}.events.jsonl").read_text().splitlines()]
    return next(event["pid"] for event in events if event["event"] == "kernel")


def test_green_notebook_in_the_right_interpreter_with_the_right_values(project, monkeypatch, never):
    """A folder with odd characters, a foreign kernel named python3, no activated environment: green, then resumed."""
    project.root = project.root / "a {odd} földer"
    project.root.mkdir()
    foreign = project.root / "jupyter/kernels/python3/kernel.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("VPR_HOME", str(project.root))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(project.root / "jupyter"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    head = 'profile: str = "x"\nrun_id: str = ""\nname: str = ""\nsize: list[int] = [1, 2]\nrate: float | None = 1.0'
    values = "assert (name, size, rate) == ('0\"7\\\\{é}', [3, 4], None), (name, size, rate)"
    place = f"import os, sys; assert sys.executable == {sys.executable!r} and os.getcwd().endswith('notebooks')"
    cells = [
        OPEN.format(name="01_good"),
        "#md # Title",
        values,
        place,
        DRAW.format(name="01_good"),
        "",
        "book.finish('fine')",
    ]
    project.add("01_good", *cells, head=head, makes=["01_good.png"])
    given = ['01.name=0"7\\{é}', "01.size=[3, 4]", "01.rate=null"]
    result = project.run(command=EXECUTE, overrides=given, report=True)
    (line,) = result.notebooks
    assert (line.status, line.headline, line.cells, line.cells_done) == ("green", "fine", 7, 7), line.reason
    assert line.peak_memory_bytes > 2e7 and not alive(kernel_of(result.folder, "01_good"))
    assert 'alt="Nothing is drawn."' in (result.report.parent / "01_good.html").read_text()
    assert project.statuses(command=never, overrides=given) == {"01_good": "resumed"}


@pytest.mark.slow
def test_every_way_to_fail_has_its_status_and_message(project, never):
    add(project, "01_good", DRAW, "book.finish()", makes=["01_good.png"])
    add(project, "02_raises", "print('before')", "{}['epochs']", "book.finish()")
    add(project, "03_dies", "import os", "os.kill(os.getpid(), 9)", "book.finish()")
    add(project, "04_sleeps", "import time; time.sleep(600)", "book.finish()", settings={"timeout_minutes": 0.04})
    add(project, "05_exits", "book.finish()", "raise SystemExit(0)", "after = 1")
    checks = {"recall_at_1": {"statement": "high recall", "at_least": 0.5}}
    add(project, "06_checks", "book.check({'recall_at_1': 0.25})", "book.finish()", settings={"checks": checks})
    add(project, "07_waits", "book.finish()", needs=["03_dies"])
    add(project, "08_results", "book.finish()", needs=["02_raises", "07_waits"], always=True)
    result = project.run(command=EXECUTE, report=True)
    found = {line.name: line for line in result.notebooks}
    assert {name: str(line.status) for name, line in found.items()} == {
        "01_good": "green", "02_raises": "failed", "03_dies": "killed", "04_sleeps": "timeout", "05_exits": "failed",
        "06_checks": "failed", "07_waits": "blocked", "08_results": "green",
    }  # fmt: skip
    assert result.exit_code == 1 and result.report.is_file()
    assert found["02_raises"].reason.startswith("cell 5 of 6 raised KeyError: 'epochs'\n")
    assert "----> 1 {}['epochs']" in found["02_raises"].reason
    assert found["03_dies"].reason.startswith("the kernel died in cell 5 of 6 (SIGKILL")
    assert found["04_sleeps"].reason == "cell 4 of 5 ran longer than its limit of 2 s: import time; time.sleep(600)"
    assert found["05_exits"].reason == "1 of 6 code cells did not run, the first is cell 6: after = 1"
    assert (
        found["06_checks"].reason == "1 of 1 checks do not hold: recall_at_1: high recall: target ≥ 0.5, measured 0.25"
    )
    assert found["07_waits"].reason == "needs 03_dies (killed)"
    for name in ("03_dies", "04_sleeps"):
        states = {cell["metadata"]["papermill"]["status"] for cell in cells_of(result, name)}
        assert states == {"completed"}, "papermill claims it; if it stops doing so, verify.py's comment can go"
        assert not alive(kernel_of(result.folder, name))
    log = (result.folder / "02_raises.log").read_text()
    assert "── cell 4 of 6: print('before')\nbefore\n" in log and "KeyError" in log and "\x1b" not in log
    assert "do not hold" in (result.report.parent / "06_checks.html").read_text()
    assert project.statuses(command=never, only=["01"])["01_good"] == "resumed"


DIES_FIRST = """
import os, sys
if "ipykernel_launcher" in sys.orig_argv:
    try:
        os.close(os.open({flag!r}, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    else:
        os._exit(1)
"""


def test_a_kernel_that_dies_before_it_answers_is_started_once_more(project, monkeypatch):
    """As one does whose port another took: nothing of the notebook has run. Sockets are files, so no port is used."""
    (project.root / "site").mkdir()
    (project.root / "site/sitecustomize.py").write_text(DIES_FIRST.format(flag=str(project.root / "died")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(project.root / "site"), *sys.path]))
    file = "from ipykernel.connect import get_connection_info"
    transport = "assert get_connection_info(unpack=True)['transport'] == 'ipc'"
    add(project, "01_good", file, transport, DRAW, "book.finish()", makes=["01_good.png"])
    result = project.run(command=EXECUTE)
    (line,) = result.notebooks
    assert (line.status, line.cells_done) == ("green", line.cells), line.reason
    assert (project.root / "died").exists()
    assert "it is started once more" in (result.folder / "01_good.log").read_text()


def test_a_long_temporary_folder_leaves_the_kernel_its_ports(project, monkeypatch):
    (project.root / ("t" * 90)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(project.root / ("t" * 90)))
    transport = (
        "from ipykernel.connect import get_connection_info as info; assert info(unpack=True)['transport'] == 'tcp'"
    )
    add(project, "01_good", transport, DRAW, "book.finish()", makes=["01_good.png"])
    (line,) = project.run(command=EXECUTE).notebooks
    assert line.status == "green", line.reason


DRIVER = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
from pathlib import Path
from vpr_lib.workbook.run import keys
from vpr_lib.workbook.run.prepare import Request
from vpr_lib.workbook.run.runner import run_workbook
keys.library_digest = lambda: "library"
sys.exit(run_workbook(Request(Path(sys.argv[1]))).exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_kernel_survives_its_runner_and_the_next_run_goes_on(project, number):
    wait = "import pathlib, time, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    wait += f"root = pathlib.Path({str(project.root)!r}); (root / 'started').touch()\n"
    wait += "while not (root / 'go').exists(): time.sleep(0.05)"
    add(project, "01_good", "book.finish()")
    add(project, "02_long", wait, "book.finish()", needs=["01_good"])
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(project.profile)], start_new_session=True)
    end = time.monotonic() + 60
    while not (project.root / "started").exists():
        assert time.monotonic() < end and driver.poll() is None
        time.sleep(0.05)
    status = read_status()
    kernel = kernel_of(project.root / "runs" / status.run_id, "02_long")
    assert alive(kernel)
    os.kill(driver.pid, number)
    assert driver.wait(20) == (130 if number == signal.SIGINT else -9)
    end = time.monotonic() + 10
    while alive(kernel):
        assert time.monotonic() < end, "the kernel goes on alone"
        time.sleep(0.05)
    assert read_status().state == ("finished" if number == signal.SIGINT else "interrupted")
    (project.root / "go").touch()
    assert project.statuses(command=EXECUTE) == {"01_good": "resumed", "02_long": "green"}
