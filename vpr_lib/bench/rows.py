"""What `vpr bench` compares: each row builds both ways on the same weights and generated inputs. Sizes: `Size`."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vpr_lib.bench.gpu import describe_gpu, search_faiss, search_gpu, train_gpu
from vpr_lib.bench.gpu_ways import GPU_WAYS
from vpr_lib.bench.images import R18, R50, cosine_parity, decode, describe_cpu, describe_export
from vpr_lib.bench.measure import Comparison, Size, Way
from vpr_lib.bench.ranking import scoring, search_cpu
from vpr_lib.machine import keep_freed_memory, return_freed_memory
from vpr_lib.models.minkloc import CloudBranch


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


ROWS: dict[str, Callable[[Size, Path], Comparison]] = {
    "describe_r50": functools.partial(describe_cpu, name=R50),
    "describe_r18": functools.partial(describe_cpu, name=R18),
    "describe_r50_bf16": functools.partial(describe_cpu, name=R50, precision="bf16"),
    "describe_r18_bf16": functools.partial(describe_cpu, name=R18, precision="bf16"),
    "describe_r50_openvino": functools.partial(describe_export, name=R50, precision="fp32"),
    "describe_r18_openvino": functools.partial(describe_export, name=R18, precision="fp32"),
    "describe_int8": functools.partial(describe_export, name=R50, precision="int8"),
    "decode": decode,
    "search_4096": functools.partial(search_cpu, width=4096),
    "search_512": functools.partial(search_cpu, width=512),
    "scoring": scoring,
    "clouds": clouds,
    "gpu_describe": describe_gpu,
    "gpu_train": train_gpu,
    "gpu_search": search_gpu,
    "gpu_search_faiss": search_faiss,
    **GPU_WAYS,
}
