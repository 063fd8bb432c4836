"""Backbones over timm and torchvision: sizes of the spec, the announced grid is the real one, what freezing freezes."""

import pytest
import torch

from vpr_lib.models.backbones import build_backbone
from vpr_lib.models.zoo import build_model


def count(module, trainable=False):
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


@pytest.mark.parametrize(
    ("name", "total", "trainable", "dim"),  # spec lightweight_mixvpr §1.3; the dead classifier (1,281,000) never trains
    [
        ("lightmixvpr_resnet18_512", 4_103_684, 3_420_612, 512),
        ("lightmixvpr_kd_resnet18_512", 4_103_684, 3_420_612, 512),
        ("lightmixvpr_efficientnet_b0_128", 5_411_544, 2_533_452 - 1_281_000, 128),
        ("lightmixvpr_mobilenet_v2_1024", 3_396_420, 3_396_420, 1024),
    ],
)
def test_lightweight_sizes(name, total, trainable, dim):
    model = build_model(name)
    assert (count(model), count(model, trainable=True), model.dim) == (total, trainable, dim)


def test_swin_base_has_the_size_of_the_spec():
    with torch.device("meta"):
        model = build_model("mixvpr_swinv2_4096", seed=None)
    assert (count(model), count(model.backbone)) == (87_977_468, 86_893_816)  # spec mixvpr §1.2


@pytest.mark.parametrize(
    ("name", "arguments", "channels", "stride"),
    [
        ("efficientnet_b0", {}, 1280, 32), ("efficientnet_b2", {}, 1408, 32),
        ("mobilenet_v2", {"tap": 13}, 96, 16), ("mobilenet_v2", {"tap": 17}, 320, 32),
        ("mobilenet_v2", {"upsample_to": (5, 6)}, 512, 32), ("vgg16", {}, 512, 16),
        ("swinv2_tiny_window8_256", {"image_size": (96, 64)}, 768, 32),
    ],
)  # fmt: skip
def test_the_announced_map_is_the_real_one(name, arguments, channels, stride):
    backbone = build_backbone(name, **arguments).eval()
    assert (backbone.out_channels, backbone.stride) == (channels, stride)
    for size in [(96, 64)] if name.startswith("swin") else [(96, 64), (70, 101)]:
        with torch.no_grad():
            assert backbone(torch.zeros(1, 3, *size)).shape == (1, channels, *backbone.grid(size))


@pytest.mark.parametrize(("index", "channels"), [(1, 1280), (3, 1536), (4, 1792)])
def test_efficientnet_channels(index, channels):
    with torch.device("meta"):
        assert build_backbone(f"efficientnet_b{index}").out_channels == channels


def frozen(name, **arguments):
    with torch.device("meta"):
        backbone = build_backbone(name, **arguments)
    return {name.split(".", 1)[1] for name, p in backbone.named_parameters() if not p.requires_grad}


def test_freezing_by_stage():
    for f, last in ((-1, None), (0, 3), (1, 4), (2, 5), (3, 5)):
        names = frozen("efficientnet_b0", layers_to_freeze=f)
        blocks = {int(name.split(".")[1]) for name in names if name.startswith("blocks.")}
        assert blocks == (set(range(last + 1)) if last is not None else set())
        assert ("conv_stem.weight" in names) == (f >= 0)
        assert not {name for name in names if name.startswith(("bn1", "conv_head", "bn2"))}
    names = frozen("swinv2_tiny_window8_256", layers_to_freeze=1)
    starts = {".".join(name.split(".")[:2]) for name in names} - {"patch_embed.proj", "patch_embed.norm"}
    assert starts == {"layers.0", "layers.1", "layers.2"}
    third = {name.split(".")[2:4][name.split(".")[2] == "blocks"] for name in names if name.startswith("layers.2")}
    assert third == {"downsample", "0", "1", "2", "3", "4"}
    names = frozen("vgg16", layers_to_freeze=2)
    assert {int(name.split(".")[1]) for name in names} == {0, 2, 5, 7}
    names = frozen("mobilenet_v2", layers_to_freeze=0)
    assert {name.split(".")[1] for name in names} == {"0"}


def test_wrong_sizes_are_named():
    backbone = build_backbone("swinv2_tiny_window8_256", image_size=(64, 64))
    with pytest.raises(ValueError, match=r"built for images of \(64, 64\)"):
        backbone(torch.zeros(1, 3, 96, 64))
    with pytest.raises(ValueError, match="multiples of 32"):
        build_backbone("swinv2_tiny_window8_256", image_size=(250, 256))
    with pytest.raises(ValueError, match="features 1 to 17, got 18"):
        build_backbone("mobilenet_v2", tap=18)
    with pytest.raises(ValueError, match="five groups of convolutions"):
        build_backbone("vgg16", layers_to_freeze=6)
    model = build_model("lightmixvpr_efficientnet_b0_128", image_size=(64, 96)).eval()
    with pytest.raises(ValueError, match="built for maps of 1280x2x3"):
        model(torch.zeros(1, 3, 64, 64))


def test_nothing_is_fetched_without_being_asked_for(tmp_path, monkeypatch):
    from vpr_lib.models import pretraining

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(pretraining, "_timm_here", lambda name: False)
    monkeypatch.delenv(pretraining.LEAVE, raising=False)
    for name in ("resnet18", "vgg16", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0"):
        with pytest.raises(FileNotFoundError, match=f"`vpr weights get {name}` fetches them, VPR_FETCH=1"):
            build_backbone(name, pretrained=True)
    with pytest.raises(FileNotFoundError, match="mobilenetv4_conv_small are not on this disk"):
        build_backbone("timm", network="mobilenetv4_conv_small", stride=16, pretrained=True)
    monkeypatch.setenv(pretraining.LEAVE, "1")
    pretraining.ask_before_fetching("resnet18")  # leave was given
    with pytest.raises(ValueError, match="pre-trained trunk"):
        pretraining.fetch_pretraining("no_network")
    file = pretraining.torchvision_file("resnet18")
    file.parent.mkdir()
    torch.save({}, file)
    assert pretraining.fetch_pretraining("resnet18") is False
