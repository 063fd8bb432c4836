"""DistilVPR's networks: sparse convolutions, voxels, the MinkLoc++ teacher and the image student."""

import re

import numpy as np
import torch
from goldtools import as_tensors, count, record

from vpr_lib.data.clouds import collate_voxels, voxelise
from vpr_lib.models.minkloc import UNUSED, ECABlock, official_weights
from vpr_lib.models.sparse import SparseConv, SparseConvTranspose, SparseGeM, SparseTensor
from vpr_lib.models.voxel_grid import VoxelGrid, kernel_offsets
from vpr_lib.models.zoo import ZOO, build_model


def compute(fixture):
    config = fixture.config
    op = config.get("op", "")
    if op == "sparse convolution primitives":
        return primitives(fixture)
    if op.startswith("worked sparse"):
        return worked_example(fixture)
    if op == "voxelisation":
        return voxels(fixture)
    if op.startswith("ECA basic block"):
        return eca_block(fixture)
    if "teacher" in config:
        return teacher(fixture)
    if "student" in config:
        return student(fixture)
    return None


def lexicographic(coordinates):
    return torch.from_numpy(np.lexsort(coordinates.cpu().numpy().T[::-1]).copy())


def conv(weights, name, size, stride=1, kind=SparseConv):
    kernel = weights[f"{name}.kernel"]
    module = kind(kernel.shape[-2], kernel.shape[-1], size, stride)
    module.load_state_dict({"kernel": kernel})
    return module


def primitives(fixture):
    weights = as_tensors(fixture.weights())
    features = torch.from_numpy(fixture.input("features")).requires_grad_()
    grid = VoxelGrid(torch.from_numpy(fixture.input("coords")).long())
    voxels = SparseTensor(features, grid)
    layers = {
        "k3": conv(weights, "k3", 3), "k5": conv(weights, "k5", 5), "k1": conv(weights, "k1", 1),
        "down": conv(weights, "down", 2, 2), "down_k3": conv(weights, "down_k3", 3),
        "up": conv(weights, "up", 2, 2, SparseConvTranspose),
    }  # fmt: skip
    found = {name: layers[name](voxels) for name in ("k3", "k5", "k1", "down")}
    found |= {name: layers[name](found["down"]) for name in ("down_k3", "up")}
    target = found["k3"].features * torch.from_numpy(fixture.input("d3"))
    (target.sum() + (found["up"].features * torch.from_numpy(fixture.input("dup"))).sum()).backward()
    outputs = {name: out.features[lexicographic(out.coordinates)] for name, out in found.items()}
    outputs["down_coords"] = found["down"].coordinates[lexicographic(found["down"].coordinates)]
    outputs["grad_features"] = features.grad
    outputs |= {f"grad_{name}.kernel": layers[name].kernel.grad for name in ("k3", "up", "down")}
    for size, stride in ((3, 1), (5, 1), (2, 1), (3, 2), (2, 2)):
        outputs[f"offset_k{size}_ts{stride}"] = torch.tensor(kernel_offsets(size, stride))
    return outputs


def worked_example(fixture):
    kernels = {f"{name}.kernel": torch.from_numpy(fixture.input(name)) for name in ("k3", "k5", "k2", "kt")}
    grid = VoxelGrid(torch.from_numpy(fixture.input("coords")))
    voxels = SparseTensor(torch.from_numpy(fixture.input("features")), grid)
    with torch.no_grad():
        down = conv(kernels, "k2", 2, 2)(voxels)
        order = lexicographic(down.coordinates)
        return {
            "k3": conv(kernels, "k3", 3)(voxels).features,
            "k5": conv(kernels, "k5", 5)(voxels).features,
            "down": down.features[order],
            "down_coords": down.coordinates[order],
            "up": conv(kernels, "kt", 2, 2, SparseConvTranspose)(down).features,
        }


def voxels(fixture):
    outputs = {}
    for name in ("small", "cloud"):
        coordinates, kept = voxelise(fixture.input(name), fixture.config["voxel_size"])
        outputs |= {f"{name}_coords": coordinates, f"{name}_kept": kept}
    return outputs


def eca_block(fixture):
    block, gem = ECABlock(fixture.config["cin"], fixture.config["cout"]).eval(), SparseGeM()
    modules = torch.nn.ModuleDict({"block": block, "gem": gem})
    modules.load_state_dict(as_tensors(fixture.weights()), strict=True)
    features = torch.from_numpy(fixture.input("features")).requires_grad_()
    voxels = SparseTensor(features, VoxelGrid(torch.from_numpy(fixture.input("coords")).long()))
    passed = {}
    hook = block.eca.register_forward_hook(lambda module, inputs, out: passed.update(eca_in=inputs[0], eca_out=out))
    out = block(voxels)
    hook.remove()
    pooled = gem(out)
    (pooled * torch.from_numpy(fixture.input("direction"))).sum().backward()
    gradients = {f"grad_{name}": parameter.grad for name, parameter in modules.named_parameters()}
    return {
        **{name: value.features for name, value in passed.items()},
        "gate": block.eca.gate(passed["eca_in"]), "block": out.features, "gem": pooled,
        "gem_of_features": gem(voxels), "grad_features": features.grad, **gradients,
    }  # fmt: skip


def stored(fixture, prefix=""):
    """Parameters in the published state dict, those of modules that are never run included."""
    running = ("running_mean", "running_var", "num_batches_tracked")
    shapes = {key: shape for key, shape, _ in fixture.state_dict if not key.endswith(running)}
    return sum(int(np.prod(shape)) for key, shape in shapes.items() if key.startswith(prefix))


def unused(fixture):
    return [key for key, *_ in fixture.state_dict if key.removeprefix("image_fe.").startswith(UNUSED)]


def load_published(model, fixture):
    """Strictly, and every published tensor is either ours or known by name to be unused."""
    weights = official_weights(as_tensors(fixture.weights()))
    assert len(weights) + len(unused(fixture)) == len(fixture.state_dict)
    model.eval().load_state_dict(weights, strict=True)
    return model


def teacher(fixture):
    model = load_published(build_model(teacher_config(fixture)), fixture)
    numbers = range(sum(name.startswith("cloud.") for name in fixture.inputs))
    clouds = [voxelise(fixture.input(f"cloud.{i}"), fixture.config["voxel_size"])[0] for i in numbers]
    images, batch = torch.from_numpy(fixture.input("images")), collate_voxels(clouds)
    passed = {}
    backbone = model.cloud_fe.backbone
    parts = {
        "conv0": backbone.bn0, **{f"down.{i}": norm for i, norm in enumerate(backbone.bns)}, "map": backbone,
        **{f"level.{i}": blocks for i, blocks in enumerate(backbone.blocks)},
        **{f"level.{i}.eca": blocks[0].eca for i, blocks in enumerate(backbone.blocks)},
    }  # fmt: skip
    if backbone.top_down:
        parts |= {"lateral": backbone.conv1x1s[1], "top": backbone.tconvs[0]}
    hooks = [
        part.register_forward_hook(lambda module, _, out, name=name: passed.__setitem__(name, out))
        for name, part in parts.items()
    ]
    names = {f"image_layer{i}": f"image_fe.backbone.model.layer{i}" for i in (1, 2, 3)}
    names["image_map"] = "image_fe.aggregator.conv1x1"
    with torch.no_grad(), record(model, names) as outputs:
        heads = model.heads(images, batch)
    for hook in hooks:
        hook.remove()
    for name, out in passed.items():
        rows = out.grid.cloud_of(out.stride) == 0
        features, coordinates = out.features[rows], out.coordinates[rows]
        rectified = name == "conv0" or name.startswith("down.")
        outputs[f"cloud0.{name}"] = (features.relu() if rectified else features)[lexicographic(coordinates)]
    grid = passed["map"].grid
    strides = [2**i for i in range(len(backbone.blocks) + 1)]
    outputs["voxels"] = torch.stack([grid.counts(stride) for stride in strides], 1)
    outputs["coords_digest"] = torch.tensor(
        [[digest(grid.level(stride).coordinates, cloud) for stride in strides] for cloud in numbers]
    )
    outputs |= {"descriptor": heads["final"], "cloud_descriptor": heads["cloud"], "image_descriptor": heads["image"]}
    outputs["parameters"] = [stored(fixture), stored(fixture, "cloud_fe."), stored(fixture, "image_fe.")]
    if model.config == ZOO["minklocpp_384"]:
        assert count(model.cloud_fe) == 646_122 and count(model.image_fe) == 2_848_577  # spec distilvpr §4.4
    return outputs


def teacher_config(fixture):
    """The zoo's teacher at the widths, backbone, image and voxel size of the fixture."""
    config = fixture.config
    changes = {name: config[name] for name in ("cloud_dim", "image_dim", "voxel_size") if name in config}
    changes["image_size"] = tuple(fixture.inputs["images"]["shape"][2:])
    if "image_backbone" in config:
        changes["backbone"] = config["image_backbone"].split()[0]
    for name in ("planes", "layers"):
        if found := re.search(rf"{name} ([\d/]+)", config.get("cloud_backbone", "")):
            changes[name] = tuple(map(int, found[1].split("/")))
    return ZOO["minklocpp_384"].model_copy(update=changes)


def digest(coordinates, cloud):
    xyz = coordinates[coordinates[:, 0] == cloud, 1:]
    weighted = (xyz * torch.tensor([3, 5, 7])).sum(1)
    return [int(xyz.sum()), int((xyz**2).sum()), int((weighted**2).sum())]


def student(fixture):
    config, size = fixture.config, tuple(fixture.inputs["images"]["shape"][2:])
    head = {"out_channels": config["dim"]}
    model = build_model("distilvpr_resnet18_384", backbone=config["student"], aggregator_args=head, image_size=size)
    model = load_published(model, fixture)
    images = torch.from_numpy(fixture.input("images"))
    names = {f"layer{i}": f"backbone.model.layer{i}" for i in (1, 2, 3)} | {"map": "aggregator.conv1x1"}
    with torch.no_grad(), record(model, names) as outputs:
        outputs["descriptor"] = model(images)
    if "direction" not in fixture.inputs:
        return outputs | {"parameters": [stored(fixture), count(model)]}
    trained = model.train()(images)
    (trained * torch.from_numpy(fixture.input("direction"))).sum().backward()
    outputs["train_descriptor"] = trained
    ours = dict(model.named_parameters())
    for name in fixture.outputs:
        if name.startswith("grad_"):
            (key,) = official_weights({name.removeprefix("grad_"): torch.empty(0)})
            outputs[name] = ours[key].grad
    outputs["running_mean_after"] = model.backbone.model.bn1.running_mean
    outputs["parameters"] = [stored(fixture), count(model)]
    return outputs
