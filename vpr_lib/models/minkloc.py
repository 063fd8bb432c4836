"""MinkLoc++: a cloud branch of sparse convolutions and an image branch, alone or side by side. Spec: distilvpr §4.

The teacher of DistilVPR reads both; its 3-D students and teachers are the cloud branch alone. Submodules carry the official
names, and `official_weights` maps the two published naming schemes onto them.
"""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vpr_lib.config import Strict
from vpr_lib.data.images import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from vpr_lib.models.aggregators import ProjectedGeM
from vpr_lib.models.backbones import build_backbone
from vpr_lib.models.checkpoints import CheckpointError, load_tensors, read_state_dict
from vpr_lib.models.sparse import (
    ECA,
    SparseBatchNorm,
    SparseConv,
    SparseConvTranspose,
    SparseGeM,
    SparseTensor,
)
from vpr_lib.models.voxel_grid import VoxelGrid

UNUSED = ("model.layer4.", "model.fc.", "imagecosplace.", "imageconvap.", "imagenetvlad.")  # stored, never run
STEM = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3"}  # of ResNet in the original MinkLoc++
CLOUD_RENAMES = ((r"^backbone\.(bn|conv1x1)\.", r"backbone.\1s."),)  # MinkLoc++ -> DistilVPR
CLOUDS_PER_CORE = 4  # at least, in evaluation on a CPU: fewer are done before a second thread has begun
IMAGE_RENAMES = (
    *((rf"^resnet_fe\.{number}\.", f"model.{part}.") for number, part in STEM.items()),
    *((r"^fh_conv1x1\.4\.", "conv1x1."), (r"^pool\.p$", "image_gem.p")),
    *((r"^model\.", "backbone.model."), (r"^(conv1x1|image_gem)\.", r"aggregator.\1.")),
)


class ECABlock(nn.Module):
    """Residual block with channel attention, (N, Cin) -> (N, Cout) on the same voxels."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv1 = SparseConv(channels_in, channels_out)
        self.norm1 = SparseBatchNorm(channels_out)
        self.conv2 = SparseConv(channels_out, channels_out)
        self.norm2 = SparseBatchNorm(channels_out)
        self.eca = ECA(channels_out)
        widen = channels_in != channels_out
        self.downsample = (
            nn.Sequential(SparseConv(channels_in, channels_out, 1), SparseBatchNorm(channels_out)) if widen else None
        )

    def forward(self, voxels: SparseTensor) -> SparseTensor:
        inner = relu(self.norm1(self.conv1(voxels)))
        inner = self.eca(self.norm2(self.conv2(inner)))
        shortcut = self.downsample(voxels) if self.downsample else voxels
        return relu(inner.with_features(inner.features + shortcut.features))


def relu(voxels: SparseTensor) -> SparseTensor:
    return voxels.with_features(torch.relu(voxels.features))


class MinkFPN(nn.Module):
    """Feature pyramid: strided convolutions down, blocks at every level, `top_down` steps back up with laterals.

    Args:
        planes, layers: width and number of blocks per level.
        out_channels: width of the laterals and of the result; without top-down steps too.
    """

    def __init__(
        self,
        planes: tuple[int, ...] = (32, 64, 64),
        layers: tuple[int, ...] = (1, 1, 1),
        top_down: int = 1,
        conv0_kernel: int = 5,
        out_channels: int = 128,
    ):
        super().__init__()
        if not 0 <= top_down < len(planes) or len(planes) != len(layers):
            raise ValueError(
                f"MinkFPN needs as many layers as planes and fewer top-down steps, got {planes}, {layers}, {top_down}."
            )
        widths = (planes[0], *planes)  # a strided convolution keeps the width, the block after it changes it
        self.top_down = top_down
        self.conv0, self.bn0 = SparseConv(1, planes[0], conv0_kernel), SparseBatchNorm(planes[0])
        self.convs = nn.ModuleList(SparseConv(width, width, 2, 2) for width in widths[:-1])
        self.bns = nn.ModuleList(SparseBatchNorm(width) for width in widths[:-1])
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ECABlock(before if i == 0 else after, after) for i in range(count)))
            for before, after, count in zip(widths, planes, layers)
        )
        self.conv1x1s = nn.ModuleList(SparseConv(planes[-1 - i], out_channels, 1) for i in range(top_down + 1))
        self.tconvs = nn.ModuleList(SparseConvTranspose(out_channels, out_channels) for _ in range(top_down))

    def forward(self, voxels: SparseTensor) -> SparseTensor:
        voxels, levels = relu(self.bn0(self.conv0(voxels))), []
        for convolution, norm, blocks in zip(self.convs, self.bns, self.blocks):
            voxels = blocks(relu(norm(convolution(voxels))))
            levels.append(voxels)
        voxels = self.conv1x1s[0](voxels)
        for step in range(self.top_down):
            voxels = self.tconvs[step](voxels)
            lateral = self.conv1x1s[step + 1](levels[-2 - step])
            voxels = voxels.with_features(voxels.features + lateral.features)
        return voxels


class CloudBranch(nn.Module):
    """Voxels int (N, 4), rows (cloud, x, y, z) -> descriptors (B, out_channels), not normalised."""

    def __init__(self, **backbone: Any):
        super().__init__()
        self.backbone = MinkFPN(**backbone)
        self.pooling = nn.Module()
        self.pooling.pooling = SparseGeM()
        self.dim = self.backbone.conv1x1s[0].kernel.shape[1]

    def feature_map(self, voxels: Tensor, clouds: int | None = None) -> SparseTensor:
        grid = VoxelGrid(voxels, clouds)
        ones = torch.ones(len(voxels), 1, device=voxels.device, dtype=self.backbone.conv0.kernel.dtype)
        return self.backbone(SparseTensor(ones, grid))

    def forward(self, voxels: Tensor) -> Tensor:
        if voxels.is_cuda or self.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return self.pooling.pooling(self.feature_map(voxels))
        return self._side_by_side(voxels)

    def _side_by_side(self, voxels: Tensor) -> Tensor:
        """As `forward` in evaluation on a CPU: each core takes some of the clouds, so that no operation is shared.

        A forward pass is hundreds of short operations. Sharing each of them among threads costs more than it saves as soon
        as a core has something else to do: twenty times the time of one thread was seen.
        """
        cores, sizes = torch.get_num_threads(), torch.bincount(voxels[:, 0].clamp_min(0))
        groups = min(cores, max(1, len(sizes) // CLOUDS_PER_CORE)) if bool((sizes > 0).all()) else 1
        shares = [range(i * len(sizes) // groups, (i + 1) * len(sizes) // groups) for i in range(groups)]

        @torch.no_grad()
        def describe(share: range) -> Tensor:
            own = voxels
            if groups > 1:
                own = voxels[(voxels[:, 0] >= share.start) & (voxels[:, 0] < share.stop)]
                own = own - own.new_tensor([share.start, 0, 0, 0])
            return self.pooling.pooling(self.feature_map(own, len(share)))

        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(groups) as pool:
                return torch.cat(list(pool.map(describe, shares)))
        finally:
            torch.set_num_threads(cores)


class ImageBranch(nn.Module):
    """Normalised images (B, 3, H, W) -> descriptors (B, out_channels), not normalised: backbone, 1x1 convolution, GeM."""

    def __init__(self, backbone: str, backbone_args: Mapping[str, Any], out_channels: int, pretrained: bool = False):
        super().__init__()
        self.backbone = build_backbone(backbone, pretrained=pretrained, **backbone_args)
        self.aggregator = ProjectedGeM(self.backbone.out_channels, out_channels=out_channels)
        self.dim = out_channels

    def forward(self, images: Tensor) -> Tensor:
        return self.aggregator(self.backbone(images))


class MinkLocConfig(Strict):
    """A model that reads clouds. With `image_dim` 0 it has no image branch."""

    system: str = "MinkLoc++"
    planes: tuple[int, ...] = (32, 64, 64)
    layers: tuple[int, ...] = (1, 1, 1)
    top_down: int = 1
    conv0_kernel: int = 5
    cloud_dim: int = 128
    backbone: str = "resnet18"
    backbone_args: dict[str, Any] = {"layers_to_crop": [4]}
    image_dim: int = 256
    fusion: Literal["concat", "add"] = "concat"
    image_size: tuple[int, int] = (240, 320)  # (height, width); Oxford. Boreas (256, 306)
    voxel_size: float = 0.01  # Oxford, in units of the scaled submap. Boreas 1.0 m

    aggregator: ClassVar[str] = "GeM"

    @property
    def reads(self) -> tuple[str, ...]:
        """The kinds of input of a sample."""
        return ("image", "cloud") if self.image_dim else ("cloud",)


class MinkLoc(nn.Module):
    """MinkLoc++: descriptors (B, D) of clouds and images, cloud half first, not normalised.

    `heads` also gives the halves, which the teacher's loss looks at.
    Paper: MinkLoc++ (Komorowski et al., IJCNN 2021). Spec: distilvpr §4.3.
    """

    def __init__(self, config: MinkLocConfig, pretrained: bool = False):
        super().__init__()
        if config.fusion == "add" and config.image_dim not in (0, config.cloud_dim):
            raise ValueError(f"Adding needs equal widths, got cloud {config.cloud_dim} and image {config.image_dim}.")
        self.config = config
        self.cloud_fe = CloudBranch(
            planes=config.planes, layers=config.layers, top_down=config.top_down, conv0_kernel=config.conv0_kernel,
            out_channels=config.cloud_dim,
        )  # fmt: skip
        self.image_fe = (
            ImageBranch(config.backbone, config.backbone_args, config.image_dim, pretrained)
            if config.image_dim
            else None
        )
        self.dim = config.cloud_dim + (config.image_dim if config.fusion == "concat" else 0)

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(self.config.image_size, "bicubic", IMAGENET_MEAN, IMAGENET_STD)

    @property
    def reads(self) -> tuple[str, ...]:
        return self.config.reads

    @property
    def branches(self) -> dict[str, nn.Module]:
        """What reads each kind of input."""
        return {"cloud": self.cloud_fe} | ({"image": self.image_fe} if self.image_fe is not None else {})

    def heads(self, images: Tensor | None, voxels: Tensor) -> dict[str, Tensor]:
        """{"final", "cloud"} and, where there is an image branch, {"image"}: descriptors (B, .)."""
        cloud = self.cloud_fe(voxels)
        if self.image_fe is None:
            return {"final": cloud, "cloud": cloud}
        image = self.image_fe(images)
        if len(image) != len(cloud):
            raise ValueError(f"{len(image)} images came with {len(cloud)} clouds; every cloud needs its own image.")
        final = torch.cat([cloud, image], 1) if self.config.fusion == "concat" else cloud + image
        return {"final": final, "cloud": cloud, "image": image}

    def forward(self, images: Tensor | None, voxels: Tensor) -> Tensor:
        return self.heads(images, voxels)["final"]


def official_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published MinkLoc++, DistilVPR teacher or student state dict under our names, without what is never run.

    Known: DistilVPR's 205 tensors (teacher) and 132 (student, keys without a prefix), and the original MinkLoc++ names.
    """
    weights = {}
    for key, tensor in tensors.items():
        branch = next((prefix for prefix in ("cloud_fe.", "image_fe.") if key.startswith(prefix)), "")
        name = key.removeprefix(branch)
        if name.startswith(UNUSED):
            continue
        for pattern, ours in CLOUD_RENAMES if branch == "cloud_fe." else IMAGE_RENAMES:
            name = re.sub(pattern, ours, name)
        weights[branch + name] = tensor
    return weights


def load_official(model: nn.Module, path: Path) -> None:
    """Load a published teacher or student strictly into ours; modules the authors store but never run are skipped by name.

    Raises:
        FileNotFoundError; CheckpointError naming the keys that are missing, left over or of another shape.
    """
    tensors = read_state_dict(path)
    if not any(key.startswith(("cloud_fe.", "model.", "conv1x1.")) for key in tensors):
        raise CheckpointError(
            f"{path} is no MinkLoc++ or DistilVPR state dict; its first key is '{next(iter(tensors))}'."
        )
    load_tensors(model, official_weights(tensors), path)
