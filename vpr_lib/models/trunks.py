"""Backbones over timm and torchvision that are not ResNets: EfficientNet, MobileNetV2, Swin V2."""

import math

from torch import Tensor, nn

from vpr_lib.models.backbone import Backbone
from vpr_lib.models.pretraining import timm_network, torchvision_network


class EfficientNet(Backbone):
    """timm EfficientNet up to its 1x1 head convolution, stride 32, any input size. Spec: mixvpr §1.3.

    Args:
        name: 'efficientnet_b0' to 'efficientnet_b4'.
        layers_to_freeze: f >= 0 freezes conv_stem and blocks 0 to min(f + 3, 5), as the authors' factory does for these
            names; the stem's batch norm, block 6 and the head are never frozen. -1 freezes nothing.
        classifier: keep the 1000-way classifier of the published checkpoints; it is never used and never trained.
        fixed_statistics: a true freeze, see `Backbone.freeze`.
    """

    def __init__(
        self,
        name: str = "efficientnet_b0",
        layers_to_freeze: int = -1,
        classifier: bool = False,
        fixed_statistics: bool = False,
        pretrained: bool = False,
    ):
        super().__init__()
        net = timm_network(name, pretrained)
        self.model = nn.Module()  # only what is used, under the official names
        for part in ("conv_stem", "bn1", "blocks", "conv_head", "bn2", *(["classifier"] if classifier else [])):
            self.model.add_module(part, getattr(net, part))
        if classifier:
            self.model.classifier.requires_grad_(False)
        self.out_channels, self.stride = net.num_features, 32
        if layers_to_freeze >= 0:
            frozen = [self.model.conv_stem, *self.model.blocks[: min(layers_to_freeze + 4, 6)]]
            self.freeze(frozen, fixed_statistics)

    def forward(self, images: Tensor) -> Tensor:
        net = self.model
        return net.bn2(net.conv_head(net.blocks(net.bn1(net.conv_stem(images)))))


class MobileNetV2(Backbone):
    """torchvision MobileNetV2 with Lightweight-MixVPR's head, (B, 3, H, W) -> (B, 512, 20, 20) for any H, W >= 32.

    The head replaces the last 1x1 convolution: 320 to 512 channels with bias, batch norm without activation, bilinear
    upsampling to a fixed grid. Spec: lightweight_mixvpr §1.1.

    Args:
        upsample_to: grid (h, w) of the output.
        tap: stop after `features.<tap>` instead, without that head: 13 gives 96 channels at stride 16, 17 gives 320 at
            stride 32. A deviation from the paper, spec §8.
        layers_to_freeze: f >= 0 freezes the first f + 1 entries of `features`; the authors freeze nothing.
        fixed_statistics: a true freeze, see `Backbone.freeze`.
    """

    def __init__(
        self,
        upsample_to: tuple[int, int] = (20, 20),
        tap: int | None = None,
        layers_to_freeze: int = -1,
        fixed_statistics: bool = False,
        pretrained: bool = False,
    ):
        super().__init__()
        if tap is not None and not 1 <= tap <= 17:
            raise ValueError(f"MobileNetV2 can be tapped after features 1 to 17, got {tap}.")
        trunk = torchvision_network("mobilenet_v2", pretrained).features
        self.upsample_to = tuple(upsample_to) if tap is None else None
        self.model = nn.Module()
        if tap is None:
            head = (nn.Conv2d(320, 512, 1), nn.BatchNorm2d(512), nn.Upsample(self.upsample_to, mode="bilinear"))
            self.model.features = nn.Sequential(*trunk[:18], *head)
            self.out_channels = 512
        else:
            self.model.features = nn.Sequential(*trunk[: tap + 1])
            self.out_channels = trunk[tap].out_channels
        self.stride = _stride(self.model.features)
        if layers_to_freeze >= 0:
            self.freeze(list(self.model.features[: layers_to_freeze + 1]), fixed_statistics)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        return self.upsample_to or super().grid(image_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.model.features(images)


class SwinV2(Backbone):
    """timm Swin V2, (B, 3, H, W) -> (B, C, H/32, W/32), for the image size it was built for. Spec: mixvpr §1.3.

    Args:
        name: a timm `swinv2_*` architecture; the authors take swinv2_base_window12to16_192to256 at 256 x 256.
        image_size: (height, width) in pixels, multiples of 32; must be the model's own.
        layers_to_freeze: f >= 0 freezes the patch embedding, stages 0 and 1 and the first 5 f blocks of stage 2.
    """

    def __init__(
        self,
        name: str = "swinv2_base_window12to16_192to256",
        image_size: tuple[int, int] = (256, 256),
        layers_to_freeze: int = -1,
        pretrained: bool = False,
    ):
        super().__init__()
        if any(side % 32 for side in image_size):
            raise ValueError(f"Swin V2 takes image sides that are multiples of 32, got {tuple(image_size)}.")
        self.image_size = tuple(image_size)
        self.model = timm_network(name, pretrained, num_classes=0, img_size=self.image_size)
        self.out_channels, self.stride = self.model.num_features, 32
        if layers_to_freeze >= 0:
            first, second, third, _ = self.model.layers
            # timm moved the patch merging from the end of a stage to the start of the next: third.downsample was frozen
            blocks = third.blocks[: 5 * layers_to_freeze]
            self.freeze([self.model.patch_embed, first, second, third.downsample, *blocks], fixed_statistics=False)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        if tuple(image_size) != self.image_size:
            raise ValueError(
                f"This Swin V2 is built for images of {self.image_size} (height, width), the model asks for "
                f"{tuple(image_size)}. Give the same size as `image_size` of the model and in `backbone_args`."
            )
        return super().grid(image_size)

    def forward(self, images: Tensor) -> Tensor:
        self.grid(tuple(images.shape[2:]))
        return self.model.forward_features(images).permute(0, 3, 1, 2)  # timm has the channels last


def _stride(features: nn.Module) -> int:
    """Product of the strides of all convolutions of a trunk without strided shortcuts."""
    return math.prod(layer.stride[0] for layer in features.modules() if isinstance(layer, nn.Conv2d))
