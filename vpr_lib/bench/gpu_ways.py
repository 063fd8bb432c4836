"""Rows of `vpr bench --gpu` that ask what each means of speed is worth, and what the device itself can do."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from vpr_lib.bench.gpu import WORKERS, _gpu
from vpr_lib.bench.images import R18, R50, cosine_parity, work_of, write_jpegs
from vpr_lib.bench.measure import Comparison, Size, Way
from vpr_lib.data.images import ImageSet, InputSpec
from vpr_lib.models.zoo import build_model

CALLS = 10  # of a forward pass in one timed run
MATRIX, COPIED = 8192, 2**28  # side of the matrices; float32 numbers that are copied: 1 GiB


def gpu_limits() -> dict[str, float]:
    """What this device reaches bare: TFLOP/s of square matrix products, GB/s of its memory (read + write) and of pinned copies to it."""
    device, found = _gpu(), {}
    for name, kind, tf32 in (
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        factor = torch.rand(MATRIX, MATRIX, device=device, dtype=kind)
        found[f"{name} TFLOP/s"] = 2e-12 * MATRIX**3 / _seconds(lambda factor=factor: factor @ factor)
    torch.backends.cuda.matmul.allow_tf32 = False
    block, there = torch.empty(COPIED, device=device), torch.empty(COPIED, device=device)
    found["memory GB/s"] = 8e-9 * COPIED / _seconds(lambda: there.copy_(block))
    pinned = torch.empty(COPIED // 4, pin_memory=True)
    found["host to device GB/s"] = (
        1e-9 * COPIED / _seconds(lambda: block[: COPIED // 4].copy_(pinned, non_blocking=True))
    )
    return found


def _seconds(call: Callable[[], object]) -> float:
    """Of the fastest of five calls, by the device's own clock."""
    call()
    times = []
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return min(times)


def decode_gpu(size: Size, folder: Path) -> Comparison:
    """Files to normalised images on the device."""
    device, spec = _gpu(), InputSpec()
    paths = write_jpegs(folder / "images", size.gpu_images).image_paths()
    resize = v2.Resize(spec.size, antialias=True)

    def by_workers() -> Tensor:
        loader = DataLoader(
            ImageSet(paths, spec), 64, num_workers=WORKERS, collate_fn=_stack, pin_memory=device == "cuda"
        )
        return torch.cat([spec.normalise(images.to(device, non_blocking=True)) for images in loader])

    def there() -> Tensor:
        parts = []
        for start in range(0, len(paths), 64):
            files = [torch.from_numpy(np.fromfile(path, np.uint8)) for path in paths[start : start + 64]]
            images = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
            parts.append(spec.normalise(torch.stack([resize(image) for image in images])))
        return torch.cat(parts)

    def parity(theirs: Tensor, ours: Tensor) -> tuple[dict[str, Any], bool]:
        apart = 255 * 0.225 * (theirs - ours).abs()
        return {"grey levels apart, mean": float(apart.mean()), "most": float(apart.max())}, float(apart.mean()) < 1.5

    return Comparison(
        "decode and resize on GPU, 640 x 480 JPEG to 320 x 320", f"{len(paths)} images",
        Way(f"libjpeg-turbo in {WORKERS} loader processes", by_workers), Way("nvJPEG and resize on the device", there),
        parity, None, "nvJPEG (its hardware decoder where the device has one), one resize per image", torch.cuda.synchronize,
    )  # fmt: skip


def _stack(samples: list) -> Tensor:
    return torch.stack([image for image, _ in samples])


def _forward(
    what: str,
    name: str,
    batch: int,
    peers: str,
    ours: str,
    theirs: Callable,
    changed: Callable,
    bound: str,
) -> Comparison:
    """`theirs` and `changed` make of (model, images) a call that gives descriptors (B, D) on the device."""
    device = _gpu()
    model = build_model(name, seed=0).eval().to(device)
    images = torch.randn(batch, 3, *model.input_spec.size, generator=torch.Generator().manual_seed(0)).to(device)
    calls = [make(copy.deepcopy(model), images) for make in (theirs, changed)]

    def repeated(call: Callable[[], Tensor]) -> np.ndarray:
        with torch.inference_mode():
            for _ in range(CALLS):
                found = call()
        return found.float().cpu().numpy()

    return Comparison(
        what, f"{CALLS} x {batch} images", *(Way(says, lambda call=call: repeated(call)) for says, call in zip((peers, ours), calls)),
        cosine_parity(0.999), None, bound, torch.cuda.synchronize, gflop=CALLS * batch * work_of(model),
    )  # fmt: skip


def _eager(dtype: torch.dtype | None = None, layout: torch.memory_format = torch.contiguous_format) -> Callable:
    def make(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
        model, images = model.to(memory_format=layout), images.to(memory_format=layout)

        def call() -> Tensor:
            with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
                return model(images)

        return call

    return make


def _compiled(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    return _eager(torch.bfloat16, torch.channels_last)(
        torch.compile(model.to(memory_format=torch.channels_last)), images
    )


def _graph(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """The launches of one forward pass recorded once and replayed: nothing is left for the processor to do."""
    call = _eager(torch.bfloat16, torch.channels_last)(model, images)
    if images.device.type != "cuda":
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph), torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        found = model(images.to(memory_format=torch.channels_last))

    def replay() -> Tensor:
        graph.replay()
        return found

    return replay


LAST, HALF = torch.channels_last, torch.bfloat16
GPU_WAYS: dict[str, Callable[[Size, Path], Comparison]] = {
    "gpu_decode": decode_gpu,
    "gpu_bf16": lambda size, _: _forward(
        f"forward on GPU, {R50}, precision", R50, size.gpu_batch, "fp32, channels last", "bf16 autocast, channels last",
        _eager(None, LAST), _eager(HALF, LAST), "bf16 arithmetic and the memory traffic of batch norm and ReLU"),
    "gpu_channels_last": lambda size, _: _forward(
        f"forward on GPU, {R50}, memory layout", R50, size.gpu_batch, "bf16, NCHW", "bf16, channels last",
        _eager(HALF), _eager(HALF, LAST), "bf16 arithmetic and memory traffic"),
    "gpu_graph": lambda size, _: _forward(
        f"latency on GPU, {R18}, one image", R18, 1, "eager, bf16, channels last", "the same as one CUDA graph",
        _eager(HALF, LAST), _graph, "the device: launches cost nothing any more"),
    "gpu_compile": lambda size, _: _forward(
        f"forward on GPU, {R18}, torch.compile", R18, size.gpu_batch, "eager, bf16, channels last", "torch.compile, bf16, channels last",
        _eager(HALF, LAST), _compiled, "convolutions; elementwise steps are fused"),
}  # fmt: skip
