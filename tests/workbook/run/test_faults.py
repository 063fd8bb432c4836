"""What happens to a finished run's files, or around it: the next run notices what concerns it, and nothing else."""

import gzip
import json
import os
import shutil

import pytest
from pictures import write_picture

from vpr_lib import paths
from vpr_lib.data.readers.folders import folder_manifest
from vpr_lib.files import forget_used, use
from vpr_lib.models.checkpoints import load_weights, save_weights
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.describe import describe
from vpr_lib.workbook.book.session import open_notebook
from vpr_lib.workbook.book.used import changed_use, used_path, write_used
from vpr_lib.workbook.run.status import adopt, recall_green, remember_green

ALL = ["01_data", "02_train", "03_other", "08_results"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a bad disk or a copy leaves it


@pytest.fixture
def computed(project, monkeypatch):
    """A notebook that described pictures with saved weights and is green; its profile's cache."""
    monkeypatch.delenv("VPR_CACHE")
    project.add("02_train")
    book = open_notebook("02_train", project.profile, "run-1")
    for number in range(3):
        write_picture(project.root / "data/set" / f"{number}.png", number)
    weights = save_weights(build_model("gem_toy_160", seed=3), book.cache / "training/best.safetensors", {})
    model = build_model("gem_toy_160")
    load_weights(model, weights)
    describe(
        model, folder_manifest(project.root / "data/set", "db", "set", "test"), book.cache / "descriptors", quiet=True
    )
    book.finish()
    (book.run_folder / "02_train.ipynb").write_text("{}")
    remember_green("tiny", "02_train", "key", "run-1", {})
    assert recall_green("tiny", "02_train")[0] is not None
    return book.cache


@pytest.mark.parametrize("what", ["training/best.safetensors", "descriptors/*.npy", "../../set/1.png"])
@pytest.mark.parametrize(
    "damage", [flip, lambda path: path.write_bytes(path.read_bytes()[:40]), lambda path: path.unlink()]
)
def test_what_a_notebook_computed_with_is_looked_at_again(computed, what, damage):
    [path] = computed.glob(what)
    damage(path)
    green, why = recall_green("tiny", "02_train")
    assert green is None and path.name in why and ("which it computed with, has changed" in why or "is gone" in why)


def test_a_removed_cache_is_noticed(computed):
    shutil.rmtree(computed)
    assert recall_green("tiny", "02_train")[0] is None


@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_the_list_of_files_itself_is_looked_at(computed, damage):
    damage(used_path(paths.runs_root() / "run-1", "02_train"))
    assert "02_train.files.gz is gone or has changed" in recall_green("tiny", "02_train")[1]


def test_what_concerns_nobody_changes_nothing(computed, project):
    write_picture(project.root / "data/set/99.png", 5)
    (computed / "descriptors" / "other.npy").write_bytes(b"x")
    for path in computed.rglob("*.safetensors"):
        os.utime(path)
    assert recall_green("tiny", "02_train")[0] is not None
    adopt(recall_green("tiny", "02_train")[0], "run-2")
    shutil.rmtree(paths.runs_root() / "run-1")
    assert recall_green("tiny", "02_train")[0].run_id == "run-2"


def test_a_moved_project_has_the_same_files(computed, project, monkeypatch, tmp_path_factory):
    home = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.copytree(project.root, home)
    shutil.rmtree(project.root / "data")
    assert recall_green("tiny", "02_train")[0] is None
    monkeypatch.setenv("VPR_HOME", str(home))
    assert recall_green("tiny", "02_train")[0] is not None


def test_names_of_any_kind_are_kept(project):
    forget_used()
    odd = project.root / "a\nb \u00e9 \udcff.bin"
    odd.write_bytes(b"x")
    use([odd, paths.__file__])
    digest = write_used(project.root, "01_data")
    assert changed_use(project.root, "01_data", digest) == ""
    with gzip.open(used_path(project.root, "01_data"), "rt") as file:
        assert list(json.load(file)) == [odd.name]  # nothing of the package itself, which a key knows by its digest
    odd.write_bytes(b"y")
    assert "has changed" in changed_use(project.root, "01_data", digest)
    forget_used()


# ---- around a run


def test_a_moved_checkout_runs_nothing_again(chain, never, monkeypatch, tmp_path_factory):
    monkeypatch.delenv("VPR_CACHE")
    (chain.root / "table.csv").write_text("a")
    chain.entries[0]["reads"] = ["*.csv"]
    assert chain.write().run().exit_code == 0
    home = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.copytree(chain.root, home, symlinks=True)
    shutil.rmtree(chain.root)
    chain.root = home
    monkeypatch.setenv("VPR_HOME", str(home))
    assert chain.statuses(command=never) == dict.fromkeys(ALL, "resumed")
    monkeypatch.setenv("VPR_DATA", str(home / "data"))  # where it is anyway
    monkeypatch.setenv("VPR_CACHE", str(home / "data" / "cache"))
    assert chain.statuses(command=never) == dict.fromkeys(ALL, "resumed")


@pytest.mark.parametrize("name", ["VPR_DATA", "VPR_CACHE", "OMP_NUM_THREADS"])
def test_another_cache_data_folder_or_number_of_threads_is_another_run(chain, monkeypatch, tmp_path_factory, name):
    chain.run()
    monkeypatch.setenv(name, "7" if name.startswith("OMP") else str(tmp_path_factory.mktemp("other")))
    assert chain.statuses() == dict.fromkeys(ALL, "green")
    assert chain.statuses() == dict.fromkeys(ALL, "resumed")


def test_fewer_processors_are_another_run(chain, monkeypatch):
    chain.run()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(97)))
    assert set(chain.statuses().values()) == {"green"}
