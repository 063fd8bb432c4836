"""Light backbones from timm by name, tapped at a stride of one's choice; Lightweight-MixVPR's obvious improvements (§8)."""

from torch import Tensor

from vpr_lib.models.backbones import Backbone
from vpr_lib.models.pretraining import ask_before_fetching


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
        import timm

        super().__init__()
        if pretrained:
            ask_before_fetching(network)
        self.model = timm.create_model(network, pretrained=pretrained, num_classes=0)
        strides = [stage["reduction"] for stage in self.model.feature_info]
        if stride not in strides:
            raise ValueError(f"{network} has maps of stride {sorted(set(strides))}, not {stride}.")
        self.tap = max(index for index, found in enumerate(strides) if found == stride)
        self.out_channels, self.stride = self.model.feature_info[self.tap]["num_chs"], stride
        self.model.prune_intermediate_layers([self.tap], prune_norm=True, prune_head=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_intermediates(images, indices=[self.tap], stop_early=True, intermediates_only=True)[
            -1
        ]
