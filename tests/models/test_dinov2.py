import pytest
import torch
from torch.nn import functional as F

from vpr_lib.models import dinov2
from vpr_lib.models.aggregators import MixVPR
from vpr_lib.models.backbones import build_backbone
from vpr_lib.models.checkpoints import CheckpointError, load_weights, save_weights, weights_hash
from vpr_lib.models.dinov2 import DINOv2, Size, resampling_matrix
from vpr_lib.models.published import published_at
from vpr_lib.models.zoo import build_model


@pytest.fixture
def small(monkeypatch):
    """Two sizes of the same class that are quick: a plain one, and one with the giant's feed-forward."""
    monkeypatch.setitem(dinov2.SIZES, "dinov2_vits14", Size(24, 3, 2, table=5))
    monkeypatch.setitem(dinov2.SIZES, "dinov2_vitg14", Size(24, 2, 2, swiglu=True, table=5))


def count(module, trainable=False):
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


@pytest.mark.parametrize(
    ("size", "parameters", "trainable"),  # spec §1.1 and §3.3, with the authors' layer1 = 7
    [("s", 22_715_268, 8_287_236), ("b", 87_631_620, 30_464_004), ("l", 305_681_412, None), ("g", 1_138_316_804, None)],
)
def test_sizes_are_the_papers(size, parameters, trainable):
    with torch.device("meta"):
        model = build_model(f"dinomix_vit{size}14_4096", backbone_args={"freeze_to": 7}, seed=None)
    assert count(model) == parameters
    assert trainable is None or count(model, trainable=True) == trainable
    assert len(model.state_dict()) == {"s": 189, "b": 189, "l": 357, "g": 581}[size]  # spec §2


# ---- positions


@pytest.mark.parametrize("grid", [(16, 16), (14, 14), (17, 17), (23, 23), (16, 20), (40, 37)])
def test_positions_equal_the_framework_op(grid):
    table = torch.randn(1, 4, 37, 37, generator=torch.Generator().manual_seed(1))
    scale = [(side + 0.1) / 37 for side in grid]
    expected = F.interpolate(table, scale_factor=scale, mode="bicubic")
    ours = resampling_matrix(grid[0]) @ table @ resampling_matrix(grid[1]).T
    torch.testing.assert_close(ours, expected, atol=5e-5, rtol=0)  # white noise; the op counts in float32
    by_size = F.interpolate(table, grid, mode="bicubic")
    assert (ours - by_size).abs().max() > 5e-3


def test_rows_of_the_matrix_are_weights():
    matrix = resampling_matrix(16)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(16))
    assert int((matrix != 0).sum(dim=1).max()) == 4


def test_the_stored_grid_is_used_as_it_is(small):
    backbone = DINOv2("dinov2_vits14")
    assert backbone.positions((5, 5)) is backbone.dino_model.pos_embed
    assert not torch.equal(backbone.positions((5, 6))[:, 1:6], backbone.dino_model.pos_embed[:, 1:6])
    with torch.autocast("cpu", torch.bfloat16):
        assert backbone.positions((4, 6)).dtype == torch.float32


def test_any_multiple_of_the_patch(small):
    backbone = DINOv2("dinov2_vits14")
    assert backbone(torch.zeros(1, 3, 42, 70)).shape == (1, 24, 3, 5) == (1, 24, *backbone.grid((42, 70)))
    with pytest.raises(ValueError, match=r"multiples of 14; got 100 x 112 .* Nearest: 98 x 112"):
        backbone(torch.zeros(1, 3, 100, 112))
    with pytest.raises(ValueError, match="multiples of 14"):
        build_model("dinomix_vits14_4096", image_size=(225, 224), backbone_args={})


def test_a_map_of_256_tokens_that_is_not_square_is_refused(small):
    with pytest.raises(ValueError, match="built for maps of 24x16x16"):  # the authors' code scrambles it silently
        MixVPR(24, (16, 16))(DINOv2("dinov2_vits14")(torch.zeros(1, 3, 112, 448)))


# ---- what learns


def test_freezing_as_released(small):
    backbone = DINOv2("dinov2_vits14", freeze_to=1).train()
    backbone(torch.randn(2, 3, 70, 70)).square().sum().backward()
    net = backbone.dino_model
    assert all(p.grad is None for part in (net.patch_embed, net.blocks[:2]) for p in part.parameters())
    assert all(p.grad.abs().sum() > 0 for p in (net.cls_token, net.pos_embed, *net.blocks[2].parameters()))
    assert torch.equal(net.mask_token.grad, torch.zeros(1, 24))  # DDP waits for it, it learns nothing
    assert count(DINOv2("dinov2_vits14", freeze_to=-1)) - count(DINOv2("dinov2_vits14", freeze_to=-1), True) == 24 * 589


def test_the_memory_saving_variant_learns_the_same(small):
    models = [DINOv2("dinov2_vits14", freeze_to=1, detach_frozen=detach).train() for detach in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    images, kept = torch.randn(2, 3, 70, 70), [0, 0]
    for index, model in enumerate(models):

        def keep(tensor, index=index):
            kept[index] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(images).square().sum()
        loss.backward()
    for one, other in zip(*(model.dino_model.blocks[2].parameters() for model in models)):
        torch.testing.assert_close(one.grad, other.grad)
    assert models[1].dino_model.pos_embed.grad is None and not models[1].dino_model.pos_embed.requires_grad
    assert kept[1] < 0.5 * kept[0]  # one block of three keeps its activations


def test_freezing_says_what_is_possible(small):
    with pytest.raises(ValueError, match="-1 to 2, got 3"):
        DINOv2("dinov2_vits14", freeze_to=3)
    with pytest.raises(ValueError, match="say with freeze_to"):
        DINOv2("dinov2_vits14", detach_frozen=True)
    with pytest.raises(ValueError, match="Unknown DINOv2 size"):
        DINOv2("dinov2_vitx14")


def test_the_giants_feed_forward(small):
    """silu(a) * b over the two halves of the first linear layer; hidden size rounded up to a multiple of 8."""
    feed_forward, tokens = DINOv2("dinov2_vitg14").dino_model.blocks[0].mlp, torch.randn(2, 3, 24)
    a, b = feed_forward.fc1(tokens).chunk(2, dim=-1)
    torch.testing.assert_close(feed_forward(tokens), feed_forward.fc2(F.silu(a) * b))
    assert feed_forward.fc2.in_features == 64
    with torch.device("meta"):
        giant = build_backbone("dinov2_vitl14").dino_model.blocks[0]
    assert giant.mlp.fc1.out_features == 4096


# ---- official files


def official(tensors, prefix=""):
    """Keys of a facebookresearch file: the giant's own names, and the final norm."""
    named = {
        prefix + key.removeprefix("dino_model.").replace("fc1", "w12").replace("fc2", "w3"): value
        for key, value in tensors.items()
    }
    return named | {f"{prefix}norm.weight": torch.ones(24), f"{prefix}norm.bias": torch.zeros(24)}


def test_facebookresearch_files(small, tmp_path):
    source = DINOv2("dinov2_vitg14")
    torch.save(official(source.state_dict()), tmp_path / "g.pth")
    target = DINOv2("dinov2_vitg14")
    load_weights(target, tmp_path / "g.pth")
    assert weights_hash(target) == weights_hash(source)
    torch.save(official(source.state_dict()) | {"register_tokens": torch.zeros(1, 4, 24)}, tmp_path / "reg.pth")
    with pytest.raises(CheckpointError, match=r"1 keys are not in the model \(dino_model.register_tokens\)"):
        load_weights(target, tmp_path / "reg.pth")
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_weights(DINOv2("dinov2_vits14"), tmp_path / "g.pth")


@pytest.mark.parametrize("variant", ["released", "aggregation", "module", "no_mask_token", "with_norm"])
def test_dinomix_containers(small, tmp_path, variant):
    source, target = (build_model("dinomix_vits14_4096", seed=s, backbone_args={"freeze_to": 1}) for s in (1, 2))
    target.backbone.dino_model.mask_token.data.copy_(source.backbone.dino_model.mask_token)
    tensors = dict(source.state_dict())
    if variant == "aggregation":
        tensors = {key.replace("aggregator.", "aggregation."): value for key, value in tensors.items()}
    if variant == "module":
        tensors = {f"module.{key}": value for key, value in tensors.items()}
    if variant == "no_mask_token":
        del tensors["backbone.dino_model.mask_token"]
    if variant == "with_norm":
        tensors["backbone.dino_model.norm.weight"] = torch.ones(24)
    lightning = {"epoch": 11, "global_step": 2352, "pytorch-lightning_version": "1.8.3", "state_dict": tensors}
    torch.save(lightning, tmp_path / "dinov2_vits14_mix.ckpt")
    load_weights(target, tmp_path / "dinov2_vits14_mix.ckpt")
    assert weights_hash(target) == weights_hash(source)


def test_containers_are_read_strictly(small, tmp_path):
    tensors = build_model("dinomix_vits14_4096", backbone_args={"freeze_to": 1}).state_dict()
    del tensors["aggregator.row_proj.bias"]
    torch.save({"state_dict": tensors}, tmp_path / "cut.ckpt")
    with pytest.raises(CheckpointError, match=r"1 keys are missing \(aggregator.row_proj.bias\)"):
        load_weights(build_model("dinomix_vits14_4096", backbone_args={"freeze_to": 1}), tmp_path / "cut.ckpt")


def test_official_weights_load_at_full_size(tmp_path, monkeypatch):
    """pretrained=True finds the authors' file in the cache; 175 keys of which norm and mask token are not used."""
    monkeypatch.setenv("VPR_CACHE", str(tmp_path))
    source = build_backbone("dinov2_vits14")
    tensors = {key.removeprefix("dino_model."): value for key, value in source.state_dict().items()}
    tensors |= {"norm.weight": torch.ones(384), "norm.bias": torch.zeros(384)}
    assert len(tensors) == 175
    (tmp_path / "weights").mkdir()
    torch.save(tensors, tmp_path / "weights" / "dinov2_vits14_pretrain.pth")
    model = build_model("dinomix_vits14_4096", pretrained=True, seed=3)
    assert weights_hash(model.backbone) == weights_hash(source)


def test_missing_files_say_where_they_are_published(small, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"vpr weights get dinov2_vits14.*dinov2_vits14/dinov2_vits14_pretrain.pth"
    ):
        build_model("dinomix_vits14_4096", pretrained=True, backbone_args={"freeze_to": 1})
    assert "dinov2_vitb14_mix.ckpt (~334 MB; GaoShuang98/DINO-Mix, release v1.0.0)" in published_at(
        "dinomix_vitb14_4096"
    )
    assert published_at("pixels") == ""


def test_own_checkpoints_come_back(small, tmp_path):
    source, target = (build_model("dinomix_vits14_4096", seed=s, backbone_args={"freeze_to": 1}) for s in (1, 2))
    load_weights(target, save_weights(source, tmp_path / "m.safetensors", {}))
    assert weights_hash(target) == weights_hash(source)
