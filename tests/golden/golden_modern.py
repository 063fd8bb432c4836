"""SALAD, BoQ, MegaLoc, EigenPlaces, CosPlace and their like, from the official layouts: configs with `layout`."""

import re

import torch
import torch.nn.functional as F
from goldtools import as_tensors, record
from torch import nn

from vpr_lib.losses.cosface import CosFace
from vpr_lib.models.aggregators import build_aggregator
from vpr_lib.models.checkpoints import load_tensors
from vpr_lib.models.layouts import translate
from vpr_lib.models.zoo import ModelConfig, build_model

ARGUMENTS = {"mlp_dim": "hidden", "feat_dim": "out_dim"}  # authors' name -> ours
DERIVED = {"in_channels", "num_channels"}  # follow from the map
TRUNKS = {"CricaVPR": "_crica", "EDTformer": "_side"}  # what they add to DINOv2
NORMED = {"SALAD", "MegaLoc", "SuperVLAD"}  # apply the final norm


def compute(fixture):
    config = fixture.config
    if config.get("loss") == "CosFace":
        return cosface(fixture)
    if "layout" not in config:
        return None
    return head_alone(fixture) if config.get("backbone") is None else whole_model(fixture)


def tensor(fixture, name):
    return torch.from_numpy(fixture.input(name))


def cosface(fixture):
    config, descriptors = fixture.config, tensor(fixture, "descriptors").requires_grad_()
    loss = CosFace(config["in_features"], config["classes"], config["s"], config["m"])
    loss.load_state_dict(as_tensors(fixture.weights()), strict=True)
    labels = tensor(fixture, "labels")
    value = loss(descriptors, labels)
    value.backward()
    return {"logits": loss.logits(descriptors, labels), "loss": value, "grad_descriptors": descriptors.grad,
            "grad_weight": loss.weight.grad}  # fmt: skip


def arguments(config):
    """The aggregator of the fixture by our name, and its arguments."""
    kind, given = config.get("aggregator"), dict(config.get("aggregator_args", {}))
    given = {ARGUMENTS.get(name, name): value for name, value in given.items() if name not in DERIVED}
    if config["layout"] == "gmberton":
        kind, given = "CosPlace", {"out_dim": config["fc_output_dim"]}
    if config["layout"] == "Nanne/pytorch-NetVlad":
        kind, given = "NetVLAD", {"clusters": config["clusters"], "bias": config.get("vladv2", False)}
    return kind, given


def build(fixture):
    config = fixture.config
    kind, given = arguments(config)
    backbone, trunk = config["backbone"].lower(), {}
    if backbone.startswith("dinov2"):
        if kind in TRUNKS:
            backbone += TRUNKS[kind]
        elif kind in NORMED:
            trunk = {"final_norm": True, "round_sides": kind == "MegaLoc"}
    elif backbone.startswith("res"):
        trunk = {"layers_to_crop": config.get("layers_to_crop", []), "layers_to_freeze": 2}
    else:
        trunk = {"layers_to_freeze": 4}
    size = fixture.inputs["image"]["shape"][2:]
    model = build_model(ModelConfig(system=fixture.system, backbone=backbone, backbone_args=trunk, aggregator=kind,
                                    aggregator_args=given, image_size=size))  # fmt: skip
    load_tensors(model, as_tensors(fixture.weights()), fixture.system)
    return model.eval()


def whole_model(fixture):
    model, images = build(fixture), tensor(fixture, "image")
    names = {name: path for name in fixture.outputs if (path := module_path(model, name))}
    with torch.no_grad(), record(model, names) as outputs:
        outputs["descriptor"] = model(images)
    with torch.no_grad():
        outputs |= heads_outputs(model.aggregator, *model.features(images)) | trunk_outputs(
            model, images, fixture.outputs
        )
        for name in fixture.inputs:
            if name.startswith("image_"):
                size = name.removeprefix("image_")
                outputs[f"descriptor_{size}"] = model(tensor(fixture, name))
                if hasattr(model.backbone, "fit"):
                    outputs[f"resized_{size}"] = model.backbone.fit(tensor(fixture, name))
    return as_published(fixture, outputs) | {"parameters": parameters(model, fixture)}


def module_path(model, name):
    """The module whose output has that name in the fixtures, or None."""
    modules = dict(model.named_modules())
    features = modules.get("backbone.model.features")
    if (pool := re.fullmatch(r"pool(\d)", name)) and features is not None:
        return f"backbone.model.features.{[n for n, m in enumerate(features) if isinstance(m, nn.MaxPool2d)][int(pool[1]) - 1]}"
    if name == "decoder":
        return f"aggregator.decoder.layers.{len(model.aggregator.decoder.layers) - 1}"
    if name == "stem":
        return "backbone.model.maxpool"
    blocks = re.sub(r"^block\.", "blocks.", name)
    number = name.rpartition(".")[2]
    candidates = (f"backbone.dino_model.{blocks}", f"backbone.dino_model.adapters.{number}" if "adapter." in name else None,
                  f"backbone.dino_model.blocks.{number}.adapter" if "adapter." in name else None, f"backbone.model.{name}",
                  re.sub(r"^(encoder|decoder)\.(\d)", r"aggregator.\1.layers.\2", name), f"aggregator.agg.{name}",
                  "aggregator.agg" if name == "salad" else None, f"aggregator.{name}")  # fmt: skip
    return next((path for path in candidates if path in modules), None)


def trunk_outputs(model, images, wanted):
    backbone, outputs = model.backbone, {}
    features = model.features(images)
    outputs |= {"features": features[0], "normalised": F.normalize(features[0], dim=1)}
    if hasattr(backbone, "positions"):
        outputs |= {"tokens": backbone.embed(images), "token": backbone.map_and_token(images)[1]}
        for name in wanted:
            if name.startswith("pos_embed_"):
                outputs[name] = backbone.positions(tuple(map(int, name.split("_")[2].split("x"))))
    return outputs


def heads_outputs(head, features, token=None):
    """What is no module's output."""
    outputs, inner = {}, getattr(head, "agg", head)
    if hasattr(inner, "log_assignment"):
        logs = inner.log_assignment(features)
        local = inner.cluster_features(features).flatten(2)
        outputs |= {"log_assignment": logs, "aggregated": local @ logs[:, :-1].exp().transpose(1, 2)}
        outputs |= {"cluster_features": local, "score": inner.score(features).flatten(2)}
    if hasattr(head, "boqs"):
        maps = head.attention(features).flatten(3)
        outputs |= {f"boqs.{i}.attention": maps[:, i] for i in range(maps.shape[1])}
    if hasattr(head, "regions"):
        outputs["regions"] = head.regions(features, token)
    if hasattr(head, "vlad"):
        outputs["aggregation"] = head.vlad(features).flatten(1)
    scores = getattr(head, "assign", None) or getattr(head, "conv", None)
    if isinstance(scores, nn.Conv2d):
        outputs["assignment_scores"] = scores(F.normalize(features, dim=1)).flatten(2)
    return outputs


def as_published(fixture, outputs):
    """Layers of the cross-image encoder work on (region, image, feature), the fixtures have (image, region, feature)."""
    for name in fixture.outputs:
        if re.fullmatch(r"encoder\.\d", name) and name in outputs:
            outputs[name] = outputs[name].transpose(0, 1)
    return outputs


def parameters(model, fixture, prefix=""):
    """[all, backbone, head, trainable] of the published file: ours that it has, and those it has without use."""
    weights = {key.removeprefix(prefix): value for key, value in translate(as_tensors(fixture.weights())).items()}
    ours, buffers = dict(model.named_parameters()), set(model.state_dict()) - set(dict(model.named_parameters()))
    sizes = {key: ours.get(key, value).numel() for key, value in weights.items() if key not in buffers}
    trunk = sum(size for key, size in sizes.items() if key.startswith("backbone."))
    trainable = sum(p.numel() for p in ours.values() if p.requires_grad)
    total = sum(sizes.values())
    return torch.tensor(
        [total, trunk, total - trunk, trainable][: fixture.outputs.get("parameters", {}).get("shape", [4])[0]]
    )


def head_alone(fixture):
    features = tensor(fixture, "features").requires_grad_()
    kind, given = arguments(fixture.config)
    head = build_aggregator(kind, features.shape[1], tuple(features.shape[2:]), **given).eval()
    weights = {key.removeprefix("aggregator."): value for key, value in as_tensors(fixture.weights()).items()}
    load_tensors(head, weights, fixture.system)
    inputs = [features]
    if "token" in fixture.inputs:
        inputs.append(tensor(fixture, "token").requires_grad_())
    modules = dict(head.named_modules())
    with record(head, {name: name for name in fixture.outputs if name in modules}) as outputs:
        outputs["descriptor"] = head(*inputs)
    if "direction" in fixture.inputs:
        (outputs["descriptor"] * tensor(fixture, "direction")).sum().backward()
        outputs |= {f"grad_{name}": value.grad for name, value in zip(("features", "token"), inputs)}
        outputs |= gradients(head, fixture.outputs)
    with torch.no_grad():
        outputs |= heads_outputs(head, *inputs)
    return outputs | {"parameters": parameters(head, fixture, "aggregator.")}


def gradients(head, wanted):
    """grad_<parameter>, with the short names of the fixtures: queries.i, score_weight, dust_bin."""
    known = {name: parameter.grad for name, parameter in head.named_parameters()}
    short = {"grad_score_weight": "score.3.weight"}
    short |= {f"grad_queries.{i}": f"boqs.{i}.queries" for i in range(len(getattr(head, "boqs", ())))}
    names = {name: short.get(name, name.removeprefix("grad_")) for name in wanted if name.startswith("grad_")}
    return {name: known[key] for name, key in names.items() if key in known}
