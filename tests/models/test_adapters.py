import pytest
import torch

from vpr_lib.models.adapters import CricaDINOv2, SidePathDINOv2
from vpr_lib.models.dinov2 import DINOv2

torch.manual_seed(0)
IMAGES = torch.randn(2, 3, 112, 112)


def plain():
    return DINOv2("dinov2_toy", final_norm=True).eval()


def test_adapters_start_as_the_transformer_alone():
    ours, other = CricaDINOv2("dinov2_toy").eval(), plain()
    missing = other.load_state_dict(ours.state_dict(), strict=False)
    assert not missing.missing_keys and all(".adapter." in key for key in missing.unexpected_keys)
    assert torch.allclose(ours(IMAGES), other(IMAGES), atol=1e-5)
    with pytest.raises(ValueError, match="square images"):
        ours.grid((112, 126))


@pytest.mark.parametrize("kind", [CricaDINOv2, SidePathDINOv2])
def test_adapters_alone_learn(kind):
    model = kind("dinov2_toy").train()
    model(IMAGES).square().sum().backward()
    learning = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert learning and all(".adapter" in name for name in learning)


def test_the_side_path_adds_every_block():
    model = SidePathDINOv2("dinov2_toy").eval()
    for adapter in model.dino_model.adapters:
        torch.nn.init.zeros_(adapter.D_fc2.weight)
        torch.nn.init.zeros_(adapter.D_fc2.bias)
    with torch.no_grad():
        total = sum(model.tokens(IMAGES))
        assert torch.allclose(model.map_and_token(IMAGES)[1], model.dino_model.norm(total)[:, 0], atol=1e-5)


def test_pre_trained_files_know_nothing_of_adapters():
    raw = {key.removeprefix("dino_model."): value for key, value in plain().state_dict().items()}
    model = SidePathDINOv2("dinov2_toy")
    assert set(model.own_names(raw)) == set(model.state_dict())


def test_sides_are_rounded_to_patches_where_a_model_asks_for_it():
    model = DINOv2("dinov2_toy", round_sides=True).eval()
    assert model.fit(torch.zeros(1, 3, 100, 120)).shape == (1, 3, 98, 126)
    assert model(torch.zeros(1, 3, 100, 120)).shape[2:] == model.grid((100, 120)) == (7, 9)
    assert model.fit(IMAGES) is IMAGES
