"""What `vpr bench` compares: each row builds both ways on the same weights and generated inputs. Sizes: `Size`."""

import copy
import functools
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1

from vpr_lib.bench.measure import Comparison, Skipped, Way
from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.images import INTERPOLATIONS, InputSpec, load_image
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.readers.folders import folder_manifest
from vpr_lib.machine import cpu_has_bf16, keep_freed_memory, return_freed_memory
from vpr_lib.models.export import ShippedModel, export
from vpr_lib.models.minkloc import CloudBranch
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.describe import describe
from vpr_lib.retrieval.metrics import first_hit_ranks, recall_at_k, recall_from_ranks
from vpr_lib.retrieval.protocol import KS
from vpr_lib.retrieval.search import search

R50, R18 = "mixvpr_resnet50_4096", "mixvpr_resnet18_512"
TOP_K = 25


@dataclass(frozen=True)
class Size:
    """How much each row works through, and how often."""

    images: int = 32
    gpu_images: int = 2048
    queries: int = 1024  # search time is linear in them
    database: int = 84_000
    scored: int = 8000
    clouds: int = 32
    repeats: int = 5


NORMAL = Size()
QUICK = Size(images=3, gpu_images=64, queries=64, database=2000, scored=400, clouds=4, repeats=1)


# ---- images: files to descriptors


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
    for number in range(count):
        shapes, grain = np.random.default_rng(number), np.random.default_rng((number, view))
        coarse = Image.fromarray(shapes.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        picture = np.roll(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16), 9 * view, 1)
        noisy = picture + grain.integers(-8 - 8 * view, 9 + 8 * view, picture.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=90)
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
        raise Skipped("this CPU has no bf16 instructions (avx512_bf16 or amx_bf16)")
    manifest = write_jpegs(folder / "images", size.images)
    theirs = build_model(name, seed=0).eval()
    ours = copy.deepcopy(theirs)
    return Comparison(
        f"describe on CPU, {name}, {precision}, JPEG to descriptor", f"{size.images} images",
        Way("PIL + v1 transforms, eager fp32, batch 16", lambda: peers_describe(theirs, manifest.image_paths()), return_freed_memory),
        Way(f"describe(precision='{precision}')", lambda: describe(ours, manifest, precision=precision, quiet=True).array),
        cosine_parity(0.99999 if precision == "fp32" else 0.9995), 3.0 if precision == "fp32" else 6.0,
        f"{precision} arithmetic of the convolutions",
    )  # fmt: skip


def describe_int8(size: Size, folder: Path) -> Comparison:
    if missing := [name for name in ("onnx", "openvino", "nncf") if importlib.util.find_spec(name) is None]:
        raise Skipped(f"{', '.join(missing)} not installed: pip install 'vpr-workbook[ship]'")
    manifest = write_jpegs(folder / "images", size.images)
    queries = write_jpegs(folder / "queries", size.images, view=1)
    model = build_model(R50, seed=0).eval()
    calibration = np.stack(
        [load_image(path, model.input_spec).contiguous().numpy() for path in manifest.image_paths()[:16]]
    )
    export(model, R50, folder / "export", "openvino", "int8", calibration)
    shipped = ShippedModel(folder / "export")

    def parity(theirs: np.ndarray, ours: np.ndarray) -> tuple[dict[str, Any], bool]:
        positives = Positives.from_lists([[row] for row in range(size.images)], size.images)
        before = search(theirs, peers_describe(model, queries.image_paths()), 1)
        after = search(ours, describe(shipped, queries, quiet=True).array, 1)
        recalls = [recall_at_k(found.indices, positives, (1,))[1] for found in (before, after)]
        found = cosine_parity(0.0)(theirs, ours)[0] | {"recall@1 fp32": recalls[0], "recall@1 int8": recalls[1]}
        return found, recalls[1] >= recalls[0] - 0.01

    return Comparison(
        f"shipped int8 on CPU, {R50}, JPEG to descriptor", f"{size.images} images",
        Way("PIL + v1 transforms, eager fp32, batch 16", lambda: peers_describe(model, manifest.image_paths()), return_freed_memory),
        Way("describe(OpenVINO int8)", lambda: describe(shipped, manifest, quiet=True).array, keep_freed_memory),
        parity, 10.0, "int8 arithmetic; without VNNI (AVX2 only) an int8 product is two instructions, not a quarter of one",
    )  # fmt: skip


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
        parity, 2.0, "JPEG decoding (libjpeg-turbo)",
    )  # fmt: skip


def _grey_levels(images: Tensor, spec: InputSpec) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    return ((images * std + mean) * 255).round().to(torch.int16)


# ---- search and scoring


def unit_rows(count: int, width: int, seed: int) -> np.ndarray:
    """Random descriptors, float32 (count, width), unit norm; made in blocks to stay within their own memory."""
    rng, rows = np.random.default_rng(seed), np.empty((count, width), np.float32)
    for start in range(0, count, 8192):
        block = rows[start : start + 8192]
        rng.standard_normal(out=block, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def same_ranking(theirs: np.ndarray, ours: np.ndarray) -> tuple[dict[str, Any], bool]:
    """Share of queries whose lists hold the same images, and of those in the same order (rounding swaps near ties)."""
    sets = float((np.sort(theirs, 1) == np.sort(ours, 1)).all(1).mean())
    return {f"same top-{TOP_K}": sets, "same order": float((theirs == ours).all(1).mean())}, sets >= 0.999


def search_cpu(size: Size, folder: Path, width: int) -> Comparison:
    database, queries = unit_rows(size.database, width, 0), unit_rows(size.queries, width, 1)
    index = faiss.IndexFlatL2(width)
    index.add(database)
    return Comparison(
        f"exact search on CPU, {width}-d", f"{size.queries:,} x {size.database:,}, top {TOP_K}",
        Way("faiss IndexFlatL2, built before", lambda: index.search(queries, TOP_K)[1], _faiss_threads),
        Way("search()", lambda: search(database, queries, TOP_K).indices),
        same_ranking, 2.5 if cpu_has_bf16() else None, "fp32 matrix product; faiss keeps a second copy of the database",
    )  # fmt: skip


def _faiss_threads() -> None:
    faiss.omp_set_num_threads(torch.get_num_threads())


def scoring(size: Size, folder: Path) -> Comparison:
    rng, database = np.random.default_rng(0), 84_000
    lists = [np.unique(rng.integers(0, database, rng.integers(1, 60))) for _ in range(size.scored)]
    ranking = rng.integers(0, database, (size.scored, max(KS)))
    for query in range(0, size.scored, 2):  # half of the queries have a hit somewhere
        ranking[query, rng.integers(0, max(KS))] = rng.choice(lists[query])
    positives = Positives.from_lists(lists, database)

    def peers() -> dict[int, float]:
        correct = np.zeros(len(KS))
        for query, ranked in enumerate(ranking):
            for position, k in enumerate(KS):
                if np.any(np.isin(ranked[:k], lists[query])):
                    correct[position:] += 1
                    break
        return dict(zip(KS, (correct / len(ranking)).tolist()))

    def parity(theirs: dict[int, float], ours: dict[int, float]) -> tuple[dict[str, Any], bool]:
        apart = max(abs(theirs[k] - ours[k]) for k in KS)
        return {"recall apart": apart, "recall@100": ours[100]}, apart < 1e-12

    return Comparison(
        "score a ranking", f"{size.scored:,} queries x {max(KS)}", Way("Python loop with isin", peers),
        Way("first_hit_ranks", lambda: recall_from_ranks(first_hit_ranks(ranking, positives), KS)), parity, 5.0,
        "binary searches in the sorted pairs, one per ranked image",
    )  # fmt: skip


# ---- clouds


def street_cloud(seed: int, points: int = 4096) -> Tensor:
    """Voxels int (N, 3) of 0.01 from a ground plane, two walls and poles in [-1, 1]: the make-up of an Oxford submap."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-1, 1, (points, 3))
    part = rng.choice(4, points, p=(0.3, 0.3, 0.3, 0.1))
    xyz[part == 0, 2] = -0.3
    xyz[part == 1, 1], xyz[part == 2, 1] = rng.uniform(0.3, 0.6), -rng.uniform(0.3, 0.6)
    poles = rng.uniform(-0.8, 0.8, (8, 2))
    xyz[part == 3, :2] = poles[rng.integers(0, 8, (part == 3).sum())]
    noisy = xyz + rng.normal(0, 0.004, xyz.shape)
    return torch.from_numpy(np.unique(np.floor(noisy / 0.01).astype(np.int64), axis=0))


def clouds(size: Size, folder: Path) -> Comparison:
    torch.manual_seed(0)
    branch = CloudBranch().eval()
    single = [nn.functional.pad(street_cloud(seed), (1, 0)) for seed in range(size.clouds)]
    batch = torch.cat([nn.functional.pad(rows[:, 1:], (1, 0), value=cloud) for cloud, rows in enumerate(single)])

    def run(batches: list[Tensor]) -> np.ndarray:
        with torch.inference_mode():
            return torch.cat([branch(voxels) for voxels in batches]).numpy()

    return Comparison(
        "sparse cloud branch", f"{size.clouds} clouds, {len(batch):,} voxels",
        Way("one cloud after the other", lambda: run(single), return_freed_memory), Way("one batch", lambda: run([batch]), keep_freed_memory),
        cosine_parity(0.99999), 1.5, "gathering and adding rows (memory), one product per kernel offset",
    )  # fmt: skip


# ---- GPU


def _gpu() -> str:
    if not torch.cuda.is_available():
        raise Skipped("no CUDA device here")
    return "cuda"


def describe_gpu(size: Size, folder: Path) -> Comparison:
    device = _gpu()
    manifest = write_jpegs(folder / "images", size.gpu_images)
    theirs, workers = build_model(R50, seed=0).eval().to(device), min(8, (os.cpu_count() or 1) - 1)
    ours = copy.deepcopy(theirs)
    return Comparison(
        f"describe on GPU, {R50}, JPEG to descriptor", f"{size.gpu_images} images",
        Way("PIL workers, eager fp32, batch 16", lambda: peers_describe(theirs, manifest.image_paths(), device, workers)),
        Way("describe(precision='bf16')", lambda: describe(ours, manifest, None, device, "bf16", 64, quiet=True).array),
        cosine_parity(0.9995), 5.0, "JPEG decoding in the loader processes", torch.cuda.synchronize,
    )  # fmt: skip


def search_gpu(size: Size, folder: Path) -> Comparison:
    device = _gpu()
    database, queries = (torch.from_numpy(unit_rows(n, 4096, n)).to(device) for n in (size.database, size.queries))

    def peers() -> np.ndarray:
        return torch.cat([(part @ database.T).topk(TOP_K).indices for part in queries.split(512)]).cpu().numpy()

    return Comparison(
        "exact search on GPU, 4096-d", f"{size.queries:,} x {size.database:,}, top {TOP_K}",
        Way("fp32 matmul + topk in chunks", peers), Way("search()", lambda: search(database, queries, TOP_K, device=device).indices),
        same_ranking, 2.0, "fp32 matrix product", torch.cuda.synchronize,
    )  # fmt: skip


ROWS: dict[str, Callable[[Size, Path], Comparison]] = {
    "describe_r50": functools.partial(describe_cpu, name=R50),
    "describe_r18": functools.partial(describe_cpu, name=R18),
    "describe_r50_bf16": functools.partial(describe_cpu, name=R50, precision="bf16"),
    "describe_int8": describe_int8,
    "decode": decode,
    "search_4096": functools.partial(search_cpu, width=4096),
    "search_512": functools.partial(search_cpu, width=512),
    "scoring": scoring,
    "clouds": clouds,
    "gpu_describe": describe_gpu,
    "gpu_search": search_gpu,
}
