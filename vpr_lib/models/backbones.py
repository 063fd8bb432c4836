"""Backbones: image (B, 3, H, W) -> feature map (B, C, h, w), with the channel count and stride known beforehand."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from vpr_lib.models.backbone import Backbone
from vpr_lib.models.dinov2 import DINOv2
from vpr_lib.models.light import EfficientNetLite0, TimmTrunk
from vpr_lib.models.pretraining import EFFICIENTNETS, RESNETS, SWINS, VGGS, torchvision_network
from vpr_lib.models.trunks import EfficientNet, MobileNetV2, SwinV2
from vpr_lib.registry import lookup

RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
VGG16_LAYERS = tuple(f"conv{group}_{i}" for group, size in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, size + 1))


class ResNet(Backbone):
    """torchvision ResNet, ResNeXt or Wide-ResNet up to the last stage that is not cropped. Spec: mixvpr §1.3.

    Args:
        name: a torchvision architecture.
        layers_to_crop: stages to remove; `[4]` removes layer4, `[3, 4]` layer3 and layer4.
        layers_to_freeze: f >= 0 freezes conv1 and bn1, >= 1 also layer1, and so on up to layer3; -1 freezes nothing.
        fixed_statistics: a true freeze, see `Backbone.freeze`.
        pretrained: load torchvision's ImageNet V1 weights (`vpr weights get NAME` fetches them).
    """

    def __init__(
        self,
        name: str = "resnet50",
        layers_to_crop: tuple[int, ...] | list[int] = (),
        layers_to_freeze: int = -1,
        fixed_statistics: bool = False,
        pretrained: bool = False,
    ):
        super().__init__()
        crop = sorted(layers_to_crop)
        if crop not in ([], [4], [3, 4]):
            raise ValueError(
                f"layers_to_crop must be [], [4] or [3, 4], got {list(layers_to_crop)}: a stage can only "
                "be removed together with the ones after it."
            )
        net = torchvision_network(name, pretrained)
        stages = RESNET_STAGES[: 4 - len(crop)]
        self.model = nn.Module()  # only what is used, under the official names
        for part in ("conv1", "bn1", "relu", "maxpool", *stages):
            self.model.add_module(part, getattr(net, part))
        self.stages = stages
        self.out_channels = net.fc.in_features // 2 ** len(crop)
        self.stride = 32 // 2 ** len(crop)
        if layers_to_freeze >= 0:
            frozen = ["conv1", "bn1", *stages[: min(layers_to_freeze, 3)]]
            self.freeze([getattr(self.model, part) for part in frozen], fixed_statistics)

    def forward(self, images: Tensor) -> Tensor:
        net = self.model
        features = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        for stage in self.stages:
            features = getattr(net, stage)(features)
        return features


class VGG(Backbone):
    """torchvision VGG up to its last convolution: 512 channels, stride 16, any size. Spec: clusvpr §2.

    Args:
        name: vgg16, vgg19_bn or another torchvision VGG.
        activation: keep the last ReLU; ClusVPR and NetVLAD work on the map before it.
        layers_to_freeze: freeze the first n of the five groups of convolutions (4 in ClusVPR); -1 or 0 freezes nothing.
        pretrained: load ImageNet weights: torchvision's V1 (`vpr weights get NAME` fetches them), or with
            `origin` "matconvnet" those that `vpr weights add` keeps; they want mean and std of family `caffe` in zoo.yaml.
    """

    def __init__(
        self,
        name: str = "vgg16",
        activation: bool = False,
        layers_to_freeze: int = -1,
        pretrained: bool = False,
        origin: Literal["torchvision", "matconvnet"] = "torchvision",
    ):
        super().__init__()
        if layers_to_freeze > 5:
            raise ValueError(f"A VGG has five groups of convolutions, cannot freeze {layers_to_freeze}.")
        fetch = pretrained and origin == "torchvision"
        features = torchvision_network(name, fetch).features
        self.model = nn.Module()
        self.model.features = features[: -1 if activation else -2]
        self.out_channels, self.stride = 512, 16
        if pretrained and not fetch:
            from vpr_lib.models.checkpoints import load_trunk

            load_trunk(self, f"{name}_{origin}")
        if layers_to_freeze > 0:
            ends = [number + 1 for number, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
            self.freeze([self.model.features[: ends[layers_to_freeze - 1]]], fixed_statistics=True)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        return tuple(side // self.stride for side in image_size)  # poolings round down

    def own_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our keys for those of a trunk file: `conv1_1.weight` (MatConvNet), `0.weight`, `base.0.weight` (OpenIBL) or
        `features.0.weight` (torchvision); layers that the trunk does not have (fc6 to fc8) are left out."""
        if any(key.startswith(("model.", "backbone.")) for key in tensors):
            return tensors
        convolutions = [n for n, layer in enumerate(self.model.features) if isinstance(layer, nn.Conv2d)]
        numbers = dict(zip(VGG16_LAYERS, convolutions))
        renamed = {}
        for key, tensor in tensors.items():
            layer, _, part = key.removeprefix("base.").removeprefix("features.").partition(".")
            if layer in numbers or layer.isdecimal():
                renamed[f"model.features.{numbers.get(layer, layer)}.{part}"] = tensor
        return renamed

    def forward(self, images: Tensor) -> Tensor:
        return self.model.features(images)


class MobileNetV3(Backbone):
    """torchvision MobileNetV3-Large up to its last stage at stride 16: 112 channels. A light trunk for ablations.

    Args:
        layers_to_freeze: freeze the first n of its 13 blocks; -1 or 0 freezes nothing.
    """

    def __init__(self, layers_to_freeze: int = -1, pretrained: bool = False):
        super().__init__()
        net = torchvision_network("mobilenet_v3_large", pretrained)
        self.model = nn.Module()
        self.model.features = net.features[:13]
        self.out_channels, self.stride = 112, 16
        self.freeze(list(self.model.features[: max(0, layers_to_freeze)]), fixed_statistics=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.model.features(images)


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, (B, Cin, H, W) -> (B, Cout, H/stride, W/stride)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride > 1 or channels_in != channels_out:
            pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
            self.shortcut = nn.Sequential(
                pool, nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, features: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(features)))))
        return torch.relu(inner + self.shortcut(features))


class TinyResNet(Backbone):
    """A residual network for the toy city: the ResNet interface (crop, freeze, stages) at a hundredth of the cost.

    Stem 3x3/2, then layer1..layer3 at strides 4, 8, 16. `layers_to_crop=[3]` stops at stride 8.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (32, 48, 96, 160),  # stem, layer1, layer2, layer3
        layers_to_crop: tuple[int, ...] | list[int] = (),
        layers_to_freeze: int = -1,
        fixed_statistics: bool = False,
        pretrained: bool = False,
    ):
        super().__init__()
        if list(layers_to_crop) not in ([], [3]):
            raise ValueError(f"TinyResNet crops [] or [3], got {list(layers_to_crop)}.")
        self.stages = ("layer1", "layer2", "layer3")[: 3 - len(layers_to_crop)]
        self.model = nn.Module()
        self.model.conv1 = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False)
        self.model.bn1 = nn.BatchNorm2d(widths[0])
        for stage, channels_in, channels_out in zip(self.stages, widths, widths[1:]):
            self.model.add_module(stage, _ResidualBlock(channels_in, channels_out, stride=2))
        self.out_channels, self.stride = widths[len(self.stages)], 2 ** (len(self.stages) + 1)
        if pretrained:
            from vpr_lib.models.checkpoints import load_toy_start

            cropped = {"layer1", "layer2", "layer3"} - set(self.stages)
            load_toy_start(self, "tinyresnet", ignore=tuple(f"model.{stage}." for stage in cropped))
        self.fixed_groups = layers_to_freeze if fixed_statistics else -1
        if layers_to_freeze >= 0:
            frozen = ["conv1", "bn1", *self.stages[:layers_to_freeze]]
            self.freeze([getattr(self.model, part) for part in frozen], fixed_statistics)

    @property
    def after_fixed(self) -> tuple[str, ...]:
        return tuple(f"model.{stage}." for stage in self.stages[self.fixed_groups :]) if self.fixed_groups >= 0 else ()

    def fixed_map(self, images: Tensor) -> Tensor:
        if self.fixed_groups < 0:
            return super().fixed_map(images)
        return self._stages(self._stem(images), self.stages[: self.fixed_groups])

    def from_fixed(self, maps: Tensor) -> Tensor:
        return self._stages(maps, self.stages[self.fixed_groups :]) if self.fixed_groups >= 0 else maps

    def forward(self, images: Tensor) -> Tensor:
        return self._stages(self._stem(images), self.stages)

    def _stem(self, images: Tensor) -> Tensor:
        return torch.relu(self.model.bn1(self.model.conv1(images)))

    def _stages(self, features: Tensor, stages: tuple[str, ...]) -> Tensor:
        for stage in stages:
            features = getattr(self.model, stage)(features)
        return features


class PixelGrid(Backbone):
    """The raw-pixel baseline: images to grey on a coarse grid, each patch brought to zero mean and unit deviation."""

    def __init__(self, side: int = 32, patch: int = 8, pretrained: bool = False):
        super().__init__()
        self.side, self.patch, self.out_channels, self.stride = side, patch, 1, 1

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        return self.side, self.side

    def forward(self, images: Tensor) -> Tensor:
        grey = images.mean(dim=1, keepdim=True)
        grey = nn.functional.interpolate(grey, (self.side, self.side), mode="bilinear", antialias=True)
        centred = grey - self._patch_mean(grey)
        return centred / (self._patch_mean(centred**2).sqrt() + 1e-3)

    def _patch_mean(self, grey: Tensor) -> Tensor:
        mean = nn.functional.avg_pool2d(grey, self.patch)
        return mean.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)


def adapted_dinov2(kind: Literal["CricaDINOv2", "SidePathDINOv2"], **arguments: object) -> Backbone:
    """ViT-B/14 with the adapters of CricaVPR or EDTformer."""
    from vpr_lib.models import adapters  # imports timm, which costs a second

    return getattr(adapters, kind)("dinov2_vitb14", **arguments)


DINOV2 = ("dinov2_vits14", "dinov2_vitb14", "dinov2_vitl14", "dinov2_vitg14", "dinov2_toy")
BACKBONES: dict[str, Callable[..., Backbone]] = {
    **{name: partial(ResNet, name) for name in RESNETS},
    **{name: partial(EfficientNet, name) for name in EFFICIENTNETS},
    "mobilenet_v2": MobileNetV2,
    **{name: partial(SwinV2, name) for name in SWINS},
    "timm": TimmTrunk,  # any timm network: backbone_args network, stride
    "efficientnet_lite0": EfficientNetLite0,
    **{name: partial(VGG, name) for name in VGGS},
    "mobilenet_v3_large": MobileNetV3,
    "tinyresnet": TinyResNet,
    "pixels": PixelGrid,
    **{name: partial(DINOv2, name) for name in DINOV2},
    "dinov2_vitb14_crica": partial(adapted_dinov2, "CricaDINOv2"),
    "dinov2_vitb14_side": partial(adapted_dinov2, "SidePathDINOv2"),
}


def build_backbone(name: str, **arguments: object) -> Backbone:
    """The backbone of that name (ValueError for an unknown one, listing the known names)."""
    return lookup(BACKBONES, name, "backbone")(**arguments)
