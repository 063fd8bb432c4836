"""The ground floor: digests, files that are whole or not there, tables of names, progress in a log.

Covers digests, files, progress, registry.
"""

import pytest

from vpr_lib.digests import digest_code, digest_file
from vpr_lib.files import atomic_path, content_hashes, try_lock, visible_files, write_text
from vpr_lib.progress import track
from vpr_lib.registry import lookup


def test_digests_follow_bytes_and_names(tmp_path):
    whole, *parts = (write_text(tmp_path / name, text) for name, text in (("c.py", "ab"), ("a.py", "a"), ("b.py", "b")))
    assert digest_file(*parts) == digest_file(whole) != digest_file(parts[0])
    before = digest_code(parts)
    parts[0].rename(tmp_path / "z.py")  # the same code under another name
    assert digest_code([tmp_path / "z.py", parts[1]]) != before and len(before) == 16


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = write_text(tmp_path / "deep" / "x.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old" and visible_files(tmp_path, "*.txt") == [path]
    assert list(path.parent.iterdir()) == [path]  # nothing half-written lies about


def test_one_writer_at_a_time(tmp_path):
    import os

    first = try_lock(tmp_path / "x")
    assert first is not None and try_lock(tmp_path / "x") is None
    os.close(first)
    second = try_lock(tmp_path / "x")
    assert second is not None
    os.close(second)


def test_content_is_remembered_until_it_changes(tmp_path):
    path, memory = write_text(tmp_path / "x", "1"), tmp_path / "memory.sqlite"
    first = content_hashes([path, tmp_path / "absent"], memory)
    assert first[1] == -1 and content_hashes([path], memory) == first[:1] and memory.is_file()
    write_text(path, "2")
    assert content_hashes([path], memory) != first[:1]


def test_an_unknown_name_lists_the_known_ones():
    assert lookup({"a": 1}, "a", "thing") == 1
    with pytest.raises(ValueError, match=r"Unknown thing 'mixvrp'\. Did you mean 'mixvpr'\? Known: gem, mixvpr\."):
        lookup({"mixvpr": 1, "gem": 2}, "mixvrp", "thing")


def test_progress_passes_everything_on_and_tells_a_log_now_and_then(capsys, monkeypatch):
    ticks = iter(range(0, 1000, 6))  # seconds between two looks at the clock
    monkeypatch.setattr("vpr_lib.progress.time.monotonic", lambda: next(ticks))
    assert list(track([1, 2, 3, 4], "counting")) == [1, 2, 3, 4]
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["counting: 2/4, 12 s left (0.2 per s)", "counting: 4/4, 0 s left (0.2 per s)"]
    assert list(track([1, 2], "counting", quiet=True)) == [1, 2] and capsys.readouterr().err == ""
