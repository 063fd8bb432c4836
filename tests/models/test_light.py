"""Light trunks and the named variants of Lightweight-MixVPR."""

import pytest
import torch

from vpr_lib.models.backbones import TinyResNet, build_backbone
from vpr_lib.models.checkpoints import read_state_dict, toy_start_path
from vpr_lib.models.cost import count_parameters
from vpr_lib.models.export import ShippedModel, default_precision, export
from vpr_lib.models.zoo import ZOO, build_model
from vpr_lib.retrieval.describe import describe_batch

VARIANTS = {  # channels and grid at 320 pixels, D, parameters of the tapped trunk
    "lightmixvpr_efficientnet_b0_s16_512": (112, (20, 20), 512, 851_808),
    "lightmixvpr_mobilenet_v2_s16_1024": (96, (20, 20), 1024, 542_528),
    "lightmixvpr_mobilenetv4_s16_512": (96, (20, 20), 512, 317_568),
    "lightmixvpr_efficientvit_b1_s16_512": (128, (20, 20), 512, 858_208),
    "lightmixvpr_starnet_s1_s16_512": (96, (20, 20), 512, 1_117_128),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_keep_twenty_by_twenty_cells(name):
    channels, grid, dim, parameters = VARIANTS[name]
    model = build_model(name).eval()
    assert (model.backbone.out_channels, model.backbone.grid((320, 320)), model.dim) == (channels, grid, dim)
    assert count_parameters(model.backbone) == count_parameters(model.backbone, trainable=True) == parameters
    with torch.no_grad():
        assert model.feature_map(torch.zeros(1, 3, 96, 64)).shape == (1, channels, 6, 4)


def test_unfrozen_variants_differ_in_the_freeze_alone():
    for frozen, free in (("lightmixvpr_resnet18_512", "lightmixvpr_resnet18_unfrozen_512"),
                         ("lightmixvpr_efficientnet_b0_128", "lightmixvpr_efficientnet_b0_unfrozen_128")):  # fmt: skip
        models = [build_model(name) for name in (frozen, free)]
        used = [{k: p for k, p in m.named_parameters() if "classifier" not in k} for m in models]
        assert {k: p.shape for k, p in used[0].items()} == {k: p.shape for k, p in used[1].items()}
        assert all(p.requires_grad for p in used[1].values()) and not all(p.requires_grad for p in used[0].values())


def test_a_stride_the_network_does_not_have():
    with pytest.raises(ValueError, match=r"mobilenetv4_conv_small has maps of stride \[2, 4, 8, 16, 32\], not 64"):
        build_backbone("timm", network="mobilenetv4_conv_small", stride=64)


def test_a_cropped_toy_backbone_takes_its_part_of_the_start():
    start = read_state_dict(toy_start_path("tinyresnet"))
    cropped = TinyResNet(layers_to_crop=[3], pretrained=True)
    assert torch.equal(cropped.model.layer2.conv1.weight, start["model.layer2.conv1.weight"].float())
    assert not any("layer3" in key for key in cropped.state_dict())


def test_depthwise_trunks_ship_in_bf16_and_export(tmp_path):
    name = "lightmixvpr_mobilenetv4_s16_512"
    assert default_precision(ZOO[name], "openvino") == "bf16"
    pytest.importorskip("onnxruntime")
    model = build_model(name, image_size=(64, 64)).eval()
    export(model, name, tmp_path)
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(
        describe_batch(ShippedModel(tmp_path), images, "cpu"), describe_batch(model, images, "cpu"), atol=1e-4, rtol=0
    )


def test_a_timm_that_cannot_take_the_pooling_off_gives_the_same_trunk(monkeypatch):
    name = "lightmixvpr_efficientvit_b1_s16_512"
    new = build_model(name)
    network = type(new.backbone.model)
    cut = network.prune_intermediate_layers

    def older(self, indices, prune_norm=False, prune_head=True):
        cut(self, indices, prune_norm, False)
        raise AssertionError("Cannot disable pooling")

    monkeypatch.setattr(network, "prune_intermediate_layers", older)
    assert list(build_model(name).state_dict()) == list(new.state_dict())
