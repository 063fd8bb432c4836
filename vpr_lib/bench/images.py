"""The rows of `vpr bench` about images: files to descriptors, and decoding alone."""

import copy
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1

from vpr_lib.bench.measure import Comparison, Size, Skipped, Way
from vpr_lib.data.catalogue import open_benchmark
from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.images import INTERPOLATIONS, InputSpec, load_image
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.readers.folders import folder_manifest
from vpr_lib.machine import cpu_flags, cpu_has_bf16, keep_freed_memory, return_freed_memory
from vpr_lib.models.cost import gflops
from vpr_lib.models.export import MOST_LOST, ShippedModel, export, missing_packages
from vpr_lib.models.zoo import build_model
from vpr_lib.paths import cache_root
from vpr_lib.results.parity import calibration_images, recall_change, recall_lost
from vpr_lib.retrieval.describe import describe, describe_batch
from vpr_lib.retrieval.metrics import recall_at_k
from vpr_lib.retrieval.runtime import Describer
from vpr_lib.retrieval.search import search
from vpr_lib.training.recipes import load_experiment, train, training_places

R50, R18 = "mixvpr_resnet50_4096", "mixvpr_resnet18_512"
SHARES = {"fp32": 0.95, "bf16": 0.9, "int8": 0.85}  # of the bare rate, to reach when describing
PLAIN = "PIL + v1 transforms, eager fp32, batch 16"


class PeersImages(Dataset):
    """PIL, then torchvision's first transforms: resize, ToTensor, Normalize."""

    def __init__(self, paths: list[str], spec: InputSpec):
        self.paths = paths
        self.transform = v1.Compose(
            [v1.Resize(spec.size, INTERPOLATIONS[spec.interpolation]), v1.ToTensor(), v1.Normalize(spec.mean, spec.std)]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor:
        return self.transform(Image.open(self.paths[row]).convert("RGB"))


@torch.inference_mode()
def peers_describe(model: nn.Module, paths: list[str], device: str = "cpu", workers: int = 0) -> np.ndarray:
    """Eager fp32 in batches of 16, the loop of most evaluation scripts."""
    loader = DataLoader(PeersImages(paths, model.input_spec), batch_size=16, num_workers=workers)
    return torch.cat([model(images.to(device)).cpu() for images in loader]).numpy()


def write_jpegs(folder: Path, count: int, view: int = 0, height: int = 480, width: int = 640) -> Manifest:
    """Generated JPEG files (quality 90, smooth shapes and grain); another `view` shows the same pictures shifted, noisier."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(number: int) -> None:
        shapes, grain = np.random.default_rng(number), np.random.default_rng((number, view))
        coarse = Image.fromarray(shapes.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        picture = np.roll(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16), 9 * view, 1)
        noisy = picture + grain.integers(-8 - 8 * view, 9 + 8 * view, picture.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=90)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # thousands of pictures for a GPU
        list(pool.map(write, range(count)))
    return folder_manifest(folder, "db", folder.name, "bench")


def cosine_parity(least: float) -> Callable[[np.ndarray, np.ndarray], tuple[dict[str, Any], bool]]:
    """Smallest cosine between the two ways' descriptors, and whether it is at least `least`."""

    def parity(theirs: np.ndarray, ours: np.ndarray) -> tuple[dict[str, Any], bool]:
        lengths = np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours, axis=1)
        cosine = float(((theirs * ours).sum(1) / lengths).min())
        return {"cosine": cosine}, cosine >= least

    return parity


def describe_cpu(size: Size, folder: Path, name: str, precision: str = "fp32") -> Comparison:
    if precision == "bf16" and not cpu_has_bf16():
        raise Skipped("not measured: this CPU has no bf16 instructions (avx512_bf16 or amx_bf16)")
    manifest = write_jpegs(folder / "images", size.images)
    theirs = build_model(name, seed=0).eval()
    ours = copy.deepcopy(theirs)
    settle(ours, manifest, precision)
    wide = "avx512f" in cpu_flags()
    return Comparison(
        f"describe on CPU, {name}, {precision}, JPEG to descriptor", f"{size.images} images",
        Way(PLAIN, lambda: peers_describe(theirs, manifest.image_paths()), return_freed_memory),
        Way(f"describe(precision='{precision}'), runtime chosen before", lambda: describe(ours, manifest, precision=precision, quiet=True).array),
        cosine_parity(0.99999 if precision == "fp32" else 0.9995), SHARES[precision],
        f"{precision} arithmetic of the convolutions" + ("" if wide else ", which AVX2 runs near its limit in the plain way too"),
        gflop=size.images * work_of(theirs), rate=precision,
    )  # fmt: skip


def settle(model: nn.Module, manifest: Manifest, precision: str) -> None:
    """Let `describe` choose its runtime for this network, as it does on a large set: the rows are about its speed after that."""
    images = torch.from_numpy(calibration_images(model, manifest, 16))
    plain = lambda images, precision: describe_batch(model, images, "cpu", precision)
    way = Describer(model.eval().to(memory_format=torch.channels_last), plain, "cpu", precision, 1_000_000)
    for _ in range(3):
        way(images)


def work_of(model: nn.Module) -> float:
    """GFLOP of one image."""
    return gflops(copy.deepcopy(model).to("meta"), torch.empty(1, 3, *model.input_spec.size, device="meta"))


def describe_export(size: Size, folder: Path, name: str, precision: Literal["fp32", "int8"]) -> Comparison:
    """An OpenVINO export; int8 is also judged by what it does to recall, here and on generated streets."""
    if missing := missing_packages("openvino", precision):
        raise Skipped(f"not measured: {', '.join(missing)} not installed, pip install 'vpr-workbook[ship]'")
    manifest = write_jpegs(folder / "images", size.images)
    queries = write_jpegs(folder / "queries", size.images, view=1)
    model = build_model(name, seed=0).eval()
    calibration = calibration_images(model, manifest, 16) if precision == "int8" else None
    export(model, name, folder / "export", "openvino", precision, calibration)
    shipped = ShippedModel(folder / "export")

    def parity(theirs: np.ndarray, ours: np.ndarray) -> tuple[dict[str, Any], bool]:
        if precision == "fp32":
            return cosine_parity(0.99999)(theirs, ours)
        positives = Positives.from_lists([[row] for row in range(size.images)], size.images)
        before = search(theirs, peers_describe(model, queries.image_paths()), 1)
        after = search(ours, describe(shipped, queries, quiet=True).array, 1)
        recalls = [recall_at_k(found.indices, positives, (1,))[1] for found in (before, after)]
        found = cosine_parity(0.0)(theirs, ours)[0] | {"recall@1 fp32": recalls[0], "recall@1 int8": recalls[1]}
        if not size.toy:
            return found, recalls[0] - recalls[1] <= MOST_LOST
        trained = trained_recall(folder / "trained")
        lost = max(recalls[0] - recalls[1], trained["trained fp32"] - trained["trained int8"])
        return found | trained, lost <= MOST_LOST

    bounds = {"fp32": "fp32 arithmetic of the convolutions",
              "int8": "int8 arithmetic; without VNNI (AVX2 only) an int8 product is two instructions, not a quarter of one"}  # fmt: skip
    return Comparison(
        f"shipped {precision} on CPU, {name}, JPEG to descriptor", f"{size.images} images",
        Way(PLAIN, lambda: peers_describe(model, manifest.image_paths()), return_freed_memory),
        Way(f"describe(OpenVINO {precision})", lambda: describe(shipped, manifest, quiet=True).array, keep_freed_memory),
        parity, SHARES[precision], bounds[precision], gflop=size.images * work_of(model), rate=precision,
    )  # fmt: skip


def trained_recall(folder: Path, name: str = "mixvpr_lite0_512", recipe: str = "lite0+toy") -> dict[str, float]:
    """Recall@1 of the network that the toy profile trains on its test streets, in fp32 and exported to int8.

    Calibrated on training places; the validation streets decide what stays in float. The workbook's training is used where
    there is one; otherwise the network is trained now, for a minute or two.
    """
    run = load_experiment(recipe).model_copy(update={"model": name})
    model, _ = train(run, run.folder_in(cache_root() / "toy"), "cpu")
    pictures = calibration_images(model, training_places(run).manifest)
    judge = recall_lost(model, open_benchmark(f"{run.train_set}_val"), np.array([], int))
    info = export(model, name, folder, "openvino", "int8", pictures, judge)
    change = recall_change(model, ShippedModel(folder), open_benchmark(run.train_set), (1,))
    return {
        "trained fp32": change["recall"]["1"],
        "trained int8": change["recall_exported"]["1"],
        "trained in int8": info.int8_share,
    }


def decode(size: Size, folder: Path) -> Comparison:
    paths, spec = write_jpegs(folder / "images", size.images).image_paths(), InputSpec()
    theirs = PeersImages(paths, spec)

    def parity(before: list[Tensor], after: list[Tensor]) -> tuple[dict[str, Any], bool]:
        levels = [_grey_levels(images, spec) for images in (torch.stack(before), torch.stack(after))]
        apart = int((levels[0] - levels[1]).abs().max())
        return {"grey levels apart": apart}, apart == 0

    return Comparison(
        "decode, resize to 320 x 320, normalise; 640 x 480 JPEG", f"{size.images} images",
        Way("PIL + v1 transforms", lambda: [theirs[row] for row in range(len(paths))], return_freed_memory),
        Way("load_image + normalise", lambda: [spec.normalise(load_image(path, spec)[None])[0] for path in paths], keep_freed_memory),
        parity, 2.3, "JPEG decoding (libjpeg-turbo)",
    )  # fmt: skip


def _grey_levels(images: Tensor, spec: InputSpec) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    return ((images * std + mean) * 255).round().to(torch.int16)
