import json

import numpy as np
import pytest
import torch
from torch import nn

from vpr_lib.models.aggregators import AveragePooling, GeM, MixVPR
from vpr_lib.models.backbones import ResNet, build_backbone
from vpr_lib.models.checkpoints import CheckpointError, load_weights, save_weights, weights_hash
from vpr_lib.models.zoo import ZOO, build_model


def count(module, trainable=False):
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


@pytest.mark.parametrize(
    ("name", "parameters", "dim"),  # spec mixvpr §1.2
    [
        ("mixvpr_resnet50_4096", 10_880_900, 4096), ("mixvpr_resnet50_512", 10_092_898, 512),
        ("mixvpr_resnet50_128", 9_896_098, 128), ("mixvpr_resnet18_512", 4_103_684, 512),
        ("mixvpr_resnet34_1024", 9_524_100, 1024), ("convap_resnet50_8192", 27_704_384, 8192),
        ("convap_resnet50_512", 23_770_304, 512), ("cosplace_resnet50_512", 24_557_121, 512),
        ("gem_resnet50_2048", 23_508_033, 2048),
    ],
)  # fmt: skip
def test_sizes_are_the_papers(name, parameters, dim):
    model = build_model(name)
    assert (count(model), model.dim) == (parameters, dim)


def test_every_model_gives_unit_rows():
    for name in sorted(ZOO):
        small = ZOO[name].backbone in ("tinyresnet", "pixels") and ZOO[name].reads == ("image",)
        if small and ZOO[name].system != "DistilVPR":  # not normalised (its §5)
            model = build_model(name).eval()
            descriptors = model(torch.randn(2, 3, *ZOO[name].image_size))
            assert descriptors.shape == (2, model.dim)
            torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(2))


def test_freezing_as_the_authors_do_and_truly():
    model = build_model("mixvpr_resnet50_4096")
    assert count(model, trainable=True) == 9_435_972  # spec mixvpr §1.3
    for fixed in (False, True):
        backbone = ResNet("resnet18", [4], layers_to_freeze=2, fixed_statistics=fixed)
        before = backbone.model.bn1.running_mean.clone()
        backbone(torch.randn(2, 3, 64, 64))
        assert torch.equal(before, backbone.model.bn1.running_mean) == fixed


def test_cropping_sets_channels_and_stride():
    for crop, channels, stride in (([], 512, 32), ([4], 256, 16), ([3, 4], 128, 8)):
        backbone = ResNet("resnet18", crop)
        assert (backbone.out_channels, backbone.stride) == (channels, stride)
        assert backbone(torch.zeros(1, 3, 96, 64)).shape[1:] == (channels, *backbone.grid((96, 64)))
    with pytest.raises(ValueError, match="layers_to_crop must be"):
        ResNet("resnet18", [3])
    with pytest.raises(ValueError, match=r"crops \[\] or \[3\]"):
        build_backbone("tinyresnet", layers_to_crop=[4])


def test_mixvpr_is_tied_to_its_grid():
    with pytest.raises(ValueError, match="built for maps of 8x5x5"):
        MixVPR(8, (5, 5))(torch.zeros(1, 8, 4, 5))
    assert build_model("mixvpr_resnet18_512", image_size=(224, 288)).aggregator.in_w == 18


def test_average_against_its_formula():
    features = torch.rand(2, 3, 4, 5)
    slow = torch.stack([torch.stack([sum(c.flatten()) / 20 for c in f]) for f in features])
    torch.testing.assert_close(AveragePooling(3)(features), nn.functional.normalize(slow, dim=1))


def test_gem_against_its_formula():
    features, pool = torch.rand(2, 3, 4, 5), GeM(p=2.5)
    slow = torch.stack([torch.stack([(sum(x**2.5 for x in c.flatten()) / 20) ** 0.4 for c in f]) for f in features])
    torch.testing.assert_close(pool(features), nn.functional.normalize(slow, dim=1))


def test_same_seed_same_model_and_the_global_generator_rests():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert weights_hash(build_model("mixvpr_toy_256")) == weights_hash(build_model("mixvpr_toy_256"))
    assert torch.rand(1) == expected
    assert weights_hash(build_model("gem_toy_160")) != weights_hash(build_model("gem_toy_160", seed=1))


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="Did you mean 'mixvpr_resnet50_4096'"):
        build_model("mixvpr_resnet50_4069")
    with pytest.raises(ValueError, match="Unknown backbone"):
        build_backbone("resnet1000")
    with pytest.raises(ValueError, match="Extra inputs"):
        build_model("pixels", colour="blue")


# ---- checkpoints

SMALL = "gem_toy_160"


@pytest.mark.parametrize("container", ["raw", "lightning", "parallel"])
def test_official_containers(tmp_path, container):
    source, target = build_model(SMALL, seed=1), build_model(SMALL, seed=2)
    content = source.state_dict()
    if container == "lightning":
        content = {"state_dict": content, "epoch": 3, "global_step": 4, "hyper_parameters": {"lr": 0.1}}
    if container == "parallel":
        content = {f"module.{key}": value for key, value in content.items()}
    torch.save(content, tmp_path / "a.ckpt")
    load_weights(target, tmp_path / "a.ckpt")
    assert weights_hash(source) == weights_hash(target)


def test_own_checkpoints_carry_their_story(tmp_path):
    model = build_model(SMALL, seed=1)
    save_weights(model, tmp_path / "m.safetensors", {"epoch": 4})
    other = build_model(SMALL, seed=2)
    assert load_weights(other, tmp_path / "m.safetensors") == {"epoch": 4}
    assert weights_hash(other) == weights_hash(model)
    assert json.loads((tmp_path / "m.json").read_text()) == {"epoch": 4}


def test_half_precision_checkpoint(tmp_path):
    model, other = build_model(SMALL, seed=1), build_model(SMALL, seed=2)
    whole = save_weights(model, tmp_path / "w.safetensors", {}).stat().st_size
    half = save_weights(model, tmp_path / "h.safetensors", {}, half=True)
    assert half.stat().st_size < 0.6 * whole
    load_weights(other, half)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), atol=1e-3, rtol=1e-3)


def test_what_differs_is_named(tmp_path):
    torch.save(build_model("convap_toy_512").state_dict(), tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError, match=r"1 keys are missing \(aggregator.p\), 2 keys are not in the model"):
        load_weights(build_model(SMALL), tmp_path / "c.ckpt")
    load_weights(build_model("avg_toy_160"), tmp_path / "c.ckpt", ignore=("aggregator.",))
    torch.save(build_model("convap_toy_512", aggregator_args={"out_channels": 64}).state_dict(), tmp_path / "d.ckpt")
    with pytest.raises(CheckpointError, match="2 shapes differ"):
        load_weights(build_model("convap_toy_512"), tmp_path / "d.ckpt")


class Evil:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_foreign_files(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save({"weight": torch.arange(100.0)}, tmp_path / "flipped.ckpt")
    whole = (tmp_path / "flipped.ckpt").read_bytes()
    (tmp_path / "flipped.ckpt").write_bytes(whole.replace(np.float32(50).tobytes(), np.float32(51).tobytes(), 1))
    for name, message in [("evil.ckpt", "cannot be read as weights only"), ("list.ckpt", "without tensors"),
                          ("flipped.ckpt", "not those that were written"), ("text.ckpt", "cannot be read"), ("text.safetensors", "not a safetensors file")]:  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            load_weights(build_model(SMALL), tmp_path / name)
    assert "ran" not in capsys.readouterr().out
    with pytest.raises(FileNotFoundError):
        load_weights(build_model(SMALL), tmp_path / "absent.ckpt")
