"""What every backbone is: image (B, 3, H, W) -> feature map (B, C, h, w). The networks themselves: backbones.py."""

from torch import Tensor, nn


class Backbone(nn.Module):
    """Base: the network lives in `model`, so its keys read `backbone.model.*` as in the published checkpoints.

    Attributes:
        out_channels: C of the feature map.
        stride: input pixels per feature-map cell.
    """

    out_channels: int
    stride: int

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Feature-map size (h, w) for an image of (height, width) pixels."""
        return tuple(-(-side // self.stride) for side in image_size)

    def freeze(self, modules: list[nn.Module], fixed_statistics: bool) -> None:
        """Stop the gradient of `modules`; with `fixed_statistics` also hold their batch norms in evaluation mode.

        The authors only stop gradients: batch-norm statistics of frozen layers keep drifting during their training, and
        published numbers rest on that (spec mixvpr §1.3).
        """
        for module in modules:
            module.requires_grad_(False)
        self._held = modules if fixed_statistics else []
        self.train(self.training)

    @property
    def after_fixed(self) -> tuple[str, ...]:
        """Prefixes of the names of what `from_fixed` alone uses."""
        return ()

    def fixed_map(self, images: Tensor) -> Tensor:
        """What the frozen layers make of images (B, 3, H, W): it can be computed once for a whole training.

        Raises:
            ValueError: when some layers learn and this backbone does not know where to cut.
        """
        if any(p.requires_grad for p in self.parameters()):
            raise ValueError(f"{type(self).__name__} has no layer from which on it learns; freeze all of it.")
        return self(images)

    def from_fixed(self, maps: Tensor) -> Tensor:
        """The feature map that follows from `fixed_map`, by the layers that learn."""
        return maps

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        for module in getattr(self, "_held", []):
            module.eval()
        return self
