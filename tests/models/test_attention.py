import pytest
import torch
from torch.nn import functional as F

from vpr_lib.models import dinov2
from vpr_lib.models.attention import (
    agreement,
    attend,
    attention_rollout,
    attention_weights,
    change_without,
    grad_cam,
    last_block_attention,
    token_colours,
)
from vpr_lib.models.zoo import ZOO, build_model

TOY = [name for name, config in ZOO.items()
       if config.backbone in ("tinyresnet", "dinov2_toy") and config.reads == ("image",)]  # fmt: skip


def images(model, batch=2, seed=1):
    size = (batch, 3, *model.config.image_size)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def slow_cam(model, inputs, component, features_of):
    """The definition, image by image: gradient of one component with respect to the map, without hooks."""
    maps = []
    for image in inputs:
        activations = features_of(image[None]).detach().requires_grad_()
        model.aggregator(activations)[0, component].backward()
        cam = sum(g.mean() * a for g, a in zip(activations.grad[0], activations.detach()[0])).clamp(min=0)
        cam = (cam - cam.min()) / ((cam - cam.min()).max() + 1e-7)
        cam = F.interpolate(cam[None, None], inputs.shape[-2:], mode="bilinear")[0, 0]
        maps.append((cam - cam.min()) / ((cam - cam.min()).max() + 1e-7))
    return torch.stack(maps)


BEFORE_THE_NORM = {"salad_dinov2_toy_256"}  # its features are normalised tokens: no block gives them


@pytest.mark.parametrize("name", [name for name in TOY if name not in BEFORE_THE_NORM])
def test_a_batch_equals_the_definition(name):
    model = build_model(name).eval()
    inputs = model.input_spec.normalise(images(model))
    last = model.backbone.size.depth - 1 if model.config.backbone == "dinov2_toy" else None
    found = grad_cam(model, inputs, component=7, layer=last)  # of a transformer's last block the map is the features
    expected = slow_cam(model, inputs, 7, model.feature_map)
    torch.testing.assert_close(found.maps, expected, atol=1e-4, rtol=1e-4)
    assert found.maps.shape == (2, *model.config.image_size) and found.component.tolist() == [7, 7]


def test_frozen_models_and_modes_are_no_obstacle_and_left_alone():
    model = build_model("dinomix_toy_256", backbone_args={"freeze_to": 3}).train()
    with torch.inference_mode():
        inputs = model.input_spec.normalise(images(model))
        frozen = grad_cam(model, inputs, 3)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    free = build_model("dinomix_toy_256", backbone_args={}).eval()
    torch.testing.assert_close(frozen.maps, grad_cam(free, inputs, 3).maps)


def test_the_rules():
    model = build_model("dinomix_toy_256").eval()
    pictures = images(model)
    with torch.no_grad():
        descriptors = model(model.input_spec.normalise(pictures))
    faithful = attend(model, pictures)
    assert faithful.component.tolist() == descriptors.argmax(dim=1).tolist()
    published = attend(model, pictures, "reproduce")
    assert published.component.tolist() == [255, 255]  # 690 in 4096
    halves = (pictures.float() / 255 - 0.5) / 0.5
    torch.testing.assert_close(published.maps, grad_cam(model, halves, 255).maps, atol=1e-4, rtol=1e-4)
    assert attend(model, pictures, "reproduce", component=3).component.tolist() == [3, 3]
    cnn = build_model("mixvpr_toy_256").eval()
    torch.testing.assert_close(attend(cnn, pictures, "reproduce").maps, attend(cnn, pictures).maps)


def test_similarity_explains_the_cosine():
    """Its gradient is the sum of the components' gradients, weighted by the reference."""
    model = build_model("avg_toy_160").eval()
    pictures = images(model, 1)
    inputs = model.input_spec.normalise(pictures)
    reference = torch.zeros(model.dim)
    reference[5] = 3.0
    torch.testing.assert_close(
        attend(model, pictures, "similarity", reference=reference).maps, grad_cam(model, inputs, 5).maps
    )
    batch = images(model, 3)
    together = attend(model, batch, "similarity", reference=torch.eye(model.dim)[:3]).maps
    for index in range(3):
        alone = attend(model, batch[index : index + 1], "similarity", reference=torch.eye(model.dim)[index]).maps
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_explained_is_said():
    model, cnn = build_model("dinomix_toy_256"), build_model("gem_toy_160")
    with pytest.raises(ValueError, match="Unknown mode 'pretty'"):
        attend(model, images(model), "pretty")
    with pytest.raises(ValueError, match="pass reference="):
        attend(model, images(model), "similarity")
    with pytest.raises(ValueError, match="takes uint8 images"):
        attend(model, images(model).float())
    with pytest.raises(ValueError, match="components 0 to 255, got 256"):
        attend(model, images(model), component=256)
    with pytest.raises(ValueError, match="blocks 0 to 3, got layer 4"):
        attend(model, images(model), layer=4)
    with pytest.raises(ValueError, match="TinyResNet is explained at its output"):
        attend(cnn, images(cnn), layer=1)
    with pytest.raises(ValueError, match="need a DINOv2 backbone, this model has TinyResNet"):
        attention_rollout(cnn, torch.zeros(1, 3, 112, 112))
    with pytest.raises(ValueError, match="'patches' or 'class', got 'cls'"):
        attention_rollout(model, torch.zeros(1, 3, 112, 112), of="cls")
    with pytest.raises(ValueError, match="at least 3 tokens"):
        token_colours(torch.zeros(1, 8, 1, 2))


# ---- attention of transformers


def test_attention_weights_reproduce_the_blocks():
    """Put together by hand with the values, they give what the block's attention gives."""
    model = build_model("dinomix_toy_256").eval()
    inputs = model.input_spec.normalise(images(model))
    weights = attention_weights(model, inputs)
    assert len(weights) == 4 and weights[0].shape == (2, 3, 65, 65)
    torch.testing.assert_close(weights[3].sum(dim=-1), torch.ones(2, 3, 65))
    with torch.no_grad():
        tokens = list(model.backbone.tokens(inputs))[3]  # the input of block 3
        block = model.backbone.dino_model.blocks[3]
        normed = block.norm1(tokens)
        value = block.attn.qkv(normed).chunk(3, dim=-1)[2].unflatten(2, (3, 32)).transpose(1, 2)
        by_hand = block.attn.proj((weights[3] @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(by_hand, block.attn(normed), atol=1e-5, rtol=1e-4)


def test_rollout_against_its_formula(monkeypatch):
    model = build_model("dinomix_toy_256").eval()
    inputs = model.input_spec.normalise(images(model, 1))
    joint = torch.eye(65, dtype=torch.float64)
    for attention in attention_weights(model, inputs):
        joint = (attention[0].double().mean(dim=0) + torch.eye(65)) / 2 @ joint
    for of, row in (("class", joint[0, 1:]), ("patches", joint[1:, 1:].mean(dim=0))):
        cells = F.interpolate(row.view(1, 1, 8, 8), (112, 112), mode="bilinear")[0, 0]
        expected = (cells - cells.min()) / (cells - cells.min()).max()
        found = attention_rollout(model, inputs, of=of)[0]
        torch.testing.assert_close(found, expected.float(), atol=1e-3, rtol=1e-3)
    heads = last_block_attention(model, inputs)
    assert heads.shape == (1, 3, 112, 112) and heads.amax(dim=(2, 3)).min() > 0.99


def test_rollout_of_a_block_that_attends_nowhere_else(monkeypatch):
    """With attention on one patch everywhere, that patch is all there is to see."""
    model = build_model("dinomix_toy_256").eval()
    only = torch.zeros(1, 2, 65, 65)
    only[..., 1 + 8 * 2 + 5] = 1  # patch in row 2, column 5
    monkeypatch.setattr("vpr_lib.models.attention.attention_weights", lambda *_: [only])
    seen = attention_rollout(model, torch.zeros(1, 3, 112, 112), of="class")[0]
    assert divmod(int(seen.argmax()), 112)[0] // 14 == 2 and int(seen.argmax()) % 112 // 14 == 5


def test_token_colours():
    """Two kinds of tokens get two colours, the same in every image; the order of the images changes nothing."""
    kinds = torch.randn(2, 16, generator=torch.Generator().manual_seed(4))
    pattern = torch.tensor([[[0, 1], [1, 0]], [[1, 1], [0, 1]]])
    features = kinds[pattern].permute(0, 3, 1, 2) + 1e-4 * torch.randn(2, 16, 2, 2)
    colours = token_colours(features)
    assert colours.shape == (2, 3, 2, 2) and colours.min() >= 0 and colours.max() <= 1
    main = colours[:, 0].round().long()
    assert torch.equal(main, pattern) or torch.equal(main, 1 - pattern)
    swapped = token_colours(features.flip(0)).flip(0)
    torch.testing.assert_close(swapped[:, 0], colours[:, 0], atol=1e-4, rtol=1e-3)


def test_full_size_sizes(monkeypatch):
    """The published layer of a 12-block transformer is block 10, and other image sizes work with GeM heads."""
    monkeypatch.setitem(dinov2.SIZES, "dinov2_vits14", dinov2.Size(24, 12, 2))
    model = build_model("dinomix_vits14_4096").eval()
    inputs = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(grad_cam(model, inputs, 690).raw, grad_cam(model, inputs, 690, layer=10).raw)
    other = build_model("dinomix_vits14_4096", aggregator="GeM", aggregator_args={}, image_size=(70, 98)).eval()
    assert grad_cam(other, torch.randn(1, 3, 70, 98), 3).maps.shape == (1, 70, 98)


def test_agreement_by_hand():
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    assert agreement(maps, 2 * maps + 1).item() == pytest.approx(1)
    assert agreement(maps, -maps).item() == pytest.approx(-1)
    assert agreement(maps, torch.ones(1, 2, 2)).item() == 0


def test_covering_what_matters_changes_the_descriptor():
    """A model that looks at the left half only: covering the right half changes nothing."""

    class LeftHalf(torch.nn.Module):
        input_spec = build_model("gem_toy_160").input_spec

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, images):
            return F.normalize(images[..., :2].flatten(1) * self.scale, dim=1)

    picture = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    left = torch.zeros(1, 4, 4)
    left[..., :2] = 1 + torch.rand(1, 4, 2)
    before = picture.clone()
    assert change_without(LeftHalf(), picture, left, 0.5).item() > 0.1
    assert change_without(LeftHalf(), picture, left, 0.5, least=True).item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(picture, before)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        change_without(LeftHalf(), picture, left, 1.5)
