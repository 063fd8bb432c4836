"""How close an exported model is to the one it was made from, and how fast: written beside the file."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.images import load_image
from vpr_lib.data.manifest import Manifest
from vpr_lib.machine import keep_freed_memory
from vpr_lib.models.cost import Latency, latency
from vpr_lib.models.export import ShippedModel, check_precision, export, missing_packages, read_export
from vpr_lib.paths import cache_root, write_text
from vpr_lib.results.statistics import mcnemar
from vpr_lib.retrieval.describe import describe
from vpr_lib.retrieval.metrics import first_hit_ranks
from vpr_lib.retrieval.protocol import evaluate
from vpr_lib.retrieval.search import search

CALIBRATION = 300  # images that int8 is calibrated on


def calibration_rows(manifest: Manifest, count: int = CALIBRATION) -> np.ndarray:
    """Up to `count` rows evenly spread over a manifest, never more than half: what int8 loses is measured on the rest."""
    return np.unique(np.linspace(0, len(manifest) - 1, max(1, min(count, len(manifest) // 2))).round().astype(int))


def calibration_images(model: nn.Module, manifest: Manifest, count: int = CALIBRATION) -> np.ndarray:
    """The images of `calibration_rows`, uint8 (N, 3, height, width) of the model's input size.

    Raises:
        ImageError: for one that cannot be read.
    """
    paths = manifest.image_paths()
    return np.stack(
        [load_image(paths[row], model.input_spec).contiguous().numpy() for row in calibration_rows(manifest, count)]
    )


def recall_lost(model: nn.Module, benchmark: Benchmark, calibrated: np.ndarray) -> Callable[[nn.Module], float]:
    """A judge of exports: the share of R@1 that one loses on images it was not calibrated on, plus two standard errors, or
    what the mean cosine of their descriptors lacks to 1 where that is more.

    So little is lost in 97 of 100 such sets of queries; with few queries only an export that changes hardly any answer passes.
    Descriptors that moved far find as much in one set of streets by chance, and less in the next.

    Args:
        calibrated: rows of the database that were; they are taken out of it.
    """
    kept = np.setdiff1d(np.arange(len(benchmark.database)), calibrated)
    positives = benchmark.protocols[0].positives
    positives = positives.where(np.isin(positives.indices, kept))

    def described(network: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        database, queries = (describe(network, m, quiet=True).array for m in (benchmark.database, benchmark.queries))
        nearest = kept[search(database[kept], queries, 1).indices]
        return np.concatenate([database[kept], queries]), (first_hit_ranks(nearest, positives) == 1)[
            positives.counts > 0
        ]

    descriptors, before = described(model)

    def lost(shipped: nn.Module) -> float:
        moved, after = described(shipped)
        recall = before.mean() - after.mean() + 2 * np.sqrt((before != after).sum()) / len(before)
        return float(max(recall, 1 - _cosines(descriptors, moved).mean()))

    return lost


def nearest_lost(model: nn.Module, manifest: Manifest, calibrated: np.ndarray) -> Callable[[nn.Module], float]:
    """A judge where nobody knows what is right: the share of images whose nearest among the others is another one.

    R@1 cannot lose more than that. Only images that were not calibrated on are asked; three are the least.
    """
    kept = np.setdiff1d(np.arange(len(manifest)), calibrated)

    def nearest(network: nn.Module) -> np.ndarray:
        rows = describe(network, manifest, quiet=True).array
        found = search(rows, rows[kept], 2).indices
        return np.where(found[:, 0] == kept, found[:, 1], found[:, 0])

    before = nearest(model)
    return lambda shipped: float(np.mean(nearest(shipped) != before))


def measure_speed(
    model: nn.Module, shipped: ShippedModel, batches: Sequence[int] = (1, 16), seconds: float = 2.0
) -> list[dict]:
    """Images per second on the CPU, the model in torch beside its export, in one process with as many threads.

    "torch, plain" is what a peer would write: contiguous fp32 and the allocator as it comes. "torch, ours" keeps freed
    memory and channels last, as `describe` does; once it was used in this process, "plain" profits from the kept memory.

    Returns:
        rows with runner, batch, images_per_s, median_ms, p90_ms, and `ratio` to "torch, plain" of the same batch.
    """
    plain = {b: torch.randint(0, 256, (b, 3, *model.input_spec.size), dtype=torch.uint8) for b in batches}
    rows = []

    def measure(runner: str, call) -> None:
        for b in batches:
            with torch.inference_mode():
                timed: Latency = latency(lambda b=b: call(plain[b]), b, seconds)
            rows.append({"runner": runner, "batch": b, "images_per_s": timed.images_per_s, "median_ms": timed.median_ms,
                         "p90_ms": timed.p90_ms})  # fmt: skip

    model.eval().cpu().to(memory_format=torch.contiguous_format)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.input_spec.mean, model.input_spec.std))
    measure("torch, plain", lambda images: model((images.float() / 255 - mean) / std))
    keep_freed_memory()
    model.to(memory_format=torch.channels_last)
    measure("torch, ours", lambda images: model(model.input_spec.normalise(images)))
    measure(f"{shipped.config.format} {shipped.runs_in}", lambda images: shipped(images))
    base = {row["batch"]: row["images_per_s"] for row in rows[: len(batches)]}
    return [row | {"ratio": row["images_per_s"] / base[row["batch"]]} for row in rows]


def cosines(model: nn.Module, shipped: ShippedModel, manifest: Manifest) -> np.ndarray:
    """Cosine between a model's descriptor and its export's for every image, (N,)."""
    return _cosines(*(describe(m, manifest, quiet=True).array for m in (model, shipped)))


def _cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return (ours * theirs).sum(1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1))


def recall_change(
    model: nn.Module, shipped: ShippedModel, benchmark: Benchmark, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, Any]:
    """Recall of both on a benchmark, with the exact McNemar test at k = 1 and the cosines of all its descriptors."""
    before, after = (evaluate(m, benchmark, cache_root() / "descriptors", ks, quiet=True) for m in (model, shipped))
    first, second = (e.scores[0].first_hits[e.scores[0].counted] == 1 for e in (before, after))
    test = mcnemar(first, second)
    pairs = [(before.database, after.database), (before.queries, after.queries)]
    cosine = np.concatenate([_cosines(a.array, b.array) for a, b in pairs])
    return {
        "dataset": benchmark.name, "protocol": before.scores[0].protocol.card.name, "queries": len(first),
        "recall": {str(k): v for k, v in before.recall.items()},
        "recall_exported": {str(k): v for k, v in after.recall.items()},
        "recall_change": {str(k): after.recall[k] - v for k, v in before.recall.items()},
        "only_before": test.only_first, "only_after": test.only_second, "p_value": test.p_value,
        "cosine_mean": float(cosine.mean()), "cosine_min": float(cosine.min()),
    }  # fmt: skip


def write_parity(
    model: nn.Module,
    folder: Path,
    images: Manifest | None = None,
    benchmark: Benchmark | None = None,
    seconds: float = 2.0,
) -> dict[str, Any]:
    """Measure an export against its model and add the result to its `export.json`; returns the whole content.

    Args:
        images: compared by cosine when there is no benchmark.
        benchmark: recall before and after, with the cosines of its images.
        seconds: of timing per runner and batch size.
    """
    shipped = ShippedModel(folder)
    report: dict[str, Any] = {"runs_in": shipped.runs_in, "threads": torch.get_num_threads()}
    report["speed"] = measure_speed(model, shipped, seconds=seconds)
    if benchmark is not None:
        report |= recall_change(model, shipped, benchmark)
    elif images is not None:
        cosine = cosines(model, shipped, images)
        report |= {"images": len(cosine), "cosine_mean": float(cosine.mean()), "cosine_min": float(cosine.min())}
    content = read_export(folder) | {"parity": report}
    write_text(Path(folder) / "export.json", json.dumps(content, indent=1))
    return content


def ship_table(
    model: nn.Module,
    name: str,
    folder: Path,
    runtimes: Sequence[str],
    benchmark: Benchmark,
    calibration: int = CALIBRATION,
    seconds: float = 1.0,
) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Export a model for every runtime, calibrated on the benchmark's database, and measure each on the benchmark.

    Args:
        runtimes: formats and precisions, 'openvino-int8'.
    Returns:
        one row per runtime, and {runtime: packages that are not installed} for those left out.
    """
    rows, left_out = [], {}
    for runtime in runtimes:
        format, _, precision = runtime.partition("-")
        check_precision(format, precision)
        if missing := missing_packages(format, precision):
            left_out[runtime] = missing
            continue
        images, judge = None, None
        if precision == "int8":
            images = calibration_images(model, benchmark.database, calibration)
            judge = recall_lost(model, benchmark, calibration_rows(benchmark.database, calibration))
        info = export(model, name, Path(folder) / runtime, format, precision, images, judge)
        parity = write_parity(model, Path(folder) / runtime, benchmark=benchmark, seconds=seconds)["parity"]
        speed = {(row["runner"], row["batch"]): row for row in parity["speed"]}
        ours, plain = (speed[runner, 16] for runner in (f"{format} {parity['runs_in']}", "torch, plain"))
        rows.append({
            "model": name, "runtime": runtime, "runs in": parity["runs_in"], "MB": info.bytes / 1e6,
            "images/s, batch 16": ours["images_per_s"], "torch fp32 images/s": plain["images_per_s"], "ratio": ours["ratio"],
            "cosine mean": parity["cosine_mean"], "cosine least": parity["cosine_min"],
            "R@1": 100 * parity["recall_exported"]["1"], "change": 100 * parity["recall_change"]["1"], "p": parity["p_value"],
        })  # fmt: skip
    return rows, left_out
