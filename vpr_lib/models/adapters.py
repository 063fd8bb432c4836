"""DINOv2 with what CricaVPR and EDTformer add to the frozen transformer. Spec: modern_methods §7."""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vpr_lib.models.dinov2 import DINOv2, build_block

ADAPTER_WEIGHT, SIDE_WEIGHT = 0.2, 0.5  # the papers' factors


class ConvNormReLU(nn.Module):
    """Convolution that keeps the size, batch norm, ReLU; (B, C, h, w) -> (B, out, h, w)."""

    def __init__(self, channels: int, out_channels: int, size: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, size, padding=size // 2)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(maps)))


class MultiScaleAdapter(nn.Module):
    """Tokens (B, 1 + n, D) of a square map -> (B, 1 + n, D): 1x1, 3x3 and 5x5 convolutions inside a bottleneck.

    Paper: CricaVPR (Lu et al., CVPR 2024).
    """

    def __init__(self, dim: int):
        super().__init__()
        width = dim // 2
        self.D_fc1, self.D_fc2 = nn.Linear(dim, width), nn.Linear(width, dim)
        self.branch1 = ConvNormReLU(width, width // 2, 1)
        self.branch2, self.branch3 = (
            nn.Sequential(ConvNormReLU(width, width // 16, 1), ConvNormReLU(width // 16, width // 4, size))
            for size in (3, 5)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        inner = F.relu(self.D_fc1(tokens))  # (B, 1 + n, D / 2)
        side = round((tokens.shape[1] - 1) ** 0.5)
        maps = inner[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        mixed = torch.cat([branch(maps) for branch in (self.branch1, self.branch2, self.branch3)], dim=1)
        mixed = torch.cat([inner[:, :1], mixed.flatten(2).transpose(1, 2)], dim=1)
        return self.D_fc2(mixed + inner)


class AdaptedBlock(Block):
    """A transformer block with an adapter beside its perceptron."""

    def __init__(self, dim: int, *arguments, **settings):
        super().__init__(dim, *arguments, **settings)
        self.adapter = MultiScaleAdapter(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        inner = self.norm2(tokens)
        return tokens + self.ls2(self.mlp(inner) + ADAPTER_WEIGHT * self.adapter(inner))


class CricaDINOv2(DINOv2):
    """DINOv2 with an adapter in every block, which alone learn. Square images only."""

    def __init__(self, name: str, pretrained: bool = False):
        super().__init__(name, final_norm=True, pretrained=pretrained)
        _train_only_adapters(self)

    def _block(self) -> nn.Module:
        return build_block(self.size, AdaptedBlock)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        height, width = super().grid(image_size)
        if height != width:
            raise ValueError(f"CricaVPR's adapters read square images, got {image_size[0]} x {image_size[1]}.")
        return height, width

    def _initialise(self) -> None:
        super()._initialise()
        for block in self.dino_model.blocks:
            nn.init.zeros_(block.adapter.D_fc2.weight)  # starts as the transformer alone
            for module in block.adapter.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.constant_(module.weight, 1e-5)
                    nn.init.constant_(module.bias, 1e-5)


class SideAdapter(nn.Module):
    """s + 0.5 W2 GELU(W1 s) on tokens (B, 1 + n, D). Paper: EDTformer (Jin et al., TCSVT 2025)."""

    def __init__(self, dim: int, hidden: int = 4):
        super().__init__()
        self.D_fc1, self.D_fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + SIDE_WEIGHT * self.D_fc2(F.gelu(self.D_fc1(tokens)))


class SidePathDINOv2(DINOv2):
    """A fixed DINOv2 whose tokens run through a path of small adapters beside it, which alone learn.

    The fixed blocks run without a graph in training.
    """

    def __init__(self, name: str, pretrained: bool = False):
        super().__init__(name, final_norm=True, pretrained=pretrained)
        _train_only_adapters(self)
        self.detached_blocks = self.size.depth

    def _extend(self, net: nn.Module) -> None:
        net.adapters = nn.ModuleList(SideAdapter(self.size.dim) for _ in range(self.size.depth))

    def last_tokens(self, images: Tensor) -> Tensor:
        side, *outputs = self.tokens(images)
        for adapter, tokens in zip(self.dino_model.adapters, outputs):
            side = adapter(side + tokens)
        return self.dino_model.norm(side)


def _train_only_adapters(backbone: DINOv2) -> None:
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(".adapter" in name)
