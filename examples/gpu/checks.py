"""Does a GPU compute what the CPU does? Every model of the zoo, forward and backward, in fp32, TF32, bf16 and fp16 beside the
CPU's fp32; then the tests marked `gpu`. Failures are listed, not fatal. About a minute on an H100.

    python examples/gpu/checks.py --out checks.json [--device cuda] [--seconds 90] [--few]
"""

import time

START = time.monotonic()  # the imports below count

import argparse
import json
import os
import subprocess
import sys
import traceback
import xml.etree.ElementTree as ElementTree
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpr_lib.models.zoo import ZOO, build_model
from vpr_lib.paths import write_text

ROOT = Path(__file__).resolve().parent.parent.parent
# smallest cosine to the CPU's fp32 descriptors: rounding of 24, 11, 8 and 11 bits through up to 100 layers of random weights
LEAST = {"fp32": 0.9999, "tf32": 0.999, "bf16": 0.97, "fp16": 0.998}
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
FEW = ("gem_toy_160", "mixvpr_toy_64", "dinomix_toy_256", "pixels")
TESTS = ("tests/test_on_cuda.py", "tests/golden/test_golden.py")
LARGE = ("vitg", "vitl")  # a minute of drawing random weights: last, while there is time


def distinct_models() -> list[str]:
    """One name of every network: recipes of the same shape are checked once."""
    shapes: dict[str, str] = {}
    for name in sorted(ZOO, key=lambda name: (any(part in name for part in LARGE), name)):
        shapes.setdefault(ZOO[name].model_dump_json(exclude={"system", "mean", "std", "interpolation"}), name)
    return list(shapes.values())


def reference(name: str) -> tuple[nn.Module, Tensor, Tensor, Tensor | None]:
    """Model, normalised images, and its descriptors and gradient in fp32 on the CPU."""
    model = build_model(name, seed=0).eval()
    height, width = model.input_spec.size
    images = torch.randn(1 if height > 400 else 2, 3, height, width, generator=torch.Generator().manual_seed(0))
    return model, images, *forward_backward(model, images)


def forward_backward(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Descriptors (B, D) and the gradient of a fixed sum of them by the largest weight tensor that learns; on the CPU."""
    descriptors = model(images).float()
    learning = [p for p in model.parameters() if p.requires_grad]
    if not learning:
        return descriptors.detach().cpu(), None
    direction = torch.linspace(-1, 1, descriptors.numel(), device=descriptors.device).view_as(descriptors)
    gradients = torch.autograd.grad((descriptors * direction).sum(), learning, allow_unused=True)
    largest = max((g for g in gradients if g is not None), key=torch.numel)
    return descriptors.detach().cpu(), largest.float().cpu()


def compare(name: str, made: Future, device: str) -> list[dict]:
    model, images, expected, gradient = made.result()
    model.to(device, memory_format=torch.channels_last)
    images, rows = images.to(device, memory_format=torch.channels_last), []
    for precision in LEAST:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        row = {"name": f"{name}, {precision}", "model": name, "precision": precision}
        try:
            with torch.autocast(device, HALF.get(precision), enabled=precision in HALF):
                found, own = forward_backward(model, images)
            row |= {
                "cosine": F.cosine_similarity(found, expected).min().item(),
                "apart": (found - expected).abs().max().item(),
            }
            if gradient is not None:
                row["gradient_cosine"] = F.cosine_similarity(own.flatten(), gradient.flatten(), dim=0).item()
            good = row["cosine"] >= LEAST[precision] and found.shape == expected.shape
            row |= {
                "result": "passed" if good else "failed",
                "why": "" if good else f"cosine {row['cosine']:.6f} < {LEAST[precision]}",
            }
        except Exception:
            row |= {"result": "failed", "why": traceback.format_exc(limit=-4)}
        rows.append(row)
    return rows


def start_tests(device: str, report: Path) -> subprocess.Popen | None:
    """The tests marked `gpu` in a process beside this one; None without pytest."""
    try:
        import pytest  # noqa: F401
    except ImportError:
        return None
    options = ["-m", "gpu", "-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}"]
    tests = TESTS[:1] if device == "cpu" else TESTS
    chosen = ["-k", "losses or trained_model"] if device == "cpu" else []
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 4)), "VPR_CUDA_TESTS": device}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *chosen, *tests], cwd=ROOT, env=os.environ | threads
    )


def results_of(report: Path) -> list[dict]:
    """Rows of a JUnit file; one failed row when the tests were cut."""
    if not report.is_file():
        return [
            {
                "name": "tests marked gpu",
                "result": "failed",
                "why": "cut before their end, or not started: see checks.log",
            }
        ]
    rows = []
    for case in ElementTree.parse(report).iter("testcase"):
        told = {child.tag: child for child in case}
        bad = told.get("failure", told.get("error"))
        why = (
            (bad.text or bad.get("message", ""))
            if bad is not None
            else told["skipped"].get("message", "")
            if "skipped" in told
            else ""
        )
        result = "failed" if bad is not None else "skipped" if "skipped" in told else "passed"
        rows.append({"name": f"{case.get('classname')}::{case.get('name')}", "result": result, "why": why[-2000:]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--few", action="store_true", help="a few small models: the dry run")
    options = parser.parse_args()
    rows, cores = [], os.cpu_count() or 1
    about = {"device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu", "torch": torch.__version__}
    report = options.out.with_name(".gpu-tests.xml")
    tests = start_tests(options.device, report)

    def keep(finished: bool = False) -> None:
        worst = {}
        for row in rows:
            if "cosine" in row and row["cosine"] < worst.get(row["precision"], {"cosine": 2})["cosine"]:
                worst[row["precision"]] = {"cosine": row["cosine"], "model": row["model"]}
        found = about | {"seconds": time.monotonic() - START, "finished": finished, "worst": worst, "checks": rows}
        write_text(options.out, json.dumps(found, indent=1))

    names, ahead = [name for name in distinct_models() if not options.few or name in FEW], max(1, cores // 4)
    with ThreadPoolExecutor(ahead, initializer=torch.set_num_threads, initargs=(max(1, cores // 4),)) as pool:
        waiting: list[tuple[str, Future]] = []
        for name in [*names, *[None] * ahead]:  # only so many models at a time are built ahead of the GPU
            late = time.monotonic() - START > options.seconds - 12
            if name and late:
                rows.append({"name": name, "result": "skipped", "why": "no time left"})
            elif name:
                waiting.append((name, pool.submit(reference, name)))
            if waiting and (len(waiting) > ahead or name is None):
                first, made = waiting.pop(0)
                try:
                    rows += compare(first, made, options.device)
                except Exception:
                    rows.append({"name": first, "result": "failed", "why": traceback.format_exc(limit=-4)})
                del made
                keep()
    if tests is None:
        rows.append({"name": "tests marked gpu", "result": "skipped", "why": "pytest is not installed"})
    else:
        try:
            tests.wait(max(1.0, options.seconds - (time.monotonic() - START)))
        except subprocess.TimeoutExpired:
            tests.kill()
        rows += results_of(report)
        report.unlink(missing_ok=True)
    keep(finished=True)
    failed = [row for row in rows if row["result"] == "failed"]
    for row in failed:
        print(f"FAILED {row['name']}\n{row['why'][-600:]}")
    print(f"{len(rows)} checks, {len(failed)} failed, {time.monotonic() - START:.0f} s")


if __name__ == "__main__":
    main()
