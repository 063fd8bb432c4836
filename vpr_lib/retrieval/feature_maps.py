"""The frozen part of a network, run once over a set of pictures: maps on disk, from which heads learn and answer in seconds."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vpr_lib.data.images import ImageError, ImageSet
from vpr_lib.data.manifest import Manifest
from vpr_lib.digests import digest_file
from vpr_lib.machine import cpu_has_bf16, keep_freed_memory
from vpr_lib.models.backbone import Backbone
from vpr_lib.models.checkpoints import weights_hash
from vpr_lib.progress import track
from vpr_lib.retrieval.describe import (
    AUTOCAST,
    CHANGED,
    NOT_FINITE,
    Descriptors,
    UnreadableImages,
    code_hash,
    contents_hash,
)
from vpr_lib.retrieval.runtime import LEAST, Call, compile_openvino
from vpr_lib.retrieval.store import DescriptorStore, file_fingerprints, joint_fingerprints
from vpr_lib.seeds import derive_seed

log = logging.getLogger(__name__)
KEPT = 3  # trunks at a time that stay compiled
_compiled: dict[str, Call] = {}  # frozen layers that ran before, by their weights, input, precision and threads


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
    prints = _view_prints(manifest, views)
    trunk = {
        "weights": weights_hash(model.backbone, without=model.backbone.after_fixed),
        "backbone": f"{model.config.backbone} {model.config.backbone_args}",
        "input": f"{model.input_spec}", "precision": precision, "code": f"{code_hash(type(model))} {digest_file(Path(__file__))}",
    }  # fmt: skip
    parts = trunk | {
        "images": manifest.list_hash, "views": views,
        "augmentation": f"{augment}, seed {seed}" if views > 1 else "none",
    }  # fmt: skip
    with DescriptorStore.open(cache, parts, prints, int(np.prod(shape)), np.float16, wait=True) as store:
        if len(todo := store.missing_rows()):
            log.info("frozen layers over %d of %d pictures and views", len(todo), len(prints))
            keep_freed_memory()
            images = ImageSet(manifest.image_paths(), model.input_spec, augment)
            chunks = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
            keys = [[_key(row, len(manifest), seed) for row in chunk] for chunk in chunks]
            pictures = images.batches(keys, workers)
            layers = _frozen_layers(model, device, precision, len(todo), f"{trunk} {torch.get_num_threads()}")
            for rows, batch in zip(track(chunks, "frozen layers", quiet=quiet), pictures):
                store.write(np.array(rows), layers(batch).flatten(1).half().cpu().numpy())
            changed = store.forget_changed(_view_prints(manifest, views))
        store.finish()
    if todo and changed:
        raise ImageError(f"{images.paths[changed[0] % len(manifest)]}: {CHANGED}")
    return FeatureMaps(store.array, shape, views, store.path)


def _view_prints(manifest: Manifest, views: int) -> np.ndarray:
    """int64 (views * N,): a view depends on its picture and its number."""
    pictures = np.tile(file_fingerprints(manifest.image_paths()), views)
    return joint_fingerprints(pictures, np.arange(len(pictures)))


def _key(row: int, images: int, seed: int) -> int | tuple[int, int]:
    view, image = divmod(row, images)
    return image if view == 0 else (image, derive_seed("view", seed, view, image))


class _FrozenLayers(nn.Module):
    """A model's frozen layers as a network of their own: normalised images (B, 3, H, W) -> maps (B, C, h, w)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.input_spec = model, model.input_spec

    def forward(self, images: Tensor) -> Tensor:
        return self.model.backbone.fixed_map(images)


def _frozen_layers(model: nn.Module, device: str | torch.device, precision: str, pictures: int, trunk: str) -> Call:
    """uint8 images -> maps: in OpenVINO on a CPU, four times as fast, where it gives the same maps; otherwise in torch.

    Compiling takes seconds, so the last trunks are kept compiled.
    """
    plain = partial(_fixed, model, device=device, precision=precision)
    fits = torch.device(device).type == "cpu" and precision in LEAST and find_spec("openvino") is not None
    if not fits or pictures < 100 or (precision == "bf16" and not cpu_has_bf16()):
        return plain
    if trunk in _compiled:
        return _compiled[trunk]
    size, generator = model.input_spec.size, torch.Generator().manual_seed(1)
    probe = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=generator)
    try:
        compiled = compile_openvino(_FrozenLayers(model).eval(), precision)
        cosine = torch.cosine_similarity(compiled(probe).flatten(1), _fixed(model, probe, device, "fp32").flatten(1))
    except Exception as error:  # what a converter cannot do has no common name
        log.info("frozen layers in torch: OpenVINO cannot run them (%s: %s)", type(error).__name__, str(error)[:200])
        return plain
    if cosine.min() < LEAST[precision]:
        return plain
    while len(_compiled) >= KEPT:
        del _compiled[next(iter(_compiled))]
    _compiled[trunk] = compiled
    return compiled


@torch.no_grad()
def _fixed(model: nn.Module, images: Tensor, device: str | torch.device, precision: str) -> Tensor:
    images = model.input_spec.normalise(images.to(device, non_blocking=True))
    with torch.autocast(torch.device(device).type, AUTOCAST.get(precision), enabled=precision in AUTOCAST):
        return model.backbone.fixed_map(images)


def _map_shape(model: nn.Module, device: str | torch.device) -> tuple[int, int, int]:
    return tuple(_fixed(model, torch.zeros(1, 3, *model.input_spec.size, dtype=torch.uint8), device, "fp32").shape[1:])


class MapSpec:
    """What a `HeadLearner` reads, in the place of an `InputSpec`."""

    @staticmethod
    def normalise(maps: Tensor) -> Tensor:
        """float16 maps as float32."""
        return maps.float()


class HeadLearner(nn.Module):
    """A model from its frozen layers on: maps of `backbone.fixed_map` (B, C, h, w) -> descriptors (B, D)."""

    input_spec = MapSpec()

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.dim = model, model.dim

    @property
    def aggregator(self) -> nn.Module:
        return self.model.aggregator

    def feature_map(self, maps: Tensor) -> Tensor:
        """The model's feature map (B, C', h', w')."""
        return self.model.backbone.from_fixed(maps)

    def forward(self, maps: Tensor) -> Tensor:
        return self.aggregator(self.feature_map(maps))


def has_frozen_layers(model: nn.Module) -> bool:
    """Whether `feature_maps` can run a part of it once for all heads."""
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone):
        return False
    learn = [p.requires_grad for p in backbone.parameters()]
    return getattr(backbone, "fixed_groups", -1) >= 0 or (learn != [] and not any(learn))


@torch.inference_mode()
def describe_on_maps(model: nn.Module, manifest: Manifest, cache: Path | None, **options: Any) -> Descriptors:
    """As `describe`, from cached maps: descriptors of pictures whose maps were rounded to half precision.

    Args:
        options: `device`, `precision`, `workers` and `quiet` of `feature_maps`.
    Raises:
        UnreadableImages: for a descriptor that is not finite.
    """
    maps = feature_maps(model, manifest, cache, **options)
    device, precision = torch.device(options.get("device", "cpu")), options.get("precision", "fp32")
    head, parts, start = HeadLearner(model), [], time.perf_counter()
    for first in range(0, maps.images, 256):
        block = torch.from_numpy(np.array(maps.array[first : min(first + 256, maps.images)])).to(device)
        with torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST):
            parts.append(head(block.unflatten(1, maps.shape).float()).float().cpu().numpy())
    array = np.concatenate(parts)
    seconds = time.perf_counter() - start
    if (odd := np.flatnonzero(~np.isfinite(array).all(1))).size:  # maps in fp16 end at 65504
        paths = manifest.image_paths()
        raise UnreadableImages({row: f"{paths[row]}: {NOT_FINITE}" for row in odd.tolist()}, len(array))
    return Descriptors(array, {}, None, seconds, len(array), contents_hash(manifest.image_paths()))
