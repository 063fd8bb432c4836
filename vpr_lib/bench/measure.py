"""Two ways to do one thing, run in turns in one process: medians, their ratio, and how far the results agree."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vpr_lib.machine import cpu_has_bf16
from vpr_lib.retrieval.screen import int8_levels, whole_products

PRODUCT = 1536


@dataclass(frozen=True)
class Size:
    """How much each row works through, and how often."""

    images: int = 32
    gpu_images: int = 2048
    gpu_places: int = 120  # per training step, four images each
    gpu_steps: int = 6
    gpu_batch: int = 128  # images of a forward pass
    queries: int = 1024  # search time is nearly linear in them
    database: int = 84_000
    scored: int = 8000
    clouds: int = 32
    repeats: int = 5
    toy: bool = True  # measure what int8 does to the recall of a trained network, too


SIZES = {
    "normal": Size(),
    "quick": Size(images=3, gpu_images=64, gpu_places=8, gpu_steps=2, gpu_batch=4, queries=300, database=20_000, scored=400, clouds=4,
                  repeats=1, toy=False),
    "gpu": Size(gpu_images=1536, gpu_steps=3, queries=8000, repeats=1),  # all rows of a GPU in a good minute
    "full": Size(images=64, gpu_images=8192, gpu_steps=12, queries=8000),
}  # fmt: skip


class Skipped(Exception):
    """This machine cannot run a comparison; the message says what is missing."""


@dataclass(frozen=True)
class Way:
    """One way: in words, the call, and what to switch before it (allocator settings, thread counts)."""

    says: str
    call: Callable[[], Any]
    before: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Comparison:
    """`parity(result of peers, result of ours)` gives the numbers to show and whether they are good enough."""

    what: str
    size: str
    peers: Way
    ours: Way
    parity: Callable[[Any, Any], tuple[dict[str, Any], bool]]
    target: float | None  # the ratio to reach, with `rate` the share of it; None where none is set for this machine
    bound: str  # what limits ours
    wait: Callable[[], object] = lambda: None  # for the GPU
    gflop: float | None = None  # arithmetic of one call, to put ours beside what the machine can do
    rate: str | None = (
        None  # a key of `bare_products`: the row is judged by its share of that bare rate, not by the ratio
    )


def compare(comparison: Comparison, repeats: int, products: dict[str, Callable] | None = None) -> dict[str, Any]:
    """Run both ways once to warm up and to compare results, then `repeats` times each, taking turns at going first.

    Returns:
        median wall seconds of both; `ratio` of the medians with the lowest and highest of the single rounds;
        `cpu_ratio` of the medians of processor time, which other programs on the machine disturb less; megabytes that
        the warm-up took above what was held before (Linux); parity; with `bare_products`, the share of the bare rate that
        ours reaches: the median over the rounds, the rate measured for half a second just before and after, so that what
        else runs on the machine slows both; whether the target was reached.
    """
    ways = {"peers": comparison.peers, "ours": comparison.ours}
    results, extra_mb, gpu_mb = {}, {}, {}
    for name, way in ways.items():
        way.before()
        held = _reset_peak_mb()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        results[name] = way.call()
        comparison.wait()
        gpu_mb[name] = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
        extra_mb[name] = None if held is None else round(max(0.0, _status_mb("VmHWM") - held), 1)
    parity, same = comparison.parity(results["peers"], results["ours"])
    results.clear()
    bare = (products or {}).get(comparison.rate or "")
    wall, cpu, bare_rates = {"peers": [], "ours": []}, {"peers": [], "ours": []}, []
    for turn in range(repeats):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            around = [sustained_rate(bare)] if bare and name == "ours" else []
            ways[name].before()
            start, cpu_start = time.perf_counter(), time.process_time()
            ways[name].call()
            comparison.wait()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
            bare_rates += [statistics.mean([*around, sustained_rate(bare)])] if around else []
    rounds = [peers / ours for peers, ours in zip(wall["peers"], wall["ours"])]
    medians = {name: statistics.median(times) for name, times in wall.items()}
    ratio = medians["peers"] / medians["ours"]
    gflop_per_s = comparison.gflop and comparison.gflop / medians["ours"]
    shares = [comparison.gflop / seconds / rate for seconds, rate in zip(wall["ours"], bare_rates)]
    share = statistics.median(shares) if shares else None
    judged = ratio if comparison.rate is None else share
    return {
        "what": comparison.what, "size": comparison.size, "peers": comparison.peers.says, "ours": comparison.ours.says,
        "repeats": repeats, "peers_s": medians["peers"], "ours_s": medians["ours"], "ratio": ratio,
        "ratio_low": min(rounds), "ratio_high": max(rounds),
        "cpu_ratio": statistics.median(cpu["peers"]) / max(1e-9, statistics.median(cpu["ours"])),
        "peers_extra_mb": extra_mb["peers"], "ours_extra_mb": extra_mb["ours"],
        "peers_gpu_mb": gpu_mb["peers"], "ours_gpu_mb": gpu_mb["ours"], "parity": parity, "same": same,
        "target": comparison.target, "reached": same and (judged or 0.0) >= (comparison.target or 0.0),
        "bound": comparison.bound, "gflop_per_s": gflop_per_s, "rate": comparison.rate, "share": share,
    }  # fmt: skip


def bare_products() -> dict[str, Callable[[], object]]:
    """Matrix products of PRODUCT numbers a side by precision, with as many threads: the roof over a row's arithmetic.

    fp32 and (where the CPU has it) bf16 are torch's, int8 is what the search uses.
    """
    factor = torch.rand(PRODUCT, PRODUCT)
    products: dict[str, Callable[[], object]] = {"fp32": lambda: factor @ factor.T}
    if cpu_has_bf16():
        half = factor.bfloat16()
        products["bf16"] = lambda: half @ half.T
    if levels := int8_levels():
        codes = torch.ones(PRODUCT, PRODUCT, dtype=torch.int8)
        packed, steps = torch.ops.onednn.qlinear_prepack(codes, None), torch.ones(PRODUCT)
        products["int8"] = lambda: whole_products(codes, levels, packed, steps)
    return products


def sustained_rate(product: Callable[[], object], seconds: float = 0.5) -> float:
    """10^9 operations per second of one of `bare_products`, repeated for at least that long."""
    product()
    start, calls = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds or not calls:
        product()
        calls += 1
    return 2e-9 * PRODUCT**3 * calls / passed


def machine() -> dict[str, Any]:
    """What the numbers were measured on, with the load that other programs made."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "cpu_bf16": cpu_has_bf16(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None, "torch": torch.__version__,
        "load_1min": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }  # fmt: skip


def _reset_peak_mb() -> float | None:
    """Set the peak of this process's resident memory to what it holds now, and return that; None where impossible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status_mb("VmRSS")


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return float("nan")
