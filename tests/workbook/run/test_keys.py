"""What a content key sees: every file a notebook can import or embed, threads and cache; not where the checkout lies."""

from datetime import UTC, datetime, timedelta

import psutil
import pytest

from vpr_lib.workbook.run.keys import LIBRARY, _library_files, library_digest
from vpr_lib.workbook.run.status import RunStatus, boot_id


@pytest.mark.parametrize(
    "name",
    [
        "workbook/book/trained.py", "workbook/book/measure.py", "workbook/book/show.py", "workbook/run/status.py",
        "widgets/explorer.js", "widgets/explorer.html", "widgets/explorer.css", "retrieval/metrics.py", "files.py",
        "configs/recipes/toy.yaml",
    ],
)  # fmt: skip
def test_what_notebooks_import_or_embed_counts(name):
    assert LIBRARY / name in set(_library_files(LIBRARY))


@pytest.mark.parametrize("name", ["cli/run.py", "configs/profiles/toy.yaml", "workbook/run/runner.py"])
def test_what_changes_no_number_does_not(name):
    assert (LIBRARY / name).is_file() and LIBRARY / name not in set(_library_files(LIBRARY))


def test_every_kind_of_file_counts_but_compiled_ones(tmp_path):
    digests = set()
    for name in ("widgets/a.js", "widgets/b.css", "models/c.onnx", "models/__pycache__/d.pyc", "cli/e.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
        digests.add(library_digest(tmp_path))
    assert len(digests) == 3


def status_of(pid, host="here", boot=None, started=None):
    started = started or datetime.now(UTC)
    return RunStatus.model_construct(
        run_id="r", finished=None, runner_pid=pid, host=host, boot=boot_id() if boot is None else boot,
        started=started.isoformat(timespec="seconds"),
    ).state  # fmt: skip


def test_a_process_number_that_was_used_again_is_no_running_run():
    own = psutil.Process().pid
    assert status_of(own, host="renamed") == "running"
    assert status_of(own, started=datetime.now(UTC) - timedelta(days=2)) == "interrupted"  # we began after it
    assert status_of(2**22 + 5, host="renamed") == "interrupted"
    assert status_of(2**22 + 5, host="elsewhere", boot="another machine") == "running"  # it cannot be asked
