"""DINO-Mix: positional tables, every block, descriptor, other image sizes, Grad-CAM and its overlay."""

import torch
from golden_cnn import own_arguments
from goldtools import as_tensors, count, record

from vpr_lib.models.attention import grad_cam
from vpr_lib.models.checkpoints import load_tensors
from vpr_lib.models.zoo import ModelConfig, build_model
from vpr_lib.plotting.attention import overlay


def compute(fixture):
    if fixture.system != "DINO-Mix":
        return None
    config = fixture.config
    model = build_model(
        ModelConfig(
            system=fixture.system,
            backbone=config["backbone"],
            backbone_args={"freeze_to": config.get("layer1")},
            aggregator=config["aggregator"],
            aggregator_args=own_arguments(config),
            image_size=fixture.inputs["image"]["shape"][2:],
        )
    ).eval()
    load_tensors(model, as_tensors(fixture.weights()), fixture.system)
    backbone, images = model.backbone, torch.from_numpy(fixture.input("image"))
    paths = {
        name: f"backbone.dino_model.{name.replace('block.', 'blocks.')}" for name in fixture.outputs if "block." in name
    }
    heads = {name: f"aggregator.{name}" for name in fixture.outputs}
    paths |= {name: path for name, path in heads.items() if path in dict(model.named_modules())}
    with torch.no_grad(), record(model, paths | {"features": "backbone"}) as outputs:
        outputs["descriptor"] = model(images)
        outputs["tokens"] = backbone.embed(images)
    if "channel_proj" in outputs:
        outputs["channel_proj"] = outputs["channel_proj"].transpose(1, 2)  # the fixture has it as (B, d, n)
    with torch.no_grad():
        for name in (name.removeprefix("image_") for name in fixture.inputs if name.startswith("image_")):
            features = backbone(torch.from_numpy(fixture.input(f"image_{name}")))
            outputs[f"patch_tokens_{name}"] = features.flatten(2).transpose(1, 2)
        for name in fixture.outputs:
            if name.startswith("pos_embed_"):
                outputs[name] = backbone.positions(tuple(map(int, name.split("_")[2].split("x"))))
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if "grad_cam" in config:
        outputs |= cams(fixture, model, images[:1])
    return outputs | {"parameters": torch.tensor([count(model), trainable])}


def cams(fixture, model, image):
    settings = fixture.config["grad_cam"]
    block = settings.get("block")
    fixed = grad_cam(model, image, settings.get("component"), layer=block)
    largest = grad_cam(model, image, layer=block)
    background = ((image.permute(0, 2, 3, 1) + 4) / 8).clamp(0, 1)
    return {
        "raw_cam_component": fixed.raw,
        "cam_component": fixed.maps,
        "overlay": torch.from_numpy(overlay(fixed.maps.cpu().numpy(), background.cpu().numpy())[0]),
        "raw_cam_argmax": largest.raw,
        "cam_argmax": largest.maps,
        "argmax": largest.component[0],
    }
