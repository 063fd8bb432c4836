"""The machine, the software and the source state behind a run, collected without importing torch."""

import os
import platform
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from vpr_lib import paths
from vpr_lib.paths import git_state

_CPU_FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16"),
    *("sve",),
)
_THREADS = re.compile(
    r"(OMP|MKL|OPENBLAS|BLIS|KMP|NUMEXPR|VECLIB|GOMP)_|^(MALLOC|THP|CUDA|PYTORCH|TORCH|NVIDIA_TF32)_?"
)
_NUMERIC = (
    *("torch", "torchvision", "timm", "pytorch-metric-learning", "lightning", "numpy", "scipy", "faiss-cpu"),
    *("faiss-gpu", "faiss-gpu-cu12"),
)


@cache
def gpus() -> tuple[dict[str, str], ...]:
    """Name, driver and memory of every GPU that nvidia-smi lists in ten seconds; empty where it is absent or fails."""
    fields = ("name", "driver_version", "memory.total")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(dict(zip(fields, map(str.strip, line.split(",")))) for line in listing.splitlines() if line)


def device_kind(wanted: str = "auto") -> str:
    """'cpu', or 'cuda:<name of the first GPU>': what a notebook of a profile with `device: wanted` will compute on."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in {"", "-1"}
    return "cpu" if wanted == "cpu" or hidden or not gpus() else f"cuda:{gpus()[0]['name']}"


@cache
def _installed() -> dict[str, str]:
    """Version of every installed package, from the names of the metadata folders; reading the files takes a second."""
    versions: dict[str, str] = {}
    for folder in map(Path, sys.path):
        for path in sorted(folder.glob("*.dist-info")):
            name, _, version = path.stem.rpartition("-")
            versions.setdefault(_normal(name), version)
    return versions


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def numeric_versions() -> dict[str, str]:
    """Versions of the packages that decide numbers; part of every resume key."""
    versions = {"python": ".".join(map(str, sys.version_info[:2]))}
    return versions | {name: _installed()[name] for name in _NUMERIC if name in _installed()}


def _cpu() -> dict[str, Any]:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    return {
        "model": model[1] if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in _CPU_FLAGS if flag in present],
    }


def _packages() -> dict[str, str]:
    """Installed versions; of the set in constraints.txt where the project has one."""
    constraints = paths.project_root() / "constraints.txt"
    if not constraints.is_file():
        return dict(sorted(_installed().items()))
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split(";")[0].strip().split("==") for line in lines if re.match(r"[A-Za-z0-9._\-]+==", line))
    versions = {name: (pin, _installed().get(_normal(name), "absent")) for name, pin in pinned.items()}
    return {name: have if have == pin else f"{have} (constraints.txt: {pin})" for name, (pin, have) in versions.items()}


def environment(device: str = "auto") -> dict[str, Any]:
    """Everything about this machine that a reader of a run's numbers may need; goes to `env.json`."""
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": _cpu(),
        "memory_bytes": psutil.virtual_memory().total,
        "disk_free_bytes": shutil.disk_usage(paths.project_root()).free,
        "device": device_kind(device),
        "gpus": list(gpus()),
        "git": git_state(),
        "project": str(paths.project_root()),
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith("VPR_")},
        "threads": {name: value for name, value in sorted(os.environ.items()) if _THREADS.match(name)},
        "packages": _packages(),
    }
