"""Heat-map operators on a small ClusVPR."""

import torch

from vpr_lib.models.heatmaps import contributions, heat_maps, token_weight, unit_range, upsample, vlad_share
from vpr_lib.models.zoo import build_model

MODEL = build_model("clusvpr_toy_640").eval()
IMAGES = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))


def test_every_operator_has_its_size():
    found = heat_maps(MODEL, IMAGES)
    sizes = {name: tuple(m.shape) for name, m in found.maps.items()}
    assert {sizes[name] for name in ("backbone", "cwt", "cwt_norm", "vlad_residual", "vlad_share")} == {(2, 8, 8)}
    assert {sizes[f"{kind}_{i}"] for kind in ("token_weight", "attention_received") for i in range(1, 5)} == {(2, 4, 4)}
    assert found.group_attention.shape == (2, 8, 8, 8) and (found.group_attention >= 0.5).all()
    assert all(torch.isfinite(m).all() for m in found.maps.values())
    assert set(heat_maps(build_model("gem_toy_160").eval(), IMAGES).maps) == {"backbone", "backbone_norm"}


@torch.no_grad()
def test_contributions_add_up_to_the_vlad_and_shares_to_one():
    head = MODEL.aggregator
    seen = head.transform(MODEL.feature_map(IMAGES))
    assert torch.allclose(contributions(head, seen).sum(3), head.cells(seen)[:, 0], atol=1e-5)
    assert torch.allclose(vlad_share(head, seen).sum(dim=(1, 2)), torch.ones(2), atol=1e-4)


@torch.no_grad()
def test_token_weight_is_the_one_in_use():
    head, used = MODEL.aggregator, []
    attention = head.vit_layer[1].global_cwt.block.attn
    handle = attention.register_forward_hook(lambda module, inputs, _: used.append(module.weights(inputs[0])))
    stages = head.stages(MODEL.feature_map(IMAGES))
    handle.remove()
    assert torch.allclose(token_weight(head, stages, 1).flatten(1), used[0][:, 1:], atol=1e-6)


def test_drawing_helpers():
    maps = torch.stack([torch.arange(6.0).view(2, 3), torch.full((2, 3), 4.0)])
    assert unit_range(maps)[0].flatten().tolist() == torch.linspace(0, 1, 6).tolist() and not unit_range(maps)[1].any()
    assert upsample(maps, (4, 6)).shape == (2, 4, 6)
