"""The rows of `vpr bench` that need a CUDA device: describe, search, and training steps of MixVPR."""

import copy
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms as v1

from vpr_lib.bench.images import R50, PeersImages, cosine_parity, peers_describe, write_jpegs
from vpr_lib.bench.measure import Comparison, Size, Skipped, Way
from vpr_lib.bench.ranking import TOP_K, same_ranking, unit_rows
from vpr_lib.data.images import InputSpec
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.places import PlaceBatches, Places, PlaceSampler
from vpr_lib.losses.metric import MetricLoss
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.approximate import flat_index, gpus
from vpr_lib.retrieval.describe import describe
from vpr_lib.retrieval.search import search
from vpr_lib.training.fit import make_fabric
from vpr_lib.training.metric_learning import AUGMENTATIONS
from vpr_lib.training.optimisation import FitSettings, make_optimizer

IMAGES_PER_PLACE = 4
SETTINGS = dict(epochs=1, optimizer="sgd", learning_rate=0.005)
WORKERS = min(16, (os.cpu_count() or 2) - 1)


def _gpu() -> str:
    if not torch.cuda.is_available():
        raise Skipped("not measured: no CUDA device here")
    return "cuda"


def describe_gpu(size: Size, folder: Path) -> Comparison:
    device = _gpu()
    manifest = write_jpegs(folder / "images", size.gpu_images)
    theirs = build_model(R50, seed=0).eval().to(device)
    ours = copy.deepcopy(theirs)
    return Comparison(
        f"describe on GPU, {R50}, JPEG to descriptor", f"{size.gpu_images} images",
        Way("PIL workers, eager fp32, batch 16", lambda: peers_describe(theirs, manifest.image_paths(), device, WORKERS)),
        Way("describe(precision='bf16')", lambda: describe(ours, manifest, None, device, precision="bf16", batch_size=64, quiet=True).array),
        cosine_parity(0.9995), 5.0, "JPEG decoding in the loader processes", torch.cuda.synchronize,
    )  # fmt: skip


def search_faiss(size: Size, folder: Path) -> Comparison:
    device = _gpu()
    if device == "cuda" and not gpus():
        raise Skipped("not measured: this faiss has no GPU; pip uninstall faiss-cpu, pip install faiss-gpu")
    database, queries = (unit_rows(n, 4096, n) for n in (size.database, size.queries))
    index, on_device = flat_index(database), torch.from_numpy(database).to(device)
    return Comparison(
        "exact search on GPU beside faiss-gpu, 4096-d", f"{size.queries:,} x {size.database:,}, top {TOP_K}",
        Way("faiss-gpu flat index, built before", lambda: index.search(queries, TOP_K)[1]),
        Way("search()", lambda: search(on_device, queries, TOP_K, device=device).indices), same_ranking(database, queries),
        None, "both multiply; ours lists candidates in fp16 and decides in fp32", torch.cuda.synchronize,
    )  # fmt: skip


def search_gpu(size: Size, folder: Path) -> Comparison:
    device = _gpu()
    database, queries = (torch.from_numpy(unit_rows(n, 4096, n)).to(device) for n in (size.database, size.queries))

    def peers() -> np.ndarray:
        return torch.cat([(part @ database.T).topk(TOP_K).indices for part in queries.split(512)]).cpu().numpy()

    return Comparison(
        "exact search on GPU, 4096-d", f"{size.queries:,} x {size.database:,}, top {TOP_K}",
        Way("fp32 matmul + topk in chunks", peers), Way("search()", lambda: search(database, queries, TOP_K, device=device).indices),
        same_ranking(database, queries), 2.0, "fp16 matrix product, reading its scores", torch.cuda.synchronize,
        2e-9 * size.queries * size.database * 4096,
    )  # fmt: skip


class PeersPlaces(PeersImages):
    """PIL, RandAugment on the PIL image, then resize, ToTensor, Normalize; with the place of each image."""

    def __init__(self, manifest: Manifest, rows: np.ndarray, labels: np.ndarray, spec: InputSpec, augment: bool):
        paths = manifest.image_paths()
        super().__init__([paths[row] for row in rows], spec)
        self.labels = labels[rows]
        if augment:
            bilinear = v1.InterpolationMode.BILINEAR
            self.transform.transforms.insert(0, v1.RandAugment(num_ops=3, magnitude=9, interpolation=bilinear))

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return super().__getitem__(row), int(self.labels[row])


def peers_training(model: nn.Module, batches: Iterable, device: str) -> list[float]:
    """Steps as the published training scripts make them: fp16 autocast, contiguous images, a gradient scaler."""
    model, criterion = copy.deepcopy(model).to(device).train(), MetricLoss()
    optimizer = make_optimizer(model, FitSettings(**SETTINGS))
    scaler, losses = torch.amp.GradScaler(device, enabled=device == "cuda"), []
    for images, labels in batches:
        with torch.autocast(device, torch.float16, enabled=device == "cuda"):
            descriptors = model(images.to(device))
        loss = criterion(descriptors.float(), labels.to(device))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def our_training(model: nn.Module, batches: Iterable, device: str) -> list[float]:
    """The same steps as `fit` makes them: bf16, channels last, uint8 to the device and normalised there."""
    settings = FitSettings(**SETTINGS, precision="bf16" if device == "cuda" else "fp32")
    fabric, spec, criterion = make_fabric(settings, device), model.input_spec, MetricLoss()
    network = copy.deepcopy(model).to(memory_format=torch.channels_last)
    network, optimizer = fabric.setup(network, make_optimizer(network, settings))
    network.train()
    losses = []
    for pixels, labels in batches:
        images = spec.normalise(pixels.to(fabric.device, non_blocking=True))
        loss = criterion(network(images).float(), labels.to(fabric.device, non_blocking=True))
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def train_gpu(size: Size, folder: Path) -> Comparison:
    device = _gpu()
    batch = size.gpu_places * IMAGES_PER_PLACE
    manifest = write_jpegs(folder / "images", batch * size.gpu_steps)
    numbers = [f"{row // IMAGES_PER_PLACE:06d}" for row in range(len(manifest))]
    table = manifest.table.assign(place_id=numbers, city="bench")
    places = Places.from_manifest(Manifest(table, manifest.root), IMAGES_PER_PLACE)
    sampler = PlaceSampler(places, size.gpu_places, IMAGES_PER_PLACE, order="shuffled")
    model = build_model(R50, seed=0)

    def theirs(augment: bool) -> DataLoader:
        rows = np.concatenate([rows.ravel() for rows in sampler.epoch(0)])
        images = PeersPlaces(manifest, rows, places.labels, model.input_spec, augment)
        return DataLoader(images, batch, num_workers=WORKERS, pin_memory=device == "cuda")

    def ours(augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
        augmentation = AUGMENTATIONS["randaugment"]() if augment else None
        return PlaceBatches(sampler, model.input_spec, augmentation, WORKERS).epoch(0)

    def parity(before: list[float], after: list[float]) -> tuple[dict[str, Any], bool]:
        """Loss curves on the same batches without augmentation, whose draws differ."""
        curves = [peers_training(model, theirs(False), device), our_training(model, ours(False), device)]
        apart = max(abs(a - b) / a for a, b in zip(*curves))
        return {
            "loss first": curves[0][0],
            "loss last": curves[0][-1],
            "ours last": curves[1][-1],
            "largest relative gap": apart,
        }, apart < 0.03

    return Comparison(
        f"training steps on GPU, {R50}, {size.gpu_places} x {IMAGES_PER_PLACE} images", f"{size.gpu_steps} steps of {batch} images",
        Way("PIL + RandAugment on workers, fp16 autocast, eager NCHW", lambda: peers_training(model, theirs(True), device)),
        Way("PlaceBatches, bf16, channels last", lambda: our_training(model, ours(True), device)),
        parity, 1.8, "decoding and augmentation in the loader processes, or the convolutions: see CPU time", torch.cuda.synchronize,
    )  # fmt: skip
