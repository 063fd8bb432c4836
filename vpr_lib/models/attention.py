"""Where a descriptor comes from: Grad-CAM for any backbone with a feature map, attention maps and token pictures for ViTs.

All maps are (B, H, W) between 0 and 1 at the size of the images. Spec: dinomix §6.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpr_lib.data.images import InputSpec
from vpr_lib.models.dinov2 import DINOv2

Mode = Literal["reproduce", "faithful", "similarity"]
PUBLISHED_COMPONENT = 690  # the descriptor component of DINO-Mix's published maps, picked by eye (spec §6.2)


@dataclass(frozen=True)
class CAM:
    """Grad-CAM of a batch: `maps` (B, H, W) in 0..1, `raw` (B, h, w) before scaling, `component` (B,) or None."""

    maps: Tensor
    raw: Tensor
    component: Tensor | None


def attend(
    model: nn.Module,
    images: Tensor,
    mode: Mode = "faithful",
    reference: Tensor | None = None,
    component: int | None = None,
    layer: int | None = None,
) -> CAM:
    """Grad-CAM on the descriptors of a batch, under one of three rules.

    `reproduce` follows the authors' scripts: component 690 and mean = std = 0.5 for DINO-Mix (which was trained with
    ImageNet's), the largest component and ImageNet statistics for all others. `faithful` gives every model the
    statistics it was trained with and the same rule, its largest component. `similarity` explains the cosine to a
    reference descriptor, for instance of the matched database image; that score is ours and not the paper's.

    Args:
        images: uint8 (B, 3, H, W) of the model's input size; runs on the device of the model.
        reference: descriptors (B, D) or (D,), for `similarity`.
        component: a fixed descriptor component instead of the rule's; state it in the caption, maps depend on it.
        layer: see `grad_cam`.
    Raises:
        ValueError: for an unknown mode, a reference without `similarity` or the reverse.
    """
    if mode not in ("reproduce", "faithful", "similarity"):
        raise ValueError(f"Unknown mode '{mode}'; the modes are reproduce, faithful, similarity.")
    if (mode == "similarity") != (reference is not None):
        raise ValueError(
            "Mode 'similarity' explains the cosine to a reference descriptor: pass reference=(B, D), and only there."
        )
    if images.dtype != torch.uint8:
        raise ValueError(f"attend takes uint8 images and normalises them itself, got {images.dtype}.")
    spec: InputSpec = model.input_spec
    transformer = isinstance(model.backbone, DINOv2)
    if mode == "reproduce" and transformer:
        half = (0.5, 0.5, 0.5)
        spec = InputSpec(spec.size, spec.interpolation, half, half)
        component = min(PUBLISHED_COMPONENT, model.dim - 1) if component is None else component
    inputs = spec.normalise(images.to(next(model.parameters()).device))
    if reference is None:
        return grad_cam(model, inputs, component, layer=layer)
    target = F.normalize(reference.to(inputs.device), dim=-1)
    return grad_cam(model, inputs, score=lambda descriptors: (descriptors * target).sum(dim=1), layer=layer)


def grad_cam(
    model: nn.Module,
    inputs: Tensor,
    component: int | None = None,
    score: Callable[[Tensor], Tensor] | None = None,
    layer: int | None = None,
) -> CAM:
    """Grad-CAM of a score of the descriptors with respect to a feature map.

    Channel weights are the spatial means of the gradient, the map is the rectified weighted sum of the activations,
    scaled to 0..1 per image, brought to the size of the images (bilinear), and scaled again. Spec §6.1.

    Args:
        inputs: normalised images (B, 3, H, W). Images are independent: the model runs in evaluation mode.
        component: index of the descriptor to explain; None takes the largest (signed) one of every image.
        score: descriptors (B, D) -> (B,), instead of a component.
        layer: block whose output is the map, for transformers; default the last but one, as published. Other backbones
            use their output.
    Raises:
        ValueError: for a component or block that does not exist.
    """
    target, as_map = _target(model, inputs, layer)
    training = model.training
    with torch.inference_mode(False), torch.enable_grad(), _leaf_at(target) as leaf:
        descriptors = model.eval()(inputs.clone())  # a clone: inference tensors take no part in a graph
        model.train(training)
        score, component = _score(descriptors, component, score)
        (gradient,) = torch.autograd.grad(score.sum(), leaf[0])
    activations, gradient = as_map(leaf[0].detach()).float(), as_map(gradient).float()  # (B, C, h, w)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    raw = (weights * activations).sum(dim=1).clamp(min=0)
    maps = F.interpolate(_to_unit(raw)[:, None], inputs.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return CAM(_to_unit(maps), raw, component)


def _score(descriptors: Tensor, component: int | None, score: Callable | None) -> tuple[Tensor, Tensor | None]:
    if score is not None:
        return score(descriptors), None
    if component is not None and not 0 <= component < descriptors.shape[1]:
        raise ValueError(f"The descriptor has components 0 to {descriptors.shape[1] - 1}, got {component}.")
    chosen = descriptors.detach().argmax(dim=1)
    if component is not None:
        chosen = torch.full_like(chosen, component)
    return descriptors.gather(1, chosen[:, None])[:, 0], chosen


def _target(model: nn.Module, inputs: Tensor, layer: int | None) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The module whose output is explained, and how to read it as (B, C, h, w)."""
    backbone = model.backbone
    if not isinstance(backbone, DINOv2):
        if layer is not None:
            raise ValueError(f"Only transformers take a layer; {type(backbone).__name__} is explained at its output.")
        return backbone, lambda features: features
    depth = backbone.size.depth
    index = depth - 2 if layer is None else layer
    if not 0 <= index < depth:
        raise ValueError(f"{backbone.name} has blocks 0 to {depth - 1}, got layer {layer}.")
    grid = backbone.grid(tuple(inputs.shape[-2:]))
    return backbone.dino_model.blocks[index], lambda tokens: backbone.as_map(tokens, grid)


class _leaf_at:
    """Inside, the output of a module starts the graph: gradients stop there, whatever is frozen before it."""

    def __init__(self, module: nn.Module):
        self.module, self.leaf = module, []

    def __enter__(self) -> list[Tensor]:
        def cut(_module, _inputs, output: Tensor) -> Tensor:
            self.leaf.append(output.detach().requires_grad_())
            return self.leaf[-1]

        self.handle = self.module.register_forward_hook(cut)
        return self.leaf

    def __exit__(self, *_exception) -> None:
        self.handle.remove()


def _to_unit(maps: Tensor) -> Tensor:
    """Every map of (B, h, w) shifted and scaled to 0..1; a constant map becomes 0."""
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    return maps / (maps.amax(dim=(1, 2), keepdim=True) + 1e-7)


# ---- attention of transformers


@torch.no_grad()
def attention_weights(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Softmax attention of every block, (B, heads, N, N) with N = 1 + h w; row = query token, column = key token.

    Raises:
        ValueError: for a model without a DINOv2 backbone.
    """
    backbone = _transformer(model)
    weights, training = [], model.training
    model.eval()
    *inputs_of_blocks, _last = backbone.tokens(inputs)
    for block, tokens in zip(backbone.dino_model.blocks, inputs_of_blocks):
        attention = block.attn
        qkv = attention.qkv(block.norm1(tokens)).unflatten(2, (3, attention.num_heads, -1))  # (B, N, 3, heads, d)
        query, key, _value = qkv.permute(2, 0, 3, 1, 4)
        weights.append(((query * attention.scale) @ key.transpose(-2, -1)).float().softmax(dim=-1))
    model.train(training)
    return weights


def last_block_attention(model: nn.Module, inputs: Tensor, of: Literal["patches", "class"] = "class") -> Tensor:
    """How the last block's heads look at the patches, one map per head: (B, heads, H, W), each scaled to 0..1.

    Args:
        of: the class token as the query (DINO's pictures), or the mean over patch tokens, which are what DINO-Mix uses.
    """
    attention = attention_weights(model, inputs)[-1]  # (B, heads, N, N)
    batch, heads = attention.shape[:2]
    looks = _looks(attention.flatten(0, 1), of)
    return _as_pictures(looks, _transformer(model), inputs).unflatten(0, (batch, heads))


def attention_rollout(model: nn.Module, inputs: Tensor, of: Literal["patches", "class"] = "patches") -> Tensor:
    """Attention rolled out through all blocks, (B, H, W) in 0..1: the product of (mean over heads + identity) / 2.

    Args:
        of: average over the patch tokens, which DINO-Mix's descriptor is made of, or the class token.
    Paper: Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020.
    """
    joint = None
    for attention in attention_weights(model, inputs):
        mean = attention.mean(dim=1)
        step = (mean + torch.eye(mean.shape[-1], device=mean.device)) / 2  # rows sum to one
        joint = step if joint is None else step @ joint
    return _as_pictures(_looks(joint, of), _transformer(model), inputs)


def _transformer(model: nn.Module) -> DINOv2:
    if not isinstance(getattr(model, "backbone", None), DINOv2):
        kind = type(getattr(model, "backbone", model)).__name__
        raise ValueError(f"Attention maps need a DINOv2 backbone, this model has {kind}; use grad_cam instead.")
    return model.backbone


def _looks(attention: Tensor, of: str) -> Tensor:
    """(B, N, N) -> (B, N - 1): how much each patch is looked at."""
    if of not in ("patches", "class"):
        raise ValueError(f"Attention of 'patches' or 'class', got '{of}'.")
    rows = attention[:, 0] if of == "class" else attention[:, 1:].mean(dim=1)
    return rows[:, 1:]


def _as_pictures(values: Tensor, backbone: DINOv2, inputs: Tensor) -> Tensor:
    size = tuple(inputs.shape[-2:])
    cells = values.unflatten(1, backbone.grid(size))[:, None]
    return _to_unit(F.interpolate(cells, size, mode="bilinear", align_corners=False)[:, 0])


@torch.no_grad()
def token_colours(features: Tensor) -> Tensor:
    """The three main directions of all tokens of a batch as red, green and blue: (B, C, h, w) -> (B, 3, h, w) in 0..1.

    One basis for the whole batch, so equal colours mean equal content across its images. Each direction is signed so
    that its largest loading is positive, and stretched from its 1st to its 99th percentile.
    Method: PCA pictures of DINOv2 (Oquab et al., TMLR 2024), without their foreground mask.

    Raises:
        ValueError: for fewer than three channels or tokens.
    """
    batch, channels, height, width = features.shape
    tokens = features.detach().float().permute(0, 2, 3, 1).reshape(-1, channels)
    if min(tokens.shape) < 3:
        raise ValueError(f"Three directions need at least 3 tokens of 3 channels, got {tuple(tokens.shape)}.")
    centred = tokens - tokens.mean(dim=0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:3]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    values = centred @ (directions * largest.sign()).T  # (tokens, 3)
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99], device=values.device), dim=0)
    scaled = ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return scaled.view(batch, height, width, 3).permute(0, 3, 1, 2)


# ---- can a map be trusted?


def agreement(maps: Tensor, others: Tensor) -> Tensor:
    """Pearson correlation of two maps, cell by cell: (B, H, W) twice -> (B,); 0 where a map is constant."""
    one, two = (m.flatten(1).float() - m.flatten(1).float().mean(dim=1, keepdim=True) for m in (maps, others))
    return F.cosine_similarity(one, two, dim=1)


@torch.no_grad()
def change_without(model: nn.Module, images: Tensor, maps: Tensor, share: float = 0.2, least: bool = False) -> Tensor:
    """How much descriptors move when the most attended pixels are covered: 1 - cosine, (B,).

    A map that shows what matters moves the descriptor more than one that does not; compare with `least=True`, which covers
    the least attended pixels, and with the maps of other images.

    Args:
        images: uint8 (B, 3, H, W) of the model's input size.
        maps: (B, H, W).
        share: of the pixels to cover, with the mean colour of their image.
    Raises:
        ValueError: for a share outside 0..1.
    """
    if not 0 < share < 1:
        raise ValueError(f"The share of pixels to cover lies between 0 and 1, got {share}.")
    batch, _, height, width = images.shape
    count = max(1, round(share * height * width))
    chosen = maps.flatten(1).topk(count, dim=1, largest=not least).indices.to(images.device)
    covered = torch.zeros(batch, height * width, dtype=torch.bool, device=images.device).scatter_(1, chosen, True)
    colour = images.float().mean(dim=(2, 3), keepdim=True).round().to(torch.uint8)
    masked = torch.where(covered.view(batch, 1, height, width), colour, images)
    device, training = next(model.parameters()).device, model.training
    model.eval()
    whole, partial = (model(model.input_spec.normalise(i.to(device))).float() for i in (images, masked))
    model.train(training)
    return 1 - F.cosine_similarity(whole, partial, dim=1)
