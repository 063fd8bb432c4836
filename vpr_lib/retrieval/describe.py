"""Images to descriptors: one pass, straight into a memory-mapped file that is reused, resumed or refused. DESIGN §4."""

import hashlib
import inspect
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vpr_lib.data import images as images_module
from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.images import ImageError, ImageSet, InputSpec, stack_images
from vpr_lib.data.manifest import Manifest
from vpr_lib.machine import allow_tf32, keep_freed_memory
from vpr_lib.models.checkpoints import weights_hash
from vpr_lib.progress import track
from vpr_lib.registry import lookup
from vpr_lib.retrieval.runtime import Describer
from vpr_lib.retrieval.store import DescriptorStore, file_fingerprints

log = logging.getLogger(__name__)
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("fp32", *AUTOCAST)
NOT_FINITE = "its descriptor is not finite (NaN or infinite)"


class UnreadableImages(ValueError):
    """Some images could not be read; `errors` maps their row to the reason. Everything else is kept on disk."""

    def __init__(self, errors: dict[int, str], total: int):
        self.errors = errors
        listed = "\n  ".join(list(errors.values())[:10])
        more = f"\n  and {len(errors) - 10} more" if len(errors) > 10 else ""
        super().__init__(
            f"{len(errors)} of {total} images cannot be used:\n  {listed}{more}\nReplace or remove them; "
            f"the readable ones are already described and will not be described again.{advice(errors)}"
        )


def advice(errors: dict[Any, str]) -> str:
    """What to try when it is the network's numbers that cannot be used."""
    count = sum(reason.endswith(NOT_FINITE) for reason in errors.values())
    told = "Numbers that are not finite come from the weights or from too little range: try --precision fp32, or other weights."
    return f" {told}" if count else ""


@dataclass(frozen=True)
class Descriptors:
    """`array` float32 (N, D), one row per image; `errors` maps the rows that could not be read (zeros) to the reason."""

    array: np.ndarray
    errors: dict[int, str]
    path: Path | None = None
    seconds: float = 0.0  # spent describing in this call; 0 when everything came from disk
    described: int = 0  # images described in this call; the others came from disk
    contents: str = ""  # hash over the bytes of all images

    @property
    def readable(self) -> np.ndarray:
        """bool (N,)."""
        mask = np.ones(len(self.array), bool)
        mask[list(self.errors)] = False
        return mask


def describe(
    model: nn.Module,
    manifest: Manifest,
    cache: Path | None = None,
    device: str | torch.device = "cpu",
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32",
    batch_size: int = 32,
    workers: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    quiet: bool = False,
    together: bool = False,
    spec: InputSpec | None = None,
) -> Descriptors:
    """Describe every image of a manifest; on a CPU by the quickest runtime that is as exact (`runtime.Describer`).

    Args:
        model: maps normalised images to (B, D) and carries `input_spec` and `dim`; put into evaluation mode and moved
            to `device`.
        cache: folder for the descriptor file. A complete file with the same key is returned at once, a partial one is
            continued; None keeps everything in memory.
        workers: loader processes; default none on the CPU, up to eight beside a GPU.
        on_error: an unreadable image raises UnreadableImages after all others are done, or is left as a zero row.
        together: all processes of the torch.distributed group (`torchrun`) make this call; each describes its share of
            the images, the first one writes the file (`cache` is on a disk that all see), and all return everything.
        spec: how images reach the model; default its `input_spec`.
    Raises:
        UnreadableImages, also for a descriptor that is not finite; StaleDescriptors if a file under this key says it was
        made from something else; ValueError for `together` without a process group, or an unknown precision.
    """
    lookup(dict.fromkeys(PRECISIONS), precision, "precision")
    if together and not dist.is_initialized():
        raise ValueError("describe(together=True) needs torch.distributed.init_process_group() in every process.")
    rank, world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    spec = spec or model.input_spec
    parts = cache_key(model, manifest, precision, spec)
    paths = manifest.image_paths()
    prints = file_fingerprints(paths)
    with DescriptorStore.open(cache if rank == 0 else None, parts, prints, model.dim, wait=True) as store:
        start_time = time.perf_counter()
        todo = _from_first(store.missing_rows()) if together else store.missing_rows()
        if len(todo):
            log.info("describing %d of %d images", len(todo[rank::world]), len(manifest))
            keep_freed_memory()
            allow_tf32(precision == "tf32")
            model.eval().to(device, memory_format=torch.channels_last)
            rest = (device, precision, batch_size, workers, quiet or rank > 0)
            _fill(store, world if together else 0, model, spec, paths, todo[rank::world], *rest)
        store.finish()
    if together and cache is not None:
        dist.barrier()  # the first process has written the file that the others now open
        if rank > 0:
            errors = store.errors
            with DescriptorStore.open(cache, parts, prints, model.dim, wait=True) as store:
                store.errors |= errors
    if store.errors and on_error == "raise":
        raise UnreadableImages(store.errors, len(manifest))
    seconds = time.perf_counter() - start_time if len(todo) else 0.0
    return Descriptors(store.array, store.errors, store.path, seconds, len(todo), parts["contents"])


def same_files(benchmark: Benchmark) -> str:
    """In words, how many queries are database images themselves, by their bytes; '' when none is."""
    sides = (file_fingerprints(side.image_paths()) for side in (benchmark.database, benchmark.queries))
    database, queries = (prints[prints >= 0] for prints in sides)
    count = int(np.isin(queries, database).sum())
    told = f"{count} of {len(benchmark.queries)} queries are database images themselves (same files), which are found trivially"
    return f"{told}: a recall over them says nothing." if count else ""


def of_described(benchmark: Benchmark, database: Descriptors, queries: Descriptors) -> Benchmark:
    """The benchmark with cards that say which pictures were described."""
    both = hashlib.sha256(f"{database.contents} {queries.contents}".encode()).hexdigest()[:16]
    return replace(benchmark, protocols=tuple(protocol.of_images(both) for protocol in benchmark.protocols))


def _fill(store: DescriptorStore, world: int, *arguments: Any) -> None:
    """Describe rows into a store; `world` is the number of processes that do so together, 0 for this one alone."""
    errors: dict[int, str] = {}
    batches = _batches(*arguments, errors)
    for rows, descriptors in _from_all(batches, world) if world else batches:
        store.write(rows, descriptors)
    store.errors |= _union(errors, world) if world else errors


@torch.inference_mode()
def describe_batch(
    model: nn.Module,
    images: Tensor,
    device: str | torch.device,
    precision: str = "fp32",
    spec: InputSpec | None = None,
) -> Tensor:
    """uint8 images (B, 3, H, W) of the model's input size -> descriptors (B, D), float32 on the CPU."""
    images = (spec or model.input_spec).normalise(images.to(device, non_blocking=True))
    with torch.autocast(torch.device(device).type, AUTOCAST.get(precision), enabled=precision in AUTOCAST):
        return model(images).float().cpu()


def _batches(model, spec, paths, todo, device, precision, batch_size, workers, quiet, errors) -> Iterator:
    if workers is None:
        workers = min(8, (os.cpu_count() or 1) - 1) if torch.device(device).type == "cuda" else 0
    loader = DataLoader(
        ImageSet(paths, spec),
        batch_size=1 if spec.resize != "exact" else batch_size,
        sampler=todo,
        num_workers=workers,
        collate_fn=list,
        pin_memory=torch.device(device).type == "cuda",
    )
    plain = lambda images, precision: describe_batch(model, images, device, precision, spec)
    own = spec == model.input_spec
    way = Describer(model, plain, device, precision, len(todo)) if own else lambda images: plain(images, precision)
    for samples in track(loader, "describing", quiet=quiet):
        errors.update({row: str(image) for image, row in samples if isinstance(image, ImageError)})
        good = [(image, row) for image, row in samples if not isinstance(image, ImageError)]
        if good:
            rows = np.array([row for _, row in good])
            found = way(stack_images([image for image, _ in good])).numpy()
            finite = np.isfinite(found).all(1)
            if (none := ~found.any(1)).any():
                log.warning(
                    "%s: its descriptor is zero, alike to nothing; as are %d of this batch",
                    paths[rows[none.argmax()]],
                    none.sum(),
                )
            errors.update({row: f"{paths[row]}: {NOT_FINITE}" for row in rows[~finite].tolist()})
            if finite.any():
                yield rows[finite], found[finite]


def _from_first(value: list[int]) -> list[int]:
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _from_all(batches: Iterator, world: int) -> Iterator:
    """The batches of all processes, round by round until none has any left."""
    while True:
        found: list[Any] = [None] * world
        dist.all_gather_object(found, next(batches, None))
        if all(batch is None for batch in found):
            return
        yield from (batch for batch in found if batch is not None)


def _union(errors: dict[int, str], world: int) -> dict[int, str]:
    found: list[Any] = [None] * world
    dist.all_gather_object(found, errors)
    return {row: reason for one in found for row, reason in one.items()}


def cache_key(model: nn.Module, manifest: Manifest, precision: str, spec: InputSpec | None = None) -> dict[str, Any]:
    """Everything a descriptor depends on: weights, transform, the images themselves, precision, code."""
    paths = manifest.image_paths() if "image_path" in manifest.table else []  # clouds alone have none
    return {
        "weights": weights_hash(model),
        "model": _model_text(model),
        "input": f"{spec or model.input_spec}",
        "images": manifest.list_hash,
        "contents": hashlib.sha256(file_fingerprints(paths).tobytes()).hexdigest(),
        "precision": precision,
        "code": code_hash(type(model)),
    }


def _model_text(model: nn.Module) -> str:
    config = getattr(model, "config", None)
    return config.model_dump_json() if hasattr(config, "model_dump_json") else type(model).__name__


@cache
def code_hash(model_class: type) -> str:
    """SHA-256 over the sources that a model's output depends on."""
    folder = Path(inspect.getfile(model_class)).parent
    files = [*sorted(folder.glob("*.py")), Path(images_module.__file__), Path(__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
