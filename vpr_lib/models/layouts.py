"""The key names of other repositories' checkpoints, told by the keys themselves, and ours for them.

Spec: modern_methods §1.2, §2.2, §3, §4 and §7, clusvpr §7. Strictness is not touched: a key that no rule knows stays as it is, and
loading refuses it.
"""

import re
from typing import NamedTuple

from torch import Tensor

SEQUENCE = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}  # a ResNet as nn.Sequential


class Layout(NamedTuple):
    """A repository's way of naming: `sign` is a pattern that one of its keys matches, `rules` are tried on every key."""

    repository: str
    sign: str
    rules: tuple[tuple[str, str], ...]


def _sequence(prefix: str) -> tuple[tuple[str, str], ...]:
    return tuple((rf"^{prefix}{number}\.", f"backbone.model.{part}.") for number, part in SEQUENCE.items())


BERTON_HEAD = ((r"^aggregation\.1\.", "aggregator.gem."), (r"^aggregation\.3\.", "aggregator.fc."))
TOP_LEVEL_HEADS = r"^(encoder|decoder|queries|fc|channel_proj|row_proj)\b"  # CricaVPR, SuperVLAD, EDTformer
DINO, VGG = "backbone.dino_model.", "backbone.model.features."  # our names
SHARED = ((r"^backbone\.", DINO), (r"^aggregation\.1\.", "aggregator.gem."), (r"^aggregation\.", "aggregator."))
NETVLAD = ((r"^encoder\.(module\.)?", VGG), (r"^pool\.(module\.)?conv\.", "aggregator.assign."),
           (r"^pool\.(module\.)?", "aggregator."))  # fmt: skip
OPENIBL = ((r"^base_model\.base\.", VGG), (r"^net_vlad\.", "aggregator."))
SFRS = ((r"^base_model\.base\.", VGG), (r"^net_vlad\.conv\.", "aggregator.assign."), (r"^net_vlad\.", "aggregator."),
        (r"^pca_layer\.", "aggregator.whitening."))  # fmt: skip
HUB = "gmberton/MegaLoc, Lu-Feng/CricaVPR, Lu-Feng/SuperVLAD, Tong-Jin01/EDTformer"
BERTON = "gmberton/CosPlace, gmberton/EigenPlaces"
LAYOUTS: tuple[Layout, ...] = (
    Layout("serizba/salad", r"^backbone\.model\.cls_token$", ((r"^backbone\.model\.", DINO),)),
    Layout("amaralibey/Bag-of-Queries", r"^backbone\.dino\.cls_token$", ((r"^backbone\.dino\.", DINO),)),
    Layout("amaralibey/Bag-of-Queries", r"^backbone\.net\.0\.weight$", _sequence(r"backbone\.net\.")),
    Layout(HUB, r"^backbone\.cls_token$", (*SHARED, (TOP_LEVEL_HEADS, r"aggregator.\1"))),
    Layout(BERTON, r"^backbone\.4\.0\.", (*_sequence(r"backbone\."), *BERTON_HEAD)),
    Layout(BERTON, r"^backbone\.2\.weight$", ((r"^backbone\.", VGG), *BERTON_HEAD)),
    Layout("yxgeee/OpenIBL with its PCA", r"^pca_layer\.", SFRS),
    Layout("yxgeee/OpenIBL, ClusVPR", r"^base_model\.base\.", OPENIBL),
    Layout("Nanne/pytorch-NetVlad", r"^pool\.(module\.)?centroids$", NETVLAD),
)


def layout_of(keys: list[str] | dict[str, Tensor]) -> Layout | None:
    """The layout whose sign is among the keys; None for our own names and those that a backbone translates itself."""
    return next((layout for layout in LAYOUTS if any(re.match(layout.sign, key) for key in keys)), None)


def translate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of a known repository under our names; any other as it is. The first rule that matches a key counts."""
    layout = layout_of(tensors)
    if layout is None:
        return tensors
    return {_renamed(key, layout.rules): value for key, value in tensors.items()}


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, ours in rules:
        renamed, found = re.subn(pattern, ours, key)
        if found:
            return renamed
    return key
