"""Clouds from disk, voxels, augmentation, and submaps with their images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vpr_lib.data.clouds import (
    BOREAS_AUGMENTATION,
    CloudAugmentation,
    CloudError,
    CloudSet,
    SubmapSet,
    augment_cloud,
    collate_submaps,
    read_cloud,
    voxelise,
)
from vpr_lib.data.images import ImageError, InputSpec
from vpr_lib.data.manifest import build_manifest


def points(seed=0, n=4096):
    return np.random.default_rng(seed).uniform(-1, 1, (n, 3)).astype(np.float32)


def submaps(root, n=3, candidates=False):
    """An Oxford-style manifest whose clouds and images exist."""
    for i in range(n):
        (root / f"{i}.bin").write_bytes(points(i).astype("<f8").tobytes())
        for near in range(2):
            Image.new("RGB", (8, 6), (40 * i, 90 * near, 0)).save(root / f"{i}_{near}.png")
    columns = {
        "cloud_path": [f"{i}.bin" for i in range(n)], "image_path": [f"{i}_0.png" for i in range(n)], "cloud_format": "bin_f64x3",
    }  # fmt: skip
    if candidates:
        columns["image_candidates"] = [
            [{"path": f"{i}_{near}.png", "dt_us": near} for near in range(2)] for i in range(n)
        ]
    return build_manifest(root, "oxford", "train", "train", columns)


def test_both_formats(tmp_path):
    cloud = points()
    (tmp_path / "a.bin").write_bytes(cloud.astype("<f8").tobytes())
    np.save(tmp_path / "a.npy", np.hstack([cloud, np.ones((4096, 3), np.float32)]))  # intensity, ring, time
    assert np.array_equal(read_cloud(tmp_path / "a.bin"), cloud)
    assert (
        np.array_equal(read_cloud(tmp_path / "a.npy", "npy"), cloud)
        and read_cloud(tmp_path / "a.npy", "npy").dtype == np.float32
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.bin",
            points()[:100].astype("<f8").tobytes(),
            r"expected 4096 points .*\(2,400 bytes\); the file is cut short",
        ),
        ("a.bin", points().astype("<f8").tobytes()[:-3], "damaged"),
        ("a.bin", np.full((4096, 3), np.nan, "<f8").tobytes(), "4096 points are not finite"),
        ("a.npy", b"nothing", "damaged"),
        ("a.npy", b"", "damaged"),
    ],
)
def test_clouds_that_cannot_be_used(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CloudError, match=message):
        read_cloud(tmp_path / name, "npy" if name.endswith("npy") else "bin_f64x3")


def test_missing_clouds_and_unknown_formats(tmp_path):
    with pytest.raises(CloudError, match="no such file"):
        read_cloud(tmp_path / "a.bin")
    with pytest.raises(CloudError, match="Unknown cloud format 'ply'"):
        read_cloud(tmp_path / "a.bin", "ply")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.25, 1.0]))
def test_voxels_are_floors_and_the_first_point_stands_for_each(seed, size):
    cloud = points(seed, 300) * 3 * size
    voxels, kept = voxelise(cloud, size)
    seen, first = {}, []
    for row, point in enumerate(cloud):
        cell = tuple(int(np.floor(np.float32(value) / np.float32(size))) for value in point)
        if cell not in seen:
            seen[cell] = row
            first.append(row)
    assert kept.tolist() == first and [tuple(voxel) for voxel in voxels.tolist()] == list(seen)


def test_what_voxels_refuse():
    with pytest.raises(ValueError, match=r"A cloud is \(points, 3\)"):
        voxelise(np.zeros((4, 2), np.float32), 1.0)
    with pytest.raises(ValueError, match="must be positive"):
        voxelise(points(), 0.0)
    with pytest.raises(ValueError, match=r"voxels of 0.01 from the origin.*wrong unit"):
        voxelise(points() * 1000, 0.01)


def test_augmentation_keeps_the_count_and_its_bounds():
    cloud, rng = points(), np.random.default_rng(1)
    for _ in range(20):
        out = augment_cloud(cloud, CloudAugmentation(block_probability=0, shift=0, flip_probability=0), rng)
        moved = out[np.any(out != 0, 1)]
        assert out.shape == cloud.shape and len(moved) >= 0.9 * 4096
        turned = cloud[np.any(out != 0, 1)]
        assert (
            np.abs(np.linalg.norm(moved, axis=1) - np.linalg.norm(turned, axis=1)).max() < 0.004
        )  # jitter of 0.002 per axis
        angle = np.angle(np.sum((moved[:, 0] + 1j * moved[:, 1]) * (turned[:, 0] - 1j * turned[:, 1])))
        assert abs(np.degrees(angle)) < 5.01
    still = CloudAugmentation(yaw_deg=0, flip_probability=0, jitter=0, remove=0, shift=0, block_probability=0)
    assert np.array_equal(augment_cloud(cloud, still, rng), cloud)


def test_flips_and_blocks_happen_as_often_as_told():
    cloud = points()
    quiet = dict(yaw_deg=0, jitter=0, remove=0, shift=0)
    flips = CloudAugmentation(**quiet, block_probability=0)
    signs = [
        tuple((augment_cloud(cloud, flips, np.random.default_rng(i))[0] / cloud[0]).round().astype(int))
        for i in range(400)
    ]
    shares = [signs.count(sign) / 400 for sign in ((-1, 1, 1), (1, -1, 1), (1, 1, 1))]
    assert np.abs(np.array(shares) - [0.25, 0.25, 0.5]).max() < 0.08
    blocks = CloudAugmentation(**quiet, flip_probability=0, block_probability=1)
    for i in range(10):
        out = augment_cloud(cloud, blocks, np.random.default_rng(i))
        gone = cloud[(out == 0).all(1)]
        low, high = gone[:, :2].min(0), gone[:, :2].max(0)
        inside = ((cloud[:, :2] > low) & (cloud[:, :2] < high)).all(1)
        assert (out[inside] == 0).all()  # a block takes every point over its rectangle, whatever its height


def test_boreas_is_not_turned():
    cloud = points()
    out = augment_cloud(
        cloud,
        BOREAS_AUGMENTATION.model_copy(update={"block_probability": 0.0, "remove": 0.0}),
        np.random.default_rng(0),
    )
    assert 0 < np.abs(out - cloud).max() <= 0.002 + 1e-6


def test_a_seed_decides_what_a_submap_looks_like(tmp_path):
    manifest = submaps(tmp_path, candidates=True)
    found = SubmapSet(manifest, InputSpec((6, 8)), CloudSet(manifest, CloudAugmentation()), keep=True, candidates=True)
    image, voxels = found[1]
    assert image.tolist() == found[1][0].tolist() and np.array_equal(voxels, voxelise(points(1), 0.01)[0])
    again = [found[1, 7], found[1, 7]]
    assert np.array_equal(again[0][1], again[1][1]) and not np.array_equal(again[0][1], found[1, 8][1])
    assert {int(found[1, seed][0][1, 0, 0]) for seed in range(12)} == {0, 90}  # both candidates are drawn
    assert int(image[1, 0, 0]) == 0  # the nearest one otherwise
    images, rows = collate_submaps([found[0], found[2]])
    assert images.shape == (2, 3, 6, 8) and rows.shape[1] == 4 and rows[:, 0].unique().tolist() == [0, 1]


def test_only_what_is_asked_for_is_loaded(tmp_path):
    manifest = submaps(tmp_path)
    (tmp_path / "0.bin").unlink()
    (tmp_path / "1_0.png").unlink()
    images = SubmapSet(manifest, InputSpec((6, 8)))
    assert images[0][1] is None and collate_submaps([images[0]])[1] is None and len(images) == 3
    with pytest.raises(ImageError, match="no such file"):
        images[1]
    clouds = SubmapSet(manifest, clouds=CloudSet(manifest))
    assert clouds[1][0] is None
    with pytest.raises(CloudError, match="no such file"):
        clouds[0]
    with pytest.raises(ValueError, match="have no images"):
        SubmapSet(build_manifest(tmp_path, "oxford", "train", "train", {"cloud_path": ["0.bin"]}), InputSpec((6, 8)))
    with pytest.raises(ValueError, match="have no clouds"):
        CloudSet(build_manifest(tmp_path, "oxford", "train", "train", {"image_path": ["0_0.png"]}))


def test_clouds_kept_in_memory_are_read_once(tmp_path):
    found = CloudSet(submaps(tmp_path), keep=True)
    first = found[0]
    (tmp_path / "0.bin").unlink()
    assert np.array_equal(found[0], first) and isinstance(torch.as_tensor(first), torch.Tensor)
