"""MACs and FLOPs by hand and by the spec; parameters that nothing uses; changes of one part."""

import pytest
import torch
from torch import nn

from vpr_lib.models.cost import cost_of_model, count_parameters, gflops, on_shapes, unused_parameters
from vpr_lib.models.zoo import build_model


@pytest.mark.parametrize(
    ("name", "gflop"),  # spec mixvpr §1.2 and lightweight_mixvpr §1.3, FLOP = 2 MAC at 320 x 320
    [
        ("mixvpr_resnet50_4096", 16.843), ("mixvpr_resnet50_512", 16.211), ("mixvpr_resnet50_128", 16.053),
        ("mixvpr_resnet18_512", 6.407), ("mixvpr_resnet34_1024", 13.039), ("convap_resnet50_8192", 17.521),
        ("convap_resnet50_512", 16.735), ("lightmixvpr_efficientnet_b0_128", 1.781), ("lightmixvpr_mobilenet_v2_1024", 2.590),
    ],
)  # fmt: skip
def test_arithmetic_is_the_specs(name, gflop):
    with torch.device("meta"):
        model = build_model(name, seed=None)
        assert gflops(model, torch.empty(1, 3, 320, 320)) == pytest.approx(gflop, abs=6e-4)


def multiply_adds(model, images):
    """Second way: from the shapes that convolutions and linear layers see."""
    total, handles = 0, []

    def count(layer, inputs, output):
        nonlocal total
        each = layer.weight[0].numel()  # multiply-adds per output number
        total += output.numel() * each

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            handles.append(layer.register_forward_hook(count))
    with torch.no_grad():
        model.eval()(images)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(("name", "dim"), [("mixvpr_toy_256", 256), ("gem_toy_160", 160)])
def test_a_row_names_macs_and_flops_apart(name, dim):
    model = build_model(name)
    row = cost_of_model(model, batches=(1, 2), seconds=0.0)
    assert row["GMAC"] * 1e9 == pytest.approx(multiply_adds(model, torch.zeros(1, 3, 112, 112)))
    assert row["GFLOP"] == 2 * row["GMAC"] and row["dim"] == dim
    assert row["used (M)"] == row["parameters (M)"] == count_parameters(model) / 1e6
    assert row["ms, batch 1"] > 0 and row["ms, batch 2"] > 0


def test_a_row_leaves_out_what_nothing_uses():
    row = cost_of_model(build_model("lightmixvpr_efficientnet_b0_128"), batches=())
    assert row["used (M)"] == pytest.approx(4.130544) and row["parameters (M)"] > 5


def test_a_classifier_that_nothing_uses():
    with torch.device("meta"):
        model = build_model("lightmixvpr_efficientnet_b0_128", seed=None)
    names = unused_parameters(model, torch.empty(1, 3, 320, 320, device="meta"))
    assert names == ["backbone.model.classifier.weight", "backbone.model.classifier.bias"]
    used = count_parameters(model) - sum(p.numel() for n, p in model.named_parameters() if n in names)
    assert used == 4_130_544  # spec lightweight_mixvpr §1.3
    assert unused_parameters(build_model("gem_toy_160").train(), torch.zeros(1, 3, 112, 112)) == []
    assert unused_parameters(build_model("pixels"), torch.zeros(1, 3, 128, 128)) == []  # has none at all


class NoAutocast(nn.Linear):
    """As timm's EfficientViT: autocast off by the type of the device, and torch knows none of type meta."""

    def forward(self, rows):
        with torch.autocast(rows.device.type, enabled=False):
            return super().forward(rows)


def test_a_network_without_a_shapes_only_pass_is_counted_all_the_same():
    rows = torch.zeros(5, 30)
    for layer, where in (nn.Linear(30, 20), "meta"), (NoAutocast(30, 20), "cpu"):
        shapes, given = on_shapes(layer, rows)
        assert given.device.type == shapes.weight.device.type == where
        assert gflops(shapes, given) == pytest.approx(2e-9 * 5 * 30 * 20) and unused_parameters(shapes, given) == []
