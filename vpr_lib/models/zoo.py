"""The zoo: every model by name. One line in ZOO, and a model appears in `vpr models`, every table and every figure."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from vpr_lib.config import Strict
from vpr_lib.data.images import CAFFE_MEAN, CAFFE_STD, IMAGENET_MEAN, IMAGENET_STD, InputSpec
from vpr_lib.models.aggregators import build_aggregator
from vpr_lib.models.backbones import build_backbone
from vpr_lib.registry import lookup


class ModelConfig(Strict):
    """Everything needed to build a model; weights are loaded separately."""

    system: str  # the name a table shows, for instance 'MixVPR'
    backbone: str
    backbone_args: dict[str, Any] = {}
    aggregator: str
    aggregator_args: dict[str, Any] = {}
    image_size: tuple[int, int] = (320, 320)  # (height, width), pixels
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class VPRModel(nn.Module):
    """Backbone and aggregator: normalised images (B, 3, H, W) -> unit-norm descriptors (B, D)."""

    def __init__(self, config: ModelConfig, pretrained: bool = False):
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, pretrained=pretrained, **config.backbone_args)
        grid = self.backbone.grid(config.image_size)
        self.aggregator = build_aggregator(
            config.aggregator, self.backbone.out_channels, grid, **config.aggregator_args
        )

    @property
    def input_spec(self) -> InputSpec:
        c = self.config
        return InputSpec(c.image_size, c.interpolation, c.mean, c.std)

    @property
    def dim(self) -> int:
        """D, the length of a descriptor."""
        return self.aggregator.dim

    def feature_map(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w)."""
        return self.backbone(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.aggregator(self.backbone(images))


def _mixvpr(backbone: str, out_channels: int, out_rows: int, **changes: Any) -> ModelConfig:
    head = dict(out_channels=out_channels, out_rows=out_rows, mix_depth=4)
    crop = dict(layers_to_crop=[4], layers_to_freeze=2)
    return ModelConfig(
        system="MixVPR", backbone=backbone, backbone_args=crop, aggregator="MixVPR", aggregator_args=head, **changes
    )


def _resnet50(system: str, aggregator: str, **head: Any) -> ModelConfig:
    return ModelConfig(
        system=system,
        backbone="resnet50",
        backbone_args=dict(layers_to_freeze=2),
        aggregator=aggregator,
        aggregator_args=head,
    )


def _clusvpr(backbone: str, **changes: Any) -> ModelConfig:
    # spec clusvpr §5: torchvision weights go with torchvision's mean and std; CAFFE_* go with MatConvNet weights
    arguments = {"vgg16": dict(layers_to_freeze=4), "resnet50": dict(layers_to_crop=[4], layers_to_freeze=2)}
    values = dict(backbone_args=arguments.get(backbone, {}), image_size=(480, 640)) | changes
    return ModelConfig(system="ClusVPR", backbone=backbone, aggregator="ClusVPR", **values)


def _toy(system: str, aggregator: str, crop: bool = False, **head: Any) -> ModelConfig:
    arguments = dict(layers_to_crop=[3]) if crop else {}
    return ModelConfig(
        system=system,
        backbone="tinyresnet",
        backbone_args=arguments,
        aggregator=aggregator,
        aggregator_args=head,
        image_size=(112, 112),
    )


TOY_EVEN = {"image_size": (128, 128)}  # an even map, 8 x 8, which CWTNets can halve
ZOO: dict[str, ModelConfig] = {
    "mixvpr_resnet50_4096": _mixvpr("resnet50", 1024, 4),
    "mixvpr_resnet50_512": _mixvpr("resnet50", 256, 2),
    "mixvpr_resnet50_128": _mixvpr("resnet50", 64, 2),
    "mixvpr_resnet34_1024": _mixvpr("resnet34", 256, 4),
    "mixvpr_resnet18_512": _mixvpr("resnet18", 128, 4),
    "convap_resnet50_8192": _resnet50("Conv-AP", "ConvAP", out_channels=2048),
    "convap_resnet50_4096": _resnet50("Conv-AP", "ConvAP", out_channels=1024),
    "convap_resnet50_2048": _resnet50("Conv-AP", "ConvAP", out_channels=512),
    "convap_resnet50_512": _resnet50("Conv-AP", "ConvAP", out_channels=128),
    "cosplace_resnet50_2048": _resnet50("CosPlace", "CosPlace", out_dim=2048),
    "cosplace_resnet50_512": _resnet50("CosPlace", "CosPlace", out_dim=512),
    "gem_resnet50_2048": _resnet50("GeM", "GeM"),
    "avg_resnet50_2048": _resnet50("AVG", "average"),
    "clusvpr_vgg16_8192": _clusvpr("vgg16"),
    "clusvpr_vgg16_8192_caffe": _clusvpr("vgg16", mean=CAFFE_MEAN, std=CAFFE_STD),
    "clusvpr_vgg19bn_8192": _clusvpr("vgg19_bn", backbone_args=dict(layers_to_freeze=4)),
    "clusvpr_resnet50_16384": _clusvpr("resnet50"),
    "pixels": ModelConfig(system="Raw pixels", backbone="pixels", aggregator="flatten", image_size=(128, 128)),
    "mixvpr_toy_256": _toy("MixVPR", "MixVPR", out_channels=64, out_rows=4, mix_depth=4),
    "gem_toy_160": _toy("GeM", "GeM"),
    "avg_toy_160": _toy("AVG", "average"),
    "convap_toy_512": _toy("Conv-AP", "ConvAP", out_channels=128),
    "cosplace_toy_160": _toy("CosPlace", "CosPlace", out_dim=160),
    "clusvpr_toy_640": _toy("ClusVPR", "ClusVPR", clusters=16, neighbours=4).model_copy(update=TOY_EVEN),
    "netvlad_toy_2560": _toy("NetVLAD", "ClusVPR", clusters=16, cwtnets=0, head="netvlad").model_copy(update=TOY_EVEN),
}
TRAINING_FREE = frozenset({"pixels"})


def model_names() -> list[str]:
    """All names `build_model` knows."""
    return sorted(ZOO)


def build_model(model: str | ModelConfig, pretrained: bool = False, seed: int | None = 0, **changes: Any) -> nn.Module:
    """Build a model by its name in the zoo, or from a config.

    Args:
        pretrained: start the backbone from its published pre-training (ImageNet; the toy start for toy models).
        seed: initialise under this seed without disturbing the global generator; None draws from the global one.
        changes: fields of ModelConfig to replace, for instance `image_size=(224, 224)`.
    Raises:
        ValueError: for an unknown name (the known ones are listed) or field.
    """
    config = lookup(ZOO, model, "model") if isinstance(model, str) else model
    if changes:
        config = ModelConfig.model_validate(config.model_dump() | changes)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return VPRModel(config, pretrained)
