"""What a run knows of its machine and sources, and what its resume keys are made of."""

import json
import signal
import subprocess

import pytest

from vpr_lib.workbook.run import environment as machine
from vpr_lib.workbook.run.keys import library_digest
from vpr_lib.workbook.run.runner import _signals


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """An nvidia-smi that lists two devices."""
    script = tmp_path / "bin/nvidia-smi"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\necho 'NVIDIA H100 PCIe, 550.54.15, 81559 MiB'\necho 'NVIDIA L4, 550.54.15, 23034 MiB'\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine.gpus.cache_clear()
    yield
    machine.gpus.cache_clear()


def test_gpus_and_kind_of_device(two_gpus, monkeypatch):
    assert machine.gpus()[0] == {"name": "NVIDIA H100 PCIe", "driver_version": "550.54.15", "memory.total": "81559 MiB"}
    assert (machine.device_kind(), machine.device_kind("cpu")) == ("cuda:NVIDIA H100 PCIe", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.device_kind() == "cpu"


def test_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    machine.gpus.cache_clear()
    assert machine.gpus() == () and machine.device_kind("cuda") == "cpu"
    machine.gpus.cache_clear()


def test_git_state(project):
    def git(*arguments):
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=project.root, check=True, capture_output=True)

    assert machine.git_state() == "unknown"
    git("init")
    (project.root / "a.txt").write_text("1")
    git("add", "a.txt")
    git("commit", "-m", "one")
    commit = machine.git_state()
    assert len(commit) == 12
    (project.root / "untracked").touch()
    assert machine.git_state() == commit
    (project.root / "a.txt").write_text("2")
    assert machine.git_state() == f"{commit}+changes"


def test_environment_is_json_and_names_what_differs_from_the_constraints(project, monkeypatch):
    have = machine._installed()["numpy"]
    (project.root / "constraints.txt").write_text(f"# set\nnumpy=={have}\nPyYAML==0.1\nno_such-thing==1.0\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    told = json.loads(json.dumps(machine.environment()))
    assert told["packages"]["numpy"] == have
    assert told["packages"]["PyYAML"].endswith("(constraints.txt: 0.1)")
    assert told["packages"]["no_such-thing"] == "absent (constraints.txt: 1.0)"
    assert told["threads"]["OMP_NUM_THREADS"] == "3" and told["memory_bytes"] > 2**28


def test_library_digest_sees_what_notebooks_can_use_and_nothing_else(tmp_path):
    files = ["data/a.py", "workbook/book/session.py", "configs/recipes/r.yaml", "models/w.safetensors", "widgets/e.js"]
    aside = [
        "cli/run.py",
        "workbook/run/runner.py",
        "configs/profiles/toy.yaml",
        "data/a.pyc",
        "data/__pycache__/a.json",
    ]
    for name in files + aside:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    before = library_digest(tmp_path)
    for name in aside:
        (tmp_path / name).write_text("2")
    assert library_digest(tmp_path) == before
    for name in files:
        (tmp_path / name).write_text("2")
        assert library_digest(tmp_path) != before, name
        (tmp_path / name).write_text("1")
    (tmp_path / "data/b.py").write_text("")
    assert library_digest(tmp_path) != before


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
