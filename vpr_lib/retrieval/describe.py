"""Images and submaps to descriptors: one pass, straight into a memory-mapped file that is reused, resumed or refused. DESIGN §4."""

import hashlib
import inspect
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vpr_lib import models
from vpr_lib.config import Compute, ComputeOptions
from vpr_lib.data import clouds as clouds_module
from vpr_lib.data import images as images_module
from vpr_lib.data import pixels as pixels_module
from vpr_lib.data.clouds import CloudError, CloudSet, SubmapSet, collate_submaps
from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.images import ImageError, InputSpec
from vpr_lib.data.manifest import Manifest
from vpr_lib.digests import digest_file
from vpr_lib.machine import allow_tf32, keep_freed_memory
from vpr_lib.models.checkpoints import weights_hash
from vpr_lib.progress import track
from vpr_lib.registry import lookup
from vpr_lib.retrieval import runtime as runtime_module
from vpr_lib.retrieval.runtime import Describer
from vpr_lib.retrieval.store import DescriptorStore, file_fingerprints, joint_fingerprints

log = logging.getLogger(__name__)
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("fp32", "tf32", *AUTOCAST)
CHANGED = "it changed while it was described; run this again"
SAME = 1e-6  # a similarity this near to 1 is that of one picture with itself, but for rounding
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
    text = "Numbers that are not finite come from the weights or from too little range: try --precision fp32, or other weights."
    return f" {text}" if count else ""


@dataclass(frozen=True)
class Descriptors:
    """`array` float32 (N, D), one row per image or submap; `errors` maps the rows that could not be read (zeros) to the reason."""

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
    *,
    on_error: Literal["raise", "skip"] = "raise",
    together: bool = False,
    spec: InputSpec | None = None,
    **compute: Unpack[ComputeOptions],
) -> Descriptors:
    """Describe every image or submap of a manifest; images on a CPU by the quickest runtime that is as exact (`Describer`).

    Args:
        model: maps what it `reads`, normalised images and voxels of clouds, to (B, D) and carries `input_spec` and `dim`;
            put into evaluation mode and moved to `device`. One that reads clouds computes in fp32 whatever is asked.
        cache: folder for the descriptor file. A complete file with the same key is returned at once, a partial one is
            continued; None keeps everything in memory.
        on_error: a file that cannot be used raises UnreadableImages after all others are done, or is left as a zero row.
        together: all processes of the torch.distributed group (`torchrun`) make this call; each describes its share of
            the images, the first one writes the file (`cache` is on a disk that all see), and all return everything.
        spec: how images reach the model; default its `input_spec`.
        compute: see `Compute`.
    Raises:
        UnreadableImages, also for a descriptor that is not finite; StaleDescriptors if a file under this key says it was
        made from something else; ValueError for `together` without a process group, an unknown precision, or a model of
        images where there are none.
    """
    lookup(dict.fromkeys(PRECISIONS), compute.get("precision", "fp32"), "precision")
    how = Compute(device=str(device), **compute)
    if together and not dist.is_initialized():
        raise ValueError("describe(together=True) needs torch.distributed.init_process_group() in every process.")
    rank, world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    samples = _Samples(model, manifest, spec or model.input_spec)
    parts = cache_key(model, manifest, how.precision, spec)
    with DescriptorStore.open(cache if rank == 0 else None, parts, samples.prints, model.dim, wait=True) as store:
        start_time = time.perf_counter()
        todo = _from_first(store.missing_rows()) if together else store.missing_rows()
        if len(todo):
            log.info("describing %d of %d images", len(todo[rank::world]), len(manifest))
            keep_freed_memory()
            allow_tf32(how.precision == "tf32")
            model.eval().to(device, memory_format=torch.channels_last)
            how = how.model_copy(update={"quiet": how.quiet or rank > 0})
            _fill(store, samples, todo[rank::world], how, world if together else 0)
        store.finish()
    if together and cache is not None:
        dist.barrier()  # the first process has written the file that the others now open
        if rank > 0:
            errors = store.errors
            with DescriptorStore.open(cache, parts, samples.prints, model.dim, wait=True) as store:
                store.errors |= errors
        dist.barrier()  # the first process would lock a file with gaps again, in its next call, before the others open it
    if store.errors and on_error == "raise":
        raise UnreadableImages(store.errors, len(manifest))
    seconds = time.perf_counter() - start_time if len(todo) else 0.0
    described = len(todo) - len(store.errors)
    return Descriptors(store.array, store.errors, store.path, seconds, described, parts["contents"])


def same_files(benchmark: Benchmark, scores: np.ndarray) -> str:
    """In words, how many queries are database images themselves, by their bytes or by a similarity of 1
    among their scores (Q, R), best first; '' when none is."""
    sides = (file_fingerprints(side.image_paths()) for side in (benchmark.database, benchmark.queries))
    database, queries = (prints[prints >= 0] for prints in sides)
    count = int(np.isin(queries, database).sum())
    sure = scores[:, -1] < 1 - 100 * SAME  # the model tells images apart
    alike = int((sure & (scores[:, 0] > 1 - SAME)).sum())
    how = "same files" if alike <= count else f"{count} same files, {alike} of similarity 1"
    fact = f"{max(count, alike)} of {len(benchmark.queries)} queries are database images themselves ({how}), which are found trivially"
    return f"{fact}: a recall over them says nothing." if count or alike else ""


def of_described(benchmark: Benchmark, database: Descriptors, queries: Descriptors) -> Benchmark:
    """The benchmark with cards that say which pictures were described."""
    both = hashlib.sha256(f"{database.contents} {queries.contents}".encode()).hexdigest()[:16]
    return replace(benchmark, protocols=tuple(protocol.of_images(both) for protocol in benchmark.protocols))


class _Samples(Dataset):
    """What a model reads of a manifest: row -> ((uint8 image or None, voxels or None), row), or (the error, row).

    Attributes:
        names: of every row the file that a message names.
        prints: int64 (N,) over the bytes of all files of a row.
    Raises:
        ValueError: when the model needs images and there are none.
    """

    def __init__(self, model: nn.Module, manifest: Manifest, spec: InputSpec):
        reads = getattr(model, "reads", ("image",))
        clouds = CloudSet(manifest, size=model.config.voxel_size) if "cloud" in reads else None
        self.submaps = SubmapSet(manifest, spec if "image" in reads else None, clouds)
        self.model, self.spec = model, spec
        self.names = clouds.paths if clouds else manifest.image_paths()
        self.files = [clouds.paths] if clouds else []
        self.files += [manifest.image_paths()] if "image" in reads else []
        self.prints = self.fingerprints()

    def fingerprints(self) -> np.ndarray:
        """As `prints`, of the files as they are now."""
        prints = [file_fingerprints(paths) for paths in self.files]
        return joint_fingerprints(*prints) if self.submaps.clouds else prints[0]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> tuple[tuple | ImageError | CloudError, int]:
        try:
            return self.submaps[row], row
        except (ImageError, CloudError) as error:
            return error, row

    def describer(self, how: Compute, count: int) -> Callable[[Tensor | None, Tensor | None], Tensor]:
        """The call from a batch to its descriptors (B, D), `count` samples to come."""
        model, spec, device = self.model, self.spec, how.device
        if self.submaps.clouds is not None:
            return lambda images, voxels: describe_batch(model, images, device, how.precision, spec, voxels)
        plain = lambda images, precision: describe_batch(model, images, device, precision, spec)
        own = spec == model.input_spec
        way = Describer(model, plain, device, how.precision, count) if own else partial(plain, precision=how.precision)
        return lambda images, voxels: way(images)


def _fill(store: DescriptorStore, samples: _Samples, todo: list[int], how: Compute, world: int) -> None:
    """Describe rows into a store; `world` is the number of processes that do so together, 0 for this one alone."""
    errors: dict[int, str] = {}
    batches = _batches(samples, todo, how, errors)
    for rows, descriptors in _from_all(batches, world) if world else batches:
        store.write(rows, descriptors)
    errors |= {row: f"{samples.names[row]}: {CHANGED}" for row in store.forget_changed(samples.fingerprints())}
    store.errors |= _union(errors, world) if world else errors


@torch.inference_mode()
def describe_batch(
    model: nn.Module,
    images: Tensor | None,
    device: str | torch.device,
    precision: str = "fp32",
    spec: InputSpec | None = None,
    voxels: Tensor | None = None,
) -> Tensor:
    """uint8 images (B, 3, H, W) of the model's input size, or voxels (N, 4), or both -> descriptors (B, D), float32 on the CPU.

    With voxels, in fp32 whatever the precision.
    """
    if images is not None:
        images = (spec or model.input_spec).normalise(images.to(device, non_blocking=True))
    if voxels is not None:
        return model(images, voxels.to(device)).float().cpu()
    with torch.autocast(torch.device(device).type, AUTOCAST.get(precision), enabled=precision in AUTOCAST):
        return model(images).float().cpu()


def _batches(samples: _Samples, todo: list[int], how: Compute, errors: dict[int, str]) -> Iterator:
    """Rows (B,) and their descriptors (B, D); what cannot be used goes into `errors`."""
    on_gpu = torch.device(how.device).type == "cuda"
    workers = how.workers if how.workers is not None else min(8, (os.cpu_count() or 1) - 1) if on_gpu else 0
    size = 1 if samples.spec.resize == "shorter_side" else how.batch_size
    loader = DataLoader(samples, size, sampler=todo, num_workers=workers, collate_fn=list, pin_memory=on_gpu)
    describer = samples.describer(how, len(todo))
    for batch in track(loader, "describing", quiet=how.quiet):
        errors.update({row: str(sample) for sample, row in batch if isinstance(sample, Exception)})
        readable = [(sample, row) for sample, row in batch if not isinstance(sample, Exception)]
        if not readable:
            continue
        rows = np.array([row for _, row in readable])
        descriptors = describer(*collate_submaps([sample for sample, _ in readable])).numpy()
        finite = np.isfinite(descriptors).all(1)
        if (zero := ~descriptors.any(1)).any():
            text = "%s: its descriptor is zero, alike to nothing; as are %d of this batch"
            log.warning(text, samples.names[rows[zero.argmax()]], zero.sum())
        errors.update({row: f"{samples.names[row]}: {NOT_FINITE}" for row in rows[~finite].tolist()})
        if finite.any():
            yield rows[finite], descriptors[finite]


def _from_first(value: list[int]) -> list[int]:
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _from_all(batches: Iterator, world: int) -> Iterator:
    """The batches of all processes, round by round until none has any left."""
    while True:
        batches_of_ranks: list[Any] = [None] * world
        dist.all_gather_object(batches_of_ranks, next(batches, None))
        if all(batch is None for batch in batches_of_ranks):
            return
        yield from (batch for batch in batches_of_ranks if batch is not None)


def _union(errors: dict[int, str], world: int) -> dict[int, str]:
    errors_of_ranks: list[Any] = [None] * world
    dist.all_gather_object(errors_of_ranks, errors)
    return {row: reason for one in errors_of_ranks for row, reason in one.items()}


def cache_key(model: nn.Module, manifest: Manifest, precision: str, spec: InputSpec | None = None) -> dict[str, Any]:
    """Everything a descriptor depends on: weights, transform, the images themselves, precision, code."""
    paths = manifest.image_paths() if "image_path" in manifest.table else []  # clouds alone have none
    return {
        "weights": weights_hash(model),
        "model": _model_text(model),
        "input": f"{spec or model.input_spec}",
        "images": manifest.list_hash,
        "contents": contents_hash(paths),
        "precision": precision,
        "code": code_hash(type(model)),
    } | ({"clouds": digest_file(Path(clouds_module.__file__))} if "cloud" in getattr(model, "reads", ()) else {})


def contents_hash(paths: Sequence[str]) -> str:
    """SHA-256 over the bytes of all these images, in their order."""
    return hashlib.sha256(file_fingerprints(paths).tobytes()).hexdigest()


def _model_text(model: nn.Module) -> str:
    config = getattr(model, "config", None)
    return config.model_dump_json() if hasattr(config, "model_dump_json") else type(model).__name__


@cache
def code_hash(model_class: type) -> str:
    """SHA-256 over the sources that a model's output depends on."""
    folders = {Path(inspect.getfile(model_class)).parent, Path(models.__file__).parent}
    own = (images_module.__file__, pixels_module.__file__, runtime_module.__file__, __file__)
    files = [*(file for folder in sorted(folders) for file in sorted(folder.glob("*.py"))), *map(Path, own)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
