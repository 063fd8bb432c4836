"""The frozen part of a network, run once over a set of pictures: maps on disk, from which heads learn in seconds."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from vpr_lib.data.images import ImageSet
from vpr_lib.data.manifest import Manifest
from vpr_lib.machine import keep_freed_memory
from vpr_lib.models.checkpoints import weights_hash
from vpr_lib.progress import track
from vpr_lib.retrieval.describe import AUTOCAST, code_hash
from vpr_lib.retrieval.store import DescriptorStore, file_fingerprints, joint_fingerprints
from vpr_lib.seeds import derive_seed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureMaps:
    """`array` float16 (views * N, C * h * w), memory-mapped where it has a file; row `view * N + image`, view 0 is the
    picture itself and the others are augmented; `shape` is (C, h, w)."""

    array: np.ndarray
    shape: tuple[int, int, int]
    views: int
    path: Path | None = None

    @property
    def images(self) -> int:
        """N."""
        return len(self.array) // self.views


def feature_maps(
    model: nn.Module,
    manifest: Manifest,
    cache: Path | None,
    views: int = 1,
    augment: Callable[[Tensor], Tensor] | None = None,
    seed: int = 1,
    device: str | torch.device = "cpu",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    batch_size: int = 64,
    workers: int = 0,
    quiet: bool = False,
) -> FeatureMaps:
    """`model.backbone.fixed_map` of every picture, of any size, brought to the model's `input_spec`.

    It costs one pass of the frozen layers per view and 2·C·h·w bytes of disk: 44 kB per picture and view for 112 channels
    on 14 x 14 cells, 90 kB on 20 x 20. Decoding and augmentation run in `workers` processes beside the device. A file
    under the same weights, transform, augmentation, pictures and code is used again, one cut short is continued.

    Args:
        cache: folder for the file; None keeps everything in memory.
        augment: uint8 (3, H, W) -> uint8; makes the views after the first, each from (`seed`, view, picture) alone.
    Raises:
        ValueError: for several views without `augment`, or a backbone that learns from its first layer on.
        ImageError: for a picture that cannot be read.
    """
    if views < 1 or (views > 1 and augment is None):
        raise ValueError(f"{views} views of a picture need an augmentation; without one there is 1.")
    model.eval().to(device, memory_format=torch.channels_last)
    shape = _map_shape(model, device)
    pictures = np.tile(file_fingerprints(manifest.image_paths()), views)
    prints = joint_fingerprints(pictures, np.arange(len(pictures)))  # a view depends on its number
    parts = {
        "weights": weights_hash(model.backbone), "backbone": f"{model.config.backbone} {model.config.backbone_args}",
        "input": f"{model.input_spec}", "images": manifest.list_hash, "views": views, "precision": precision,
        "augmentation": f"{augment}, seed {seed}" if views > 1 else "none", "code": code_hash(type(model)),
    }  # fmt: skip
    with DescriptorStore.open(cache, parts, prints, int(np.prod(shape)), np.float16, wait=True) as store:
        if len(todo := store.missing_rows()):
            log.info("frozen layers over %d of %d pictures and views", len(todo), len(prints))
            keep_freed_memory()
            images = ImageSet(manifest.image_paths(), model.input_spec, augment)
            chunks = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
            keys = [[_key(row, len(manifest), seed) for row in chunk] for chunk in chunks]
            pictures = images.batches(keys, workers)
            for rows, batch in zip(track(chunks, "frozen layers", quiet=quiet), pictures):
                store.write(np.array(rows), _fixed(model, batch, device, precision).flatten(1).half().cpu().numpy())
        store.finish()
    return FeatureMaps(store.array, shape, views, store.path)


def _key(row: int, images: int, seed: int) -> int | tuple[int, int]:
    view, image = divmod(row, images)
    return image if view == 0 else (image, derive_seed("view", seed, view, image))


@torch.no_grad()
def _fixed(model: nn.Module, images: Tensor, device: str | torch.device, precision: str) -> Tensor:
    images = model.input_spec.normalise(images.to(device, non_blocking=True))
    with torch.autocast(torch.device(device).type, AUTOCAST.get(precision), enabled=precision in AUTOCAST):
        return model.backbone.fixed_map(images)


def _map_shape(model: nn.Module, device: str | torch.device) -> tuple[int, int, int]:
    return tuple(_fixed(model, torch.zeros(1, 3, *model.input_spec.size, dtype=torch.uint8), device, "fp32").shape[1:])
