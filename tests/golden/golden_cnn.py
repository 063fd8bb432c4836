"""Backbone-and-aggregator models (MixVPR, GSV-Cities, Lightweight-MixVPR) built from a fixture's config."""

import torch
from goldtools import as_tensors, count, record

from vpr_lib.models.aggregators import AGGREGATORS, build_aggregator
from vpr_lib.models.backbones import BACKBONES
from vpr_lib.models.zoo import ModelConfig, build_model

STEMS = {"resnet": "maxpool", "efficientnet": "bn1"}
NAMES = {"features": "backbone", "pooled": "aggregator.AAP"}


def compute(fixture):
    config = fixture.config
    if fixture.system == "DINO-Mix" or "layout" in config or config.get("aggregator") not in AGGREGATORS:
        return None
    if config.get("backbone") is None:
        return aggregator_alone(fixture)
    if config["backbone"] not in BACKBONES:
        return None
    arguments = backbone_arguments(config)
    model = build_model(
        ModelConfig(
            system=fixture.system,
            backbone=config["backbone"],
            backbone_args=arguments,
            aggregator=config["aggregator"],
            aggregator_args=own_arguments(config),
            image_size=fixture.inputs["image"]["shape"][2:],
        )
    ).eval()
    model.load_state_dict(as_tensors(fixture.weights()), strict=True)
    names = {name: NAMES.get(name) or module_path(model, name) for name in fixture.outputs}
    stem = next((part for kind, part in STEMS.items() if kind in config["backbone"]), None)
    names["stem"] = f"backbone.model.{stem}" if stem else None
    with torch.no_grad(), record(model, {n: p for n, p in names.items() if p}) as outputs:
        outputs["descriptor"] = model(torch.from_numpy(fixture.input("image")))
    outputs["parameters"] = torch.tensor([count(model), count(model.backbone), count(model.aggregator)])
    outputs["parameters"] = outputs["parameters"][: fixture.outputs.get("parameters", {"shape": [3]})["shape"][0]]
    return transpose_projection(outputs)


def backbone_arguments(config):
    if config["backbone"].startswith("resnet"):
        return {"layers_to_crop": config.get("layers_to_crop", [])}
    return {"classifier": True} if config["backbone"].startswith("efficientnet") else {}  # the others ignore cropping


def own_arguments(config):
    """The aggregator's arguments without those that follow from the map, which the authors spell out."""
    derived = ("in_channels", "in_dim", "in_h", "in_w")
    return {name: value for name, value in config.get("aggregator_args", {}).items() if name not in derived}


def module_path(model, name):
    modules = dict(model.named_modules())
    return next((path for path in (f"backbone.model.{name}", f"aggregator.{name}") if path in modules), None)


def transpose_projection(outputs):
    """The fixtures give channel_proj as (B, d, n); the layer itself works on (B, n, d)."""
    if "channel_proj" in outputs:
        outputs["channel_proj"] = outputs["channel_proj"].transpose(1, 2)
    return outputs


def aggregator_alone(fixture):
    features = torch.from_numpy(fixture.input("features")).requires_grad_()
    aggregator = build_aggregator(
        fixture.config["aggregator"], features.shape[1], tuple(features.shape[2:]), **own_arguments(fixture.config)
    )
    weights = {key.removeprefix("aggregator."): value for key, value in as_tensors(fixture.weights()).items()}
    aggregator.eval().load_state_dict(weights, strict=True)
    names = {
        name: name.replace(".norm", ".mix.0")
        for name in fixture.outputs
        if name.split(".")[0] in dict(aggregator.named_children())
    }
    with record(aggregator, names) as outputs:
        outputs["descriptor"] = aggregator(features)
    if "direction" in fixture.inputs:
        (outputs["descriptor"] * torch.from_numpy(fixture.input("direction"))).sum().backward()
        outputs["grad_features"] = features.grad
    outputs["parameters"] = torch.tensor([count(aggregator)])
    return transpose_projection(outputs)
