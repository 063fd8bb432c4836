"""Generated once, whole or not at all, the same whoever renders it."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest

from vpr_lib.files import check_seal
from vpr_lib.toycity import ensure, spec_hash
from vpr_lib.toycity import export as export_module
from vpr_lib.toycity.plan import plan

SCRIPT = """
import json, sys
from vpr_lib.toycity import ToyCitySpec, ensure
spec = ToyCitySpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(sys.argv[1]).items()})
print(ensure(spec, "benchmark", sys.argv[2], workers=1))
"""


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def seen(folder):
    """What is in a folder, the lock aside."""
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def in_another_process(spec, root):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(asdict(spec)), str(root)], stdout=subprocess.PIPE)


def test_the_description_tells_what_was_made(tiny, tiny_root):
    told = json.loads((tiny_root["runs"] / "toycity.json").read_text())
    frames = plan(tiny, "runs")
    assert told["images"] == sum(f.path.endswith(".png") for f in frames)
    assert told["clouds"] == sum(f.path.endswith(".bin") for f in frames)
    assert told["spec"]["seed"] == tiny.seed and len(told["code_version"]) == 16
    assert tiny_root["runs"].parent.name == spec_hash(tiny)


def test_a_second_call_returns_at_once(tiny, tiny_root, monkeypatch):
    monkeypatch.setattr(export_module, "_fill", lambda *_: pytest.fail("rendered again"))
    assert ensure(tiny, "places", tiny_root["places"].parents[1]) == tiny_root["places"]


def test_the_default_place_is_below_the_data_root(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("VPR_DATA", str(tmp_path))
    folder = ensure(tiny, "traverse", workers=1)
    assert folder == tmp_path / "toycity" / spec_hash(tiny) / "traverse"


def test_pictures_do_not_depend_on_the_number_of_workers(tiny, tmp_path, monkeypatch):
    spec = replace(tiny, traverse_frames=12)
    alone = ensure(spec, "traverse", tmp_path / "one", workers=1)
    monkeypatch.setattr(export_module, "_IN_PROCESS", 8)
    together = ensure(spec, "traverse", tmp_path / "two", workers=2)
    assert contents(alone) == contents(together)


def test_another_seed_or_another_source_means_another_folder(tiny, monkeypatch):
    before = spec_hash(tiny)
    assert spec_hash(replace(tiny, seed=2)) != before
    monkeypatch.setattr(export_module, "code_version", lambda: "0" * 16)
    assert spec_hash(tiny) != before


def test_a_killed_run_leaves_nothing_that_is_believed(tiny, tmp_path):
    spec = replace(tiny, poses_per_street=60)
    process = in_another_process(spec, tmp_path)
    parent = tmp_path / spec_hash(spec)
    deadline = time.monotonic() + 20
    while not any(parent.glob(".benchmark.*/images/*/*/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (abandoned,) = seen(parent)
    assert abandoned.name.startswith(".benchmark.")
    export_module._remove_abandoned(parent / "benchmark")
    assert not seen(parent)


def test_two_processes_at_once_agree(tiny, tiny_root, tmp_path):
    processes = [in_another_process(tiny, tmp_path) for _ in range(2)]
    folders = {process.communicate(timeout=60)[0].decode().strip() for process in processes}
    (folder,) = folders
    assert all(process.returncode == 0 for process in processes)
    assert [path.name for path in seen(Path(folder).parent)] == ["benchmark"]
    assert contents(Path(folder)) == contents(tiny_root["benchmark"])


def test_a_picture_that_is_gone_is_told(tiny, tmp_path):
    spec = replace(tiny, traverse_frames=3)
    folder = ensure(spec, "traverse", tmp_path, workers=1)
    next(folder.rglob("*.jpg")).unlink()
    check_seal.cache_clear()
    with pytest.raises(ValueError, match="files came, went or changed"):
        ensure(spec, "traverse", tmp_path)


def test_a_foreign_folder_is_refused(tiny, tmp_path):
    foreign = tmp_path / spec_hash(tiny) / "places"
    foreign.mkdir(parents=True)
    with pytest.raises(FileExistsError, match=r"holds no toycity\.json; move it away"):
        ensure(tiny, "places", tmp_path)


def test_a_failing_worker_tells_why(tiny, tmp_path):
    write = partial(export_module.write_frame, tiny, tmp_path / "absent")
    with pytest.raises(RuntimeError, match=r"A worker of the toy city failed: FileNotFoundError: .*No such file"):
        list(export_module.in_workers(write, plan(tiny, "traverse")[:12], 2))


def test_a_failed_run_cleans_up(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "write_frame", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        ensure(tiny, "places", tmp_path, workers=1)
    assert not seen(tmp_path / spec_hash(tiny))


def test_of_two_that_ask_at_once_one_generates_and_its_files_are_on_the_disk(tiny, tmp_path, monkeypatch):
    told, fill = [], export_module._fill
    monkeypatch.setattr(export_module, "_fill", lambda *given: told.append("made") or fill(*given))
    monkeypatch.setattr(os, "sync", lambda: told.append("sync"))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *given: told.append("rename") or rename(*given))
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: ensure(tiny, "traverse", tmp_path, workers=1), range(3)))
    assert len(set(folders)) == 1 and told == ["made", "sync", "rename"]
