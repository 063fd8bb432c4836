"""The zoo: every model by name. The table is `vpr_lib/configs/zoo.yaml`.

One line there, and a model appears in `vpr models`, every table and every figure.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vpr_lib.config import Strict, load_yaml
from vpr_lib.data.images import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from vpr_lib.models.aggregators import build_aggregator
from vpr_lib.models.backbones import build_backbone
from vpr_lib.models.minkloc import MinkLoc, MinkLocConfig
from vpr_lib.registry import lookup

ZOO_FILE = Path(__file__).parent.parent / "configs" / "zoo.yaml"


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


class Table(Strict):
    """The whole list, by name."""

    families: dict[str, dict[str, Any]]  # what the lines of one family share
    images: dict[str, ModelConfig]
    clouds: dict[str, MinkLocConfig]
    modern: dict[str, ModelConfig]  # methods that came after the five this workbook reproduces


_TABLE: Table = load_yaml(ZOO_FILE, Table)
ZOO: dict[str, ModelConfig | MinkLocConfig] = {**_TABLE.images, **_TABLE.clouds, **_TABLE.modern}
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
