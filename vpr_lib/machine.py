"""What this machine's processor can do, and the one setting that makes torch faster on every Linux CPU."""

import ctypes
import platform
import resource
import sys
from functools import cache
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # glibc's malloc.h
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20}
# where glibc's own moving thresholds come to rest once a large block was freed
USUAL = {M_MMAP_MAX: 65_536, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20, M_TOP_PAD: 128 << 10}


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction-set flags as Linux names them (avx2, avx512_bf16, amx_tile ...); empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def cpu_has_bf16() -> bool:
    """Whether bf16 is computed in hardware here; without it bf16 is an order of magnitude slower than fp32."""
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16"}) or (platform.machine() == "arm64")


def allow_tf32(allowed: bool) -> None:
    """Whether products of fp32 tensors on a GPU may round their inputs to TF32 (10 bits of mantissa).

    torch allows it for convolutions unless told otherwise, so that a table would say fp32 and mean TF32. Imports torch.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks instead of returning them to the kernel; True where that was possible.

    Batches of convolutions free and take the same large blocks again and again; without this, page faults of freshly
    mapped memory cost 20 % (AVX2) to 50 % (AVX-512) of the time on a CPU. Resident memory does not grow.
    """
    return _mallopt(KEPT)


def return_freed_memory() -> bool:
    """Undo `keep_freed_memory` and hand back what it kept: the allocator as a plain program has it, to measure beside."""
    if not _mallopt(USUAL):
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True


def _mallopt(options: dict[int, int]) -> bool:
    if platform.system() != "Linux":
        return False
    try:
        libc = ctypes.CDLL(None)
        return all(libc.mallopt(option, value) for option, value in options.items())
    except (OSError, AttributeError):
        return False


def peak_memory_bytes() -> int:
    """Most resident memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
