"""Files are written whole, by one writer at a time, and known by their content; a power cut leaves no empty file."""

import errno
import logging
import os
import subprocess
import sys
import threading
import time

import pytest

from vpr_lib import files
from vpr_lib.files import (
    atomic_path,
    check_seal,
    content_hashes,
    forget_used,
    locked,
    publish,
    seal,
    try_lock,
    use,
    used_files,
    write_text,
)


def recorded(monkeypatch):
    """What happens to the disk, in order: ('sync', is a folder) and ('rename', target)."""
    told, sync, replace = [], os.fsync, os.replace

    def fsync(handle):
        told.append(("sync", "folder" if os.path.isdir(f"/proc/self/fd/{handle}") else os.fstat(handle).st_size))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: told.append(("rename", os.path.basename(b))) or replace(a, b))
    return told


@pytest.mark.parametrize("write", ["write_text", "atomic_path", "publish"])
def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch, write):
    told = recorded(monkeypatch)
    if write == "write_text":
        write_text(tmp_path / "a.txt", "abc")
    elif write == "atomic_path":
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("abc")
    else:
        (tmp_path / "partial").write_text("abc")
        publish(tmp_path / "partial", tmp_path / "a.txt")
    assert told == [("sync", 3), ("rename", "a.txt"), ("sync", "folder")]
    assert os.listdir(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "abc"


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_an_error_of_the_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'"), atomic_path(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "Detail: [errno 28] No space left on device")


def test_others_of_the_group_can_read_it(tmp_path):
    before = os.umask(0o027)
    try:
        assert write_text(tmp_path / "a.txt", "x").stat().st_mode & 0o777 == 0o640
        assert os.umask(0o027) == 0o027  # left as it was
    finally:
        os.umask(before)


def test_one_at_a_time_and_the_other_says_why_it_waits(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    order, inside = [], threading.Event()

    def first():
        with locked(tmp_path / "x", "making it"):
            inside.set()
            time.sleep(0.3)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with locked(tmp_path / "x", "making it"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"] and "waiting for another process that is making it" in caplog.text
    handle = try_lock(tmp_path / "x")
    assert handle is not None and try_lock(tmp_path / "x") is None
    os.close(handle)


def test_a_killed_holder_gives_its_lock_back(tmp_path):
    code = f"import os; from pathlib import Path; from vpr_lib.files import try_lock; try_lock(Path({str(tmp_path / 'x')!r})); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    handle = try_lock(tmp_path / "x")
    assert handle is not None
    os.close(handle)


# ---- what files are known by


def test_equal_bytes_are_equal_and_a_missing_file_is_none(tmp_path):
    for name, text in (("a", "x"), ("b", "x"), ("c", "y"), ("empty", "")):
        (tmp_path / name).write_text(text)
    a, b, c, empty, gone = content_hashes([tmp_path / name for name in ("a", "b", "c", "empty", "gone")])
    assert a == b != c and empty >= 0 and gone == -1 and len({a, c, empty}) == 3
    assert content_hashes([]) == []


def test_what_changed_a_moment_ago_is_read_again(tmp_path, monkeypatch):
    """Times have grains: a file may change twice within one."""
    memory, path = tmp_path / "memory.sqlite", tmp_path / "a"
    path.write_text("one")
    fixed = files._stat(path)
    monkeypatch.setattr(files, "_stat", lambda _: fixed)
    before = content_hashes([path], memory)
    path.write_text("two")
    assert content_hashes([path], memory) != before
    monkeypatch.setattr(files, "_stat", lambda _: (*fixed[:-2], *(when - 10 * 10**9 for when in fixed[-2:])))
    settled = content_hashes([path], memory)
    path.write_text("six")
    assert content_hashes([path], memory) == settled


def test_what_is_remembered_is_not_read_again_and_what_changed_is(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_GRAIN_NS", -(10**9))
    memory, read, hashed = tmp_path / "memory.sqlite", [], files._hash
    monkeypatch.setattr(files, "_hash", lambda path: read.append(os.path.basename(path)) or hashed(path))
    for name in "ab":
        (tmp_path / name).write_text(name)
    paths = [tmp_path / "a", tmp_path / "b"]
    before = content_hashes(paths, memory)
    assert content_hashes(paths, memory) == before and sorted(read) == ["a", "b"]
    when = (tmp_path / "a").stat().st_mtime_ns
    (tmp_path / "a").write_text("c")
    os.utime(tmp_path / "a", ns=(when, when))  # as if nothing had happened: the time of the inode tells
    after = content_hashes(paths, memory)
    assert after[0] != before[0] and after[1] == before[1] and read[2:] == ["a"]


@pytest.mark.parametrize("change", ["remove", "add", "edit", "rename"])
def test_a_sealed_folder_holds_what_it_was_sealed_with(tmp_path, change):
    write_text(tmp_path / "city/a/1.txt", "1"), write_text(tmp_path / "city/2.txt", "2")
    check_seal(tmp_path / "city")  # never sealed
    check_seal.cache_clear()
    seal(tmp_path / "city")
    folder = (tmp_path / "city").rename(tmp_path / "moved")
    check_seal(folder)
    check_seal.cache_clear()
    one = folder / "a/1.txt"
    if change == "remove":
        one.unlink()
    elif change == "rename":
        one.rename(folder / "a/3.txt")
    else:
        (one if change == "edit" else folder / "4.txt").write_text("x")
    with pytest.raises(ValueError, match="moved: files came, went or changed since it was made"):
        check_seal(folder)


def test_files_that_were_used_are_known_by_what_they_were_when_they_were(tmp_path):
    forget_used()
    for name in "abc":
        (tmp_path / name).write_text(name)
    a, b, c = content_hashes([tmp_path / name for name in "abc"])
    use([tmp_path / "a", tmp_path / "b", tmp_path / "gone"], [a, b, -1])
    use([tmp_path / "c"])
    (tmp_path / "a").write_text("changed since")
    (tmp_path / "b").unlink()
    assert used_files() == {str(tmp_path / "a"): a, str(tmp_path / "c"): c}
    forget_used()
    assert used_files() == {}
