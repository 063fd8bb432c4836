"""Fixtures shared by all tests: caches in a temporary folder, one torch thread, small image folders."""

import os
import random
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from pictures import picture, write_picture
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")
SHARED = Path(os.environ.get("VPR_SHARED", Path(__file__).resolve().parent.parent.parent / "shared"))


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` are skipped without a CUDA device, those marked `gpu(or_cpu=True)` then run on the CPU, so that they do
    not rot; VPR_TEST_ORDER=seed shuffles files and their tests."""
    if seed := os.environ.get("VPR_TEST_ORDER"):
        place = random.Random(int(seed))
        files = {path: place.random() for path in dict.fromkeys(item.path for item in items)}
        items.sort(key=lambda item: (files[item.path], place.random()))
    marked = {item: mark for item in items if (mark := item.get_closest_marker("gpu"))}
    if marked and os.environ.get("VPR_CUDA_TESTS") != "cpu":
        import torch

        for item, mark in marked.items() if not torch.cuda.is_available() else ():
            if not mark.kwargs.get("or_cpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VPR_CACHE", str(tmp_path / "vpr-cache"))


@pytest.fixture(scope="session")
def real_data():
    """Folder of real images and metadata beside the checkout; tests that need it are skipped where it is absent."""
    if not (SHARED / "real").is_dir():
        pytest.skip("no folder of real data beside this checkout")
    return SHARED / "real"


@pytest.fixture
def two_folders(tmp_path):
    """12 database images and 6 queries, slightly changed copies of every second one; returns (database, queries)."""
    for index in range(12):
        write_picture(tmp_path / "db" / f"{index:02d}.png", index)
    for index in range(6):
        noisy = picture(2 * index).astype(int) + np.random.default_rng(99 + index).integers(-12, 13, (48, 64, 3))
        path = tmp_path / "query" / f"q{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    return tmp_path / "db", tmp_path / "query"


@pytest.fixture(scope="session")
def chromium():
    """The path of a Chromium that playwright can drive; skips where one of the two is missing."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := which(name))), None)
    return program or pytest.skip("no Chromium here")
