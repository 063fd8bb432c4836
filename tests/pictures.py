"""Small pictures for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.places import Places


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth random RGB picture, uint8 (height, width, 3), different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def write_picture(path: Path, seed: int, **size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, **size)).save(path)
    return path


def write_places(root: Path, places: int = 6, images: int = 4, cities: str = "AB") -> Places:
    """Training places on disk: the images of a place are noisy copies of one picture."""
    names = [f"{cities[place * len(cities) // places]}/{place}" for place in range(places)]
    rows = [(name, number) for name in names for number in range(images)]
    for row, (name, _) in enumerate(rows):
        noise = np.random.default_rng(row).integers(-40, 41, (48, 64, 3))
        pixels = (picture(names.index(name)) + noise).clip(0, 255).astype(np.uint8)
        (root / f"{row}.png").parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / f"{row}.png")
    columns = {
        "image_path": [f"{row}.png" for row in range(len(rows))],
        "place_id": [name for name, _ in rows],
        "city": [name[0] for name, _ in rows],
    }
    return Places.from_manifest(build_manifest(root, "places", "train", "train", columns, keep_order=True), images)
