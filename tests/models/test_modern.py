import pytest
import torch

from vpr_lib.models.zoo import ZOO, build_model

TOYS = [name for name in ZOO if name.startswith(("salad", "boq")) and "_toy_" in name]
SIZES = {  # parameters, spec modern_methods, first table
    "salad_vitb14_8448": 87_991_489, "boq_vitb14_12288": 95_206_560 - 1_536, "boq_resnet50_16384": 23_844_448,
    "eigenplaces_resnet18_512": 11_439_169, "eigenplaces_resnet50_2048": 27_704_385, "cosplace_vgg16_512": 14_977_345,
    "netvlad_vgg16_vladv1_32768": 14_780_224,
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_published_ones(name):
    with torch.device("meta"):
        model = build_model(name, seed=None)
    assert sum(parameter.numel() for parameter in model.parameters()) == SIZES[name]
    assert str(model.dim) == name.split("_")[-1]


def test_what_learns_of_salad_is_what_its_authors_train():
    with torch.device("meta"):
        model = build_model("salad_vitb14_8448", seed=None)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 29_770_177


@pytest.mark.parametrize("name", TOYS)
def test_toys_learn_everywhere_they_should(name):
    model = build_model(name).train()
    descriptors = model(torch.randn(3, 3, 112, 112))
    assert descriptors.shape == (3, 256) and torch.allclose(descriptors.norm(dim=1), torch.ones(3), atol=1e-5)
    (descriptors * torch.randn(3, 256)).sum().backward()
    silent = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []


def test_the_class_token_reaches_the_head_of_a_transformer_only():
    assert len(build_model("salad_dinov2_toy_256").features(torch.randn(1, 3, 112, 112))) == 2
    assert len(build_model("boq_dinov2_toy_256").features(torch.randn(1, 3, 112, 112))) == 1
    assert len(build_model("salad_toy_256").features(torch.randn(1, 3, 112, 112))) == 1
