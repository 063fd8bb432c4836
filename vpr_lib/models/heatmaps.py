"""What a network looks at: every candidate operator, one number per cell of a map. Spec: clusvpr §10.

How the published heat maps were computed is not known; these are the operators that can be meant. All return float32
(B, h, w) as they come, some signed; `unit_range` prepares them for drawing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpr_lib.models.clusvpr import ClusVPR, normalise_vlad


def channel_max(features: Tensor) -> Tensor:
    """Largest channel of every cell, (B, C, h, w) -> (B, h, w)."""
    return features.amax(dim=1)


def channel_norm(features: Tensor) -> Tensor:
    """Length of every cell's vector, (B, C, h, w) -> (B, h, w)."""
    return features.norm(dim=1)


def unit_range(maps: Tensor) -> Tensor:
    """Every map stretched to [0, 1], (B, h, w); a constant map becomes 0."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w) -> (B, *size), bilinear, for laying over an image."""
    return nn.functional.interpolate(maps[:, None], size, mode="bilinear", antialias=False)[:, 0]


def token_weight(head: ClusVPR, stages: list[Tensor], layer: int) -> Tensor:
    """w of the patch tokens of CWTNet `layer`, (B, h/2, w/2): the literal importance signal, without the class token."""
    cwt, grid = head.vit_layer[layer].global_cwt, stages[layer].shape[2:]
    tokens = cwt.tokens(stages[layer].chunk(2, dim=1)[1])
    return cwt.block.attn.weights(tokens)[:, 1:].unflatten(1, (grid[0] // 2, grid[1] // 2))


def attention_received(head: ClusVPR, stages: list[Tensor], layer: int) -> Tensor:
    """Attention that every patch token of CWTNet `layer` gets, mean over heads and over all tokens that look, (B, h/2, w/2)."""
    cwt, grid = head.vit_layer[layer].global_cwt, stages[layer].shape[2:]
    probabilities = cwt.block.attn.probabilities(cwt.tokens(stages[layer].chunk(2, dim=1)[1]))
    return probabilities.mean(dim=(1, 2))[:, 1:].unflatten(1, (grid[0] // 2, grid[1] // 2))


def contributions(head: ClusVPR, features: Tensor) -> Tensor:
    """What every location adds to the VLAD, sum over groups of a s (y - c): (B, C, h, w) -> (B, K, d, h w)."""
    size = tuple(features.shape[2:])
    y = head.expand(features)
    mass = head.attend(y, size).unsqueeze(2) * head.assign(y)  # (B, G, K, L)
    return torch.einsum("bgkl,bgdl->bkdl", mass, y) - mass.sum(1).unsqueeze(2) * head.centroids[None, :, :, None]


def vlad_residual(head: ClusVPR, features: Tensor) -> Tensor:
    """Sum over clusters of the length of each location's contribution, (B, h, w). Never negative."""
    return contributions(head, features).norm(dim=2).sum(1).unflatten(1, tuple(features.shape[2:]))


def vlad_share(head: ClusVPR, features: Tensor) -> Tensor:
    """Each location's share of the descriptor, (B, h, w): signed, and all of an image's cells sum to one.

    It is the product of the contribution, put through the norms as the whole VLAD is, with the descriptor.
    """
    parts = contributions(head, features)
    vlad = parts.sum(dim=3)
    scale = vlad.norm(dim=2, keepdim=True).clamp(min=1e-12)
    total = (vlad / scale).flatten(1).norm(dim=1)[:, None, None]
    weights = normalise_vlad(vlad).view_as(vlad) / (scale * total)  # (B, K, d)
    return torch.einsum("bkdl,bkd->bl", parts, weights).unflatten(1, tuple(features.shape[2:]))


@dataclass(frozen=True)
class HeatMaps:
    """Every operator on one batch, by name, float32 (B, h, w) each; `group_attention` is (B, G, h, w)."""

    maps: dict[str, Tensor]
    group_attention: Tensor | None


@torch.no_grad()
def heat_maps(model: nn.Module, images: Tensor) -> HeatMaps:
    """All operators of a model on normalised images (B, 3, H, W).

    A ClusVPR head gives `backbone`, `cwt`, `cwt_norm`, `vlad_residual`, `vlad_share`, and per CWTNet `token_weight_i` and
    `attention_received_i`, i from 1; any other model gives `backbone` and `backbone_norm`.
    """
    features = model.feature_map(images)
    head = model.aggregator
    if not isinstance(head, ClusVPR):
        return HeatMaps({"backbone": channel_max(features), "backbone_norm": channel_norm(features)}, None)
    stages, seen = head.stages(features), head.transform(features)
    maps = {"backbone": channel_max(features), "cwt": channel_max(seen), "cwt_norm": channel_norm(seen),
            "vlad_residual": vlad_residual(head, seen), "vlad_share": vlad_share(head, seen)}  # fmt: skip
    for layer in range(len(head.vit_layer)):
        maps[f"token_weight_{layer + 1}"] = token_weight(head, stages, layer)
        maps[f"attention_received_{layer + 1}"] = attention_received(head, stages, layer)
    size = tuple(seen.shape[2:])
    return HeatMaps(maps, head.attend(head.expand(seen), size).unflatten(2, size))
