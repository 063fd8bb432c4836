"""A strict look at every file: what a tolerant loader would hide is told, and nothing is opened twice."""

import os

import numpy as np
import pandas as pd
import pytest
from miniatures import touch_image
from PIL import Image

from vpr_lib.data import audit
from vpr_lib.data.audit import inspect_file, inspect_files, load_audit, with_audit
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.readers.image_files import list_images


@pytest.fixture
def damaged(tmp_path):
    """Good and bad files; returns the folder."""
    whole = touch_image(tmp_path / "good.jpg", 1, (60, 40)).read_bytes()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "no_end.jpg").write_bytes(whole[:-40] + bytes(70_000))  # room that was never filled; decoders accept it
    (tmp_path / "tail.jpg").write_bytes(whole + b"appended by a phone")  # and this is whole
    Image.new("L", (5, 4), 9).save(tmp_path / "grey.png")
    (tmp_path / "flipped.png").write_bytes(bytes(_flip(touch_image(tmp_path / "x.png", 2))))
    return tmp_path


def _flip(path):
    data = bytearray(path.read_bytes())
    path.unlink()
    data[data.find(b"IDAT") + 20] ^= 255
    return data


def faults(folder, *names):
    return {name: inspect_file(str(folder / name))[-1] for name in names}


def test_faults_have_reasons(damaged):
    found = faults(
        damaged,
        "good.jpg",
        "tail.jpg",
        "grey.png",
        "empty.jpg",
        "absent.jpg",
        "text.jpg",
        "cut.jpg",
        "no_end.jpg",
        "flipped.png",
    )
    assert [found.pop(name) for name in ("good.jpg", "tail.jpg", "grey.png")] == ["", "", ""]
    assert found.pop("empty.jpg") == "empty" and found.pop("absent.jpg") == "missing"
    assert found.pop("text.jpg") == "not an image."
    assert "no end marker" in found.pop("no_end.jpg")
    assert all(fault.startswith("damaged (") for fault in found.values())


def test_what_is_learnt(damaged):
    row = dict(zip(audit.COLUMNS, inspect_file(str(damaged / "grey.png"))))
    assert (row["width"], row["height"], row["mode"], len(row["sha256"])) == (5, 4, "L", 64)
    assert row["bytes"] == (damaged / "grey.png").stat().st_size


def test_clouds(tmp_path):
    good = np.zeros(4096 * 3)
    (tmp_path / "a.bin").write_bytes(good.tobytes())
    (tmp_path / "short.bin").write_bytes(good[:-1].tobytes())
    (tmp_path / "nan.bin").write_bytes(np.full(4096 * 3, np.nan).tobytes())
    np.save(tmp_path / "a.npy", np.zeros((4096, 3), np.float32))
    np.save(tmp_path / "object.npy", np.array([None], object), allow_pickle=True)
    found = faults(tmp_path, "a.bin", "short.bin", "nan.bin", "a.npy", "object.npy")
    assert found["a.bin"] == found["a.npy"] == ""
    assert "98296 bytes, expected 98304" in found["short.bin"] and "not finite" in found["nan.bin"]
    assert "Object arrays" in found["object.npy"]


def test_unchanged_files_are_not_opened_again(damaged, tmp_path, monkeypatch):
    paths = [str(damaged / name) for name in list_images(damaged)]
    first = inspect_files(paths, tmp_path / "kept.parquet", 2, quiet=True)
    opened = []
    monkeypatch.setattr(audit, "inspect_file", lambda path: opened.append(path) or inspect_file(path))
    touch_image(damaged / "good.jpg", 7, (10, 10))
    again = inspect_files([*paths, paths[0]], tmp_path / "kept.parquet", 1, quiet=True)
    assert opened == [str(damaged / "good.jpg")] and len(again) == len(paths) + 1
    assert again.loc[str(damaged / "good.jpg"), "width"] == 10 and first.loc[str(damaged / "good.jpg"), "width"] == 60
    assert len(load_audit(tmp_path / "kept.parquet")) == len(paths)


def test_equal_size_and_time_are_looked_at_again_and_a_damaged_audit_is_made_again(tmp_path):
    path = touch_image(tmp_path / "a.bmp", 1)
    first = inspect_files([str(path)], tmp_path / "kept.parquet", quiet=True)
    time = path.stat().st_mtime_ns
    os.utime(touch_image(path, 2), ns=(time, time))
    second = inspect_files([str(path)], tmp_path / "kept.parquet", quiet=True)
    assert first["bytes"].iloc[0] == second["bytes"].iloc[0] and first["sha256"].iloc[0] != second["sha256"].iloc[0]
    (tmp_path / "kept.parquet").write_bytes((tmp_path / "kept.parquet").read_bytes()[:-9])
    assert inspect_files([str(path)], tmp_path / "kept.parquet", quiet=True)["sha256"].tolist() == [*second["sha256"]]


def test_a_killed_check_goes_on(damaged, tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "_SAVE_S", -1)
    paths = [str(damaged / name) for name in list_images(damaged)]

    def dies(path):
        if path == paths[4]:
            raise KeyboardInterrupt
        return inspect_file(path)

    monkeypatch.setattr(audit, "inspect_file", dies)
    with pytest.raises(KeyboardInterrupt):
        inspect_files(paths, tmp_path / "kept.parquet", 1, quiet=True)
    assert 1 <= len(load_audit(tmp_path / "kept.parquet")) <= 4


def test_the_manifest_learns(damaged):
    names = ["good.jpg", "empty.jpg", "grey.png"]
    manifest = build_manifest(damaged, "s", "test", "db", {"image_path": names})
    table = with_audit(manifest, inspect_files(manifest.image_paths(), quiet=True)).table.set_index("image_path")
    assert table.loc["good.jpg", ["width", "height", "mode"]].tolist() == [60, 40, "RGB"]
    assert table.loc["empty.jpg", "exclude_reason"] == "empty" and pd.isna(table.loc["empty.jpg", "width"])
    assert with_audit(manifest, load_audit(None)).table["width"].isna().all()
    assert with_audit(manifest, inspect_files(manifest.image_paths(), quiet=True)).list_hash == manifest.list_hash
