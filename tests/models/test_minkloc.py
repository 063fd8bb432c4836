"""MinkLoc++: batches, heads, published state dicts under both naming schemes."""

import numpy as np
import pytest
import torch

from vpr_lib.data.clouds import collate_voxels
from vpr_lib.models.checkpoints import CheckpointError
from vpr_lib.models.minkloc import (
    MinkFPN,
    MinkLocConfig,
    load_official,
    official_weights,
)
from vpr_lib.models.zoo import build_model


def clouds(count, voxels=150, seed=0):
    rng = np.random.default_rng(seed)
    return [np.unique(rng.integers(-12, 12, (voxels + 40 * i, 3)), axis=0).astype(np.int32) for i in range(count)]


@pytest.fixture(scope="module")
def toy():
    model = build_model("minklocpp_toy_96").eval()
    for name, buffer in model.named_buffers():  # statistics that are not those of an untrained network
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    return model


def test_a_cloud_does_not_see_its_neighbours_in_the_batch(toy):
    parts = clouds(5)
    with torch.no_grad():
        together = toy.cloud_fe(collate_voxels(parts))
        alone = torch.cat([toy.cloud_fe(collate_voxels([part])) for part in parts])
        backwards = toy.cloud_fe(collate_voxels(parts[::-1])).flip(0)
    assert alone.std() > 1e-3 and (together - alone).abs().max() < 1e-6
    assert (together - backwards).abs().max() < 1e-6


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_cores_share_clouds_and_change_nothing(toy, cores, monkeypatch):
    parts, threads, batch_sizes = collate_voxels(clouds(13)), torch.get_num_threads(), []
    feature_map = toy.cloud_fe.feature_map

    def spy(voxels, count=None):
        batch_sizes.append((count, torch.get_num_threads()))
        return feature_map(voxels, count)

    monkeypatch.setattr(toy.cloud_fe, "feature_map", spy)
    expected = toy.cloud_fe(parts).detach()  # with gradients: one piece, threads as they are
    assert batch_sizes == [(None, threads)]
    try:
        torch.set_num_threads(cores)
        with torch.inference_mode():
            found = toy.cloud_fe(parts)
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(threads)
    assert torch.allclose(found, expected, atol=1e-6) and not found.requires_grad
    assert sorted(batch_sizes[1:]) == {1: [(13, 1)], 2: [(6, 1), (7, 1)], 3: [(4, 1), (4, 1), (5, 1)]}[cores]
    with torch.inference_mode(), pytest.raises(ValueError, match="Cloud 4 of 13 has no voxels"):
        toy.cloud_fe(parts[parts[:, 0] != 4])


def test_the_order_of_the_voxels_does_not_matter(toy):
    rows = collate_voxels(clouds(2))
    with torch.no_grad():
        assert torch.allclose(toy.cloud_fe(rows), toy.cloud_fe(rows[torch.randperm(len(rows))]), atol=1e-6)


def test_heads_and_fusion(toy):
    images, voxels = torch.randn(2, 3, 90, 120), collate_voxels(clouds(2))
    with torch.no_grad():
        heads = toy.heads(images, voxels)
        assert torch.equal(toy(images, voxels), torch.cat([heads["cloud"], heads["image"]], 1)) and toy.dim == 96
        added = build_model(toy.config.model_copy(update={"fusion": "add"})).eval()
        heads = added.heads(images, voxels)
        assert torch.equal(heads["final"], heads["cloud"] + heads["image"]) and added.dim == 48
    with pytest.raises(ValueError, match="3 images came with 2 clouds"):
        toy(torch.randn(3, 3, 90, 120), voxels)
    with pytest.raises(ValueError, match="Adding needs equal widths, got cloud 48 and image 32"):
        build_model(toy.config.model_copy(update={"fusion": "add", "image_dim": 32}))
    with pytest.raises(ValueError, match="Unknown model 'minkloc'"):
        build_model("minkloc")
    with pytest.raises(ValueError, match="fewer top-down steps"):
        MinkFPN((32, 64), (1, 1), top_down=2)


def test_pyramids_of_other_depths():
    voxels = collate_voxels(clouds(2))
    for planes, top_down in (((8, 16, 16, 8), 2), ((8, 16, 24), 0)):
        config = MinkLocConfig(planes=planes, layers=(1,) * len(planes), top_down=top_down, cloud_dim=20, image_dim=0)
        model = build_model(config).eval()
        with torch.no_grad():
            assert model(None, voxels).shape == (2, 20)
            assert model.cloud_fe.feature_map(voxels).stride == 2 ** (len(planes) - top_down)


def published(model, original=False):
    """A state dict as the authors publish it: their names, and modules that they store but never run."""
    tensors = {}
    for key, tensor in model.state_dict().items():
        key = key.replace("backbone.model.", "model.").replace("aggregator.", "")
        if original:
            key = key.replace("backbone.bns.", "backbone.bn.").replace("backbone.conv1x1s.", "backbone.conv1x1.")
            for number, part in ((0, "conv1"), (1, "bn1"), (4, "layer1"), (5, "layer2"), (6, "layer3")):
                key = key.replace(f"image_fe.model.{part}.", f"image_fe.resnet_fe.{number}.")
            key = key.replace("image_fe.conv1x1.", "image_fe.fh_conv1x1.4.").replace("image_gem.p", "pool.p")
        tensors[key] = tensor + 1 if tensor.is_floating_point() else tensor
    prefix = "image_fe." if any(key.startswith("image_fe.") for key in tensors) else ""
    return tensors | {f"{prefix}model.fc.bias": torch.zeros(3), f"{prefix}imagenetvlad.centroids": torch.zeros(2, 2)}


@pytest.mark.parametrize(
    ("name", "original"), [("minklocpp_toy_96", False), ("minklocpp_256", True), ("distilvpr_toy_96", False)]
)
def test_published_state_dicts_load_strictly(tmp_path, name, original):
    source, model = build_model(name, seed=1), build_model(name, seed=2)
    torch.save(published(source, original), tmp_path / "weights.pth")
    load_official(model, tmp_path / "weights.pth")
    for key, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor + 1 if tensor.is_floating_point() else tensor)


def test_published_state_dicts_that_do_not_fit(tmp_path, toy):
    tensors = published(toy)
    del tensors["cloud_fe.pooling.pooling.p"]
    torch.save(tensors | {"image_fe.surprise": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(
        CheckpointError, match=r"1 keys are missing \(cloud_fe.pooling.pooling.p\), 1 keys are not in the model"
    ):
        load_official(toy, tmp_path / "weights.pth")
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"no MinkLoc.* its first key is 'fc.weight'"):
        load_official(toy, tmp_path / "other.pth")


def test_renames_leave_our_own_names_alone(toy):
    assert set(official_weights(toy.state_dict())) == set(toy.state_dict())
