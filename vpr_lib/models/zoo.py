"""The zoo: every model by name. One line in ZOO, and a model appears in `vpr models`, every table and every figure."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vpr_lib.config import Strict
from vpr_lib.data.images import CAFFE_MEAN, CAFFE_STD, IMAGENET_MEAN, IMAGENET_STD, InputSpec
from vpr_lib.models.aggregators import build_aggregator
from vpr_lib.models.backbones import build_backbone
from vpr_lib.models.minkloc import CLOUD_MODELS, MinkLoc, MinkLocConfig
from vpr_lib.models.modern import MODERN
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
    antialias: bool = True  # of the resize; this and the next: see InputSpec
    resize_after_normalising: bool = False
    upright: bool = True  # turn pictures as EXIF says
    query_shorter_side: int | None = None  # pixels; queries then keep their own shape (retrieval/transforms.py)
    reads: ClassVar[tuple[str, ...]] = ("image",)

    @property
    def input_spec(self) -> InputSpec:
        names = ("interpolation", "mean", "std", "antialias", "resize_after_normalising", "upright")
        return InputSpec(self.image_size, **{name: getattr(self, name) for name in names})

    @property
    def query_spec(self) -> InputSpec:
        if self.query_shorter_side is None:
            return self.input_spec
        return replace(self.input_spec, size=(self.query_shorter_side,) * 2, resize="shorter_side")


class VPRModel(nn.Module):
    """Backbone and aggregator: normalised images (B, 3, H, W) -> unit-norm descriptors (B, D)."""

    reads = ModelConfig.reads

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
        return self.config.input_spec

    @property
    def query_spec(self) -> InputSpec:
        """How queries reach the model, where an evaluation brings them otherwise than the database."""
        return self.config.query_spec

    @property
    def dim(self) -> int:
        """D, the length of a descriptor."""
        return self.aggregator.dim

    @property
    def branches(self) -> dict[str, nn.Module]:
        """What reads each kind of input."""
        return {"image": self}

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        """Descriptors (B, .) by name; `final` is what `forward` gives, others serve a loss of training."""
        return {"final": self(images)}

    def feature_map(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w)."""
        return self.backbone(images)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the aggregator takes: the map and, where it reads a class token and the backbone has one, that (B, C)."""
        if getattr(self.aggregator, "uses_token", False) and hasattr(self.backbone, "map_and_token"):
            return self.backbone.map_and_token(images)
        return (self.backbone(images),)

    def forward(self, images: Tensor) -> Tensor:
        return self.aggregator(*self.features(images))


def _model(system: str, backbone: str, trunk: dict, aggregator: str, head: dict, **changes: Any) -> ModelConfig:
    """`trunk` and `head` are the arguments of backbone and aggregator, `changes` other fields."""
    parts = dict(backbone=backbone, backbone_args=trunk, aggregator=aggregator, aggregator_args=head)
    return ModelConfig(system=system, **parts | changes)


def _mixvpr(backbone: str, out_channels: int, out_rows: int) -> ModelConfig:
    head = dict(out_channels=out_channels, out_rows=out_rows, mix_depth=4)
    return _model("MixVPR", backbone, dict(layers_to_crop=[4], layers_to_freeze=2), "MixVPR", head)


def _light(backbone: str, out_channels: int, **trunk: Any) -> ModelConfig:
    head = dict(out_channels=out_channels, out_rows=4, mix_depth=4)
    return _model("Lightweight-MixVPR", backbone, trunk, "MixVPR", head)


def _resnet50(system: str, aggregator: str, **head: Any) -> ModelConfig:
    return _model(system, "resnet50", dict(layers_to_freeze=2), aggregator, head)


def _clusvpr(backbone: str, **changes: Any) -> ModelConfig:
    # spec clusvpr §5: torchvision weights go with torchvision's mean and std; CAFFE_* go with MatConvNet weights
    arguments = {"vgg16": dict(layers_to_freeze=4), "resnet50": dict(layers_to_crop=[4], layers_to_freeze=2)}
    values = dict(backbone_args=arguments.get(backbone, {}), image_size=(480, 640)) | changes
    return ModelConfig(system="ClusVPR", backbone=backbone, aggregator="ClusVPR", **values)


def _toy(system: str, aggregator: str, crop: bool = False, **head: Any) -> ModelConfig:
    trunk = dict(layers_to_crop=[3]) if crop else {}
    return _model(system, "tinyresnet", trunk, aggregator, head, image_size=(112, 112))


def _lite0(system: str, aggregator: str, **head: Any) -> ModelConfig:
    """A head on the frozen ImageNet trunk that is installed with this package."""
    spec = dict(image_size=(224, 224), interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return _model(system, "efficientnet_lite0", dict(layers_to_freeze=5), aggregator, head, **spec)


TOY_EVEN = {"image_size": (128, 128)}  # an even map, 8 x 8, which CWTNets can halve


def _toy_student(widths: tuple[int, ...], **head: Any) -> ModelConfig:
    """A narrower TinyResNet without a starting point of its own: what distillation is tried on in the toy city."""
    config = _toy("Lightweight-MixVPR", "MixVPR", mix_depth=4, **head)
    return config.model_copy(update={"backbone_args": dict(widths=list(widths)), "image_size": (64, 64)})


def _dinomix(backbone: str, freeze_to: int, dim: int = 4096, side: int = 224) -> ModelConfig:
    head = dict(out_channels=dim // 4, out_rows=4, mix_depth=2)
    return _model("DINO-Mix", backbone, dict(freeze_to=freeze_to), "MixVPR", head, image_size=(side, side))


def _pooled_tokens(backbone: str, freeze_to: int, side: int = 224) -> ModelConfig:
    """The average of the tokens DINO-Mix mixes: what its aggregator is measured against."""
    return _model("AVG", backbone, dict(freeze_to=freeze_to), "average", {}, image_size=(side, side))


def _distilvpr(backbone: str, crop: list[int], dim: int = 384, image_size: tuple[int, int] = (240, 320)) -> ModelConfig:
    spec = dict(interpolation="bicubic", image_size=image_size)
    return _model("DistilVPR", backbone, dict(layers_to_crop=crop), "ProjectedGeM", dict(out_channels=dim), **spec)


ZOO: dict[str, ModelConfig | MinkLocConfig] = {
    "mixvpr_resnet50_4096": _mixvpr("resnet50", 1024, 4),
    "mixvpr_resnet50_512": _mixvpr("resnet50", 256, 2),
    "mixvpr_resnet50_128": _mixvpr("resnet50", 64, 2),
    "mixvpr_resnet34_1024": _mixvpr("resnet34", 256, 4),
    "mixvpr_resnet18_512": _mixvpr("resnet18", 128, 4),
    "mixvpr_resnet101_4096": _mixvpr("resnet101", 1024, 4),
    "mixvpr_resnet152_4096": _mixvpr("resnet152", 1024, 4),
    "mixvpr_resnext50_4096": _mixvpr("resnext50_32x4d", 1024, 4),
    "mixvpr_wideresnet50_4096": _mixvpr("wide_resnet50_2", 1024, 4),
    "mixvpr_swinv2_4096": _mixvpr("swinv2_base_window12to16_192to256", 1024, 4).model_copy(
        update=dict(backbone_args=dict(layers_to_freeze=2, image_size=(256, 256)), image_size=(256, 256))
    ),
    "lightmixvpr_resnet50_4096": _mixvpr("resnet50", 1024, 4),  # MixVPR as Lightweight-MixVPR's authors trained it
    "lightmixvpr_resnet18_512": _light("resnet18", 128, layers_to_crop=[4], layers_to_freeze=2),
    "lightmixvpr_kd_resnet18_512": _light("resnet18", 128, layers_to_crop=[4], layers_to_freeze=2).model_copy(
        update={"system": "Lightweight-MixVPR KD"}  # a row of its own in the published table
    ),
    "lightmixvpr_efficientnet_b0_128": _light("efficientnet_b0", 32, layers_to_freeze=2, classifier=True),
    "lightmixvpr_mobilenet_v2_1024": _light("mobilenet_v2", 256),
    # ours: the improvements that spec lightweight_mixvpr §8 names, and modern light trunks, all tapped at stride 16
    "lightmixvpr_resnet18_unfrozen_512": _light("resnet18", 128, layers_to_crop=[4]),
    "lightmixvpr_efficientnet_b0_unfrozen_128": _light("efficientnet_b0", 32),
    "lightmixvpr_efficientnet_b0_s16_512": _light("timm", 128, network="efficientnet_b0", stride=16),
    "lightmixvpr_mobilenet_v2_s16_1024": _light("mobilenet_v2", 256, tap=13),
    "lightmixvpr_mobilenetv4_s16_512": _light("timm", 128, network="mobilenetv4_conv_small", stride=16),
    "lightmixvpr_efficientvit_b1_s16_512": _light("timm", 128, network="efficientvit_b1", stride=16),
    "lightmixvpr_starnet_s1_s16_512": _light("timm", 128, network="starnet_s1", stride=16),
    "convap_resnet50_8192": _resnet50("Conv-AP", "ConvAP", out_channels=2048),
    "convap_resnet50_4096": _resnet50("Conv-AP", "ConvAP", out_channels=1024),
    "convap_resnet50_2048": _resnet50("Conv-AP", "ConvAP", out_channels=512),
    "convap_resnet50_512": _resnet50("Conv-AP", "ConvAP", out_channels=128),
    "cosplace_resnet50_2048": _resnet50("CosPlace", "CosPlace", out_dim=2048),
    "cosplace_resnet50_512": _resnet50("CosPlace", "CosPlace", out_dim=512),
    "gem_resnet50_2048": _resnet50("GeM", "GeM"),
    "avg_resnet50_2048": _resnet50("AVG", "average"),
    "clusvpr_vgg16_8192": _clusvpr("vgg16"),
    "clusvpr_vgg16_8192_caffe": _clusvpr(  # the paper's inputs with the weights that belong to them
        "vgg16", mean=CAFFE_MEAN, std=CAFFE_STD, backbone_args=dict(layers_to_freeze=4, origin="matconvnet")
    ),
    "clusvpr_vgg19bn_8192": _clusvpr("vgg19_bn", backbone_args=dict(layers_to_freeze=4)),
    "clusvpr_resnet50_16384": _clusvpr("resnet50"),
    "clusvpr_mobilenetv3_1792": _clusvpr("mobilenet_v3_large", backbone_args=dict(layers_to_freeze=7)),
    **{  # the published baseline of ClusVPR's table, and the same on the trunk of profile city
        f"netvlad_{name.replace('_', '')}_32768": _model(
            "NetVLAD", name, dict(layers_to_freeze=4), "NetVLAD", {}, image_size=(480, 640)
        )
        for name in ("vgg16", "vgg19_bn")
    },
    "netvlad_resnet50_32768": _model(  # the paper's D; how it splits into clusters x channels is not stated
        "NetVLAD", "resnet50", dict(layers_to_crop=[4], layers_to_freeze=2), "NetVLAD", dict(clusters=32)
    ),
    "gem_vgg19bn_512": ModelConfig(system="GeM", backbone="vgg19_bn", aggregator="GeM"),
    "mixvpr_lite0_512": _lite0("MixVPR", "MixVPR", out_channels=128, out_rows=4, mix_depth=4),
    "mixvpr_lite0_96px_512": _lite0(
        "Lightweight-MixVPR", "MixVPR", out_channels=128, out_rows=4, mix_depth=4
    ).model_copy(update={"image_size": (96, 96)}),
    "mixvpr_lite0_last_512": _lite0("MixVPR", "MixVPR", out_channels=128, out_rows=4, mix_depth=4).model_copy(
        update={"backbone_args": {"stride": 32, "layers_to_freeze": 7}}  # the last stage, 320 channels
    ),
    "convap_lite0_512": _lite0("Conv-AP", "ConvAP", out_channels=128),
    "netvlad_lite0_1792": _lite0("NetVLAD", "NetVLAD", clusters=16),
    "cosplace_lite0_512": _lite0("CosPlace", "CosPlace", out_dim=512),
    "salad_lite0_512": _lite0("SALAD", "SALAD", num_clusters=16, cluster_dim=28, token_dim=64, hidden=256),
    "boq_lite0_512": _lite0("BoQ", "BoQ", proj_channels=128, num_queries=32, row_dim=4),
    "clusvpr_lite0_448": _lite0("ClusVPR", "ClusVPR", clusters=16, neighbours=4),
    "gem_lite0_112": _lite0("GeM", "GeM"),
    "places": _lite0("Places", "NetVLAD+cells", clusters=14, share=0.6),  # `vpr retrieve` without --model
    "avg_lite0_112": _lite0("AVG", "average"),
    "pixels": ModelConfig(system="Raw pixels", backbone="pixels", aggregator="flatten", image_size=(128, 128)),
    "mixvpr_toy_256": _toy("MixVPR", "MixVPR", out_channels=64, out_rows=4, mix_depth=4),
    "mixvpr_toy_64": _toy("MixVPR", "MixVPR", out_channels=16, out_rows=4, mix_depth=4),
    "mixvpr_toy_cropped_256": _toy("Lightweight-MixVPR", "MixVPR", crop=True, out_channels=64, out_rows=4, mix_depth=2),
    "mixvpr_toy_80px_256": _toy("Lightweight-MixVPR", "MixVPR", out_channels=64, out_rows=4, mix_depth=4).model_copy(
        update={"image_size": (80, 80)}
    ),
    "mixvpr_toy_student": _toy_student((16, 24, 48, 80), out_channels=128, out_rows=4),
    "gem_toy_160": _toy("GeM", "GeM"),
    "avg_toy_160": _toy("AVG", "average"),
    "convap_toy_512": _toy("Conv-AP", "ConvAP", out_channels=128),
    "netvlad_toy_2560": _toy("NetVLAD", "NetVLAD", clusters=16),
    "cosplace_toy_160": _toy("CosPlace", "CosPlace", out_dim=160),
    "clusvpr_toy_640": _toy("ClusVPR", "ClusVPR", clusters=16, neighbours=4).model_copy(update=TOY_EVEN),
    # the last four blocks learn: released for S and B (their layer1 = 7), not published for L and g (dinomix §3.3)
    "dinomix_vits14_4096": _dinomix("dinov2_vits14", 7),
    "dinomix_vitb14_4096": _dinomix("dinov2_vitb14", 7),
    "dinomix_vitl14_4096": _dinomix("dinov2_vitl14", 19),
    "dinomix_vitg14_4096": _dinomix("dinov2_vitg14", 35),
    "dinomix_toy_256": _dinomix("dinov2_toy", 1, dim=256, side=112),
    "avg_dinov2_toy_96": _pooled_tokens("dinov2_toy", 1, side=112),
    "avg_dinov2_vitb14_768": _pooled_tokens("dinov2_vitb14", 7),
    # DistilVPR: image students (distilvpr §5)
    "distilvpr_resnet18_384": _distilvpr("resnet18", [4]),
    "distilvpr_resnet34_384": _distilvpr("resnet34", [4]),
    "distilvpr_boreas_resnet18_384": _distilvpr("resnet18", [4], image_size=(256, 306)),
    "distilvpr_toy_96": _distilvpr("tinyresnet", [], dim=96, image_size=(90, 120)),
    **CLOUD_MODELS,
}
ZOO |= {name: ModelConfig(**values) for name, values in MODERN.items()}
NETWORKS: dict[type, Callable[[Any, bool], nn.Module]] = {ModelConfig: VPRModel, MinkLocConfig: MinkLoc}
TRAINING_FREE = frozenset({"pixels", "avg_lite0_112"})


def build_model(
    model: str | ModelConfig | MinkLocConfig, pretrained: bool = False, seed: int | None = 0, **changes: Any
) -> nn.Module:
    """Build a model by its name in the zoo, or from a config.

    Args:
        pretrained: start the backbone from its published pre-training (ImageNet; the toy start for toy models).
        seed: initialise under this seed without disturbing the global generator; None draws from the global one.
        changes: fields of its configuration to replace, for instance `image_size=(224, 224)`.
    Raises:
        ValueError: for an unknown name (the known ones are listed) or field.
    """
    config = lookup(ZOO, model, "model") if isinstance(model, str) else model
    if changes:
        config = type(config).model_validate(config.model_dump() | changes)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return NETWORKS[type(config)](config, pretrained)


def with_head(model: VPRModel, **changes: Any) -> VPRModel:
    """The same weights under other arguments of the aggregator: a part switched off, another exponent.

    Weights that the changed aggregator does not have are left out; those it has must fit in shape.
    """
    arguments = model.config.aggregator_args | changes
    changed = build_model(model.config, aggregator_args=arguments)
    left = changed.load_state_dict(model.state_dict(), strict=False)
    if left.missing_keys:
        raise ValueError(
            f"With {changes} the head needs weights that the model does not have: {left.missing_keys[:4]}."
        )
    return changed
