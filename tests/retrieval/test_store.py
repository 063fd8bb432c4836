"""Descriptor files: their own pictures, one writer, whole or not at all, and what is damaged is never believed."""

import dataclasses
import errno
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from pictures import picture, write_picture
from PIL import Image

from vpr_lib.data.readers.folders import folder_manifest
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval import describe as describe_module
from vpr_lib.retrieval import store as store_module
from vpr_lib.retrieval.describe import UnreadableImages, cache_key, describe
from vpr_lib.retrieval.store import DescriptorStore, joint_fingerprints

KEY, PRINTS = {"weights": "w"}, np.arange(100)


def counting(monkeypatch):
    calls, real = [], describe_module.describe_batch
    wrapped = lambda model, images, *rest: calls.append(len(images)) or real(model, images, *rest)
    monkeypatch.setattr(describe_module, "describe_batch", wrapped)
    return calls


def folder_of(path, seeds):
    for number, seed in enumerate(seeds):
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed)).save(path / f"{number}.bmp")  # uncompressed: every file has the same size
        os.utime(path / f"{number}.bmp", (1.7e9, 1.7e9))
    return folder_manifest(path, "db", "same", "test")


def found_in(manifest, cache):
    return describe(build_model("pixels"), manifest, cache, quiet=True).array


# ---- whose descriptors they are


def test_equal_names_sizes_and_times_are_other_pictures(tmp_path):
    one, two = folder_of(tmp_path / "a" / "x", (1, 2, 3)), folder_of(tmp_path / "b" / "x", (4, 5, 6))
    first = found_in(one, tmp_path / "d").copy()
    np.testing.assert_array_equal(found_in(two, tmp_path / "d"), found_in(two, None))
    np.testing.assert_array_equal(found_in(one, tmp_path / "d"), first)  # and each keeps its own


def test_rewritten_in_place_with_its_old_time(tmp_path):
    manifest = folder_of(tmp_path / "x", (1, 2, 3))
    found_in(manifest, tmp_path / "d")
    (tmp_path / "x" / "1.bmp").write_bytes((tmp_path / "x" / "2.bmp").read_bytes())
    os.utime(tmp_path / "x" / "1.bmp", (1.7e9, 1.7e9))
    found = found_in(manifest, tmp_path / "d")
    np.testing.assert_array_equal(found[1], found[2])


def test_a_picture_replaced_while_it_is_described_is_told_and_not_kept(tmp_path, monkeypatch):
    manifest, real = folder_of(tmp_path / "x", (1, 2, 3)), describe_module._batches
    first, other = ((tmp_path / "x" / f"{number}.bmp").read_bytes() for number in (1, 2))

    def replaced(*arguments):  # between the hash and the picture
        (tmp_path / "x" / "1.bmp").write_bytes(other)
        return real(*arguments)

    monkeypatch.setattr(describe_module, "_batches", replaced)
    with pytest.raises(UnreadableImages, match=r"1 of 3 images.*\n.*1\.bmp: it changed while it was described"):
        found_in(manifest, tmp_path / "d")
    monkeypatch.undo()
    (tmp_path / "x" / "1.bmp").write_bytes(first)
    np.testing.assert_array_equal(found_in(manifest, tmp_path / "d"), found_in(manifest, None))


def test_swapped_names_swap_descriptors(tmp_path, monkeypatch):
    manifest, calls = folder_of(tmp_path / "x", (1, 2, 3)), counting(monkeypatch)
    before = found_in(manifest, tmp_path / "d").copy()
    os.rename(tmp_path / "x" / "0.bmp", tmp_path / "x" / "t")
    os.rename(tmp_path / "x" / "1.bmp", tmp_path / "x" / "0.bmp")
    os.rename(tmp_path / "x" / "t", tmp_path / "x" / "1.bmp")
    np.testing.assert_array_equal(found_in(manifest, tmp_path / "d"), before[[1, 0, 2]])
    assert sum(calls) == 3  # found by their bytes


def test_a_moved_or_grown_folder_is_not_described_again(tmp_path, monkeypatch):
    calls = counting(monkeypatch)
    found_in(folder_of(tmp_path / "x", (1, 2, 3)), tmp_path / "d")
    os.rename(tmp_path / "x", tmp_path / "y")
    found_in(folder_manifest(tmp_path / "y", "db", "other", "test"), tmp_path / "d")
    assert sum(calls) == 3
    grown = folder_of(tmp_path / "y", (1, 2, 3, 9))
    np.testing.assert_array_equal(found_in(grown, tmp_path / "d"), found_in(grown, None))
    assert sum(calls) == 3 + 1 + 4


def test_earlier_states_of_a_list_do_not_pile_up(tmp_path):
    for last in range(5):
        found_in(folder_of(tmp_path / "x", (1, 2, 10 + last)), tmp_path / "d")
    assert len(list((tmp_path / "d").glob("*.npy"))) == 1


@pytest.mark.parametrize("changed", ["transform", "precision", "code", "weights", "contents"])
def test_every_ingredient_changes_the_key(tmp_path, monkeypatch, changed):
    manifest, model = folder_of(tmp_path / "x", (1, 2)), build_model("gem_toy_160", image_size=(32, 32))
    before, arguments = cache_key(model, manifest, "fp32"), [model, manifest, "fp32"]
    spec = None
    if changed == "transform":
        spec = dataclasses.replace(model.input_spec, antialias=False)
    if changed == "precision":
        arguments[2] = "bf16"
    if changed == "code":
        monkeypatch.setattr(describe_module, "code_hash", lambda model_class: "edited")
    if changed == "weights":
        arguments[0] = build_model("gem_toy_160", image_size=(32, 32), seed=3)
    if changed == "contents":
        write_picture(tmp_path / "x" / "1.bmp", 44)
    assert cache_key(*arguments, spec) != before


@pytest.mark.parametrize("changed", ["transform", "precision", "code"])
def test_files_of_other_ingredients_give_no_rows(tmp_path, monkeypatch, changed):
    manifest, model = folder_of(tmp_path / "x", (1, 2)), build_model("gem_toy_160", image_size=(32, 32))
    describe(model, manifest, tmp_path / "d", quiet=True)
    calls, more = counting(monkeypatch), {}
    if changed == "code":
        monkeypatch.setattr(describe_module, "code_hash", lambda model_class: "edited")
    elif changed == "transform":
        more = {"spec": dataclasses.replace(model.input_spec, antialias=False)}
    else:
        more = {"precision": "bf16"}
    describe(model, manifest, tmp_path / "d", quiet=True, **more)
    assert sum(calls) == 2


@pytest.mark.parametrize("room", ["images_module", "pixels_module", "runtime_module"])
def test_code_of_the_model_images_and_describing_is_hashed(tmp_path, monkeypatch, room):
    describe_module.code_hash.cache_clear()
    plain = describe_module.code_hash(type(build_model("pixels")))
    edited = tmp_path / "images.py"
    edited.write_text("edited")
    monkeypatch.setattr(getattr(describe_module, room), "__file__", str(edited))
    describe_module.code_hash.cache_clear()
    assert describe_module.code_hash(type(build_model("pixels"))) != plain
    describe_module.code_hash.cache_clear()


def test_a_model_from_elsewhere_counts_with_the_code_it_calls(tmp_path, monkeypatch):
    monkeypatch.setattr(describe_module.inspect, "getfile", lambda cls: str(tmp_path / "own" / "model.py"))
    monkeypatch.setattr(describe_module.models, "__file__", str(tmp_path / "models" / "__init__.py"))
    hashes = set()
    for edited in ("own/model.py", "models/unit.py", "own/model.py"):
        (tmp_path / edited).parent.mkdir(exist_ok=True)
        (tmp_path / edited).write_text(f"{len(hashes)}")
        hashes.add(describe_module.code_hash.__wrapped__(torch.nn.Linear))
    assert len(hashes) == 3


def test_rows_of_two_files_each():
    a, b = np.array([1, 2, 3]), np.array([2, 1, -1])
    joint = joint_fingerprints(a, b)
    assert joint[0] != joint[1] and joint[2] == -1  # an exclusive or would call the first two the same
    assert (joint_fingerprints(a, b) == joint).all() and (joint_fingerprints(b, a) != joint)[:2].all()


# ---- several processes


def test_a_second_writer_cannot_touch_the_first(tmp_path):
    first = DescriptorStore.open(tmp_path, KEY, PRINTS, 4)
    first.write(np.arange(60), np.ones((60, 4), np.float32))
    code = f"""
import numpy as np; from pathlib import Path; from vpr_lib.retrieval.store import DescriptorStore
other = DescriptorStore.open(Path({str(tmp_path)!r}), {KEY!r}, np.arange(100), 4)
other.write(np.arange(100), np.full((100, 4), 7, np.float32)); other.finish()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    first.write(np.arange(60, 100), np.ones((40, 4), np.float32))
    first.finish()
    later = DescriptorStore.open(tmp_path, KEY, PRINTS, 4)
    assert later.missing_rows() == [] and (later.array == 1).all()
    assert not list(tmp_path.glob(".private*")) and not list(tmp_path.glob("*.partial*"))


def test_a_killed_writer_leaves_what_it_saved_and_no_lock(tmp_path):
    code = f"""
import os, numpy as np; from pathlib import Path; from vpr_lib.retrieval.store import DescriptorStore
store = DescriptorStore.open(Path({str(tmp_path)!r}), {KEY!r}, np.arange(100), 4)
store.write(np.arange(30), np.full((30, 4), 7, np.float32)); store.save_progress()
store.write(np.arange(30, 50), np.full((20, 4), 7, np.float32)); os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    store = DescriptorStore.open(tmp_path, KEY, PRINTS, 4, wait=True)
    assert store.missing_rows() == list(range(30, 100)) and (store.array[:30] == 7).all()


def test_two_evaluations_at_once_agree(tmp_path):
    folder_of(tmp_path / "x", range(40))
    code = f"""
import numpy as np; from pathlib import Path
from vpr_lib.data.readers.folders import folder_manifest; from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.describe import describe
manifest = folder_manifest(Path({str(tmp_path / "x")!r}), "db", "same", "test")
print(float(describe(build_model("gem_toy_160"), manifest, Path({str(tmp_path / "d")!r}), quiet=True).array.sum()))
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = lambda: subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    told = [process.communicate()[0] for process in [start(), start()]]
    assert told[0] == told[1] != ""


# ---- disks that are full, files that are damaged


@pytest.fixture
def finished(tmp_path):
    manifest = folder_of(tmp_path / "x", range(6))
    return manifest, tmp_path / "d", found_in(manifest, tmp_path / "d").copy()


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("suffix", [".npy", ".json", ".npz"])
@pytest.mark.parametrize("damage", [flip, cut, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_what_is_damaged_is_described_again_and_named(finished, caplog, suffix, damage):
    manifest, cache, right = finished
    [path] = cache.glob("*.npy")
    damage(path.with_suffix(suffix))
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(found_in(manifest, cache), right)
    assert path.name in caplog.text or suffix == ".npy"  # where the descriptors are gone, nothing was believed
    np.testing.assert_array_equal(found_in(manifest, cache), right)


def test_a_damaged_unfinished_file_is_not_continued(tmp_path, caplog):
    caplog.set_level(logging.WARNING)  # libraries that other tests load raise the root logger's
    with DescriptorStore.open(tmp_path, KEY, PRINTS, 4) as store:
        store.write(np.arange(60), np.ones((60, 4), np.float32))
        store.save_progress()
        partial = store.path.with_suffix(".partial.npy")
    content = bytearray(partial.read_bytes())
    content[-1] ^= 0xFF  # of a row that is not done yet
    partial.write_bytes(content)
    with DescriptorStore.open(tmp_path, KEY, PRINTS, 4) as store:
        assert len(store.missing_rows()) == 40
    content = bytearray(partial.read_bytes())
    content[200] ^= 0xFF
    partial.write_bytes(content)
    with DescriptorStore.open(tmp_path, KEY, PRINTS, 4) as store:
        assert len(store.missing_rows()) == 100
    assert "were damaged or changed since" in caplog.text


def test_a_full_disk_is_told_before_anything_is_described(tmp_path, monkeypatch):
    def full(handle, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: 1,728 bytes are needed.*\.partial\.npy"):
        DescriptorStore.open(tmp_path, KEY, PRINTS, 4)
    assert not list(tmp_path.glob("*.npy"))


# ---- numbers that are none


class Odd(torch.nn.Module):
    """Gives NaN for pictures that are bright on average."""

    def __init__(self, model, above):
        super().__init__()
        self.model, self.above, self.dim, self.input_spec = model, above, model.dim, model.input_spec

    def forward(self, images):
        found = self.model(images)
        return torch.where(images.mean((1, 2, 3))[:, None] > self.above, torch.nan, found)


def test_a_descriptor_that_is_not_finite_is_named_and_not_kept(tmp_path):
    manifest = folder_of(tmp_path / "x", (1, 2, 3))
    Image.new("RGB", (64, 48), "white").save(tmp_path / "x" / "1.bmp")
    odd = Odd(build_model("pixels"), 1.5)
    with pytest.raises(UnreadableImages, match=r"1 of 3 images(.|\n)*1\.bmp: its descriptor is not finite(.|\n)*fp32"):
        describe(odd, manifest, tmp_path / "d", quiet=True)
    found = describe(odd, manifest, tmp_path / "d", on_error="skip", quiet=True)
    assert found.readable.tolist() == [True, False, True] and np.isfinite(found.array).all()


@pytest.mark.parametrize("word", ["float16", "half", "FP16", "mixed", "", "fp32 "])
def test_an_unknown_precision_is_refused(tmp_path, word):
    with pytest.raises(ValueError, match=r"Unknown precision .*Known: bf16, fp16, fp32"):
        describe(build_model("pixels"), folder_of(tmp_path / "x", (1,)), precision=word)


def test_the_memory_of_hashes_may_be_damaged(finished, tmp_path):
    manifest, cache, right = finished
    store_module.content_memory().write_bytes(b"no table at all" * 100)
    np.testing.assert_array_equal(found_in(manifest, cache), right)
