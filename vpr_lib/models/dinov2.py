"""DINOv2 vision transformers: every block, patch tokens as a map, with or without the final norm. Spec: dinomix §1."""

import math
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpr_lib.models.backbone import Backbone
from vpr_lib.models.checkpoints import load_toy_start, load_weights
from vpr_lib.models.published import find_published
from vpr_lib.paths import cache_root
from vpr_lib.registry import lookup


@dataclass(frozen=True)
class Size:
    """Width, depth and heads of a transformer; `table` is the side of the grid its positions were learned on."""

    dim: int
    depth: int
    heads: int
    swiglu: bool = False  # the giant's feed-forward; a two-layer perceptron with GELU otherwise
    patch: int = 14
    table: int = 37


SIZES = {
    "dinov2_vits14": Size(384, 12, 6),
    "dinov2_vitb14": Size(768, 12, 12),
    "dinov2_vitl14": Size(1024, 24, 16),
    "dinov2_vitg14": Size(1536, 40, 24, swiglu=True),
    "dinov2_toy": Size(96, 4, 3, table=8),  # 112 px; starts from the toy city, not from the authors' pre-training
}


class DINOv2(Backbone):
    """Images (B, 3, H, W) -> patch tokens of the last block as a map (B, D, H / 14, W / 14).

    The transformer lives in `dino_model`, under the keys of the official DINO-Mix checkpoints. A subclass may build its
    blocks from another class.

    Args:
        name: a key of SIZES.
        freeze_to: the authors' `layer1`: patch embedding and blocks 0..freeze_to are fixed; -1 fixes the embedding only,
            None nothing. Class token and positions still learn, as released, so gradients run through all fixed blocks.
        detach_frozen: also fix class token and positions; then the fixed blocks run without a graph in training, which
            saves the memory of their activations (spec §9, row 19).
        final_norm: apply the network's last LayerNorm, as SALAD and MegaLoc do and DINO-Mix and BoQ do not
            (spec modern_methods §0). It always learns.
        round_sides: resize images whose sides are no multiples of 14 to the nearest ones (bilinear, antialias) instead
            of refusing them, as MegaLoc does.
        pretrained: load the authors' weights, see `pretrained_path`.
    Raises:
        ValueError: for a block that does not exist, or an image side that is no multiple of 14.
        FileNotFoundError: when pre-trained weights are absent, saying where their authors publish them.
    """

    def __init__(
        self,
        name: str,
        freeze_to: int | None = None,
        detach_frozen: bool = False,
        final_norm: bool = False,
        round_sides: bool = False,
        pretrained: bool = False,
    ):
        super().__init__()
        self.name, self.size = name, (size := lookup(SIZES, name, "DINOv2 size"))
        self.out_channels, self.stride, self.round_sides = size.dim, size.patch, round_sides
        if freeze_to is not None and not -1 <= freeze_to < size.depth:
            raise ValueError(f"freeze_to is the last fixed block of {name}: -1 to {size.depth - 1}, got {freeze_to}.")
        if detach_frozen and freeze_to is None:
            raise ValueError("detach_frozen runs fixed blocks without a graph; say with freeze_to which are fixed.")
        net = self.dino_model = nn.Module()
        net.cls_token = nn.Parameter(torch.zeros(1, 1, size.dim))
        net.pos_embed = nn.Parameter(torch.zeros(1, 1 + size.table**2, size.dim))
        net.mask_token = nn.Parameter(torch.zeros(1, size.dim))  # never used here, but part of every official file
        net.patch_embed = nn.Module()
        net.patch_embed.proj = nn.Conv2d(3, size.dim, size.patch, size.patch)
        net.blocks = nn.ModuleList(self._block() for _ in range(size.depth))
        net.norm = nn.LayerNorm(size.dim, eps=1e-6) if final_norm else None
        self._extend(net)
        self._initialise()
        if pretrained and name in PUBLISHED:
            load_weights(self, pretrained_path(name))
        elif pretrained:
            load_toy_start(self, name)
        self.detached_blocks = 0
        if freeze_to is not None:
            self.freeze([net.patch_embed, *net.blocks[: freeze_to + 1]], fixed_statistics=False)
        if detach_frozen:
            self.detached_blocks = freeze_to + 1
            for token in (net.cls_token, net.pos_embed, net.mask_token):
                token.requires_grad_(False)

    def _block(self) -> nn.Module:
        return build_block(self.size)

    def _extend(self, net: nn.Module) -> None:
        """Room for what a method adds to the transformer, before it is initialised and loaded."""

    def _initialise(self) -> None:
        net = self.dino_model
        nn.init.trunc_normal_(net.pos_embed, std=0.02)
        nn.init.normal_(net.cls_token, std=1e-6)
        for module in net.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) tokens for an image of (height, width) pixels. Raises ValueError unless both are multiples of 14."""
        patch = self.size.patch
        if self.round_sides:
            return tuple(max(1, round(side / patch)) for side in image_size)
        if any(side % patch or side <= 0 for side in image_size):
            near = " x ".join(str(max(patch, round(side / patch) * patch)) for side in image_size)
            raise ValueError(
                f"{self.name} cuts images into {patch} x {patch} patches, so both sides must be multiples of {patch}; got "
                "{} x {} (height x width). ".format(*image_size)
                + f"Nearest: {near}."
            )
        return image_size[0] // patch, image_size[1] // patch

    def embed(self, images: Tensor) -> Tensor:
        """Input of block 0: class token and patches with their positions, (B, 1 + h w, D)."""
        net, images = self.dino_model, self.fit(images)
        grid = self.grid(tuple(images.shape[-2:]))
        patches = net.patch_embed.proj(images).flatten(2).transpose(1, 2)  # row-major
        cls = net.cls_token
        if self.training and net.mask_token.requires_grad:
            cls = cls + 0 * net.mask_token  # a gradient of zero: DDP waits for every trainable parameter
        tokens = torch.cat([cls.expand(len(patches), -1, -1), patches], dim=1)
        return tokens + self.positions(grid).to(tokens.dtype)

    def fit(self, images: Tensor) -> Tensor:
        """The images at sides that patches divide; unchanged where they already do, or where the model is to refuse them."""
        size = tuple(side * self.size.patch for side in self.grid(tuple(images.shape[-2:])))
        if tuple(images.shape[-2:]) == size:
            return images
        return F.interpolate(images, size, mode="bilinear", antialias=True)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The positional table resampled to a grid (h, w), (1, 1 + h w, D), in float32; the class row is unchanged."""
        table, side = self.dino_model.pos_embed, self.size.table
        if grid == (side, side):
            return table
        with torch.autocast(table.device.type, enabled=False):
            rows, columns = (resampling_matrix(n, side).to(table.device) for n in grid)
            cells = table[0, 1:].float().view(side, side, -1)
            cells = torch.einsum("ij,jkd->ikd", rows, cells)
            cells = torch.einsum("lk,ikd->ild", columns, cells)
        return torch.cat([table[:, :1].float(), cells.reshape(1, grid[0] * grid[1], -1)], dim=1)

    def tokens(self, images: Tensor) -> Iterator[Tensor]:
        """The input of block 0, then the output of every block, each (B, 1 + h w, D)."""
        yield (tokens := self._without_graph(0, self.embed, images))
        for index, block in enumerate(self.dino_model.blocks):
            yield (tokens := self._without_graph(index, block, tokens))

    def _without_graph(self, index: int, function, argument: Tensor) -> Tensor:
        saving = self.training and index < self.detached_blocks
        with torch.no_grad() if saving else nullcontext():
            return function(argument)

    def as_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, 1 + h w, D) -> (B, D, h, w); the class token is left out."""
        return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)

    def last_tokens(self, images: Tensor) -> Tensor:
        """All tokens after the last block and, where there is one, the final norm: (B, 1 + h w, D)."""
        *_, last = self.tokens(images)
        return self.dino_model.norm(last) if self.dino_model.norm is not None else last

    def map_and_token(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the class token (B, D) beside it."""
        tokens = self.last_tokens(images)
        return self.as_map(tokens, self.grid(tuple(images.shape[-2:]))), tokens[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        return self.map_and_token(images)[0]

    def own_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of facebookresearch and DINO-Mix files as they are called here (spec §1.7 and §2).

        A head, and the final norm of a model that does not apply it, are left out; a file may lack the unused mask token.
        Pre-trained files know nothing of what a method adds: that stays as it was initialised.
        """
        added = {}
        if "cls_token" in tensors:
            tensors = {f"dino_model.{key}": value for key, value in tensors.items()}
            added = {key: value for key, value in self.state_dict().items() if ".adapter" in key}
        prefix = "backbone." if any(key.startswith("backbone.dino_model.") for key in tensors) else ""
        unused = re.compile(
            rf"(backbone\.)?dino_model\.({'head' if self.dino_model.norm is not None else 'norm|head'})\."
        )
        named = {
            key.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): value
            for key, value in tensors.items()
            if not unused.match(key)
        }
        return added | {f"{prefix}dino_model.mask_token": self.dino_model.mask_token.detach()} | named


def build_block(size: Size, kind: type[nn.Module] | None = None) -> nn.Module:
    """One transformer block of that size, of timm's class or one derived from it."""
    from timm.layers import SwiGLUPacked  # importing timm costs a second, which models without it do not pay
    from timm.models.vision_transformer import Block

    hidden = 8 * math.ceil(int(size.dim * 4 * 2 / 3) / 8)  # SwiGLU: two halves of 4096 for the giant (spec §1.2)
    norm = partial(nn.LayerNorm, eps=1e-6)
    feed_forward = dict(mlp_ratio=4)
    if size.swiglu:
        feed_forward = dict(mlp_ratio=2 * hidden / size.dim, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU)
    return (kind or Block)(size.dim, size.heads, qkv_bias=True, init_values=1.0, norm_layer=norm, **feed_forward)


@lru_cache(maxsize=64)
def resampling_matrix(size: int, stored: int = 37, offset: float = 0.1) -> Tensor:
    """The bicubic resampling of DINOv2's positions along one axis as a matrix, float32 (size, stored). Spec §1.4.

    The scale is (size + offset) / stored and not size / stored; half-pixel centres, a = -0.75, no antialiasing, indices
    clamped at the borders. Four non-zeros per row at most.
    """
    a, scale = -0.75, (size + offset) / stored
    source = (torch.arange(size, dtype=torch.float64) + 0.5) / scale - 0.5
    first = source.floor()
    matrix = torch.zeros(size, stored, dtype=torch.float64)
    for tap in (-1, 0, 1, 2):
        x = (source - first - tap).abs()
        near = ((a + 2) * x - (a + 3)) * x * x + 1  # |x| <= 1
        far = ((x - 5) * x + 8) * x * a - 4 * a  # 1 < |x| < 2
        column = (first + tap).clamp(0, stored - 1).long()
        matrix.scatter_add_(1, column[:, None], torch.where(x <= 1, near, far)[:, None])
    return matrix.float()


PUBLISHED = tuple(name for name in SIZES if name != "dinov2_toy")


def pretrained_path(name: str) -> Path:
    """The authors' DINOv2 checkpoint on this disk: in data/cache/weights, or where torch.hub keeps its downloads.

    Raises:
        FileNotFoundError: saying where it is published and where to put it.
    """
    own = cache_root() / "weights" / f"{name}_pretrain.pth"
    places = [own, Path(torch.hub.get_dir()) / "checkpoints" / own.name]
    if stored := next((path for path in places if path.is_file()), None):
        return stored
    known = find_published(name)
    raise FileNotFoundError(
        f"No pre-trained weights {own}. `vpr weights get {name}` fetches them ({known.address}, {known.size_in_words}, "
        f"{known.licence}); or build the model with pretrained=False."
    )
