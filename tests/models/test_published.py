"""Files in the layout of the published checkpoints: keys and shapes from the golden fixtures and spec mixvpr §2."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from vpr_lib.cli.weights import add
from vpr_lib.models.backbones import BACKBONES, VGG16_LAYERS, build_backbone
from vpr_lib.models.checkpoints import CheckpointError, load_weights
from vpr_lib.models.published import Published, load_published, name_of_file
from vpr_lib.models.zoo import ZOO, build_model

GOLDEN = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parent.parent / "golden"))
MIXVPR, CONVAP = "mixvpr_r50_4096", "convap_r50_2048"
LAYOUTS = {  # model: fixture with the official keys, shapes that differ from it, number of keys
    "mixvpr_resnet50_4096": (MIXVPR, {}, 286),
    "mixvpr_resnet50_512": (MIXVPR, {"channel_proj.weight": (256, 1024), "channel_proj.bias": (256,),
                                     "row_proj.weight": (2, 400), "row_proj.bias": (2,)}, 286),
    "mixvpr_resnet50_128": (MIXVPR, {"channel_proj.weight": (64, 1024), "channel_proj.bias": (64,),
                                     "row_proj.weight": (2, 400), "row_proj.bias": (2,)}, 286),
    **{f"convap_resnet50_{4 * d}": (CONVAP, {"channel_pool.weight": (d, 2048, 1, 1), "channel_pool.bias": (d,)}, 320)
       for d in (128, 512, 1024, 2048)},
    "lightmixvpr_resnet18_512": ("light_r18_512", {}, 118), "lightmixvpr_kd_resnet18_512": ("light_r18_512", {}, 118),
    "lightmixvpr_efficientnet_b0_128": ("light_effb0_128", {}, 388),
    "lightmixvpr_mobilenet_v2_1024": ("light_mbv2_1024", {}, 341),
}  # fmt: skip


def official(model):
    """A state dict in the official layout; entry number i is filled with i / 1000, so that a mix-up shows."""
    fixture, changes, _ = LAYOUTS[model]
    entries = json.loads((GOLDEN / f"{fixture}.json").read_text())["state_dict"]
    shapes = {key: changes.get(key.removeprefix("aggregator."), shape) for key, shape, _ in entries}
    dtypes = {key: getattr(torch, dtype) for key, _, dtype in entries}
    values = np.arange(len(shapes)) / 1000
    return {key: torch.full(tuple(shape), float(v)).to(dtypes[key]) for (key, shape), v in zip(shapes.items(), values)}


def lightning(tensors):
    """What Lightning 1.8 writes with save_weights_only."""
    return {"epoch": 9, "global_step": 5210, "pytorch-lightning_version": "1.8.3", "state_dict": tensors, "loops": {},
            "hparams_name": "kwargs", "hyper_parameters": {"lr": 0.05, "warmpup_steps": 650, "milestones": [5, 10]}}  # fmt: skip


@pytest.mark.parametrize("model", LAYOUTS)
def test_the_official_layout_loads_strictly(model, tmp_path):
    tensors, path = official(model), tmp_path / "official.ckpt"
    assert len(tensors) == LAYOUTS[model][2]
    torch.save(lightning(tensors) if model in ("mixvpr_resnet50_4096", "convap_resnet50_512") else tensors, path)
    with torch.device("meta"):
        network = build_model(model, seed=None)
    network.to_empty(device="cpu")
    load_weights(network, path)
    loaded = network.state_dict()
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_every_published_file_has_its_model_and_layout():
    table = load_published()
    kinds = {
        "model": ZOO,
        "cloud": {name for name in ZOO if "cloud" in ZOO[name].reads},
        "trunk": {"vgg16_matconvnet"},
        "dinov2": BACKBONES,
    }
    assert all(name in kinds[known.kind] and known.source and known.licence for name, known in table.items())
    others = {f"dinomix_vit{size}14_4096" for size in "sblg"} | {"lightmixvpr_resnet50_4096"}
    assert {*LAYOUTS} | others <= {name for name, known in table.items() if known.kind == "model"}
    assert all(known.address.startswith("https://") or known.by_hand for known in table.values())
    assert (
        name_of_file("resnet50_MixVPR_4096_channels(1024)_rows(4).ckpt") == "mixvpr_resnet50_4096"
    )  # of two, the first
    with pytest.raises(ValueError, match=r"exactly one of url, drive, .*; it has none"):
        Published(file="a", source="b", licence="c")
    with pytest.raises(ValueError, match="drive_folder and member come together"):
        Published(file="a", source="b", licence="c", drive_folder="d")


def matconvnet(path, tensors, older=False):
    """A MatConvNet SimpleNN file with these convolutions, and layers around them as the published one has."""
    layers = []
    for name, (weight, bias) in tensors.items():
        filters = weight.permute(2, 3, 1, 0).numpy()
        part = (
            {"filters": filters, "biases": bias.numpy()}
            if older
            else {"weights": np.array([filters, bias.numpy()[:, None]], object)}
        )
        layers += [{"name": name, "type": "conv", "pad": [1, 1, 1, 1]} | part, {"name": f"relu_{name}", "type": "relu"}]
    fully = {"filters": np.zeros((7, 7, 4, 4)), "biases": np.zeros(4)}
    layers.append(
        {"name": "fc6", "type": "conv"} | (fully if older else {"weights": np.array([*fully.values()], object)})
    )
    cells = np.empty(len(layers), object)
    cells[:] = layers
    scipy.io.savemat(path, {"layers": cells, "meta": {"normalization": {"averageImage": [123.68, 116.779, 103.939]}}})


@pytest.mark.parametrize("layout", ["mat", "older_mat", "openibl", "openibl_base", "torchvision"])
def test_a_trunk_file_is_kept_and_used(layout, tmp_path, monkeypatch):
    monkeypatch.setenv("VPR_CACHE", str(tmp_path / "cache"))
    model = "clusvpr_vgg16_8192_caffe"
    if layout == "mat":
        with pytest.raises(FileNotFoundError, match=r"`vpr weights add imagenet-vgg-verydeep-16.mat`"):
            build_model(model, pretrained=True)
    trunk = build_backbone("vgg16")
    convolutions = {n: layer for n, layer in enumerate(trunk.model.features) if isinstance(layer, torch.nn.Conv2d)}
    names = VGG16_LAYERS
    pairs = {
        name: (layer.weight.detach(), layer.bias.detach())
        for name, layer in zip(names, convolutions.values(), strict=True)
    }
    file = tmp_path / ("imagenet-vgg-verydeep-16.mat" if "mat" in layout else "trunk.pth")
    if "mat" in layout:
        matconvnet(file, pairs, older=layout == "older_mat")
    else:
        prefix = {"openibl": "", "openibl_base": "base.", "torchvision": "features."}[layout]
        torch.save(
            {f"{prefix}{key.removeprefix('model.features.')}": value for key, value in trunk.state_dict().items()}, file
        )
    add(file, model="" if "mat" in layout else "vgg16_matconvnet", source="", licence="")
    loaded = build_model(model, pretrained=True).backbone
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in trunk.state_dict().items())
    assert not loaded.model.features[0].weight.requires_grad and loaded.model.features[24].weight.requires_grad


def test_a_trunk_file_that_lacks_layers_is_refused(tmp_path):
    matconvnet(tmp_path / "a.mat", {"conv1_1": (torch.rand(64, 3, 3, 3), torch.rand(64))})
    with pytest.raises(CheckpointError, match="24 keys are missing"):
        load_weights(build_backbone("vgg16"), tmp_path / "a.mat")
    (tmp_path / "b.mat").write_bytes(b"no file of MATLAB" * 20)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(build_backbone("vgg16"), tmp_path / "b.mat")


def test_a_file_of_another_size_is_named(tmp_path):
    torch.save(official("mixvpr_resnet50_512"), tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"2 shapes differ \(aggregator.channel_proj.weight: file \(256, 1024\)"):
        load_weights(build_model("mixvpr_resnet50_128"), tmp_path / "a.ckpt")
